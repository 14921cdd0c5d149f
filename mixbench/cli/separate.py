"""Components of mixed images: ``separate``."""

import argparse

from mixbench.cli.console import print_result
from mixbench.errors import counted


def separate_command(args: argparse.Namespace) -> int:
    """Separate images by the generators of a finished run."""
    from mixbench.records.record import read_record, run_folder

    folder = run_folder(args.run)
    read_record(folder)  # says at once that there is none, before torch is loaded
    from mixbench.training.separate import separate_images

    found = separate_images(folder, args.images, args.output)
    told = f"; {counted(found.skipped, 'file')} of another kind left out" if found.skipped else ""
    print_result(
        f"{counted(found.images, 'image')} separated, squared error per pixel "
        f"{found.residual:.4g}{told}"
    )
    print_result(f"written: {found.folder}")
    return 0
