"""The report page: ``report``, and the end of a grid of runs."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mixbench.cli.console import print_notice, print_result
from mixbench.cli.leaderboard import TRAIN_SOME
from mixbench.errors import UserError, explain

if TYPE_CHECKING:
    from mixbench.leaderboard.rows import Leaderboard

REPORT = "report.html"  # in the folder of the runs, if no other file is named
SUFFIXES = (".html", ".htm")


def report_command(args: argparse.Namespace) -> int:
    """Write the results of runs as one page."""
    from mixbench.leaderboard.rows import build_leaderboard
    from mixbench.leaderboard.sealed import find_shown_runs
    from mixbench.race.state import find_races
    from mixbench.records.record import runs_folder

    places = args.runs or [runs_folder()]
    (folders, held), races = find_shown_runs(places), find_races(places)
    for line in held:
        print_notice(line)
    if not folders and not races:
        raise UserError("there are no runs to report", ", ".join(map(str, places)), TRAIN_SOME)
    # A folder of runs, or of a race, that is named alone gets the page, a run does not.
    alone = len(places) == 1 and places[0] not in folders
    output = args.output or (places[0] if alone else runs_folder()) / REPORT
    check_output(output)
    _write(build_leaderboard(folders), folders, output, races)
    return 0


def check_output(output: Path) -> None:
    """Refuse a file that no page can be written to.

    Args:
        output: The file.

    Raises:
        UserError: If its name ends otherwise, it is a folder, or its folder does not exist.
    """
    if output.suffix.lower() not in SUFFIXES:
        todo = f"end its name in {SUFFIXES[0]}"
        raise UserError("a report is an HTML page", str(output), todo)
    if output.is_dir():
        raise UserError(
            "the report cannot be written, as a folder has that name",
            str(output),
            "name another file",
        )
    if not output.parent.is_dir():
        raise UserError(
            "the folder for the report does not exist",
            str(output),
            "create it, or name another file by -o",
        )


def grid_output(args: argparse.Namespace, folder: Path) -> Path | None:
    """The file of a grid's report, checked before the first run.

    Args:
        args: Options of the grid; ``report`` is a dot if it names no file.
        folder: Folder of all runs, which the grid makes.

    Returns:
        The file; None if no report is asked for, or the command does not wait for its runs.

    Raises:
        UserError: If it cannot be written.
    """
    given: Path | None = args.report
    if given is None:
        return None
    if args.to_wandb or args.no_wait:
        print_notice("no report is written, as this command does not wait for the runs")
        return None
    if given == Path():
        return folder / REPORT
    if "=" in given.name and given.suffix not in SUFFIXES:
        todo = "write overrides in front of --report, or name a file that ends in .html"
        raise UserError("--report takes the word after it as the name of a file", str(given), todo)
    check_output(given)
    return given


def report_grid(
    board: "Leaderboard", folders: list[Path], output: Path, races: Sequence[Path] = ()
) -> None:
    """Write the report of a grid, or say why there is none: its runs are done either way.

    Args:
        board: Leaderboard of the grid.
        folders: Folders of its runs.
        output: The file.
        races: Folders of races that its runs belong to.
    """
    try:
        _write(board, folders, output, races)
    except Exception as error:
        print_notice(f"warning: no report is written: {explain(error).what}")


def _write(
    board: "Leaderboard", folders: list[Path], output: Path, races: Sequence[Path] = ()
) -> None:
    from mixbench.leaderboard.report.page import write_report
    from mixbench.race.page import race_section
    from mixbench.race.state import RACE, read_race

    parts, notes = [], []
    for folder in races:
        try:
            if state := read_race(folder / RACE):
                parts.append(race_section(state))
        except UserError as error:
            notes.append(f"{folder.name} is left out: {error.what}")
    for note in [*notes, *write_report(board, folders, output, parts)]:
        print_notice(f"warning: {note}")
    print_result(f"report: {output}")
