"""Data sets before they are used: ``data check`` and ``data prepare``."""

import argparse

from mixbench.cli.console import complain, say
from mixbench.errors import counted


def data(args: argparse.Namespace) -> int:
    """Check a data set, or fetch and decode it."""
    from mixbench.config.compose import compose
    from mixbench.config.names import DATA

    config = compose([f"data={args.name}", *args.overrides]).data
    source = DATA.get(config.kind)(config)
    return _check(source) if args.action == "check" else _prepare(source)


def _check(source: object) -> int:
    from mixbench.data.checks import inspect

    found = inspect(source)
    for fact in found.facts:
        say(fact)
    for problem in found.problems:
        complain(problem)
    say(counted(len(found.problems), "problem") if found.problems else "no problem")
    return 3 if found.problems else 0


def _prepare(source: object) -> int:
    from mixbench.data.files.cache import prepare
    from mixbench.data.images import unused_line

    path, content = prepare(source)
    for notice in content.notices:
        say(notice)
    if content.unused:
        say(unused_line(content.unused))
    tests = counted(len(content.test), "test image")
    say(f"{len(content.train):,} training and {tests} are ready")
    if path is None:
        complain("nothing was kept; make the folder of MIXBENCH_DATA writable")
        return 3
    say(f"kept: {path}")
    return 0
