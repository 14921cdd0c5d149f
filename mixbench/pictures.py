"""Pictures of mixed batches, drawn with Pillow."""

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

CELL, MARGIN, LINE = 112, 8, 15  # pixels


def label_text(target: Tensor, names: list[str], most: int = 2) -> list[str]:
    """The heaviest classes of a soft label, one line each.

    Args:
        target: (K,) soft label.
        names: Class names.
        most: Number of classes to name.

    Returns:
        Lines such as ``0.70 cat``; classes below 0.005 are left out.
    """
    weights, classes = target.float().topk(min(most, len(target)))
    pairs = zip(weights.tolist(), classes.tolist(), strict=True)
    return [f"{weight:.2f} {names[index]}" for weight, index in pairs if weight >= 0.005]


def sheet(rows: list[list[tuple[Tensor, list[str]]]], titles: list[str]) -> Image.Image:
    """A grid of images with lines of text under each.

    Args:
        rows: Cells of each row: an image (3, H, W) with values in [0, 1], and its text lines.
        titles: One title per column.

    Returns:
        The picture.
    """
    font = ImageFont.load_default(12)
    lines = max((len(text) for row in rows for _, text in row), default=0)
    step_x, step_y = CELL + MARGIN, CELL + lines * LINE + MARGIN
    size = (MARGIN + step_x * len(titles), MARGIN + LINE + step_y * len(rows))
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    for column, title in enumerate(titles):
        draw.text((MARGIN + step_x * column, MARGIN // 2), title, "black", font)
    for index, row in enumerate(rows):
        for column, (image, text) in enumerate(row):
            left, top = MARGIN + step_x * column, MARGIN + LINE + step_y * index
            canvas.paste(_shown(image), (left, top))
            for number, line in enumerate(text):
                draw.text((left, top + CELL + number * LINE), line[:18], "black", font)
    return canvas


def mixed_sheet(
    pixels: Tensor,
    targets: Tensor,
    mixed_pixels: Tensor,
    mixed_targets: Tensor,
    perm: Tensor | None,
    names: list[str],
    most: int = 8,
) -> Image.Image:
    """First images, partners and mixed images of a batch with their labels.

    Args:
        pixels: (B, 3, H, W) images before mixing, in [0, 1].
        targets: (B, K) their labels.
        mixed_pixels: (N, 3, H, W) mixed images.
        mixed_targets: (N, K) mixed labels.
        perm: (N,) partner index, or None where nothing was mixed.
        names: Class names.
        most: Rows to draw.

    Returns:
        The picture.
    """
    rows = []
    for index in range(min(most, len(mixed_pixels))):
        row = [(pixels[index], label_text(targets[index], names))]
        if perm is not None:
            other = int(perm[index])
            row.append((pixels[other], label_text(targets[other], names)))
        row.append((mixed_pixels[index], label_text(mixed_targets[index], names)))
        rows.append(row)
    titles = ["image", "mixed"] if perm is None else ["image", "partner", "mixed"]
    return sheet(rows, titles)


def _shown(image: Tensor) -> Image.Image:
    array = (image.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).cpu()
    shown = Image.fromarray(array.permute(1, 2, 0).numpy())
    return shown.resize((CELL, CELL), Image.Resampling.NEAREST)
