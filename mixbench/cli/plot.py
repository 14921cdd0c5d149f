"""Pictures of results: ``plot``."""

import argparse
from typing import Any

from mixbench.cli.console import print_result
from mixbench.errors import UserError

WIDTHS = ("column", "page")


def plot_command(args: argparse.Namespace) -> int:
    """Draw one plot of finished runs."""
    from mixbench.leaderboard.plots.draw import plot

    options: dict[str, Any] = {"width": _inches(args.width), "title": not args.no_title}
    given = {name: getattr(args, name) for name in ("rows", "score", "keys", "per_seed")}
    options |= {name: value for name, value in given.items() if value}
    plot(args.kind, args.runs or None, args.output, **options)
    print_result(f"written: {args.output}")
    return 0


def _inches(text: str) -> float:
    from mixbench.leaderboard.plots.style import COLUMN, PAGE

    if text in WIDTHS:
        return {"column": COLUMN, "page": PAGE}[text]
    try:
        return float(text)
    except ValueError as error:
        todo = f"give {' or '.join(WIDTHS)}, or a number of inches"
        raise UserError(f"{text!r} is no width", "--width", todo) from error
