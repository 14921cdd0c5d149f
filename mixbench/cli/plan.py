"""Hours of a grid of runs at measured rates: ``plan``."""

import argparse

from mixbench.cli.console import print_notice, print_result
from mixbench.errors import UserError


def plan_command(args: argparse.Namespace) -> int:
    """Print how long a grid takes on some numbers of devices."""
    from mixbench.launch.plan import expand, seeds_note
    from mixbench.launch.rates import (
        cells,
        costs,
        hours_text,
        parse_devices,
        parse_sizes,
        read_rates,
        trainable,
    )
    from mixbench.race.budget import parse_time

    devices, sizes = parse_devices(args.devices), parse_sizes(args.images)
    budget_s = None if args.budget is None else parse_time(args.budget, "--budget ")
    if not args.rates:
        raise UserError(
            "no rates are given, and none is guessed",
            "--rates",
            "give folders of finished runs, or the .json file of python -m mixbench.perf --part P4",
        )
    rates = read_rates(args.rates)
    runs, left_out = trainable(expand(args.overrides, strict=args.strict))
    planned = cells(runs, sizes)
    for note in left_out:
        print_notice(note)
    if note := seeds_note(args.overrides):
        print_result(note)
    found = costs(planned, rates)
    print_result("\n\n".join(hours_text(each, devices, budget_s) for each in found.values()))
    return 0
