"""Runs and grids of runs: ``run``, ``resume``, ``bench``."""

import argparse
import os
import shlex
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixbench.cli.console import importing, print_notice, print_result, show_log, terminal_width
from mixbench.cli.report import grid_output, report_grid
from mixbench.distributed.signals import LAUNCHER_ENV
from mixbench.errors import UserError, counted, time_text

if TYPE_CHECKING:
    from mixbench.cli.display import GridDisplay
    from mixbench.config.compose import Composed
    from mixbench.launch.plan import PlannedRun
    from mixbench.launch.sweep import Sweep
    from mixbench.records.record import Record


def run_command(args: argparse.Namespace) -> int:
    """Carry out one run."""
    from mixbench.config.compose import compose_text, render, resolve_method
    from mixbench.config.overrides import COMMAND_LINE, refuse_place
    from mixbench.config.schema import AUTO
    from mixbench.tracking.run import import_wandb, is_shown

    composed = compose_text(args.overrides, strict=args.strict, base=args.config)
    if composed.origins["run.dir"] != COMMAND_LINE and args.folder is None:
        refuse_place([("run.dir", composed.config.run.dir)], composed.origins["run.dir"])
    with importing():  # of torch and Lightning, with the method
        if not args.show and composed.config.world == 1 and is_shown(composed.config):
            import_wandb()
        composed = resolve_method(composed, strict=args.strict)
    for note in composed.notes:
        print_notice(f"warning: {note}")
    if args.show:
        if composed.config.auto or composed.config.precision == AUTO:
            composed = _chosen(composed)
        print_result(render(composed))
        return 0
    with importing():
        from mixbench.training.run import run

    show_log()
    record = run(
        composed.config,
        shared_cores=args.shared_cores,
        folder=args.folder,
        allow_config_change=args.allow_config_change,
    )
    from mixbench.records.record import runs_folder

    place = args.folder or runs_folder(composed.config.run.dir) / record.id
    _print_end(record, place)
    return 0


def _chosen(composed: "Composed") -> "Composed":
    """The configuration with what the number of training images and the device decide."""
    from dataclasses import replace

    from mixbench.config.schema import AUTO
    from mixbench.training.job import resolve

    try:
        job = resolve(composed.config)
    except UserError as error:
        keys = [*composed.config.auto, *["precision"] * (composed.config.precision == AUTO)]
        told = f"{', '.join(keys)} follow from the data or the device, which is not known"
        print_notice(f"{told}: {error.what}")
        return composed
    print_notice(job.choice)
    origins = composed.origins | dict.fromkeys(composed.config.auto, "number of training images")
    if job.config.precision != composed.config.precision:
        origins["precision"] = "device"
    return replace(composed, config=job.config, origins=origins)


def resume_command(args: argparse.Namespace) -> int:
    """Go on with a run."""
    from mixbench.records.record import read_record, run_folder

    if not args.overrides or "=" in args.overrides[0]:
        raise UserError("no run is named", "resume", "write mixbench resume RUN [k=v ...]")
    name, *words = args.overrides
    folder = run_folder(name)
    if folder.is_dir() and not words and read_record(folder).status == "done":
        print_result(f"{folder.name} is done already")
        return 0
    with importing():
        from mixbench.training.run import resume

    show_log()
    record = resume(folder, words, allow_config_change=args.allow_config_change)
    _print_end(record, folder)
    return 0


def bench_command(args: argparse.Namespace) -> int:
    """Carry out a grid of runs and rank them."""
    from mixbench.launch.plan import expand, seeds_note

    runs = expand(args.overrides, strict=args.strict)
    if note := seeds_note(args.overrides):
        print_result(note)
    return _launch(runs, args)[0]


def sweep_command(args: argparse.Namespace) -> int:
    """Carry out an ablation plan, the plans that it needs first."""
    from mixbench.launch.plan import seeds_note
    from mixbench.launch.sweep import read_sweep

    if not args.overrides or "=" in args.overrides[0]:
        raise UserError("no plan is named", "sweep", "write mixbench sweep PLAN.yaml [k=v ...]")
    name, *words = args.overrides
    plan = read_sweep(name, words, strict=args.strict, trusted=args.trust)
    if note := seeds_note(words):
        print_result(note)
    if plan.needs and args.to_wandb:
        raise UserError(
            "a plan that needs the runs of another plan cannot be written as one W&B sweep",
            name,
            "run the other plan first, and give the file that it makes as an override",
        )
    return _carry_out(plan, args)[0]


def _carry_out(plan: "Sweep", args: argparse.Namespace) -> "tuple[int, list[PlannedRun]]":
    """Launch what a plan needs, as far down as that goes, and then the plan."""
    from mixbench.launch.sweep import fill_needs

    done: dict[str, list[PlannedRun]] = {}
    for key, need in plan.needs.items():
        print_result(f"first, for {key}: {need.name}")
        code, done[key] = _carry_out(need, args)
        if code:
            return code, []
    if args.dry_run and plan.needs:
        print_result(f"then: {plan.name}, {counted(len(plan.runs), 'run')}")
        return 0, []
    return _launch(fill_needs(plan, done), args)


