"""A look at a method: ``show`` and ``check``."""

import argparse

from mixbench.cli.console import print_result
from mixbench.errors import UserError


def show_command(args: argparse.Namespace) -> int:
    """Draw what a method makes of a batch, with the weights of a run if one is named."""
    from mixbench.config.compose import compose
    from mixbench.records.record import run_folder
    from mixbench.training.preview import show

    words, trained, base = args.overrides, None, None
    if words and "=" not in words[0]:
        name, *words = words
        trained = run_folder(name)
        base = trained / "config.yaml"
        if not base.exists():
            raise UserError(f"no such run: {name}", "show", "name a folder below runs/")
    show(compose(words, strict=args.strict, base=base), args.output, trained)
    print_result(f"written: {args.output}")
    return 0


def check_command(args: argparse.Namespace) -> int:
    """Test a method against the contract."""
    from mixbench.config.names import METHODS

    METHODS.check(args.name)
    from mixbench.testing.contract import check_method

    results = check_method(args.name)
    for result in results:
        print_result(f"{'FAIL' if result.error else 'ok  '}  {result.rule}")
        if result.error:
            print_result(f"      {result.error}")
    failed = sum(bool(result.error) for result in results)
    print_result(f"{args.name}: {len(results) - failed} of {len(results)} rules kept")
    return 3 if failed else 0
