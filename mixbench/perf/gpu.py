"""What a machine whose GPU time is short has to show, in three parts of less than eight minutes.

``tests`` runs the tests that need a GPU, ``perf`` the speed tables P1 to P6 with few turns, and
``quick`` trains ten methods on CIFAR-10 for 16 epochs, as many runs as there is time for. Each part
is a process of its own with a limit, at which it is interrupted; what it has written stays. None
needs a network.
"""

import argparse
import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from mixbench import leave_working_directory

LIMITS = {"tests": 90, "perf": 170, "quick": 190}  # seconds; what one leaves, the last may take
PATIENCE = 8  # times as long for a dry run, whose cores others may use
GRACE_S = 15.0  # seconds of an interrupted part to end by itself
SPEED_PARTS = ("P4", "P6", "P5", "P2", "P1", "P3")  # those that only a GPU can tell come first
METHODS = "erm,mixup,cutmix,resizemix,fmix,bc,manifoldmixup,alignmix,tdattenmix,samix"
PACKS = ("cifar10_train30k.npz", "cifar10_test10k.npz")
TINY_RUNS = "method=erm,mixup seeds=0 data=digits data.limit=128 net.width=4 epochs=1 batch_size=32"
TABLE_S = 20.0  # seconds of ``quick`` for the leaderboard, and as many for the report
GATE_FAILED, PART_FAILED = 3, 5
TAIL = 40  # lines of the output of tests that are kept
# A test that failed, in the summary of pytest or, where it was killed before, among its dots.
FAILURE = re.compile(r"^(?:FAILED|ERROR) |^[.sxX]*[FE][.sxXFE]*(?: +\[ *\d+%\])?$", re.MULTILINE)


@dataclass
class Ended:
    """How a part ended.

    Attributes:
        command: Its command.
        code: Its exit code.
        seconds: How long it ran.
        cut: Whether it reached its limit.
        output: What it printed.
    """

    command: list[str]
    code: int
    seconds: float
    cut: bool
    output: str

    @property
    def text(self) -> str:
        """A sentence."""
        told = f"interrupted at its limit after {self.seconds:.0f} s" if self.cut else ""
        return told or f"ended with exit code {self.code} after {self.seconds:.0f} s"


def carry_out(words: Sequence[str], limit: float, log: Path) -> Ended:
    """Run ``python -m ...`` and end it with all its processes at a limit.

    Args:
        words: What follows ``python -m``.
        limit: Seconds.
        log: File that its output goes to while it runs.

    Returns:
        How it ended.
    """
    command, began, cut = [sys.executable, "-m", *words], time.monotonic(), False
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w+", encoding="utf-8", errors="replace") as file:
        process = subprocess.Popen(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_heed_interrupts,
        )
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            cut = True
            _signal(process, signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_S)
        finally:
            _signal(process, signal.SIGKILL)
            code = process.wait()
        file.seek(0)
        output = file.read()
    return Ended(["python", "-m", *words], code, time.monotonic() - began, cut, output)


