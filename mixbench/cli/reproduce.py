"""A published figure again: ``reproduce``."""

import argparse
from typing import Any

from mixbench.cli.console import print_notice, print_result
from mixbench.cli.run import print_doubts
from mixbench.errors import UserError, counted, time_text

NOT_COMPARABLE = (
    "the recipe is shorter or changed: the result cannot be compared with the published figure"
)


def reproduce_command(args: argparse.Namespace) -> int:
    """Run the official recipe of a published figure, or say what it costs."""
    from mixbench.config.compose import compose_text, resolve_method
    from mixbench.config.names import DATA, METHODS, NETS
    from mixbench.launch.plan import expand, seeds_note

    for registry, name in ((METHODS, args.method), (DATA, args.data), (NETS, args.net)):
        registry.check(name)
    if args.budget is not None and not args.budget >= 0:
        raise UserError(f"--budget {args.budget} must be >= 0", "reproduce", "give hours")
    from mixbench.launch.reproduce import (
        choose_figure,
        matching_figures,
        official_words,
        recipe_changes,
    )
    from mixbench.leaderboard.reproduction import compare, published, report

    found = matching_figures(args.method, args.data, args.net)
    figure = choose_figure(found, args.figure)
    for number, each in enumerate(found, 1):
        if len(found) > 1:
            mark = "*" if each is figure else " "
            print_result(f"{mark} --figure {number}: {published(each)}")
    words = [*official_words(figure), *args.overrides]
    if not any(word.startswith(("seed=", "seeds=")) for word in words):
        words.append(f"seeds={args.seeds}")
    runs = expand(words, strict=args.strict)
    if note := seeds_note(words):
        print_result(note)
    composed = resolve_method(compose_text(runs[0].words, strict=args.strict), strict=args.strict)
    for note in composed.notes:
        print_notice(f"warning: {note}")
    changed = recipe_changes(figure, composed.config)
    print_result(f"published: {published(figure)}")
    print_result(f"recipe: {figure.recipe} {' '.join(figure.overrides)}".rstrip())
    if changed:
        print_result(NOT_COMPARABLE)
    folder, runs, outcome = _launch(args, runs, composed.config)
    if outcome is None:
        return 0
    if outcome.interrupted:
        print_notice("interrupted; give the same command again to continue with what is left")
        return outcome.exit_code(len(runs))
    done = _records(folder, [run.id for run in runs])
    if done:
        print_result("")
        for line in report(compare(figure, done, changed)):
            print_result(line)
    return outcome.exit_code(len(runs))


def _launch(args: argparse.Namespace, runs: Any, config: Any) -> Any:
    """Carry out what is left, if that is allowed to cost what it costs."""
    from mixbench.cli.display import GridDisplay
    from mixbench.launch.local import LocalLauncher
    from mixbench.launch.reproduce import expected_seconds
    from mixbench.records.record import make_runs_folder, runs_folder

    folder = runs_folder(config.run.dir)
    display = GridDisplay()
    launcher = LocalLauncher(display.print_line, strict=args.strict, show=display.show)
    if not args.yes and args.budget is None:
        seconds = expected_seconds(config)  # without looking for the data
        if seconds is not None:
            print_result(_cost(len(runs), seconds * len(runs)))
            print_result(
                "nothing was started: add --yes, or --budget HOURS to go on where it costs no more"
            )
            return folder, runs, None
    runs = launcher.prepare(runs)
    left = [run for run in runs if not run.done]
    seconds = sum(run.seconds or 0 for run in left)
    print_result(_cost(len(left), seconds) if left else "every run is done")
    print_doubts(left)
    if not args.yes and seconds > 3600 * (args.budget or 0):
        print_result("nothing was started: add --yes, or a larger --budget HOURS")
        return folder, runs, None
    make_runs_folder(folder)
    with display:
        return folder, runs, launcher.launch(runs, folder)


def _cost(count: int, seconds: float) -> str:
    runs = counted(count, "run")
    return f"cost: {runs}, about {time_text(seconds)} in all on this machine"


def _records(folder: Any, ids: list[str]) -> list[Any]:
    from mixbench.records.record import read_record

    found = []
    for name in ids:
        try:
            record = read_record(folder / name)
        except UserError:
            continue
        if record.status == "done":
            found.append((record, folder / name))
    return found
