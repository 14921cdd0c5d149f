"""Tables of finished runs: ``leaderboard`` and ``compare``."""

import argparse
import sys

from mixbench.commands.console import complain
from mixbench.errors import UserError


def leaderboard(args: argparse.Namespace) -> int:
    """Print rows over seeds."""
    from mixbench.results.leaderboard import build_leaderboard, find_runs
    from mixbench.results.record import runs_folder
    from mixbench.results.table import FORMATS, literature_table, render

    if args.format not in FORMATS:
        raise UserError(
            f"unknown format {args.format!r}", "--format", f"choose one of: {', '.join(FORMATS)}"
        )
    if args.literature and args.format not in ("table", "markdown"):
        raise UserError(
            "published figures stand beside tables only",
            "--literature",
            "use --format table or markdown",
        )
    board = build_leaderboard(find_runs(args.runs or [runs_folder()]))
    if args.curve:
        from mixbench.results.epochs import curves_text

        sys.stdout.write(curves_text(board, args.format))
        return 0
    sys.stdout.write(render(board, args.format))
    if args.literature:
        from mixbench.results.literature import figures

        sets = {group.data for group in board.groups}
        found = [figure for figure in figures() if figure.data in sets]
        sys.stdout.write("\n" + literature_table(found, args.format))
    if args.wandb:
        from mixbench.results.wandb_table import log_table
        from mixbench.schema import WandbConfig

        folder = runs_folder()
        folder.mkdir(parents=True, exist_ok=True)
        complain(log_table(board, project=WandbConfig().project, folder=folder, mode=None))
    return 0


def compare(args: argparse.Namespace) -> int:
    """Print two methods side by side."""
    from mixbench.results.compare import compare
    from mixbench.results.leaderboard import build_leaderboard, find_runs
    from mixbench.results.record import runs_folder
    from mixbench.results.table import comparison_text, comparisons_json

    styles = ("table", "markdown", "latex", "json")
    if args.format not in styles:
        raise UserError(
            f"unknown format {args.format!r}", "--format", f"choose one of: {', '.join(styles)}"
        )
    board = build_leaderboard(find_runs(args.runs or [runs_folder()]))
    found = compare(board, args.mine, args.other, margin=args.margin)
    if args.format == "json":
        sys.stdout.write(comparisons_json(found))
    else:
        sys.stdout.write("\n".join(comparison_text(item, args.format) for item in found))
    return 0
