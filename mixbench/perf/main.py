"""Runs the parts and writes the tables."""

import sys
from datetime import UTC, datetime
from pathlib import Path

import torch

from mixbench.errors import UserError, near_match
from mixbench.perf.cut import CutBenchmark
from mixbench.perf.engine import EngineBenchmark
from mixbench.perf.input import InputBenchmark
from mixbench.perf.mix import MixBenchmark
from mixbench.perf.photographs import PhotographBenchmark
from mixbench.perf.report import FAIL, conditions, to_json, to_markdown, write
from mixbench.perf.run import RunBenchmark
from mixbench.perf.search import SearchBenchmark
from mixbench.perf.step import StepBenchmark
from mixbench.perf.timing import Budget, keep_freed_memory, one_thread
from mixbench.perf.transport import TransportBenchmark
from mixbench.perf.views import ViewBenchmark
from mixbench.records.record import runs_folder

BENCHMARKS = (
    MixBenchmark(),
    TransportBenchmark(),
    InputBenchmark(),
    PhotographBenchmark(),
    ViewBenchmark(),
    StepBenchmark(),
    EngineBenchmark(),
    RunBenchmark(),
    SearchBenchmark(),
    CutBenchmark(),
)
PARTS = tuple(dict.fromkeys(benchmark.part for benchmark in BENCHMARKS))
DEVICES = ("cpu", "cuda")
FAILED = 3


def main(
    device: str = "cpu",
    parts: list[str] | None = None,
    out: Path | None = None,
    *,
    budget: Budget | None = None,
) -> int:
    """Measure speed against peers, print the table, and keep it as JSON and Markdown.

    Args:
        device: ``cpu`` or ``cuda``.
        parts: Of ``P1`` (the mixing step), ``P2`` (transport plans), ``P3`` (the input path),
            ``P4`` (whole training steps), ``P5`` (the time between steps), ``P6`` (whole runs),
            ``P7`` (the search for latent vectors) and ``P8`` (the cut of PuzzleMix); all if None.
        out: Folder of ``<date>-<device>.json`` and ``.md``; ``<runs folder>/perf`` if None.
        budget: How long to measure.

    Returns:
        0, or 3 where a gate fails.

    Raises:
        UserError: If a part or device is unknown, or there is no such device.
    """
    place, chosen = _device(device), list(parts or PARTS)
    for part in chosen:
        if part not in PARTS:
            known = f"one of {', '.join(PARTS)}; {near_match(part, PARTS)}".rstrip("; ")
            raise UserError(f"unknown part {part!r}", "--part", known)
    budget = budget or Budget()
    freed_kept = keep_freed_memory()
    facts = conditions(place, budget, freed_kept=freed_kept)
    facts["date"] = datetime.now(UTC).date().isoformat()
    rows, judged = [], []
    with one_thread():
        for benchmark in BENCHMARKS:
            if benchmark.part in chosen:
                sys.stderr.write(f"measuring {benchmark.part}\n")
                measured = benchmark.measure(place, budget)
                rows += measured
                judged += benchmark.gates(measured, place)
    bases = {each.part: each.base for each in BENCHMARKS if each.part in chosen}
    table = to_markdown(facts, rows, judged, bases)
    folder = out or runs_folder() / "perf"
    paths = write(folder, f"{facts['date']}-{device}", to_json(facts, rows, judged, bases), table)
    sys.stdout.write(table + "".join(f"written: {path}\n" for path in paths))
    return FAILED if any(gate.status == FAIL for gate in judged) else 0


def _device(name: str) -> torch.device:
    if name not in DEVICES:
        raise UserError(f"unknown device {name!r}", "--device", f"one of {', '.join(DEVICES)}")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("no CUDA device is visible", "--device", "use --device cpu")
    return torch.device(name)
