"""Lines for the terminal."""

import codecs
import io
import sys

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
    "\N{HORIZONTAL ELLIPSIS}": "...",
    "\N{BOX DRAWINGS LIGHT HORIZONTAL}": "-",
}


def print_anywhere() -> None:
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


def say(line: str) -> None:
    """Print a result at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def complain(line: str) -> None:
    """Print what is not a result."""
    sys.stderr.write(f"mixbench: {line}\n")
    sys.stderr.flush()
