"""Which method is best for some data, within a time: ``race``."""

import argparse

from mixbench.cli.console import print_notice, print_result
from mixbench.errors import time_text


def race_command(args: argparse.Namespace) -> int:
    """Plan a race or go on with one, and print its verdict."""
    from mixbench.cli.display import GridDisplay
    from mixbench.launch.local import LocalLauncher
    from mixbench.race.budget import add_budget, goes_on
    from mixbench.race.procedure import advance
    from mixbench.race.runs import RaceRuns
    from mixbench.race.start import open_race, parse_request
    from mixbench.race.state import RACE, RaceState, read_race, write_race
    from mixbench.race.words import answer_texts, further_plan, plan_text
    from mixbench.records.lock import locked
    from mixbench.records.record import Record, make_runs_folder

    request = parse_request(args.overrides, strict=args.strict)
    display = GridDisplay()
    told: set[str] = set()

    def print_once(text: str) -> None:
        if text not in told:  # several processes time the methods beside each other
            told.add(text)
            print_result(text)

    def tell(record: Record, seconds: float | None) -> str:
        """No score: that of the test set is not to be seen before the last run has ended."""
        return f"done in {time_text(record.wall_s if seconds is None else seconds)}"

    def launcher(jobs: int | None) -> LocalLauncher:
        return LocalLauncher(print_once, strict=args.strict, jobs=jobs)

    opened = open_race(request, launcher, lambda folder: read_race(folder / RACE))
    place = opened.folder / opened.state.id

    def goes_further(state: RaceState) -> bool:
        """Give a race that has begun more time, if that is asked for."""
        text, confirm, reopen = request.budget, request.confirm, request.reopen
        if not text or goes_on(state, text, confirm, reopen=reopen):
            return False
        add_budget(state, text, opened.jobs, confirm, reopen=reopen)
        return True

    for note in opened.notes:
        print_notice(note)
    state = opened.state
    if opened.is_new:
        print_result(plan_text(state))
        for note in state.notes:
            print_result(note)
    if args.dry_run:
        if not opened.is_new and goes_further(state):
            print_result(further_plan(state))
        return 0
    make_runs_folder(opened.folder)
    place.mkdir(exist_ok=True)
    with locked(place):
        # Another process may have carried it on since it was read.
        state = read_race(place / RACE) or state
        if not opened.is_new and goes_further(state):
            print_result(further_plan(state))
        print_result(f"race: {place / RACE}")

        def save(state: RaceState) -> None:
            write_race(place / RACE, state)

        save(state)
        lines = LocalLauncher(
            display.print_line, strict=args.strict, jobs=opened.jobs, show=display.show, tell=tell
        )
        runs = RaceRuns(state, lines, opened.folder)
        with display:
            advance(state, runs, opened.levels, save, display.print_line)
    print_result("")
    for text in answer_texts(state):
        print_result(text)
    return 0
