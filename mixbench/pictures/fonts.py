"""Fonts of pictures: the first one that has all signs of a text."""

import functools
import importlib.util
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import ImageFont

from mixbench.errors import counted

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
BUILT_IN = ""  # Pillow's own, which knows few signs beyond Latin
# Looked for where the system keeps its fonts.
SYSTEM = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc",
    "wqy-zenhei.ttc",
    "Arial Unicode.ttf",
    "msyh.ttc",
    "YuGothR.ttc",
    "malgun.ttf",
)
_NO_SIGN = "\U0010ffff"  # drawn as what stands for a sign that is missing
_PROBE = 16  # pixels


def plot_font() -> str:
    """The file of matplotlib's own font, found without an import; empty where it is missing."""
    found = importlib.util.find_spec("matplotlib")
    if found is None or found.origin is None:
        return ""
    path = Path(found.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
    return str(path) if path.is_file() else ""


@functools.lru_cache(maxsize=1024)
def font_file(text: str, first: str = BUILT_IN) -> str:
    """The file of a font that can write a text.

    Args:
        text: The text.
        first: File to prefer.

    Returns:
        The first file that has all of its signs, or else the one that has most of them.
    """
    best, most = first, -1
    signs = {sign for sign in text if not sign.isspace()}
    for name in (first, plot_font(), *SYSTEM):
        if (not name and first) or not _is_there(name):
            continue
        count = sum(_has(name, sign) for sign in signs)
        if count > most:
            best, most = name, count
        if count == len(signs):
            break
    return best


@functools.lru_cache(maxsize=256)
def load_font(name: str, size: float) -> Font:
    """A font.

    Args:
        name: Its file, or the empty name of Pillow's own.
        size: Its size in pixels.

    Returns:
        The font.
    """
    return ImageFont.truetype(name, size) if name else ImageFont.load_default(size)


def text_width(text: str, size: float, first: str = BUILT_IN) -> float:
    """Width of a text.

    Args:
        text: The text.
        size: Size of the font.
        first: File of the font to prefer.

    Returns:
        The width, in the unit of the size.
    """
    return load_font(font_file(text, first), size).getlength(text)


def warn_of_boxes(texts: Iterable[str], first: str = BUILT_IN) -> None:
    """Warn once where no font has all signs of some texts.

    Args:
        texts: What a picture says.
        first: File of the font to prefer.
    """
    files = {text: font_file(text, first) for text in texts}
    signs = {s for text, file in files.items() for s in text if not (s.isspace() or _has(file, s))}
    if signs:
        what = f"no font on this machine has {counted(len(signs), 'sign')} of the picture"
        warnings.warn(f"{what}, which became boxes; install one that has", stacklevel=2)


@functools.cache
def _is_there(name: str) -> bool:
    try:
        load_font(name, _PROBE)
    except OSError:
        return False
    return True


@functools.lru_cache(maxsize=4096)
def _has(name: str, sign: str) -> bool:
    font = load_font(name, _PROBE)
    shown, missing = ((*font.getbbox(s), bytes(_mask(font, s))) for s in (sign, _NO_SIGN))
    return shown != missing


def _mask(font: Font, sign: str) -> Any:
    return font.getmask(sign)
