"""Finished runs, judged again: ``eval`` and ``verify``."""

import argparse
from pathlib import Path

from mixbench.cli.console import print_notice, print_result, show_log
from mixbench.config.names import SUITES
from mixbench.errors import MixbenchError, UserError, counted


def eval_command(args: argparse.Namespace) -> int:
    """Judge finished runs by suites, and add what is found to their records."""
    folders, words = _runs("eval", args.overrides)
    suites = None
    if args.suite is not None:
        suites = [name.strip() for name in ",".join(args.suite).split(",")]
        for name in suites:
            SUITES.check(name, "--suite")
    from mixbench.training.reevaluate import evaluate_run

    show_log()
    worst: MixbenchError | None = None
    for folder in folders:
        try:
            record = evaluate_run(folder, words, suites)
        except MixbenchError as error:
            if len(folders) == 1:
                raise
            worst = worst or error
            print_notice(str(error))
            continue
        shown = "  ".join(f"{name} {value:.4g}" for name, value in record.metrics.items())
        print_result(f"{record.id}  {shown}")
    if worst is not None:
        return 5 if len(folders) > 1 else worst.exit_code
    return 0


def verify_command(args: argparse.Namespace) -> int:
    """Compute the records of finished runs again from their checkpoints and predictions."""
    folders, words = _runs("verify", args.overrides)
    from mixbench.training.reevaluate import verify_run

    show_log()
    code = 0
    for folder in folders:
        try:
            found = verify_run(folder, words)
        except MixbenchError as error:
            if len(folders) == 1:
                raise
            print_notice(str(error))
            code = max(code, error.exit_code)
            continue
        partly = "partly verified" if found.left else "verified"
        scores = counted(len(found.compared), "score")
        print_result(f"{folder.name}: {partly}, with {scores} as recorded")
        for name, why in found.left.items():
            print_result(f"  not verified: {name}, as {why}")
    return code


def _runs(command: str, words: list[str]) -> tuple[list[Path], list[str]]:
    """Folders that are named before the overrides."""
    from mixbench.records.record import read_record, run_folder

    named = [word for word in words if "=" not in word or Path(word).is_dir()]
    if not named:
        raise UserError("no run is named", command, f"write mixbench {command} RUN ... [k=v ...]")
    folders = [run_folder(name) for name in named]
    for folder in folders:
        read_record(folder)  # said at once, before torch is loaded
    return folders, [word for word in words if word not in named]
