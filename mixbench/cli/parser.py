"""The command line: parse, call one function, print."""

import argparse
import os
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

from mixbench import __version__
from mixbench.cli import (
    completion,
    data,
    doctor,
    elicit,
    evaluate,
    export,
    leaderboard,
    methods,
    names,
    new,
    plan,
    plot,
    predict,
    race,
    report,
    reproduce,
    run,
    separate,
)
from mixbench.cli.console import print_notice, replace_unprintable
from mixbench.cli.usage import CommandParser
from mixbench.config.names import SUITES
from mixbench.distributed.signals import LAUNCHER_ENV
from mixbench.distributed.spawn import write_error
from mixbench.errors import MixbenchError, UserError, explain
from mixbench.leaderboard.plots.kinds import ALL_KINDS

OVERRIDES = (
    "Overrides: group=name selects experiments/<group>/<name>.yaml, a.b=c sets a key. mixbench "
    "list shows the names of each group, and mixbench run --show every key with its value."
)


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
    warnings.showwarning = _show_warning
    try:
        words = elicit.join_parts([word for word in words if word != "--debug"])
        args = _parsed(parser, words)
        return args.command(args)
    except SystemExit as stop:  # argparse has printed the help
        return stop.code if isinstance(stop.code, int) else 2
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


def _parsed(parser: CommandParser, words: list[str]) -> argparse.Namespace:
    """The words of a command; overrides may also stand behind an option."""
    args, rest = parser.parse_known_args(words)
    unknown = [word for word in rest if word.startswith("-")]
    if unknown:
        raise args.parser.unknown_option(unknown[0])
    if rest and "overrides" not in args:
        what = f"{rest[0]!r} is one word too many"
        raise UserError(what, args.parser.prog, f"write {args.parser.synopsis()}")
    if rest:
        args.overrides += rest
    return args


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="mixbench",
        allow_abbrev=False,
        description="Train, compare and verify mixup methods.",
        epilog=OVERRIDES,
    )
    parser.add_argument("--version", action="version", version=f"mixbench {__version__}")
    parser.add_argument("--debug", action="store_true", help="print the full traceback of an error")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, command: Any, text: str, overrides: str = "") -> Any:
        whole = f"{text[0].upper()}{text[1:]}."
        sub = commands.add_parser(name, help=text, description=whole, allow_abbrev=False)
        sub.set_defaults(command=command, parser=sub)
        if overrides:
            first = overrides.rpartition(" ")[0]
            what = (
                f"{first}, then keys to set, such as epochs=5"
                if first
                else "keys to set, such as epochs=5"
            )
            sub.add_argument("overrides", nargs="*", metavar=overrides, help=what)
            sub.epilog = OVERRIDES
            sub.add_argument(
                "--strict", action="store_true", help="refuse keys that have no effect"
            )
        return sub

    one = add("run", run.run_command, "train and test one network", overrides="k=v")
    one.add_argument("--show", action="store_true", help="print the configuration without a run")
    one.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="take the configuration of an earlier run from its config.yaml",
    )
    for name in ("--folder", "--shared-cores", "--allow-config-change"):  # between processes
        kind = {"type": Path} if name == "--folder" else {"action": "store_true"}
        one.add_argument(name, help=argparse.SUPPRESS, **kind)
    again = add(
        "resume",
        run.resume_command,
        "continue an interrupted run from its last checkpoint",
        "RUN k=v",
    )
    again.add_argument(
        "--allow-config-change",
        action="store_true",
        help="accept overrides that change the configuration",
    )
    bench = add(
        "bench",
        run.bench_command,
        "train a grid of runs and print their leaderboard",
        overrides="k=v",
    )
    best = add(
        "race",
        race.race_command,
        "find the best method for some data within a time budget, and say how sure that is",
        overrides="k=v",
    )
    text = "print the plan for the budget without training"
    best.add_argument("--dry-run", action="store_true", help=text)
    best.set_defaults(jobs=None, no_wait=False, to_wandb=None)
    _placing(best)
    ablation = add(
        "sweep",
        run.sweep_command,
        "train the runs of an ablation plan and print their leaderboard",
        "PLAN k=v",
    )
    text = "allow the plan to import this class of yours, module:Class; can be repeated"
    ablation.add_argument("--trust", action="append", default=[], metavar="CLASS", help=text)
    for grid in (bench, ablation):
        _launching(grid)
    text = "print the hours of a grid of runs at rates that were measured, without training"
    hours = add("plan", plan.plan_command, text, overrides="k=v")
    text = "folder of finished runs, or .json file of make perf, that tells rates; can be repeated"
    hours.add_argument("--rates", action="append", type=Path, default=[], metavar="PATH", help=text)
    text = "numbers of devices, one run at a time on each; the default is 1,8,64"
    hours.add_argument("--devices", default="1,8,64", metavar="LIST", help=text)
    text = "also print the fewest devices that are done in this time, such as 48h or 7d"
    hours.add_argument("--budget", metavar="TIME", help=text)
    text = "number of training images of a data set that is not a standard one; can be repeated"
    hours.add_argument("--images", action="append", default=[], metavar="NAME=N", help=text)
    text = "train by the official recipe of a published figure and compare the result with it"
    again = add("reproduce", reproduce.reproduce_command, text)
    again.add_argument("method", metavar="METHOD")
    again.add_argument(
        "overrides",
        nargs="*",
        metavar="k=v",
        help="keys to set in place of the recipe's; the verdict names them",
    )
    again.add_argument(
        "--data", required=True, metavar="NAME", help="data set of the published figure"
    )
    again.add_argument(
        "--net", required=True, metavar="NAME", help="network of the published figure"
    )
    again.add_argument(
        "--figure",
        type=int,
        default=1,
        metavar="N",
        help="number of the figure, if several are published",
    )
    again.add_argument(
        "--seeds", default="0,1,2", metavar="LIST", help="seeds to train; the default is 0,1,2"
    )
    again.add_argument("--yes", action="store_true", help="train without a limit on the time")
    again.add_argument(
        "--budget", type=float, metavar="HOURS", help="train if the estimate is not above HOURS"
    )
    again.add_argument("--strict", action="store_true", help="refuse keys that have no effect")
    text = "evaluate finished runs by more suites and add the scores to their records"
    judged = add("eval", evaluate.eval_command, text, overrides="RUN... k=v")
    judged.add_argument(
        "--suite",
        metavar="a,b",
        action="append",
        help=f"one or more of {', '.join(SUITES.table)}; the default is eval.suites of the run",
    )
    text = "compute the scores of finished runs again and compare them with their records"
    add("verify", evaluate.verify_command, text, overrides="RUN... k=v")
    board = add("leaderboard", leaderboard.leaderboard_command, "print tables of finished runs")
    board.add_argument("runs", nargs="*", type=Path, metavar="RUNS", help="folders that hold runs")
    text = "format of the output: table (default), markdown, csv, json or latex"
    board.add_argument("--format", default="table", help=text)
    board.add_argument(
        "--literature",
        action="store_true",
        help="add a table of published figures on the same data",
    )
    text = "columns to show: names separated by commas, or all; the default is a narrow choice"
    board.add_argument("--columns", metavar="a,b", help=text)
    text = "column by which the rows are sorted, the best value first; the default is their rank"
    board.add_argument("--sort", metavar="KEY", help=text)
    text = "print a grid of the mean score by two keys, such as method.layers and method.eps"
    board.add_argument("--pivot", nargs=2, metavar=("A", "B"), help=text)
    text = "print the scores of the hold-out after each epoch instead"
    board.add_argument("--curve", action="store_true", help=text)
    board.add_argument(
        "--wandb", action="store_true", help="also log the leaderboard to W&B as a table"
    )
    pair = add(
        "compare",
        leaderboard.compare_command,
        "compare two methods by the records and predictions of their runs",
    )
    pair.add_argument("runs", nargs="*", type=Path, metavar="RUNS", help="folders that hold runs")
    pair.add_argument(
        "--mine",
        required=True,
        metavar="A",
        help="first side: a method, a row of the leaderboard, or the id or folder of a run",
    )
    text = "second side, named in the same way"
    pair.add_argument("--with", dest="other", required=True, metavar="B", help=text)
    text = "also test whether the two differ by less than this many points"
    pair.add_argument("--margin", type=float, metavar="POINTS", help=text)
    pair.add_argument(
        "--format",
        default="table",
        help="format of the output: table (default), markdown, latex or json",
    )
    page = add("report", report.report_command, "write the results of runs as one HTML page")
    page.add_argument("runs", nargs="*", type=Path, metavar="RUNS", help="folders that hold runs")
    text = "file to write; the default is report.html in the folder of the runs"
    page.add_argument("-o", "--output", type=Path, metavar="FILE.html", help=text)
    _plotting(add("plot", plot.plot_command, "draw a plot of finished runs, or of a race"))
    listing = add(
        "list", names.list_names, "list the names of methods, data sets, networks and recipes"
    )
    listing.add_argument(
        "words", nargs="*", metavar="[KIND] [PATTERN]", help=", ".join(names.KINDS)
    )
    listing.add_argument(
        "--compat",
        action="store_true",
        help="print the methods that work with each network and task",
    )
    info = add("info", names.info, "describe a method, data set, network or recipe")
    info.add_argument("name", metavar="NAME")
    text = (
        "draw the batch that a method makes, or one batch for each of several methods "
        "(method=a,b); folders of runs in front of the keys give the weights"
    )
    shown = add("show", methods.show_command, text, overrides="k=v")
    _drawing(shown)
    text = "draw a test image under the corruptions of eval.corruptions in place of a method"
    shown.add_argument("--corruptions", action="store_true", help=text)
    text = "predict the classes of images with the network of a finished run"
    judged = add("predict", predict.predict_command, text)
    judged.add_argument("run", metavar="RUN", help="folder or id of a finished run")
    text = "image files, and folders of them; then names of your own code that the run uses"
    judged.add_argument("paths", nargs="+", metavar="PATH", help=text)
    text = "CSV file to write; without it the classes are printed"
    judged.add_argument("-o", "--output", type=Path, metavar="FILE.csv", help=text)
    text = "number of classes of each image, the likeliest ones; the default is 5"
    judged.add_argument("--top", type=int, default=5, metavar="K", help=text)
    text = "write the weights of a run under the names of timm or torchvision, or its whole network"
    weights = add("export", export.export_command, text)
    weights.add_argument("run", metavar="RUN", help="folder or id of a finished run")
    text = "names of your own code that the run uses, such as net=module:Class"
    weights.add_argument("overrides", nargs="*", metavar="k=v", help=text)
    text = "file to write: .pth, .pt, .safetensors (weights), .pt2 or .onnx (the whole network)"
    weights.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help=text)
    text = "recover the components of images by a finished run of demixgan or denoisegan"
    parted = add("separate", separate.separate_command, text)
    parted.add_argument("run", metavar="RUN", help="folder or id of a finished run")
    text = "images, folders or archives of images, or .npz with images (N, H, W[, C])"
    parted.add_argument("images", nargs="+", type=Path, metavar="PATH", help=text)
    text = "folder to write to; the default is separated in the folder of the run"
    parted.add_argument("-o", "--output", type=Path, metavar="FOLDER", help=text)
    elicit.add_elicit(add)
    text = "check or describe a data set, or download and decode it once"
    sets = add("data", data.data_command, text)
    sets.add_argument("action", choices=("check", "describe", "prepare"))
    text = "name of a data set, or path of own images: a folder, a list, or a file of arrays"
    sets.add_argument("name", metavar="NAME", help=text)
    sets.add_argument(
        "overrides", nargs="*", metavar="k=v", help="keys to set, such as data.size=32"
    )
    text = "describe: picture to write with a few images of each class, .png, .svg or .pdf"
    sets.add_argument("-o", "--output", type=Path, metavar="FILE", help=text)
    add("doctor", doctor.doctor_command, "print versions, device, W&B, folders and free disk")
    shell = add(
        "completion",
        completion.completion_command,
        "print a script that completes words in a shell",
    )
    shell.set_defaults(parser=parser)
    text = "shell to print the script for; words is what the scripts call"
    shell.add_argument("shell", choices=(*completion.SCRIPTS, "words"), help=text)
    shell.add_argument("words", nargs="*", help=argparse.SUPPRESS)
    text = "write a module, a plan and a test to start a method, suite or data set of your own from"
    fresh = add("new", new.new_command, text)
    fresh.add_argument("kind", choices=("method", "suite", "data"))
    fresh.add_argument("name", metavar="NAME", help="name of the module, such as own_mix")
    check = add(
        "check",
        methods.check_command,
        "test whether a method keeps the rules that training relies on, or whether the labels of a "
        "mixing function follow its pixels",
    )
    text = "a method, or module:name of a class or of a function of images and labels"
    check.add_argument("name", metavar="METHOD", help=text)
    return parser


