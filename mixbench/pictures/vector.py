"""Sheets as SVG and PDF for papers: text stays text, in 8 points at the width of a column."""

import warnings
from collections.abc import Sequence
from typing import IO, Any

from PIL import Image
from torch import Tensor

from mixbench.errors import UserError
from mixbench.pictures.fonts import font_file, load_font, plot_font, text_width, warn_of_boxes
from mixbench.pictures.layout import Block, Page, Style, drawn_block, lay_out, page_width
from mixbench.pictures.raster import FAINT, INK
from mixbench.pictures.sheet import Sheet, as_picture

COLUMN, WIDE = 3.3 * 72, 6.9 * 72  # points of one column, and of the whole width of a page
LARGEST, SMALLEST, TIGHT = 72, 56, 40  # points of an image: at most, in a column, in a wide page
RESOLUTION = 256  # pixels of an image's longer side, so that no reader smooths what is small
LONGEST = 14_400  # points of a side of a page in PDF
MARGIN, LINE, SIZE, HEADING = 5.0, 10.0, 8.0, 9.0  # points
_FORM = {  # text as text, the same bytes for the same picture, and images that stay apart
    "svg.fonttype": "none",
    "svg.hashsalt": "mixbench",
    "pdf.fonttype": 42,
    "image.composite_image": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Arial", "Helvetica"],
}
_NO_DATE = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}


def write_vector(sheets: Sequence[Sheet], file: IO[bytes], form: str, scale: float = 1.0) -> None:
    """Write sheets below each other.

    Args:
        sheets: The sheets.
        file: The file to write into.
        form: ``svg`` or ``pdf``.
        scale: Factor of the whole picture, in which letters have 8 points.

    Raises:
        UserError: If matplotlib is missing, or a page would be longer than PDF has it.
    """
    check_matplotlib()
    blocks = [drawn_block(sheet, RESOLUTION, magnify) for sheet in sheets]
    page = lay_out(blocks, _fitting_style(blocks), _measure)
    longest = scale * max(page.width, page.height)
    if form == "pdf" and longest > LONGEST:
        what = f"a page of PDF has at most {LONGEST:,} points, and this one {longest:,.0f}"
        raise UserError(what, "show", "give a smaller --scale, or fewer --images")
    if form == "pdf":  # in SVG the reader's own fonts have the word
        warn_of_boxes((text.text for text in page.texts), plot_font())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
        _write(page, file, form, scale)


def check_matplotlib() -> None:
    """Refuse to go on without matplotlib.

    Raises:
        UserError: If it is missing.
    """
    if not plot_font():
        what = "SVG and PDF are written by matplotlib, which is missing"
        raise UserError(what, "show", "pip install 'mixbench[plots]', or write a .png")


def magnify(image: Tensor, cell: int) -> Image.Image:
    """An image whose pixels are magnify, each as often as the others.

    Args:
        image: (3, H, W) values in [0, 1]; others are cut off.
        cell: About the longer side of the result in pixels.

    Returns:
        The picture.
    """
    shown = as_picture(image)
    factor = max(1, round(cell / max(shown.size)))
    return shown.resize((shown.width * factor, shown.height * factor), Image.Resampling.NEAREST)


def _measure(text: str, size: float) -> float:
    return text_width(text, 10 * size, plot_font()) / 10  # widths of small letters are rounded


def _fitting_style(blocks: Sequence[Block]) -> Style:
    """The largest images that fit a column, or else the width of a page."""
    lengths = (MARGIN, LINE, SIZE, HEADING)
    for limit, smallest in ((COLUMN, SMALLEST), (WIDE, TIGHT)):
        for cell in range(LARGEST, smallest - 1, -1):
            style = Style(cell, *lengths)
            if page_width(blocks, style, _measure) <= limit:
                return style
    return Style(TIGHT, *lengths)


def _write(page: Page, file: IO[bytes], form: str, scale: float) -> None:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_FORM):  # pyright: ignore[reportArgumentType]
        figure = Figure(figsize=(scale * page.width / 72, scale * page.height / 72), dpi=72)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        for image in page.images:
            ends = (image.left, image.left + image.width, image.top + image.height, image.top)
            axes.imshow(image.picture, extent=ends, interpolation="none", aspect="auto")
        for text in page.texts:
            _write_text(axes, text, scale)
        axes.set_xlim(0, page.width)
        axes.set_ylim(page.height, 0)
        figure.savefig(file, format=form, metadata=_NO_DATE[form])


def _write_text(axes: Any, text: Any, scale: float) -> None:
    from matplotlib.font_manager import FontProperties

    own = plot_font()
    name = font_file(text.text, own)
    found: Any = load_font(name, text.size)  # which Pillow found by the name alone
    font = FontProperties(size=scale * text.size, fname=None if name == own else found.path)
    # From the baseline, as letters of other heights would move the line.
    axes.text(
        text.left,
        text.top + text.size,
        text.text,
        color=FAINT if text.faint else INK,
        fontproperties=font,
        verticalalignment="baseline",
        parse_math=False,
    )
