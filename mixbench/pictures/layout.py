"""The places of a sheet's parts, the same for all kinds of files.

Lengths are pixels or points, as the style has them.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from PIL import Image
from torch import Tensor

from mixbench.errors import printable
from mixbench.pictures.sheet import CELL, Label, Panel, Sheet

ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"
Measure = Callable[[str, float], float]  # width of a text in a size


class Style(NamedTuple):
    """Lengths of a page: of an image, around it, of a line, and of the letters."""

    cell: float
    margin: float
    line: float
    size: float
    heading: float


class Shown(NamedTuple):
    """A panel with its picture as pixels, ``width`` and ``height`` in cells."""

    title: str
    picture: Image.Image
    width: float
    height: float
    lines: Sequence[str | Label]


class Block(NamedTuple):
    """A sheet whose panels are drawn."""

    rows: Sequence[Sequence[Shown]]
    notes: Sequence[str]
    title: str


class PlacedImage(NamedTuple):
    """A picture and the place of its left upper corner."""

    picture: Image.Image
    left: float
    top: float
    width: float
    height: float


class PlacedText(NamedTuple):
    """A line of text and the place of its left upper corner."""

    text: str
    left: float
    top: float
    size: float
    faint: bool = False


class Page(NamedTuple):
    """A picture before it is written."""

    width: float
    height: float
    images: Sequence[PlacedImage]
    texts: Sequence[PlacedText]


def drawn_block(sheet: Sheet, cell: int, enlarge: Callable[[Tensor, int], Image.Image]) -> Block:
    """Draw the panels of a sheet.

    Args:
        sheet: The sheet.
        cell: Pixels of an image's longer side.
        enlarge: Makes a picture of an image (3, H, W) for a cell.

    Returns:
        The block.
    """

    def draw(panel: Panel) -> Shown:
        image, unit = panel.image, cell
        if isinstance(image, Image.Image):
            picture, unit = image, CELL
        elif isinstance(image, Tensor):
            picture = enlarge(image, cell)
            unit = max(picture.size)
        else:
            picture = image(cell)
        width, height = (side / unit for side in picture.size)
        return Shown(panel.title, picture, width, height, panel.lines)

    rows = [[draw(panel) for panel in row] for row in sheet.drawn()]
    return Block(rows, (*sheet.notes, *sheet.caveats), sheet.title)


def page_width(blocks: Sequence[Block], style: Style, measure: Measure) -> float:
    """Width of a page.

    Args:
        blocks: What stands on it, from top to bottom.
        style: Its lengths.
        measure: Width of a text in a size.

    Returns:
        The width of the widest block.
    """
    return max(_block_width(_column_widths(block, style, measure), style) for block in blocks)


def lay_out(blocks: Sequence[Block], style: Style, measure: Measure) -> Page:
    """Give every image and every line of text its place.

    Titles and texts are broken into lines at spaces, and a column is as wide as its longest word.
    Names of classes are shortened to the width of their column.

    Args:
        blocks: What stands on the page, from top to bottom.
        style: Its lengths.
        measure: Width of a text in a size.

    Returns:
        The page.
    """
    width, top = page_width(blocks, style, measure), 0.0
    images: list[PlacedImage] = []
    texts: list[PlacedText] = []
    for block in blocks:
        for line in broken(block.title, width - 2 * style.margin, style.heading, measure):
            texts.append(PlacedText(line, style.margin, top + style.margin, style.heading))
            top += style.line * style.heading / style.size
        top += style.margin if block.title else 0
        top = _place_rows(block, top, style, measure, images, texts)
        lines = [
            line
            for note in block.notes
            for line in broken(note, width - 2 * style.margin, style.size, measure)
        ]
        for line in lines:
            texts.append(PlacedText(line, style.margin, top, style.size, faint=True))
            top += style.line
        top += style.margin if lines else 0
    return Page(width, top, images, texts)


def _place_rows(
    block: Block,
    top: float,
    style: Style,
    measure: Measure,
    images: list[PlacedImage],
    texts: list[PlacedText],
) -> float:
    """Place titles, images and lines; the end of the last row."""
    widths = _column_widths(block, style, measure)
    lefts = [style.margin + sum(widths[:n]) + n * style.margin for n in range(len(widths))]
    heads = [
        broken(shown.title, width, style.size, measure)
        for shown, width in zip(block.rows[0], widths, strict=False)
    ]
    most = max(map(len, heads))
    for left, head in zip(lefts, heads, strict=False):
        for number, line in enumerate(head, start=most - len(head)):
            place = top + style.margin / 2 + number * style.line
            texts.append(PlacedText(line, left, place, style.size))
    top += style.margin + most * style.line
    for row in block.rows:
        highest = max(shown.height for shown in row) * style.cell
        most = 0
        for shown, left, width in zip(row, lefts, widths, strict=False):
            size = (shown.width * style.cell, shown.height * style.cell)
            images.append(PlacedImage(shown.picture, left, top, *size))
            lines = _fitted_lines(shown.lines, width, style, measure)
            for number, line in enumerate(lines):
                place = top + size[1] + style.margin / 10 + number * style.line
                texts.append(PlacedText(line, left, place, style.size))
            most = max(most, len(lines))
        top += highest + most * style.line + style.margin
    return top


def _column_widths(block: Block, style: Style, measure: Measure) -> list[float]:
    """As wide as the widest image, and the longest word that may not be shortened."""
    widths = []
    for column in range(max(map(len, block.rows))):
        panels = [row[column] for row in block.rows if column < len(row)]
        texts = [line for shown in panels for line in shown.lines if isinstance(line, str)]
        titles = [row[column].title for row in block.rows[:1] if column < len(row)]
        words = {word for text in (*texts, *titles) for word in text.split()}
        wide = [measure(word, style.size) for word in words]
        widths.append(max([shown.width * style.cell for shown in panels] + wide))
    return widths


def _block_width(widths: Sequence[float], style: Style) -> float:
    return style.margin + sum(widths) + style.margin * len(widths)


def _fitted_lines(
    lines: Sequence[str | Label], width: float, style: Style, measure: Measure
) -> list[str]:
    fitted: list[str] = []
    for line in lines:
        if isinstance(line, Label):
            fitted.append(fitted_label(line, width, style.size, measure))
        else:
            fitted += broken(line, width, style.size, measure)
    return fitted


def fitted_label(label: Label, width: float, size: float, measure: Measure) -> str:
    """A label on one line, its weight whole and its name as far as there is room.

    Args:
        label: Weight and name.
        width: Width of the line.
        size: Size of the letters.
        measure: Width of a text in a size.

    Returns:
        Such as ``0.70  cat``.
    """
    start, name = f"{label.weight:.2f}  ", label.name
    if measure(start + name, size) <= width:
        return start + name
    while name and measure(start + name + ELLIPSIS, size) > width:
        name = name[:-1]
    return f"{start}{name.rstrip()}{ELLIPSIS}" if name.strip() else start.rstrip()


def broken(text: str, width: float, size: float, measure: Measure) -> list[str]:
    """A text in lines of at most a width; a longer word is divided.

    Args:
        text: The text.
        width: Width of a line.
        size: Size of the letters.
        measure: Width of a text in a size.

    Returns:
        The lines; none for an empty text.
    """
    lines: list[str] = []
    for word in printable(text).split():
        if lines and measure(f"{lines[-1]} {word}", size) <= width:
            lines[-1] += f" {word}"
            continue
        while len(word) > 1 and measure(word, size) > width:
            end = _fitting(word, width, size, measure)
            lines.append(word[:end])
            word = word[end:]
        lines.append(word)
    return lines


def _fitting(word: str, width: float, size: float, measure: Measure) -> int:
    """How many letters of a word fit a line; at least one."""
    end = 1
    while end < len(word) and measure(word[: end + 1], size) <= width:
        end += 1
    return end