def _plotting(figure: Any) -> None:
    """Add the arguments of a plot."""
    figure.add_argument("kind", metavar="KIND", help=f"one of {', '.join(ALL_KINDS.table)}")
    figure.add_argument("runs", nargs="*", type=Path, metavar="RUNS", help="folders that hold runs")
    text = "file to write; its name ends in .svg, .pdf or .png"
    figure.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help=text)
    text = "column (3.3 in, the default), page (6.9 in), or a number of inches"
    figure.add_argument("--width", default="column", metavar="WIDTH", help=text)
    text = "show only this row or method, and the reference; can be repeated"
    figure.add_argument("--row", dest="rows", action="append", default=[], metavar="ROW", help=text)
    text = "show this score in place of the one that the tables are ranked by"
    figure.add_argument("--score", metavar="NAME", help=text)
    text = "setting on an axis of the plot sweep; give the option once or twice"
    figure.add_argument("--key", dest="keys", action="append", default=[], metavar="KEY", help=text)
    text = "draw the reliability of each run in place of each row"
    figure.add_argument("--per-seed", action="store_true", help=text)
    text = "leave out the title above each panel"
    figure.add_argument("--no-title", action="store_true", help=text)


def _launching(grid: Any) -> None:
    """Add the options of commands that carry out a grid of runs."""
    _placing(grid)
    grid.add_argument(
        "--dry-run", action="store_true", help="print the planned runs without training"
    )
    text = "largest number of runs at a time; by default as many as the cores, or GPUs, allow"
    grid.add_argument("--jobs", type=int, metavar="N", help=text)
    grid.add_argument(
        "--no-wait", action="store_true", help="submit the runs to SLURM and do not wait for them"
    )
    grid.add_argument(
        "--to-wandb",
        type=Path,
        metavar="FILE",
        help="write the grid as a W&B sweep without training",
    )