def _launch(runs: "list[PlannedRun]", args: argparse.Namespace) -> "tuple[int, list[PlannedRun]]":
    from mixbench.cli.display import GridDisplay
    from mixbench.config.compose import compose_text
    from mixbench.leaderboard.render import render
    from mixbench.leaderboard.rows import build_leaderboard, find_runs
    from mixbench.records.record import make_runs_folder, runs_folder

    config = compose_text(runs[0].words).config
    check_launching(args)
    page = grid_output(args, runs_folder(config.run.dir))
    if args.to_wandb:
        from mixbench.files import write_text
        from mixbench.launch.wandb_sweep import sweep_file

        write_text(args.to_wandb, sweep_file(runs, project=config.wandb.project))
        print_result(f"written: {args.to_wandb}; next: wandb sweep {args.to_wandb}")
        return 0, runs
    folder = runs_folder(config.run.dir)
    display = GridDisplay()
    launcher = _launcher(args, display)
    runs = launcher.prepare(runs)
    left = [run for run in runs if not run.done]
    for choice in dict.fromkeys(run.choice for run in runs if run.choice):
        print_result(choice)
    for number, run in enumerate(runs, 1):
        state = "done" if run.done else "to do"
        if run.seconds is not None and not run.done:
            state = f"about {time_text(run.seconds)}"
        arm = f"{run.arm}: " if run.arm else ""
        print_result(f"[{number}/{len(runs)}] {arm}{run.id}: {state}")
    print_doubts(left)
    print_unjudged(runs, folder)
    if left:
        seconds = launcher.duration(left)
        about = f", about {time_text(seconds)} in all" if seconds else ""
        print_result(f"{len(left)} to do{about}")
        print_result(f"logs: {folder}/<id>/log.txt")
    if args.dry_run:
        return 0, runs
    make_runs_folder(folder)
    with display:
        outcome = launcher.launch(runs, folder)
    if args.no_wait and args.launcher == "slurm":
        return 0, runs
    if outcome.interrupted:
        again = {"local": "continue with what is left", "slurm": "wait for the jobs again"}
        print_notice(f"interrupted; give the same command again to {again[args.launcher]}")
    elif folder.is_dir():
        hashes = {run.recipe_hash for run in runs}
        print_result("")
        board = build_leaderboard(find_runs([folder])).only(hashes)
        print_result(render(board, width=terminal_width()).rstrip())
        if page is not None:
            report_grid(board, [folder / run.id for run in runs], page)
        for group in board.groups:  # the answer is the last thing that is read
            place = f"{group.data}, {group.net}: " if len(board.groups) > 1 else ""
            print_result(f"\n{place}{group.verdict.text}")
    return outcome.exit_code(len(runs)), runs


def print_doubts(runs: "list[PlannedRun]") -> None:
    """Print why the training of runs cannot work, each reason once."""
    for sentence, count in Counter(text for run in runs for text in run.doubts).items():
        print_notice(f"warning: {sentence} ({count} of {len(runs)} runs)")


def print_unjudged(runs: "list[PlannedRun]", folder: Path) -> None:
    """Print how runs that are done get the scores of suites that they lack."""
    lacking = [run for run in runs if run.unjudged]
    if lacking:
        names = ",".join(dict.fromkeys(name for run in lacking for name in run.unjudged))
        folders = " ".join(shlex.quote(str(folder / run.id)) for run in lacking)
        print_notice(
            f"warning: {len(lacking)} of the runs that are done were not judged by {names}, which "
            f"this adds: mixbench eval {folders} --suite {names}"
        )


def check_launching(args: argparse.Namespace) -> None:
    """Refuse options that would have no effect.

    Args:
        args: Options of a command that carries out several runs.

    Raises:
        UserError: On the first of them.
    """
    if args.jobs is not None and args.jobs < 1:
        raise UserError(
            f"--jobs {args.jobs} is too small: at least one run has to be started at a time",
            "--jobs",
            "give 1 or more",
        )
    given = {"--slurm": args.slurm, "--no-wait": args.no_wait}
    if args.launcher == "local" and any(given.values()):
        raise UserError("--slurm and --no-wait need SLURM", "--launcher", "add --launcher slurm")
    given |= {"--jobs": args.jobs, "--launcher slurm": args.launcher == "slurm"}
    unused = [name for name, value in given.items() if value]
    if args.to_wandb and unused:
        what = f"{unused[0]} has no effect with --to-wandb, which trains nothing"
        raise UserError(what, "--to-wandb", f"leave {unused[0]} out")


def _launcher(args: argparse.Namespace, display: "GridDisplay") -> Any:
    if args.launcher == "local":
        from mixbench.launch.local import LocalLauncher

        return LocalLauncher(
            display.print_line, strict=args.strict, jobs=args.jobs, show=display.show
        )
    from mixbench.launch.slurm import SlurmLauncher
    from mixbench.launch.slurm_options import read_options

    return SlurmLauncher(
        display.print_line,
        strict=args.strict,
        options=read_options(args.slurm, args.jobs),
        wait=not args.no_wait,
        show=display.show,
    )


def _print_end(record: "Record", folder: Path) -> None:
    """Print a few scores of a run, what speaks against them, and the place of all others."""
    if os.environ.get("RANK", "0") != "0" or LAUNCHER_ENV in os.environ:
        return  # said once: by the leading process, or by the one that started it
    from mixbench.leaderboard.headline import score_texts
    from mixbench.records.marks import health

    print_result("   ".join(score_texts(record.metrics)) or "no scores")
    for sentence in health(record):
        print_result(sentence)
    print_result(f"everything else is in {folder}")
