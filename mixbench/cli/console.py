"""Lines for the terminal."""

import atexit
import codecs
import gc
import io
import logging
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from mixbench.errors import PrintableFormatter, printable

# Signs of our own in the letters that every terminal has.
_PLAIN = {
    "\N{EN DASH}": "-",
    "\N{EM DASH}": "-",
    "\N{PLUS-MINUS SIGN}": "+-",
    "\N{DAGGER}": "+",
    "\N{WARNING SIGN}": "!",
    "\N{MULTIPLICATION SIGN}": "x",
    "\N{MIDDLE DOT}": "-",
    "\N{RIGHTWARDS ARROW}": "->",
    "\N{UPWARDS ARROW}": "^",
    "\N{DOWNWARDS ARROW}": "v",
    "\N{HORIZONTAL ELLIPSIS}": "...",
    "\N{BOX DRAWINGS LIGHT HORIZONTAL}": "-",
}


def replace_unprintable() -> None:
    """Let no sign that a terminal cannot show end a command."""
    codecs.register_error("mixbench", _replace)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="mixbench")


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end]
    known = (
        _PLAIN.get(sign) or sign.encode("ascii", "backslashreplace").decode() for sign in signs
    )
    return "".join(known), error.end


@contextmanager
def importing() -> Iterator[None]:
    """Around imports, whose objects stay: looking for garbage among them takes a sixth of the time.

    Yields:
        While nothing is collected; what there is afterwards is never looked at again.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        atexit.register(gc.unfreeze)  # libraries report as leaks what is frozen to the end


def print_result(text: str) -> None:
    """Print a result at once."""
    sys.stdout.write(f"{shown(text)}\n")
    sys.stdout.flush()


def print_notice(text: str) -> None:
    """Print what is not a result."""
    sys.stderr.write(f"mixbench: {shown(text)}\n")
    sys.stderr.flush()


def terminal_width() -> int | None:
    """Signs of a line of the terminal; None where the output goes to a file or a program."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def show_log() -> None:
    """Print what runs log."""
    handler = logging.StreamHandler()
    handler.setFormatter(PrintableFormatter("%(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger("mixbench").setLevel(logging.INFO)


def shown(text: str) -> str:
    """Text whose every line does nothing to a terminal but stand there.

    Args:
        text: Any text.

    Returns:
        The same with escapes in place of control characters.
    """
    return "\n".join(map(printable, text.split("\n")))
