"""Weights of a finished run for other programs: ``export``."""

import argparse

from mixbench.commands.console import say


def export(args: argparse.Namespace) -> int:
    """Write the weights of the network that was tested."""
    from mixbench.results.record import read_record, run_folder

    folder = run_folder(args.run)
    read_record(folder)  # says at once that there is none, before torch is loaded
    from mixbench.weights import export_weights

    info = export_weights(folder, args.output)
    say(f"written: {args.output}")
    say(f"its input: {info.height}x{info.width} pixels in [0, 1], less {_numbers(info.mean)},")
    say(f"divided by {_numbers(info.std)}")
    return 0


def _numbers(values: list[float]) -> str:
    return f"({', '.join(f'{value:.4g}' for value in values)})"
