"""Pictures of results: ``plot``."""

import argparse
from typing import Any

from mixbench.cli.console import print_notice, print_result
from mixbench.errors import UserError

# Options that only some kinds have, by their names in Python.
OPTIONS = {"rows": "--row", "score": "--score", "keys": "--key", "per_seed": "--per-seed"}


def plot_command(args: argparse.Namespace) -> int:
    """Draw one plot of finished runs, or of a race."""
    from mixbench.leaderboard.plots.draw import check_width, draw, draw_files, options_of
    from mixbench.leaderboard.plots.export import check_target, save
    from mixbench.leaderboard.plots.kinds import ALL_KINDS, KINDS
    from mixbench.leaderboard.rows import build_leaderboard
    from mixbench.leaderboard.sealed import find_shown_runs
    from mixbench.records.record import runs_folder

    ALL_KINDS.check(args.kind, f"plot {args.kind}")
    check_target(args.output)
    given: dict[str, Any] = {name: getattr(args, name) for name in OPTIONS}
    options = {name: value for name, value in given.items() if value}
    of_table = args.kind in KINDS.table
    taken = {*options_of(args.kind), *(["rows"] if of_table else [])}
    for name in OPTIONS.keys() & options.keys() - taken:
        what = f"{OPTIONS[name]} has no effect on a plot {args.kind}"
        raise UserError(what, OPTIONS[name], "leave it out")
    width = check_width(args.width)
    places, lacking = args.runs or [runs_folder()], []
    if of_table:
        folders, held = find_shown_runs(places)
        board = build_leaderboard(folders)
        lacking = [*held, *board.others]
        figure = draw(args.kind, board, width=width, title=not args.no_title, **options)
    else:
        figure = draw_files(args.kind, places, width=width, title=not args.no_title, **options)
    save(figure, args.output)
    print_result(f"written: {args.output}")
    for line in lacking:
        print_notice(f"not in the picture: {line}")
    return 0
