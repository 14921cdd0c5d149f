"""Command line of ``make notebooks``."""

import sys

from mixbench import leave_working_directory


def main(words: list[str]) -> int:
    """Execute the notebooks that are named, or all of ``notebooks/``.

    Args:
        words: Paths.

    Returns:
        Exit code.
    """
    import argparse
    from pathlib import Path

    from mixbench.errors import MixbenchError
    from mixbench.notebook.execute import execute

    parser = argparse.ArgumentParser(
        prog="python -m mixbench.notebook",
        description="Execute notebooks; the copies with their outputs stand beside the runs.",
    )
    text = "files to execute; all of notebooks/ if none is named"
    parser.add_argument("notebooks", nargs="*", type=Path, metavar="FILE.ipynb", help=text)
    named = parser.parse_args(words).notebooks
    try:
        execute(named or sorted(Path("notebooks").glob("*.ipynb")), _say)
    except MixbenchError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    leave_working_directory()
    sys.exit(main(sys.argv[1:]))
