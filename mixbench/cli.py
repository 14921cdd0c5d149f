"""The command line: parse, call one function, print."""

import argparse
import itertools
import os
import re
import sys
import textwrap
import traceback
import warnings
from pathlib import Path
from typing import Any

from mixbench import __version__
from mixbench.errors import MixbenchError, UserError, near_match
from mixbench.launch.ranks import write_error
from mixbench.stop import LAUNCHED

KINDS = ("methods", "data", "nets", "recipes")
_MARKUP = r":\w+:(?=`)|`"  # of docstrings, noise on a terminal


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Words after the program's name; those of the process if None.

    Returns:
        Exit code: 0 done, 2 user error, 3 run failed, 4 interrupted, 5 part of a grid failed.
    """
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
    if os.getcwd() not in sys.path:  # `mixbench` finds module:Class where `python -m mixbench` does
        sys.path.insert(0, os.getcwd())
    try:
        return args.command(args)
    except MixbenchError as error:
        if debug:
            traceback.print_exc()
        _report(error)
        return error.exit_code
    except KeyboardInterrupt:
        _complain("interrupted")
        return 4
    except BrokenPipeError:  # the reader of a pipe has gone, as under `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debug:
            traceback.print_exc()
        what = f"{type(error).__name__}: {error}"
        _report(MixbenchError(what, todo="repeat with --debug for the traceback"))
        return 3


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mixbench",
        description="Train, compare and verify mixup methods.",
        epilog="Overrides: group=name picks experiments/<group>/<name>.yaml, a.b=c sets a key.",
    )
    parser.add_argument("--version", action="version", version=f"mixbench {__version__}")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, command: Any, text: str, overrides: bool = False) -> Any:
        sub = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        sub.set_defaults(command=command)
        if overrides:
            sub.add_argument("overrides", nargs="*", metavar="k=v", help="overrides")
            sub.add_argument("--strict", action="store_true", help="refuse keys without effect")
        return sub

    run = add("run", _run, "one run", overrides=True)
    run.add_argument("--show", action="store_true", help="print the configuration and stop")
    run.add_argument("--config", type=Path, metavar="FILE", help="start from a run's config.yaml")
    for name in ("--folder", "--shared-cores", "--allow-config-change"):  # between processes
        kind = {"type": Path} if name == "--folder" else {"action": "store_true"}
        run.add_argument(name, help=argparse.SUPPRESS, **kind)
    again = add("resume", _resume, "go on with an interrupted run", overrides=True)
    again.add_argument("--allow-config-change", action="store_true", help="let k=v change it")
    bench = add("bench", _bench, "a grid of runs, then the leaderboard", overrides=True)
    bench.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    bench.add_argument("--launcher", choices=("local", "slurm"), default="local")
    bench.add_argument(
        "--slurm",
        action="append",
        default=[],
        metavar="k=v",
        help="partition, time (minutes), gpus_per_run, mem, ... or extra.NAME; may be repeated",
    )
    bench.add_argument("--no-wait", action="store_true", help="only submit to SLURM")
    bench.add_argument(
        "--to-wandb", type=Path, metavar="FILE", help="write the grid as a W&B sweep and stop"
    )
    board = add("leaderboard", _leaderboard, "tables of finished runs")
    board.add_argument("runs", nargs="*", type=Path, metavar="RUNS", help="folders of runs")
    board.add_argument("--format", default="table", help="table, markdown, csv or json")
    board.add_argument("--wandb", action="store_true", help="also log it to W&B as a table")
    listing = add("list", _list, "names of methods, data, nets and recipes")
    listing.add_argument("words", nargs="*", metavar="[KIND] [PATTERN]", help=", ".join(KINDS))
    info = add("info", _info, "what is known of a method, data set, net or recipe")
    info.add_argument("name", metavar="NAME")
    show = add("show", _show, "a picture of mixed images and their labels", overrides=True)
    show.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.png")
    check = add("check", _check, "contract tests on a registered or third-party method")
    check.add_argument("name", metavar="METHOD")
    return parser


def _run(args: argparse.Namespace) -> int:
    from mixbench.config import compose_text, render, resolve_method

    composed = compose_text(args.overrides, strict=args.strict, base=args.config)
    composed = resolve_method(composed, strict=args.strict)
    for note in composed.notes:
        _complain(f"warning: {note}")
    if args.show:
        _say(render(composed))
        return 0
    from mixbench.runner import run

    _talk()
    record = run(
        composed.config,
        shared_cores=args.shared_cores,
        folder=args.folder,
        allow_config_change=args.allow_config_change,
    )
    _say_scores(record)
    return 0


def _resume(args: argparse.Namespace) -> int:
    from mixbench.results.record import read_record, runs_folder

    if not args.overrides or "=" in args.overrides[0]:
        raise UserError("no run is named", "resume", "write mixbench resume RUN [k=v ...]")
    name, *words = args.overrides
    folder = Path(name)
    if not folder.is_dir() and folder.name == name:
        folder = runs_folder() / name
    if folder.is_dir() and not words and read_record(folder).status == "done":
        _say(f"{folder.name} is done already")
        return 0
    from mixbench.runner import resume

    _talk()
    record = resume(folder, words, allow_config_change=args.allow_config_change)
    _say_scores(record)
    return 0


def _talk() -> None:
    import logging

    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("mixbench").setLevel(logging.INFO)


def _say_scores(record: Any) -> None:
    if os.environ.get("RANK", "0") != "0" or LAUNCHED in os.environ:
        return  # said once: by the leading process, or by the one that started it
    scores = "  ".join(f"{name} {value:.4g}" for name, value in record.metrics.items())
    _say(f"{record.id}  {scores}")


def _bench(args: argparse.Namespace) -> int:
    from mixbench.config import compose_text
    from mixbench.launch.plan import expand
    from mixbench.results.leaderboard import build_leaderboard, find_runs
    from mixbench.results.record import runs_folder
    from mixbench.results.table import render

    runs = expand(args.overrides, strict=args.strict)
    config = compose_text(runs[0].words).config
    if args.to_wandb:
        from mixbench.launch.wandb_sweep import sweep_file
        from mixbench.results.files import write_text

        write_text(args.to_wandb, sweep_file(args.overrides, project=config.wandb.project))
        _say(f"written: {args.to_wandb}; next: wandb sweep {args.to_wandb}")
        return 0
    folder = runs_folder(config.run.dir)
    launcher = _launcher(args)
    runs = launcher.prepare(runs)
    left = [run for run in runs if not run.done]
    for number, run in enumerate(runs, 1):
        state = "done" if run.done else "to do"
        if run.seconds is not None and not run.done:
            state = f"about {_duration(run.seconds)}"
        _say(f"[{number}/{len(runs)}] {run.id}: {state}")
    if left:
        seconds = sum(run.seconds or 0 for run in left) / min(launcher.slots, len(left))
        about = f", about {_duration(seconds)} of training" if seconds else ""
        _say(f"{len(left)} to do{about}")
        _say(f"logs: {folder}/<id>/log.txt")
    if args.dry_run:
        return 0
    outcome = launcher.carry_out(runs, folder)
    if args.no_wait and args.launcher == "slurm":
        return 0
    if outcome.interrupted:
        goes_on = {"local": "goes on with what is left", "slurm": "waits for the jobs again"}
        _complain(f"interrupted; the same command {goes_on[args.launcher]}")
    elif folder.is_dir():
        hashes = {run.recipe_hash for run in runs}
        _say("")
        _say(render(build_leaderboard(find_runs([folder])).only(hashes)).rstrip())
    return outcome.exit_code(len(runs))


def _launcher(args: argparse.Namespace) -> Any:
    if args.launcher == "local":
        from mixbench.launch.local import LocalLauncher

        if args.slurm or args.no_wait:
            raise UserError("--slurm and --no-wait need SLURM", "bench", "add --launcher slurm")
        return LocalLauncher(_say, strict=args.strict)
    from mixbench.launch.slurm import SlurmLauncher
    from mixbench.launch.slurm_options import read_options

    return SlurmLauncher(
        _say, strict=args.strict, options=read_options(args.slurm), wait=not args.no_wait
    )


def _leaderboard(args: argparse.Namespace) -> int:
    from mixbench.results.leaderboard import build_leaderboard, find_runs
    from mixbench.results.record import runs_folder
    from mixbench.results.table import FORMATS, render

    if args.format not in FORMATS:
        raise UserError(
            f"unknown format {args.format!r}", "--format", f"choose one of: {', '.join(FORMATS)}"
        )
    board = build_leaderboard(find_runs(args.runs or [runs_folder()]))
    sys.stdout.write(render(board, args.format))
    if args.wandb:
        from mixbench.results.wandb_table import log_table
        from mixbench.schema import WandbConfig

        folder = runs_folder()
        folder.mkdir(parents=True, exist_ok=True)
        _complain(log_table(board, project=WandbConfig().project, folder=folder, mode=None))
    return 0


def _list(args: argparse.Namespace) -> int:
    words = list(args.words)
    kinds = [words.pop(0)] if words and words[0] in KINDS else list(KINDS)
    if len(words) > 1:
        hint = near_match(words[0], KINDS)
        raise UserError(f"unknown kind {words[0]!r}", "list", hint or f"one of {', '.join(KINDS)}")
    pattern = words[0] if words else "*"
    found = {kind: _names(kind, pattern) for kind in kinds}
    if pattern != "*" and not any(found.values()):
        every = [name for kind in kinds for name in _names(kind, "*")]
        hint = near_match(pattern, [*KINDS, *every])
        raise UserError(f"nothing matches {pattern!r}", "list", hint or "try mixbench list")
    for kind, names in found.items():
        if not names:
            continue
        if len(kinds) > 1:
            _say(f"{kind}:")
        for name in names:
            summary = _summary(kind, name)
            _say(f"  {name:<16}{summary}".rstrip())
    return 0


def _names(kind: str, pattern: str) -> list[str]:
    from mixbench import experiments
    from mixbench.backbones import NETS
    from mixbench.data import DATA
    from mixbench.methods import METHODS

    if kind == "recipes":
        return experiments.names("recipe", pattern)
    return {"methods": METHODS, "data": DATA, "nets": NETS}[kind].names(pattern)


def _summary(kind: str, name: str) -> str:
    """First line of what describes a name, read as text."""
    from mixbench import experiments
    from mixbench.methods import METHODS
    from mixbench.source import docstring

    if kind == "methods":
        source = METHODS.source(name)
        try:
            lines = docstring(source).splitlines() if source else []
        except (OSError, SyntaxError, ValueError, ImportError):
            return "(cannot be read)"
        return lines[0].split("; see")[0].rstrip(".") if lines else ""
    path = experiments.find({"data": "data", "nets": "net", "recipes": "recipe"}[kind], name)
    lines = path.read_text(encoding="utf-8").splitlines() if path else []
    comment = itertools.takewhile(lambda line: line.startswith("#"), lines)
    text = " ".join(line.lstrip("# ") for line in comment)
    return textwrap.shorten(text.split(". ")[0].rstrip("."), 88, placeholder=" ...")


def _info(args: argparse.Namespace) -> int:
    from mixbench import experiments
    from mixbench.methods import METHODS
    from mixbench.source import config_fields, docstring

    kinds = [kind for kind in KINDS if args.name in _names(kind, "*")]
    if not kinds and ":" not in args.name:
        every = [name for kind in KINDS for name in _names(kind, "*")]
        raise UserError(
            f"unknown name {args.name!r}", todo=near_match(args.name, every) or "see mixbench list"
        )
    if not kinds or kinds[0] == "methods":
        source = METHODS.source(args.name)
        if source is None:
            raise UserError(f"{args.name} is only known to the process that registered it")
        try:
            text, fields = docstring(source), config_fields(source)
        except (OSError, SyntaxError, ValueError, ImportError) as error:
            raise UserError(f"cannot be read: {error}", where=source) from error
        _say(f"{args.name}: {re.sub(_MARKUP, '', text)}")
        if fields:
            _say("\nKeys:")
        for item in fields:
            _say(f"  method.{item.name}={item.default}  ({item.type})  {item.comment}")
        kinds = ["methods"]
    groups = {"methods": "method", "data": "data", "nets": "net", "recipes": "recipe"}
    for kind in kinds:
        path = experiments.find(groups[kind], args.name)
        if path is not None:
            _say(f"\n{groups[kind]} file, experiments/{groups[kind]}/{path.name}:")
            _say("  " + path.read_text(encoding="utf-8").rstrip().replace("\n", "\n  "))
    return 0


def _show(args: argparse.Namespace) -> int:
    from mixbench.config import compose
    from mixbench.show import show

    show(compose(args.overrides, strict=args.strict), args.output)
    _say(f"written: {args.output}")
    return 0


def _check(args: argparse.Namespace) -> int:
    from mixbench.methods import METHODS

    METHODS.check(args.name)
    from mixbench.contract import check_method

    results = check_method(args.name)
    for result in results:
        _say(f"{'FAIL' if result.error else 'ok  '}  {result.rule}")
        if result.error:
            _say(f"      {result.error}")
    failed = sum(bool(result.error) for result in results)
    _say(f"{args.name}: {len(results) - failed} of {len(results)} rules kept")
    return 3 if failed else 0


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _report(error: MixbenchError) -> None:
    """Print what ended this command; a rank leaves it to the process that started it."""
    write_error(error)
    if LAUNCHED in os.environ:
        return
    rank = os.environ.get("RANK") if "TORCHELASTIC_RUN_ID" in os.environ else None
    _complain(f"rank {rank}: {error}" if rank else str(error))


def _show_warning(message: Any, *_: Any, **__: Any) -> None:
    _complain(f"warning: {message}")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _complain(line: str) -> None:
    sys.stderr.write(f"mixbench: {line}\n")
    sys.stderr.flush()
