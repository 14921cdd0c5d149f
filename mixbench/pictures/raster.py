"""Sheets as pixels, drawn with Pillow."""

from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw

from mixbench.errors import UserError
from mixbench.pictures.fonts import font_file, load_font, text_width, warn_of_boxes
from mixbench.pictures.layout import Page, Style, drawn_block, lay_out
from mixbench.pictures.sheet import CELL, Sheet, enlarge

MARGIN, LINE, SIZE, HEADING = 10, 16, 12, 16  # pixels
MOST = 200_000_000  # pixels of a picture
INK, FAINT = "black", "#555555"


def raster(sheets: Sequence[Sheet], scale: float = 1.0) -> Image.Image:
    """Draw sheets below each other.

    Args:
        sheets: The sheets.
        scale: Factor of the whole picture, in which an image has ``CELL`` pixels.

    Returns:
        The picture.

    Raises:
        UserError: If it would have more pixels than can be held.
    """
    cell = round(CELL * scale)
    factor = cell / CELL
    style = Style(cell, *(factor * part for part in (MARGIN, LINE, SIZE, HEADING)))
    blocks = [drawn_block(sheet, cell, enlarge) for sheet in sheets]
    page = lay_out(blocks, style, text_width)
    size = (round(page.width), round(page.height))
    if size[0] * size[1] > MOST:
        what = f"the picture would have {size[0]:,} x {size[1]:,} pixels"
        raise UserError(what, "show", "give a smaller --scale, or fewer --images")
    return _painted(page, size, factor)


def _painted(page: Page, size: tuple[int, int], factor: float) -> Image.Image:
    warn_of_boxes(text.text for text in page.texts)
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    for image in page.images:
        shown = (max(1, round(image.width)), max(1, round(image.height)))
        picture = image.picture
        if picture.size != shown:  # one that was drawn for cells of another size
            picture = picture.resize(shown, Image.Resampling.LANCZOS)
        canvas.paste(picture, (round(image.left), round(image.top)))
    for text in page.texts:
        font = load_font(font_file(text.text), text.size)
        place = (round(text.left), round(text.top + factor))
        draw.text(place, text.text, FAINT if text.faint else INK, font)
    return canvas


def under_titles(pictures: Mapping[str, Image.Image]) -> Image.Image:
    """Pictures below each other, each under its title.

    Args:
        pictures: Picture by title.

    Returns:
        The picture.
    """
    band = MARGIN + 2 * LINE  # above each picture
    width = max(picture.width for picture in pictures.values())
    height = sum(picture.height + band for picture in pictures.values())
    canvas = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(canvas)
    top = 0
    for title, picture in pictures.items():
        font = load_font(font_file(title), HEADING)
        draw.text((MARGIN, top + MARGIN), title, INK, font)
        canvas.paste(picture, (0, top + band))
        top += band + picture.height
    return canvas
