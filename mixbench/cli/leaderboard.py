"""Tables of finished runs: ``leaderboard`` and ``compare``."""

import argparse
import os
import sys
from pathlib import Path

from mixbench.cli.console import print_notice, terminal_width
from mixbench.errors import UserError

TRAIN_SOME = "train some: mixbench bench method=erm,mixup,cutmix seeds=0,1,2"


def leaderboard_command(args: argparse.Namespace) -> int:
    """Print rows over seeds."""
    from mixbench.leaderboard.render import literature_table, render
    from mixbench.leaderboard.rows import build_leaderboard
    from mixbench.leaderboard.sealed import find_shown_runs
    from mixbench.leaderboard.text import FORMATS
    from mixbench.records.record import runs_folder

    if args.format not in FORMATS:
        raise UserError(
            f"unknown format {args.format!r}", "--format", f"choose one of: {', '.join(FORMATS)}"
        )
    if args.literature and args.format not in ("table", "markdown"):
        raise UserError(
            "--literature works with the formats table and markdown only",
            "--literature",
            "use --format table or markdown",
        )
    _check_view(args)
    places = args.runs or [runs_folder()]
    folders, held = find_shown_runs(places)
    for line in held:
        print_notice(line)
    if not folders and not held:
        raise UserError("there are no runs to rank", ", ".join(map(str, places)), TRAIN_SOME)
    board = build_leaderboard(folders)
    if args.curve:
        from mixbench.leaderboard.epochs import curves_text

        sys.stdout.write(curves_text(board, args.format))
        return 0
    if args.pivot:
        from mixbench.leaderboard.pivot import pivot_text

        down, across = args.pivot
        sys.stdout.write(pivot_text(board, down, across, args.format))
        return 0
    columns = None if args.columns is None else names_of(args.columns)
    sys.stdout.write(
        render(board, args.format, columns=columns, sort=args.sort, width=terminal_width())
    )
    if args.literature:
        from mixbench.leaderboard.literature import figures

        sets = {group.data for group in board.groups}
        found = [figure for figure in figures() if figure.data in sets]
        sys.stdout.write("\n" + literature_table(found, args.format))
    if args.wandb:
        from mixbench.config.schema import WandbConfig
        from mixbench.leaderboard.wandb_table import log_table

        folder = runs_folder()
        folder.mkdir(parents=True, exist_ok=True)
        print_notice(log_table(board, project=WandbConfig().project, folder=folder, mode=None))
    return 0


def _check_view(args: argparse.Namespace) -> None:
    """Refuse options that another one makes useless."""
    views = [f"--{name}" for name in ("curve", "pivot") if getattr(args, name)]
    if len(views) > 1:
        raise UserError(
            f"{' and '.join(views)} cannot be combined", " ".join(views), "ask for one of them"
        )
    of_tables = ("columns", "sort", "literature", "wandb")
    lost = [f"--{name}" for name in of_tables if views and getattr(args, name)]
    if lost:
        raise UserError(f"{lost[0]} has no effect on {views[0]}", lost[0], "leave it out")
    if args.pivot and args.format in ("csv", "json"):
        raise UserError(
            f"--pivot cannot be written as {args.format}",
            "--pivot",
            "use --format table, markdown or latex",
        )


def names_of(text: str) -> list[str]:
    """Names divided by commas."""
    return [name.strip() for name in text.split(",")]


def compare_command(args: argparse.Namespace) -> int:
    """Print two methods side by side."""
    from mixbench.leaderboard.compare import compare
    from mixbench.leaderboard.export import comparisons_json
    from mixbench.leaderboard.render import comparison_text
    from mixbench.leaderboard.rows import build_leaderboard
    from mixbench.leaderboard.sealed import find_shown_runs
    from mixbench.records.record import runs_folder

    styles = ("table", "markdown", "latex", "json")
    if args.format not in styles:
        raise UserError(
            f"unknown format {args.format!r}", "--format", f"choose one of: {', '.join(styles)}"
        )
    (mine, ours), (other, others) = map(_named_run, (args.mine, args.other))
    named = [folder for folder in (ours, others) if folder is not None]
    # The row and the table of a run are made of all runs that lie beside it.
    places = [folder.absolute().parent for folder in named] or [runs_folder()]
    folders, held = find_shown_runs([*args.runs, *named] if args.runs else places)
    for line in held:
        print_notice(line)
    board = build_leaderboard(folders)
    found = compare(board, mine, other, margin=args.margin)
    if args.format == "json":
        sys.stdout.write(comparisons_json(found))
    else:
        sys.stdout.write("\n".join(comparison_text(item, args.format) for item in found))
    return 0


def _named_run(name: str) -> tuple[str, Path | None]:
    """The id and the folder of a run that is named by either; of a method or row just its name."""
    from mixbench.records.record import RECORD, read_record, run_folder

    folder = run_folder(name)
    if not os.path.lexists(folder / RECORD):
        return name, None
    return read_record(folder).id, folder
