"""Command line of the speed measurements."""

import argparse
import sys
from pathlib import Path

from mixbench.errors import MixbenchError
from mixbench.perf.main import main


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m mixbench.perf",
        description="Measure speed against peers; exits with 3 where a gate fails.",
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parts = "P1 (mix), P2 (transport), P3 (input) or P4 (whole steps); all if not given"
    parser.add_argument("--part", action="append", help=parts)
    parser.add_argument("--out", type=Path, help="folder of the tables; <runs folder>/perf")
    return parser.parse_args()


if __name__ == "__main__":
    given = _parse()
    try:
        sys.exit(main(given.device, given.part, given.out))
    except MixbenchError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
