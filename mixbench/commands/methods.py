"""A look at a method: ``show`` and ``check``."""

import argparse

from mixbench.commands.console import say


def show(args: argparse.Namespace) -> int:
    """Draw mixed images."""
    from mixbench.config import compose
    from mixbench.show import show

    show(compose(args.overrides, strict=args.strict), args.output)
    say(f"written: {args.output}")
    return 0


def check(args: argparse.Namespace) -> int:
    """Test a method against the contract."""
    from mixbench.methods import METHODS

    METHODS.check(args.name)
    from mixbench.contract import check_method

    results = check_method(args.name)
    for result in results:
        say(f"{'FAIL' if result.error else 'ok  '}  {result.rule}")
        if result.error:
            say(f"      {result.error}")
    failed = sum(bool(result.error) for result in results)
    say(f"{args.name}: {len(results) - failed} of {len(results)} rules kept")
    return 3 if failed else 0
