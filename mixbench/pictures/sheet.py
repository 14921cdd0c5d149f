"""Sheets: rows of panels with titles and text, and the ordinary picture of a mixed batch."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from mixbench.functional.mixed import Mixed, mix_targets

CELL, MARGIN, LINE = 128, 10, 16  # pixels
ROWS = 8  # of a batch
PAIRS = 4  # of a picture with more than the images
INK, FAINT = "black", "#555555"
GREY = 0.92  # of a panel where there is no image


class Panel(NamedTuple):
    """One place of a sheet: the title of its column, a picture, and lines of text below it."""

    title: str
    image: Tensor | Image.Image
    lines: Sequence[str] = ()


def label_text(target: Tensor, names: list[str], most: int = 2) -> list[str]:
    """The heaviest classes of a soft label, one line each.

    Args:
        target: (K,) soft label.
        names: Class names.
        most: Number of classes to name.

    Returns:
        Lines such as ``0.70  cat``; classes below 0.005 are left out.
    """
    weights, classes = target.float().topk(min(most, len(target)))
    pairs = zip(weights.tolist(), classes.tolist(), strict=True)
    return [f"{weight:.2f}  {names[index]}" for weight, index in pairs if weight >= 0.005]


def shown_pairs(perm: Tensor, most: int = PAIRS) -> list[tuple[int, int]]:
    """The first images that meet another image, with their partners.

    Args:
        perm: (B,) index of each image's partner.
        most: Number of pairs.

    Returns:
        Rows of the batch; where every image meets itself, the first ones.

    Example:
        >>> shown_pairs(torch.tensor([0, 2, 1]))
        [(1, 2), (2, 1)]
    """
    found = list(enumerate(perm.tolist()))
    return ([pair for pair in found if pair[0] != pair[1]] or found)[:most]


def enlarge(image: Tensor, cell: int = CELL) -> Image.Image:
    """An image in the size in which it is looked at, its pixels kept square and sharp.

    Args:
        image: (3, H, W) values in [0, 1]; others are cut off.
        cell: Longer side of the result in pixels.

    Returns:
        The picture.
    """
    array = (image.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).cpu()
    shown = Image.fromarray(array.permute(1, 2, 0).numpy())
    scale = cell / max(shown.size)
    width, height = (max(1, round(side * scale)) for side in shown.size)
    return shown.resize((width, height), Image.Resampling.NEAREST)


def sheet(rows: Sequence[Sequence[Panel]], notes: Sequence[str] = ()) -> Image.Image:
    """Panels in rows and columns, the titles of the first row above them.

    Args:
        rows: Panels of each row; a picture that is a tensor (3, H, W) in [0, 1] is enlarged.
        notes: Sentences below, broken into lines.

    Returns:
        The picture.
    """
    font = ImageFont.load_default(12)
    shown = [[_as_image(panel.image) for panel in row] for row in rows]
    columns = range(max(map(len, rows)))
    widths = [max(r[column].width for r in shown if column < len(r)) for column in columns]
    lines = max(len(panel.lines) for row in rows for panel in row)
    heights = [max(image.height for image in row) + lines * LINE + MARGIN for row in shown]
    width = MARGIN + sum(widths) + MARGIN * len(widths)
    broken = [line for note in notes for line in _broken(note, width - 2 * MARGIN, font)]
    below = len(broken) * LINE + MARGIN if broken else 0
    canvas = Image.new("RGB", (width, MARGIN + LINE + sum(heights) + below), "white")
    draw = ImageDraw.Draw(canvas)
    top = MARGIN + LINE
    for index, (row, images) in enumerate(zip(rows, shown, strict=True)):
        left = MARGIN
        for column, (panel, image) in enumerate(zip(row, images, strict=True)):
            if index == 0:
                title = _fitted(panel.title, widths[column] + MARGIN // 2, font)
                draw.text((left, MARGIN // 2), title, INK, font)
            canvas.paste(image, (left, top))
            for number, line in enumerate(panel.lines):
                place = (left, top + image.height + 1 + number * LINE)
                draw.text(place, _fitted(line, widths[column] + MARGIN // 2, font), INK, font)
            left += widths[column] + MARGIN
        top += heights[index]
    for number, line in enumerate(broken):
        draw.text((MARGIN, top + number * LINE), line, FAINT, font)
    return canvas


def under_titles(pictures: Mapping[str, Image.Image]) -> Image.Image:
    """Pictures below each other, each under its title.

    Args:
        pictures: Picture by title.

    Returns:
        The picture.
    """
    font = ImageFont.load_default(16)
    band = MARGIN + 2 * LINE  # above each picture
    width = max(picture.width for picture in pictures.values())
    height = sum(picture.height + band for picture in pictures.values())
    canvas = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(canvas)
    top = 0
    for title, picture in pictures.items():
        draw.text((MARGIN, top + MARGIN), title, INK, font)
        canvas.paste(picture, (0, top + band))
        top += band + picture.height
    return canvas


def mixed_sheet(
    pixels: Tensor,
    targets: Tensor,
    mixed: Mixed,
    names: list[str],
    notes: Sequence[str] = (),
    most: int = ROWS,
) -> Image.Image:
    """First images, partners and mixed images of a batch with their labels.

    Args:
        pixels: (B, 3, H, W) images before mixing, in [0, 1].
        targets: (B, K) their labels.
        mixed: The mixed batch, its ``x`` (N, 3, H, W) as pixels in [0, 1].
        names: Class names.
        notes: Sentences below.
        most: Rows to draw.

    Returns:
        The picture.
    """
    labels = mixed.targets if isinstance(mixed.targets, Tensor) else targets
    if labels is targets and mixed.perm is not None and mixed.lam is not None:
        labels = mix_targets(targets, mixed.perm, mixed.lam)
    rows = []
    for index in range(min(most, len(mixed.x))):
        row = [Panel("image", pixels[index], label_text(targets[index], names))]
        if mixed.perm is not None:
            other = int(mixed.perm[index])
            row.append(Panel("partner", pixels[other], label_text(targets[other], names)))
        row.append(Panel("mixed", mixed.x[index], label_text(labels[index], names)))
        rows.append(row)
    return sheet(rows, notes)


def _as_image(image: Tensor | Image.Image) -> Image.Image:
    return enlarge(image) if isinstance(image, Tensor) else image


def _fitted(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """As much of a text as there is room for."""
    while font.getlength(text) > width:
        text = text[:-2] + "\N{HORIZONTAL ELLIPSIS}"
    return text


def _broken(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """A text in lines of at most a width; a longer word has a line of its own."""
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines
