"""Pictures of windows: where a map looks, what is taken from there, and where it goes."""

from functools import partial

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from mixbench.functional.mixed import Mixed
from mixbench.functional.windows import Pasted
from mixbench.pictures.positions import line_width
from mixbench.pictures.sheet import CELL, ROWS, Panel, Row, Sheet, enlarge, label_text

TAKEN, COVERED = "#ffffff", "#00e5ff"  # outlines of windows
NOTES = (
    "Red: attended. Blue frame: the least attended window of the image, which is covered; white "
    "frame: the most attended one of its partner, which covers it.",
)


def windows_sheet(pixels: Tensor, targets: Tensor, mixed: Mixed, names: list[str]) -> Sheet:
    """Images, partners and mixed images of a batch, with maps and windows.

    Args:
        pixels: (B, 3, H, W) images before mixing, in [0, 1].
        targets: (B, K) their labels.
        mixed: The mixed batch, its ``x`` (B, 3, H, W) as pixels in [0, 1], and in ``aux`` a
            :class:`mixbench.functional.Pasted`.
        names: Class names.

    Returns:
        The sheet.
    """
    pasted: Pasted = mixed.aux
    assert mixed.perm is not None

    def rows(own: int, other: int) -> list[Row]:
        sides = [
            ("image", own, pasted.target, COVERED),
            ("partner", other, pasted.source, TAKEN),
        ]
        row, side = [], int((~pasted.kept[own]).any(1).sum())
        for title, place, corners, colour in sides:
            drawn = partial(
                framed_map, pixels[place], pasted.maps[place], corners[own], side, colour
            )
            row.append(Panel(title, pixels[place], label_text(targets[place], names)))
            row.append(Panel(f"map of the {title}", drawn))
        text = label_text(mixed.targets[own], names)
        return [[*row, Panel("mixed", mixed.x[own], text)]]

    return Sheet(list(enumerate(mixed.perm.tolist())), rows, NOTES, most=ROWS)


def framed_map(
    image: Tensor, values: Tensor, corner: Tensor, side: int, colour: str, cell: int = CELL
) -> Image.Image:
    """An image under its map, with the outline of a window.

    Args:
        image: (3, H, W) pixels in [0, 1].
        values: (R, C) map, not negative.
        corner: (2,) row and column of the window's first cell.
        side: Its side in cells.
        colour: Colour of the outline.
        cell: Pixels of the picture's longer side.

    Returns:
        The picture.
    """
    picture = attention_over(image, values, cell)
    frame(picture, corner, side, values.shape, colour)
    return picture


def attention_over(image: Tensor, values: Tensor, cell: int = CELL) -> Image.Image:
    """An image, darkened, with red where a map is high.

    Args:
        image: (3, H, W) pixels in [0, 1].
        values: (R, C) map, not negative; shown relative to its maximum.
        cell: Pixels of the picture's longer side.

    Returns:
        The picture, enlarged.
    """
    heat = (values / values.max().clamp(min=1e-12)).to(image.device, image.dtype)
    heat = F.interpolate(heat[None, None], image.shape[1:], mode="nearest")[0]
    red = torch.tensor([1.0, 0.0, 0.0], device=image.device, dtype=image.dtype)[:, None, None]
    return enlarge(torch.lerp(0.6 * image.clamp(0, 1), red.expand_as(image), 0.7 * heat), cell)


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
    ImageDraw.Draw(picture).rectangle(
        [round(end) for end in box], outline=colour, width=2 * line_width(picture)
    )
