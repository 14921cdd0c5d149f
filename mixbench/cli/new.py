"""Files to start one's own code from: ``new``."""

import argparse
from pathlib import Path

from mixbench.cli.console import print_result


def new_command(args: argparse.Namespace) -> int:
    """Write a module, a plan and a test into the working directory."""
    from mixbench.testing.new import class_of, write_new

    for path in write_new(args.kind, args.name, Path()):
        print_result(f"written: {path}")
    own = f"{args.name}:{class_of(args.name)}"
    after = {
        "method": (f"mixbench check {own}", f"mixbench sweep {args.name}.yaml --trust {own}"),
        "suite": (f"mixbench sweep {args.name}.yaml eval.suites=[{own}]",),
        "data": (f"mixbench data check {own}", f"mixbench sweep {args.name}.yaml data={own}"),
    }
    for command in (f"pytest test_{args.name}.py", *after[args.kind]):
        print_result(f"  {command}")
    return 0
