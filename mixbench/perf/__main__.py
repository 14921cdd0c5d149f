"""Command line of the speed measurements."""

import sys

from mixbench import leave_working_directory


def command() -> int:
    """Measure what the command line names.

    Returns:
        Exit code.
    """
    import argparse
    from pathlib import Path

    parser = argparse.ArgumentParser(
        prog="python -m mixbench.perf",
        description="Measure speed against peers; exits with 3 where a gate fails.",
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parts = "P1 (mix), P2 (transport), P3 (input), P4 (whole steps), P5 (time between steps), "
    parts += "P6 (whole runs), P7 (latent search), P8 (cut) or P9 (growth); all"
    parser.add_argument("--part", action="append", help=parts)
    parser.add_argument("--out", type=Path, help="folder of the tables; <runs folder>/perf")
    parser.add_argument("--brief", action="store_true", help="measure few turns")
    text = "run one small case of each part, and hold no rule against it"
    parser.add_argument("--dry-run", action="store_true", help=text)
    given = parser.parse_args()
    from mixbench.errors import MixbenchError
    from mixbench.perf.main import main
    from mixbench.perf.timing import BRIEF

    budget = BRIEF if given.brief else None
    try:
        return main(given.device, given.part, given.out, budget=budget, dry_run=given.dry_run)
    except MixbenchError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code


if __name__ == "__main__":
    leave_working_directory()
    sys.exit(command())
