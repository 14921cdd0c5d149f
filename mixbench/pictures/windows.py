"""Pictures of windows: where a map looks, what is taken from there, and where it goes."""

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from mixbench.functional.mixed import Mixed
from mixbench.functional.windows import Pasted
from mixbench.pictures.sheet import ROWS, Panel, enlarge, label_text, sheet, under_titles

TAKEN, COVERED = "#ffffff", "#00e5ff"  # outlines of windows
WHOLE = "this batch, mixed as a whole; other batches have windows, as below"
NOTES = (
    "Red: attended. Blue frame: the least attended window of the image, which is covered; white "
    "frame: the most attended one of its partner, which covers it.",
)


def windows_sheet(
    pixels: Tensor,
    targets: Tensor,
    mixed: Mixed,
    names: list[str],
    whole: Image.Image | None = None,
    most: int = ROWS,
) -> Image.Image:
    """Images, partners and mixed images of a batch, with maps and windows.

    Args:
        pixels: (B, 3, H, W) images before mixing, in [0, 1].
        targets: (B, K) their labels.
        mixed: The mixed batch, its ``x`` (B, 3, H, W) as pixels in [0, 1], and in ``aux`` a
            :class:`mixbench.functional.Pasted`.
        names: Class names.
        whole: A picture of the batch as it was mixed without windows, to stand above.
        most: Rows to draw.

    Returns:
        The picture.
    """
    pasted: Pasted = mixed.aux
    assert mixed.perm is not None
    side = int((~pasted.kept[0]).any(1).sum())
    rows = []
    for index in range(min(most, len(mixed.x))):
        other = int(mixed.perm[index])
        own = [("image", index, pasted.target, COVERED), ("partner", other, pasted.source, TAKEN)]
        row = []
        for title, place, corners, colour in own:
            picture = attention_over(pixels[place], pasted.maps[place])
            frame(picture, corners[index], side, pasted.maps.shape[1:], colour)
            row.append(Panel(title, pixels[place], label_text(targets[place], names)))
            row.append(Panel("its map", picture))
        text = label_text(mixed.targets[index], names)
        rows.append([*row, Panel("mixed", mixed.x[index], text)])
    drawn = sheet(rows, NOTES)
    return drawn if whole is None else under_titles({WHOLE: whole, "with windows": drawn})


def attention_over(image: Tensor, values: Tensor) -> Image.Image:
    """An image, darkened, with red where a map is high.

    Args:
        image: (3, H, W) pixels in [0, 1].
        values: (R, C) map, not negative; shown relative to its maximum.

    Returns:
        The picture, enlarged.
    """
    heat = (values / values.max().clamp(min=1e-12)).to(image.device, image.dtype)
    heat = F.interpolate(heat[None, None], image.shape[1:], mode="nearest")[0]
    red = torch.tensor([1.0, 0.0, 0.0], device=image.device, dtype=image.dtype)[:, None, None]
    return enlarge(torch.lerp(0.6 * image.clamp(0, 1), red.expand_as(image), 0.7 * heat))


def frame(picture: Image.Image, corner: Tensor, side: int, grid: torch.Size, colour: str) -> None:
    """Draw the outline of a window into a picture of the whole image.

    Args:
        picture: The picture.
        corner: (2,) row and column of the window's first cell.
        side: Its side in cells.
        grid: Rows and columns of the whole image.
        colour: Colour of the outline.
    """
    row, column = corner.tolist()
    down, right = picture.height / grid[0], picture.width / grid[1]
    box = (column * right, row * down, (column + side) * right - 1, (row + side) * down - 1)
    ImageDraw.Draw(picture).rectangle([round(end) for end in box], outline=colour, width=2)
