"""Data sets before they are used: ``data check`` and ``data prepare``."""

import argparse

from mixbench.cli.console import print_notice, print_result
from mixbench.errors import counted


def data_command(args: argparse.Namespace) -> int:
    """Check a data set, or fetch and decode it."""
    from mixbench.config.compose import compose
    from mixbench.config.names import DATA

    config = compose([f"data={args.name}", *args.overrides]).data
    source = DATA.get(config.kind)(config)
    return _check(source) if args.action == "check" else _prepare(source)


def _check(source: object) -> int:
    from mixbench.data.checks import check_data_set

    found = check_data_set(source)
    for fact in found.facts:
        print_result(fact)
    for problem in found.problems:
        print_notice(problem)
    print_result(counted(len(found.problems), "problem") if found.problems else "no problem")
    return 3 if found.problems else 0


def _prepare(source: object) -> int:
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
