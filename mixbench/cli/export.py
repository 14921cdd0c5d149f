"""A finished run for other programs: ``export``."""

import argparse

from mixbench.cli.console import print_result
from mixbench.errors import UserError


def export_command(args: argparse.Namespace) -> int:
    """Write the network that was tested."""
    from mixbench.records.record import read_record, run_folder

    folder = run_folder(args.run)
    read_record(folder)  # says at once that there is none, before torch is loaded
    from mixbench.config.overrides import code_names, split_overrides
    from mixbench.training.export import export

    pairs = split_overrides(args.overrides)
    trusted = code_names(pairs)
    if idle := [key for key, value in pairs if value not in trusted]:
        todo = "leave it out; only names of your own code, such as net=module:Class, can be given"
        raise UserError(f"{idle[0]} has no effect on an export", "export", todo)
    made = export(folder, args.output, args.overrides)
    print_result(f"written: {args.output}")
    shape = f"{made.height}x{made.width} pixels in [0, 1]"
    if made.whole:
        print_result(f"its input: {shape}; class names, mean, std and temperature are in the file")
    elif not made.plain:
        print_result(f"its input: {shape}, normalised as the method does; .pt2 and .onnx hold that")
    else:
        print_result(f"its input: {shape}, less {_numbers(made.mean)},")
        print_result(f"divided by {_numbers(made.std)}")
    return 0


def _numbers(values: list[float]) -> str:
    return f"({', '.join(f'{value:.4g}' for value in values)})"
