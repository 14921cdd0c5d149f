"""A look at a method: ``show`` and ``check``."""

import argparse
import itertools
from pathlib import Path
from typing import Any

from mixbench.cli.console import print_result
from mixbench.errors import UserError


def show_command(args: argparse.Namespace) -> int:
    """Draw what methods make of a batch, with the weights of runs if such are named."""
    if args.corruptions:
        return _show_corruptions(args)
    subjects = _subjects(args.overrides, args.strict)
    from mixbench.training.preview import PictureForm, Subject, show

    form = PictureForm(args.format.lower(), args.scale, _columns(args), args.images)
    show({name: Subject(*found) for name, found in subjects.items()}, args.output, form)
    print_result(f"written: {args.output}")
    return 0


def _columns(args: argparse.Namespace) -> tuple[str, ...]:
    return () if args.columns is None else tuple(map(str.strip, args.columns.split(",")))


def _show_corruptions(args: argparse.Namespace) -> int:
    from mixbench.config.compose import compose
    from mixbench.training.preview import PictureForm, show_corruptions

    folders = list(itertools.takewhile(lambda word: "=" not in word, args.overrides))
    if len(folders) > 1:
        raise UserError(
            "--corruptions draws the test image of one run only", "show", "name one run, or none"
        )
    for word in args.overrides[len(folders) :]:
        if word.startswith(("method=", "method.")):
            what = "a picture of corruptions shows no method"
            raise UserError(what, word, "leave it out, or do without --corruptions")
    base = _base(_folder_of(folders[0])) if folders else None
    words = args.overrides[len(folders) :]
    if not any(word.startswith("eval.suites=") for word in words):
        words = [*words, "eval.suites=[corruption]"]  # whose keys are read
    config = compose(words, strict=args.strict, base=base)
    form = PictureForm(args.format.lower(), args.scale, _columns(args), args.images)
    show_corruptions(config, args.output, form)
    print_result(f"written: {args.output}")
    return 0


def _subjects(words: list[str], strict: bool) -> dict[str, tuple[Any, Path | None]]:
    """Configurations and folders of runs, by the names that a matrix gives."""
    from mixbench.config.compose import compose
    from mixbench.config.overrides import split_overrides

    runs = list(itertools.takewhile(lambda word: "=" not in word, words))
    given = split_overrides(words[len(runs) :])
    names = dict(given).get("method", "").split(",")
    if len(names) > 1 and (len(set(names)) < len(names) or "" in names):
        listed = ",".join(names)
        raise UserError(
            f"method={listed} names a method twice, or an empty name",
            "show",
            "name each method once",
        )
    if len(set(runs)) < len(runs):
        raise UserError("a run is named twice", "show", "name each run once")
    if len(runs) > 1 and len(names) > 1:
        raise UserError(
            "both several runs and several methods are named",
            "show",
            "name the runs, and leave method= out",
        )
    if len(names) == 1:
        folders = {name: _folder_of(name) for name in runs} or {"": None}
        found = {
            name: (compose(words[len(runs) :], strict=strict, base=_base(folder)), folder)
            for name, folder in folders.items()
        }
        return _named(found)
    folder = _folder_of(runs[0]) if runs else None
    rest = [f"{key}={text}" for key, text in given if key != "method"]
    return {
        name: (compose([f"method={name}", *rest], strict=strict, base=_base(folder)), folder)
        for name in names
    }


def _folder_of(name: str) -> Path:
    from mixbench.records.record import run_folder

    folder = run_folder(name)
    if not (folder / "config.yaml").exists():
        raise UserError(
            f"no such run: {name}", "show", "name a folder below runs/, or the id of a run"
        )
    return folder


def _base(folder: Path | None) -> Path | None:
    return None if folder is None else folder / "config.yaml"


def _named(runs: dict[str, tuple[Any, Path | None]]) -> dict[str, tuple[Any, Path | None]]:
    """Runs by their methods, where each has its own."""
    names = [config.method["name"] for config, _ in runs.values()]
    if len(set(names)) < len(names):
        return runs
    return dict(zip(names, runs.values(), strict=True))


def check_command(args: argparse.Namespace) -> int:
    """Test a method against the contract, or a mixing function of anybody against its labels."""
    from mixbench.config.names import METHODS
    from mixbench.registry import Registry

    METHODS.check(args.name)
    found = Registry("method or mixing function", {}).get(args.name) if ":" in args.name else None
    from mixbench.testing.contract import check_method
    from mixbench.testing.mixers import check_mixer

    if found is None or isinstance(found, type):
        results = check_method(args.name)
    elif callable(found):
        results = check_mixer(found)
    else:
        what = f"{args.name} is {type(found).__name__}, which cannot be called"
        raise UserError(what, "check", "name a class of methods, or a function of a batch")
    for result in results:
        print_result(f"{'FAIL' if result.error else 'ok  '}  {result.rule}")
        if result.error:
            print_result(f"      {result.error}")
    failed = sum(bool(result.error) for result in results)
    print_result(f"{args.name}: {len(results) - failed} of {len(results)} rules kept")
    return 3 if failed else 0