def _placing(grid: Any) -> None:
    """Add what commands that carry out several runs have in common: where, and for whom."""
    grid.add_argument(
        "--launcher",
        choices=("local", "slurm"),
        default="local",
        help="place of the runs: this machine or a SLURM cluster",
    )
    grid.add_argument(
        "--slurm",
        action="append",
        default=[],
        metavar="k=v",
        help="partition, time (minutes), gpus_per_run, ... or extra.NAME; can be repeated",
    )
    text = "also write the results as one HTML page; the default is report.html beside the runs"
    grid.add_argument(
        "--report", nargs="?", const=Path(), type=Path, metavar="FILE.html", help=text
    )


def _drawing(show: Any) -> None:
    """Add the options of a picture of a batch."""
    text = "file to write; its name ends in .png, .jpg, .webp, .svg or .pdf"
    show.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help=text)
    text = "format of a file whose name has another ending, or none"
    show.add_argument("--format", default="", metavar="FORMAT", help=text)
    text = (
        "factor of the whole picture; with 1 an image has 128 pixels in .png, .jpg and .webp, and "
        "letters have 8 points in .svg and .pdf"
    )
    show.add_argument("--scale", type=float, default=1.0, metavar="N", help=text)
    text = "columns to show, by their titles"
    show.add_argument("--columns", metavar="a,b", help=text)
    text = "number of pairs to show (by default 4 or 8), or of corruptions (by default all)"
    show.add_argument("--images", type=int, metavar="N", help=text)


def _report(error: MixbenchError) -> None:
    """Print what ended this command; a rank leaves it to the process that started it."""
    write_error(error)
    if LAUNCHER_ENV in os.environ:
        return
    rank = os.environ.get("RANK") if "TORCHELASTIC_RUN_ID" in os.environ else None
    print_notice(f"rank {rank}: {error}" if rank else str(error))


def _show_warning(message: Any, *_: Any, **__: Any) -> None:
    print_notice(f"warning: {message}")
