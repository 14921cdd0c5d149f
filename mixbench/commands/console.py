"""Lines for the terminal."""

import sys


def say(line: str) -> None:
    """Print a result at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def complain(line: str) -> None:
    """Print what is not a result."""
    sys.stderr.write(f"mixbench: {line}\n")
    sys.stderr.flush()
