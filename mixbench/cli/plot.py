"""Pictures of results: ``plot``."""

import argparse
from typing import Any

from mixbench.cli.console import print_notice, print_result
from mixbench.errors import UserError

# Options that only some kinds have, by their names in Python.
OPTIONS = {"score": "--score", "keys": "--key", "per_seed": "--per-seed"}


def plot_command(args: argparse.Namespace) -> int:
    """Draw one plot of finished runs."""
    from mixbench.leaderboard.plots.draw import check_width, draw, options_of
    from mixbench.leaderboard.plots.export import check_target, save
    from mixbench.leaderboard.plots.kinds import KINDS
    from mixbench.leaderboard.rows import build_leaderboard, find_runs
    from mixbench.records.record import runs_folder

    KINDS.check(args.kind, f"plot {args.kind}")
    check_target(args.output)
    given: dict[str, Any] = {name: getattr(args, name) for name in ("rows", *OPTIONS)}
    options = {name: value for name, value in given.items() if value}
    for name in OPTIONS.keys() & options.keys() - set(options_of(args.kind)):
        what = f"{OPTIONS[name]} has no effect on a plot {args.kind}"
        raise UserError(what, OPTIONS[name], "leave it out")
    width = check_width(args.width)
    board = build_leaderboard(find_runs(args.runs or [runs_folder()]))
    figure = draw(args.kind, board, width=width, title=not args.no_title, **options)
    save(figure, args.output)
    print_result(f"written: {args.output}")
    for line in board.others:
        print_notice(f"not in the picture: {line}")
    return 0
