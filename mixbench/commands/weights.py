"""Weights of a finished run for other programs: ``export``."""

import argparse

from mixbench.commands.console import say


def export(args: argparse.Namespace) -> int:
    """Write the weights of the network that was tested."""
    from mixbench.results.record import run_folder
    from mixbench.weights import export_weights

    info = export_weights(run_folder(args.run), args.output)
    say(f"written: {args.output}")
    say(f"its input: {info.height}x{info.width} pixels in [0, 1], less {_numbers(info.mean)},")
    say(f"divided by {_numbers(info.std)}")
    return 0


def _numbers(values: list[float]) -> str:
    return f"({', '.join(f'{value:.4g}' for value in values)})"
