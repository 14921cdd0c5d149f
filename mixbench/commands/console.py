"""Lines for the terminal."""

import logging
import sys

from mixbench.errors import printable
from mixbench.logs import PrintableFormatter


def say(text: str) -> None:
    """Print a result at once."""
    sys.stdout.write(f"{_shown(text)}\n")
    sys.stdout.flush()


def complain(text: str) -> None:
    """Print what is not a result."""
    sys.stderr.write(f"mixbench: {_shown(text)}\n")
    sys.stderr.flush()


def talk() -> None:
    """Print what runs log."""
    handler = logging.StreamHandler()
    handler.setFormatter(PrintableFormatter("%(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger("mixbench").setLevel(logging.INFO)


def _shown(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))
