"""Data sets before they are used: ``data check``, ``data describe`` and ``data prepare``."""

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixbench.cli.console import print_notice, print_result
from mixbench.errors import UserError, counted, near_match

if TYPE_CHECKING:
    from mixbench.data.checks import Findings

PACKED = (".npz", ".xz", ".parquet")  # endings of files that `data=pack` reads


def data_command(args: argparse.Namespace) -> int:
    """Check or describe a data set, or fetch and decode it."""
    from mixbench.config.compose import compose
    from mixbench.config.names import DATA

    if args.output is not None and args.action != "describe":
        what = f"-o has no effect with data {args.action}"
        raise UserError(what, "-o", "leave it out, or use mixbench data describe")
    config = compose([*_words(args.name), *args.overrides]).data
    if args.action == "describe" and config.folds is not None and config.fold is None:
        print_result("shown is fold 0; the others divide the same images in other ways")
        config = dataclasses.replace(config, fold=0)
    with DATA.guarded(config.kind, "cannot be read"):
        source = DATA.get(config.kind)(config)
        if args.action == "describe":
            return _describe(source, args.output)
        return _check(source) if args.action == "check" else _prepare(source)


def _words(name: str) -> list[str]:
    """Overrides for a data set that is named, or for own images at a path."""
    from mixbench.config.names import DATA

    if "=" in name and not Path(name).exists():
        return [name]
    path = Path(name).expanduser()
    if name in DATA.names() or DATA.names_code(name):
        return [f"data={name}"]
    if not path.exists():
        sets = [each for each in DATA.names() if each not in ("folder", "pack")]
        hint = near_match(name, sets)
        raise UserError(
            f"{name!r} is neither a data set nor a file or folder that exists"
            + (f"; {hint}" if hint else ""),
            "data",
            f"name one of: {', '.join(sets)}; or give the path of a folder of images, of a list of "
            "images (.csv), or of a file of arrays (.npz or .parquet)",
        )
    packed = path.suffix.lower() in PACKED
    if path.is_dir():
        packed = any(path.glob("*.parquet")) or any(path.glob("data/*.parquet"))
    return ["data=pack", f"data.train={path}"] if packed else ["data=folder", f"data.root={path}"]


def _describe(source: Any, output: Path | None) -> int:
    from mixbench.data.describe import describe_data_set

    if output is not None:
        from mixbench.training.preview import show_data

        show_data(source, output)
    code = _print(describe_data_set(source))
    if output is not None:
        print_result(f"written: {output}")
    return code


def _check(source: object) -> int:
    from mixbench.data.checks import check_data_set

    return _print(check_data_set(source))


def _print(found: "Findings") -> int:
    for fact in found.facts:
        print_result(fact)
    for problem in found.problems:
        print_notice(problem)
    print_result(counted(len(found.problems), "problem") if found.problems else "no problem")
    return 3 if found.problems else 0


def _prepare(source: Any) -> int:
    from mixbench.data.files.cache import prepare
    from mixbench.data.images import unused_line

    path, content = prepare(source)
    for notice in content.notices:
        print_result(notice)
    if content.unused:
        print_result(unused_line(content.unused))
    tests = counted(len(content.test), "test image")
    print_result(f"{len(content.train):,} training and {tests} are ready")
    if path is None:
        print_notice("nothing was kept; make the folder of MIXBENCH_DATA writable")
        return 3
    print_result(f"kept: {path}")
    return 0
