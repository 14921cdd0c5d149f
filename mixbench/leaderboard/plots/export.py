"""Figures as files, and as SVG for a page."""

import hashlib
import io
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixbench.errors import UserError
from mixbench.files import write_bytes
from mixbench.leaderboard.plots.style import MISSING_GLYPH, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# What would differ from one call to the next is left out.
_METADATA: dict[str, dict[str, Any]] = {
    ".svg": dict.fromkeys(("Date", "Creator", "Format", "Type")),
    ".pdf": {"CreationDate": None},
    ".png": {"Software": None},
}
DPI = 300  # of PNG files
_TAG = re.compile(r"<[^>]*>")  # text holds no such signs, as they are escaped
_REFERENCE = re.compile(r'(\bid="|url\(#|href="#)')


def check_target(path: Path) -> None:
    """Refuse a file that no figure can be written to.

    Args:
        path: The file.

    Raises:
        UserError: If its name ends otherwise, or its folder does not exist.
    """
    if path.suffix.lower() not in _METADATA:
        todo = f"end its name in {', '.join(_METADATA)}"
        raise UserError(f"a figure cannot be written as {path.suffix!r}", str(path), todo)
    if not path.parent.is_dir():
        raise UserError(
            "the folder for the figure does not exist", str(path), "create it, or name another file"
        )


def save(figure: "Figure", path: Path) -> None:
    """Write a figure; equal figures make equal files.

    Args:
        figure: The figure.
        path: The file, whose name ends in .svg, .pdf or .png.

    Raises:
        UserError: If its name ends otherwise, or its folder does not exist.
    """
    check_target(path)
    content = rendered(figure, path.suffix.lower())
    write_bytes(path, lambda file: file.write(content))


def svg(figure: "Figure") -> str:
    """A figure as an element of a page, with its text as text.

    Args:
        figure: The figure.

    Returns:
        ``<svg ...>...</svg>``, whose ids no other figure has.
    """
    text = rendered(figure, ".svg").decode()
    text = text[text.index("<svg") :]
    mark = f"p{hashlib.sha256(text.encode()).hexdigest()[:10]}-"
    return _TAG.sub(lambda tag: _REFERENCE.sub(rf"\g<1>{mark}", tag[0]), text)


def rendered(figure: "Figure", suffix: str, dpi: int = DPI) -> bytes:
    """The content of a file.

    Args:
        figure: The figure.
        suffix: Of the file's name.
        dpi: Dots to the inch of a PNG file.

    Returns:
        The bytes, the same for equal figures.
    """
    file = io.BytesIO()
    with style(), warnings.catch_warnings(record=True) as told:
        warnings.filterwarnings("default", MISSING_GLYPH)
        figure.savefig(file, format=suffix[1:], dpi=dpi, metadata=_METADATA[suffix])
    if told and suffix != ".svg":
        warnings.warn(
            "the font of the figure lacks letters of some names, and boxes stand in their place; "
            "an .svg file keeps the letters",
            stacklevel=2,
        )
    return file.getvalue()
