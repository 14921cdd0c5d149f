"""The command line: parse, call one function, print."""

import argparse
import os
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

from mixbench import __version__
from mixbench.cli import data, evaluate, export, leaderboard, methods, names, reproduce, run
from mixbench.cli.console import print_notice, replace_unprintable
from mixbench.config.schema import SUITES
from mixbench.distributed.signals import LAUNCHER_ENV
from mixbench.distributed.spawn import write_error
from mixbench.errors import MixbenchError, explain


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Words after the program's name; those of the process if None.

    Returns:
        Exit code: 0 done, 2 user error, 3 run failed, 4 interrupted, 5 part of a grid failed.
    """
    replace_unprintable()
    parser = _parser()
    words = sys.argv[1:] if argv is None else argv
    debug = "--debug" in words
    try:
        args, rest = parser.parse_known_args([word for word in words if word != "--debug"])
        if "overrides" in args and not any(word.startswith("-") for word in rest):
            args.overrides += rest  # overrides may also stand behind an option
        elif rest:
            parser.error(f"unrecognized arguments: {' '.join(rest)}")
    except SystemExit as stop:  # argparse has printed its message, or the help
        return stop.code if isinstance(stop.code, int) else 2
    warnings.showwarning = _show_warning
    try:
        return args.command(args)
    except KeyboardInterrupt:
        print_notice("interrupted")
        return 4
    except BrokenPipeError:  # the reader of a pipe has gone, as under `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debug:
            traceback.print_exc()
        told = explain(error)
        if type(told) is MixbenchError and not told.todo:
            told.todo = "repeat with --debug for the traceback"
        _report(told)
        return told.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mixbench",
        description="Train, compare and verify mixup methods.",
        epilog="Overrides: group=name picks experiments/<group>/<name>.yaml, a.b=c sets a key.",
    )
    parser.add_argument("--version", action="version", version=f"mixbench {__version__}")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, command: Any, text: str, overrides: str = "") -> Any:
        sub = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        sub.set_defaults(command=command)
        if overrides:
            first = overrides.rpartition(" ")[0]
            what = f"{first}, then overrides" if first else "overrides"
            sub.add_argument("overrides", nargs="*", metavar=overrides, help=what)
            sub.add_argument("--strict", action="store_true", help="refuse keys without effect")
        return sub

    one = add("run", run.run_command, "one run", overrides="k=v")
    one.add_argument("--show", action="store_true", help="print the configuration and stop")
    one.add_argument("--config", type=Path, metavar="FILE", help="start from a run's config.yaml")
    for name in ("--folder", "--shared-cores", "--allow-config-change"):  # between processes
        kind = {"type": Path} if name == "--folder" else {"action": "store_true"}
        one.add_argument(name, help=argparse.SUPPRESS, **kind)
    again = add("resume", run.resume_command, "go on with an interrupted run", "RUN k=v")
    again.add_argument("--allow-config-change", action="store_true", help="let k=v change it")
    bench = add("bench", run.bench_command, "a grid of runs, then the leaderboard", overrides="k=v")
    plan = add("sweep", run.sweep_command, "an ablation plan, then its leaderboard", "PLAN k=v")
    text = "let the plan use this class of your own, module:Class; may be repeated"
    plan.add_argument("--trust", action="append", default=[], metavar="CLASS", help=text)
    for grid in (bench, plan):
        _launching(grid)
    text = "the official recipe of a published figure; published, ours, verdict"
    again = add("reproduce", reproduce.reproduce_command, text)
    again.add_argument("method", metavar="METHOD")
    again.add_argument("overrides", nargs="*", metavar="k=v", help="overrides; they are told")
    again.add_argument("--data", required=True, metavar="NAME", help="data set of the figure")
    again.add_argument("--net", required=True, metavar="NAME", help="network of the figure")
    again.add_argument("--figure", type=int, default=1, metavar="N", help="which of several")
    again.add_argument("--seeds", default="0,1,2", metavar="LIST", help="default: 0,1,2")
    again.add_argument("--yes", action="store_true", help="train, whatever it costs")
    again.add_argument("--budget", type=float, metavar="HOURS", help="train if it costs no more")
    again.add_argument("--strict", action="store_true", help="refuse keys without effect")
    text = "judge finished runs by more suites, and add the scores to their records"
    judged = add("eval", evaluate.eval_command, text, overrides="RUN... k=v")
    judged.add_argument(
        "--suite",
        metavar="a,b",
        action="append",
        help=", ".join(SUITES) + "; else eval.suites; may be repeated",
    )
    text = "compute the scores of finished runs again from their weights and predictions"
    add("verify", evaluate.verify_command, text, overrides="RUN... k=v")
    board = add("leaderboard", leaderboard.leaderboard_command, "tables of finished runs")
    board.add_argument("runs", nargs="*", type=Path, metavar="RUNS", help="folders of runs")
    text = "table, markdown, csv, json or latex"
    board.add_argument("--format", default="table", help=text)
    board.add_argument(
        "--literature", action="store_true", help="also a table of published figures on such data"
    )
    text = "scores of the hold-out after each epoch instead"
    board.add_argument("--curve", action="store_true", help=text)
    board.add_argument("--wandb", action="store_true", help="also log it to W&B as a table")
    pair = add(
        "compare", leaderboard.compare_command, "two methods side by side, from their records alone"
    )
    pair.add_argument("runs", nargs="*", type=Path, metavar="RUNS", help="folders of runs")
    pair.add_argument(
        "--mine", required=True, metavar="A", help="a method, a row, or a run's id or folder"
    )
    text = "what it is compared with, named likewise"
    pair.add_argument("--with", dest="other", required=True, metavar="B", help=text)
    text = "points that do not matter: also test whether the two are equivalent"
    pair.add_argument("--margin", type=float, metavar="POINTS", help=text)
    pair.add_argument("--format", default="table", help="table, markdown, latex or json")
    listing = add("list", names.list_names, "names of methods, data, nets and recipes")
    listing.add_argument(
        "words", nargs="*", metavar="[KIND] [PATTERN]", help=", ".join(names.KINDS)
    )
    listing.add_argument(
        "--compat", action="store_true", help="which methods work with which networks and tasks"
    )
    info = add("info", names.info, "what is known of a method, data set, net or recipe")
    info.add_argument("name", metavar="NAME")
    text = "a picture of what a method makes of a batch, of a run's if its folder comes first"
    show = add("show", methods.show_command, text, overrides="k=v")
    show.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.png")
    text = "the network's weights in timm's or torchvision's names, or the network as ONNX"
    weights = add("export", export.export_command, text)
    weights.add_argument("run", metavar="RUN", help="folder or id of a finished run")
    text = "names of your own code in it, such as net=module:Class"
    weights.add_argument("overrides", nargs="*", metavar="k=v", help=text)
    text = "FILE.pth, .pt, .safetensors or .onnx"
    weights.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help=text)
    sets = add("data", data.data_command, "verify a data set, or fetch and decode it once")
    sets.add_argument("action", choices=("check", "prepare"))
    sets.add_argument("name", metavar="NAME")
    sets.add_argument("overrides", nargs="*", metavar="k=v", help="overrides")
    check = add(
        "check", methods.check_command, "contract tests on a registered or third-party method"
    )
    check.add_argument("name", metavar="METHOD")
    return parser


def _launching(grid: Any) -> None:
    """Options of what carries out several runs."""
    grid.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    grid.add_argument("--launcher", choices=("local", "slurm"), default="local")
    grid.add_argument(
        "--slurm",
        action="append",
        default=[],
        metavar="k=v",
        help="partition, time (minutes), gpus_per_run, mem, ... or extra.NAME; may be repeated",
    )
    grid.add_argument("--no-wait", action="store_true", help="only submit to SLURM")
    grid.add_argument(
        "--to-wandb", type=Path, metavar="FILE", help="write the grid as a W&B sweep and stop"
    )


def _report(error: MixbenchError) -> None:
    """Print what ended this command; a rank leaves it to the process that started it."""
    write_error(error)
    if LAUNCHER_ENV in os.environ:
        return
    rank = os.environ.get("RANK") if "TORCHELASTIC_RUN_ID" in os.environ else None
    print_notice(f"rank {rank}: {error}" if rank else str(error))


def _show_warning(message: Any, *_: Any, **__: Any) -> None:
    print_notice(f"warning: {message}")
