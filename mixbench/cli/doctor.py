"""The state of this machine: ``doctor``."""

import argparse

from mixbench.cli.console import print_result


def doctor_command(args: argparse.Namespace) -> int:
    """Print what this machine offers to runs, one line each."""
    del args
    from mixbench.testing.doctor import BAD, examine

    bad = 0
    for state, subject, text in examine():
        print_result(f"{state:<5} {subject:<9} {text}")
        bad += state == BAD
    return 2 if bad else 0
