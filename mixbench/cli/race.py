"""Which method is best for some data, within a time: ``race``."""

import argparse
from contextlib import ExitStack

from mixbench.cli.console import print_notice, print_result
from mixbench.cli.report import grid_output, report_grid
from mixbench.cli.run import check_launching
from mixbench.errors import MixbenchError, time_text


def race_command(args: argparse.Namespace) -> int:
    """Plan a race or go on with one, and print its verdict."""
    from mixbench.cli.display import GridDisplay
    from mixbench.config.compose import compose_text
    from mixbench.launch.local import LocalLauncher
    from mixbench.launch.slurm import SlurmLauncher
    from mixbench.launch.slurm_options import read_options
    from mixbench.leaderboard.rows import build_leaderboard
    from mixbench.race.budget import add_budget, check_repeated, goes_on
    from mixbench.race.procedure import advance
    from mixbench.race.runs import RaceRuns
    from mixbench.race.start import open_race, parse_request
    from mixbench.race.state import RACE, RaceState, read_race, write_race
    from mixbench.race.view import show_race
    from mixbench.race.words import answer_texts, further_plan, plan_text
    from mixbench.records.lock import BusyRunError, locked
    from mixbench.records.record import Record, make_runs_folder

    check_launching(args)
    request = parse_request(args.overrides, strict=args.strict)
    display = GridDisplay()

    def tell(record: Record, seconds: float | None) -> str:
        """No score: that of the test set is not to be seen before the last run has ended."""
        return f"done in {time_text(record.wall_s if seconds is None else seconds)}"

    local = LocalLauncher(
        display.print_line, strict=args.strict, jobs=request.jobs, show=display.show, tell=tell
    )
    cluster = None
    if args.launcher == "slurm":
        cluster = SlurmLauncher(
            display.print_line,
            strict=args.strict,
            options=read_options(args.slurm, request.jobs),
            show=display.show,
            tell=tell,
        )
    opened = open_race(request, local, lambda folder: read_race(folder / RACE), cluster)
    place = opened.folder / opened.state.id
    page = grid_output(args, place)

    def goes_further(state: RaceState) -> bool:
        """Give a race that has begun more time, if that is asked for."""
        text, confirm, reopen = request.budget, request.confirm, request.reopen
        if not text or goes_on(state, text, confirm, reopen=reopen):
            check_repeated(state, confirm, reopen=reopen)
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
        if not opened.is_new:
            print_result(further_plan(state) if goes_further(state) else answer_texts(state)[0])
        return 0
    make_runs_folder(opened.folder)
    place.mkdir(exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(place))
        except BusyRunError as error:
            error.todo = "wait for it; the same command then goes on or prints the verdict"
            raise
        # Another process may have carried it on since it was read.
        state = read_race(place / RACE) or state
        if not opened.is_new and goes_further(state):
            print_result(further_plan(state))
        print_result(f"race: {place / RACE}")

        def save(state: RaceState) -> None:
            write_race(place / RACE, state)

        save(state)
        local.jobs = opened.jobs
        runs = RaceRuns(state, cluster or local, opened.folder, request.view)
        with display:
            advance(state, runs, opened.levels, save, display.print_line)
        reached = [len(state.rounds), len(state.looks)]
        if request.view and state.shown != reached:
            view = compose_text(request.view).config.wandb
            try:
                lines = local.ask(show_race, state, opened.folder, view.mode, view.project)
                state.shown = reached
                save(state)
            except MixbenchError as error:
                lines = [f"W&B: the race is not shown: {error.what}"]
            for line in lines:
                print_result(line)
    print_result("")
    for text in answer_texts(state):
        print_result(text)
    if page is not None:
        folders = [opened.folder / run for look in state.looks for run in look.run_ids]
        report_grid(build_leaderboard(folders), folders, page, [place])
    return 0