def _heed_interrupts() -> None:
    """A shell has what it starts in the background ignore SIGINT, and so would all children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def check(device: str, parts: Sequence[str], out: Path, words: Sequence[str]) -> int:
    """Carry the parts out one after the other, and write what each has found.

    Args:
        device: ``cuda``, or ``cpu`` for a dry run that does little.
        parts: Of ``tests``, ``perf`` and ``quick``.
        out: Folder of the results; logs and runs go to ``<runs folder>/gpu``, where a second call
            on the same day finds the runs that are done.
        words: Overrides of the runs of ``quick`` that say where CIFAR-10 is.

    Returns:
        0, or 5 where a part failed. To be interrupted at its limit is no failure, but a test that
        failed before is one, and so is a leaderboard or report that could not be made.

    Raises:
        UserError: If there is no GPU, or no CIFAR-10 for ``quick``.
    """
    import torch

    from mixbench.errors import UserError
    from mixbench.records.record import runs_folder

    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("no CUDA device is visible", "make gpu", "use DEVICE=cpu for a dry run")
    runs = _runs(device, words) if "quick" in parts else []
    stem = f"{datetime.now(UTC).date().isoformat()}-{device}"
    scratch = (runs_folder() / "gpu").resolve()
    patience = PATIENCE if device == "cpu" else 1
    limits, table_s = {part: LIMITS[part] * patience for part in parts}, TABLE_S * patience
    out.mkdir(parents=True, exist_ok=True)
    began, failures = time.monotonic(), 0
    for part in parts:
        limit = float(limits[part])
        if part == parts[-1]:  # with what the others have left
            limit = sum(limits.values()) - (time.monotonic() - began)
        if part == "quick":
            limit -= 2 * (table_s + GRACE_S)
        sys.stderr.write(f"{part}: at most {limit:.0f} s\n")
        log = scratch / f"{stem}-{part}.log"
        if part == "tests":
            tests = ["pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", *_test_files()]
            ended = carry_out(tests, limit, log)
            body = ["```text", *ended.output.splitlines()[-TAIL:], "```"]
            failed = bool(FAILURE.search(ended.output) if ended.cut else ended.code)
        elif part == "perf":
            how = ["--dry-run"] if device == "cpu" else ["--brief"]
            how += [word for name in SPEED_PARTS for word in ("--part", name)]
            speed = ["mixbench.perf", "--device", device, "--out", str(out), *how]
            ended = carry_out(speed, limit, log)
            # That a gate fails is a finding.
            failed = not ended.cut and ended.code not in (0, GATE_FAILED)
            body = [f"The tables, and the gates, are in `{stem}.md` and `{stem}.json`."]
        else:
            folder = scratch / f"{stem}-runs"
            ended = carry_out(["mixbench", "bench", *runs, f"run.dir={folder}"], limit, log)
            body, failed = _results(folder, scratch / f"{stem}.html", table_s)
            failed = failed or bool(ended.code and not ended.cut)
        failures += failed
        _write(out / f"{stem}-{part}.md", device, part, ended, body)
        sys.stderr.write(f"{part}: {'FAILED, ' if failed else ''}{ended.text}; log: {log}\n")
    return PART_FAILED if failures else 0


def _results(runs: Path, page: Path, limit: float) -> tuple[list[str], bool]:
    """The leaderboard of the runs that are done, and whether it or the report failed."""
    words = ["mixbench", "leaderboard", str(runs), "--format", "markdown"]
    board = carry_out(words, limit, page.with_suffix(".leaderboard.log"))
    words = ["mixbench", "report", str(runs), "-o", str(page)]
    report = carry_out(words, limit, page.with_suffix(".report.log"))
    return [board.output.rstrip()], bool(board.code or report.code)


def _runs(device: str, words: Sequence[str]) -> list[str]:
    """Overrides of the runs of the quick tier."""
    from mixbench.data.files.location import data_folder
    from mixbench.errors import UserError

    common = ["eval.suites=[calibration]", "wandb.mode=disabled"]
    if device == "cpu":
        return [*TINY_RUNS.split(), *common, *words]
    tier = f"method={METHODS} seeds=0,1 recipe=quick net=preactresnet18 precision=bf16"
    found = list(words)
    places = (data_folder(), Path("shared/data"), Path("../shared/data"))
    for place in () if found else places:
        train, test = (place / name for name in PACKS)
        if train.exists() and test.exists():
            found = ["data=pack", f"data.train={train}", f"data.test={test}"]
            found += ["data.name=cifar10-q80-30k", "data.crop=4", "data.flip=true"]
            break
    if not found:
        todo = "put them there, or give ARGS='data=cifar10 data.root=FOLDER'"
        raise UserError(f"there is no {PACKS[0]} with {PACKS[1]}", str(data_folder()), todo)
    return [*tier.split(), *common, *found]


def _test_files() -> list[str]:
    """Files with tests that need a GPU; the others would only be read."""
    tests = Path("tests").rglob("test_*.py")
    found = sorted(str(path) for path in tests if "mark.gpu" in path.read_text(encoding="utf-8"))
    return found or ["tests"]


def _write(path: Path, device: str, part: str, ended: Ended, body: Sequence[str]) -> None:
    """A page with what a figure has to carry, and the figures."""
    import torch

    from mixbench.files import write_text
    from mixbench.records.record import cpu_name, environment

    facts = environment()
    hardware = torch.cuda.get_device_name() if device == "cuda" else f"{cpu_name()} (dry run)"
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    lines = [
        f"# Checks on {device}: {part}",
        "",
        "```sh",
        shlex.join(ended.command),
        "```",
        "",
        f"{hardware}; {versions}; commit {facts['commit'] or 'unknown'}. The command {ended.text}.",
        "",
        *body,
    ]
    write_text(path, "\n".join(lines) + "\n")


def gpu_command() -> int:
    """Check what the command line names.

    Returns:
        Exit code.
    """
    parser = argparse.ArgumentParser(
        prog="python -m mixbench.perf.gpu",
        description="Tests, speed tables and the quick tier on a GPU, in less than eight minutes.",
    )
    parser.add_argument("--device", default="cuda", help="cuda; cpu does little, as a dry run")
    text = "tests, perf or quick; can be repeated; the default is all three"
    parser.add_argument("--part", action="append", choices=tuple(LIMITS), help=text)
    text = "folder of the results; experiments/results, and runs/gpu for a dry run"
    parser.add_argument("--out", type=Path, help=text)
    text = "where CIFAR-10 is, such as data=cifar10 data.root=FOLDER"
    parser.add_argument("words", nargs="*", metavar="k=v", help=text)
    given = parser.parse_args()
    from mixbench.errors import MixbenchError
    from mixbench.records.record import runs_folder

    dry = given.device == "cpu"
    out = given.out or (runs_folder() / "gpu" if dry else Path("experiments/results"))
    parts = [part for part in LIMITS if part in (given.part or LIMITS)]
    try:
        return check(given.device, parts, out, given.words)
    except MixbenchError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code


if __name__ == "__main__":
    leave_working_directory()
    sys.exit(gpu_command())
