"""The one style of all plots: sizes, colours, and text that stays text.

Rows differ in marker and line as well as in colour, so that a plot reads in grey, too. The colours
are those of Okabe and Ito (2008), which people with any kind of colour blindness tell apart, and a
dark red beside them.
"""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from mixbench.errors import UserError, printable

if TYPE_CHECKING:
    from matplotlib.axis import Axis

COLUMN, PAGE = 3.3, 6.9  # inches: one column of a paper, and its page
NORMAL, SMALL = 8.0, 7.0  # points
LINE = 0.14  # inches from one line of small text to the next
ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"
BLACK, MUTED, PALE = "#000000", "#595959", "#b3b3b3"
BETTER, WORSE = "#0072B2", "#D55E00"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#882255")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", (0, (5, 1.5)), (0, (1, 1.2)), (0, (4, 1.5, 1, 1.5)))
MISSING_GLYPH = "Glyph .* missing from font"  # begins a warning of Matplotlib
MOST_TEXT = 4  # lines of a note
_LONGEST = 400  # signs of a text that are measured at all

_SETTINGS = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial", "sans-serif"],
    "font.size": NORMAL,
    "axes.titlesize": NORMAL,
    "axes.labelsize": NORMAL,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.axisbelow": True,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.2,
    "lines.markersize": 4.0,
    "svg.fonttype": "none",
    "svg.hashsalt": "mixbench",
    "pdf.fonttype": 42,
    "text.hinting": "none",  # letters as wide as they are measured
    "text.usetex": False,
    "text.parse_math": True,
}


@dataclass(frozen=True)
class Look:
    """What tells a row from others: a colour, and for print in grey a marker and a line."""

    color: str
    marker: str
    linestyle: str | tuple[float, tuple[float, ...]]


@contextmanager
def style() -> Iterator[None]:
    """Matplotlib's own defaults with ours on top, as long as the context lasts.

    Raises:
        UserError: If Matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        todo = "pip install 'mixbench[plots]', or EXTRAS=plots in front of make"
        raise UserError("plots need Matplotlib, which is not installed", "plot", todo) from error
    defaults = dict(matplotlib.rcParamsDefault)
    for name in ("backend", "interactive"):  # a context does not give them back
        del defaults[name]
    settings: Any = defaults | _SETTINGS
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        # Text is measured often, and whoever shows an SVG brings the letters.
        warnings.filterwarnings("ignore", MISSING_GLYPH)
        yield


def looks(
    labels: Iterable[str], reference: str, known: Mapping[str, Look] | None = None
) -> dict[str, Look]:
    """A look for each row; that of the first reference is black.

    Args:
        labels: Rows.
        reference: The one that the others are compared with; it may be absent.
        known: Looks of rows in other panels of the figure, which keep them.

    Returns:
        Looks by label, the known ones among them. They repeat after 28 rows.
    """
    found, black = dict(known or {}), Look(BLACK, "o", "-")
    for label in labels:
        used = black in found.values()
        own = black if label == reference and not used else _look(len(found) - used)
        found.setdefault(label, own)
    return found


def _look(index: int) -> Look:
    place = index + 1  # the reference has the first marker and line
    return Look(
        COLOURS[index % len(COLOURS)], MARKERS[place % len(MARKERS)], LINES[place % len(LINES)]
    )


def literal(text: str) -> str:
    r"""Text on one line that Matplotlib takes as it stands, without mathematics between dollars.

    Args:
        text: From a record.

    Returns:
        The text for Matplotlib, which shows ``\$`` as a dollar.
    """
    return printable(text).replace("$", r"\$")


def fitted(text: str, inches: float, size: float = SMALL) -> str:
    """Text on one line that is no longer than it may be.

    Args:
        text: From a record.
        inches: Room.
        size: Of the letters in points.

    Returns:
        The text for Matplotlib, cut with an ellipsis where there is no room for all of it.
    """
    shown = printable(text[: _LONGEST + 1])
    if len(shown) <= _LONGEST and printed_width(shown, size) <= inches:
        return literal(shown)
    low, high = 0, min(len(shown), _LONGEST)
    while low < high:
        middle = (low + high + 1) // 2
        fits = printed_width(shown[:middle].rstrip() + ELLIPSIS, size) <= inches
        low, high = (middle, high) if fits else (low, middle - 1)
    return literal(shown[:low].rstrip() + ELLIPSIS)


def wrapped(text: str, inches: float, size: float = SMALL, most: int = MOST_TEXT) -> list[str]:
    """Text in lines that are no longer than they may be.

    Args:
        text: Words.
        inches: Room.
        size: Of the letters in points.
        most: Lines; what goes on behind them is cut.

    Returns:
        Lines for Matplotlib; a word without room has a line of its own and is cut.
    """
    lines: list[str] = []
    line = ""
    for word in printable(text[: most * _LONGEST]).split():
        longer = f"{line} {word}" if line else word
        if line and printed_width(longer[:_LONGEST], size) > inches:
            lines.append(line)
            longer = word
        line = longer
    lines.append(line)
    if len(lines) > most:
        lines[most - 1 :] = [f"{lines[most - 1]} {lines[most]} {ELLIPSIS}"]
    return [fitted(each, inches, size) for each in lines if each]


@cache
def printed_width(text: str, size: float) -> float:
    """Width of a line of text.

    Args:
        text: As it is shown.
        size: Of its letters in points.

    Returns:
        Inches.
    """
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(family="DejaVu Sans", size=size)
    return text_to_path.get_text_width_height_descent(text, font, ismath=False)[0] / 72


def plain_ticks(axis: "Axis") -> None:
    """Write the numbers of a logarithmic axis out, as powers would be set as mathematics.

    Args:
        axis: The axis.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = sorted(axis.get_view_interval())
    few = high < 30 * low
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def signed(value: float, digits: int) -> str:
    """A difference with its sign.

    Args:
        value: The difference.
        digits: Behind the decimal point.

    Returns:
        The number with a plus or a true minus in front, unless it is shown as zero.
    """
    text = f"{value:+.{digits}f}"
    return text.replace("-", "\N{MINUS SIGN}") if float(text) else text[1:]
