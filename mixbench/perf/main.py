"""Runs the parts and writes the tables."""

import sys
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from mixbench.errors import UserError, near_match
from mixbench.perf.cut import CutBenchmark
from mixbench.perf.engine import EngineBenchmark
from mixbench.perf.growth import GrowthBenchmark
from mixbench.perf.input import InputBenchmark
from mixbench.perf.mix import MixBenchmark
from mixbench.perf.photographs import PhotographBenchmark
from mixbench.perf.report import FAIL, Gate, Row, conditions, to_json, to_markdown, write
from mixbench.perf.run import RunBenchmark
from mixbench.perf.search import SearchBenchmark
from mixbench.perf.step import StepBenchmark
from mixbench.perf.timing import LEAST, Budget, keep_freed_memory, one_thread
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
    GrowthBenchmark(),
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
    dry_run: bool = False,
) -> int:
    """Measure speed against peers, print the table, and keep it as JSON and Markdown.

    The files are written again after every case, so that what was measured stays whatever ends
    the process.

    Args:
        device: ``cpu`` or ``cuda``.
        parts: Of ``P1`` (the mixing step), ``P2`` (transport plans), ``P3`` (the input path),
            ``P4`` (whole training steps), ``P5`` (the time between steps), ``P6`` (whole runs),
            ``P7`` (the search for latent vectors), ``P8`` (the cut of PuzzleMix) and ``P9`` (growth
            with images, methods, records and test images), in the order in which they are measured;
            all if None.
        out: Folder of ``<date>-<device>.json`` and ``.md``; ``<runs folder>/perf`` if None.
        budget: How long to measure.
        dry_run: Run one small case of each part, and hold no rule against it.

    Returns:
        0, or 3 where a gate fails or a part ends with an error.

    Raises:
        UserError: If a part or device is unknown, or there is no such device.
    """
    place, chosen = _device(device), list(dict.fromkeys(parts or PARTS))
    for part in chosen:
        if part not in PARTS:
            known = f"one of {', '.join(PARTS)}; {near_match(part, PARTS)}".rstrip("; ")
            raise UserError(f"unknown part {part!r}", "--part", known)
    budget = budget or (LEAST if dry_run else Budget())
    freed_kept = keep_freed_memory()
    facts = conditions(place, budget, freed_kept=freed_kept)
    facts["date"] = datetime.now(UTC).date().isoformat()
    facts["dry_run"] = dry_run
    benchmarks = [each for part in chosen for each in BENCHMARKS if each.part == part]
    bases = {each.part: each.base for each in benchmarks}
    folder = out or runs_folder() / "perf"
    rows: list[Row] = []
    judged: list[Gate] = []

    def keep() -> tuple[str, tuple[Path, Path]]:
        table = to_markdown(facts, rows, judged, bases)
        stem = f"{facts['date']}-{device}"
        return table, write(folder, stem, to_json(facts, rows, judged, bases), table)

    def tried(what: str, call: Callable[..., list[Any]], *given: Any) -> list[Any]:
        try:
            return call(*given)
        except Exception as error:  # the others are measured all the same
            traceback.print_exc()
            why = f"{type(error).__name__}: {error}".partition("\n")[0]
            judged.append(Gate(f"{what} can be measured", FAIL, why))
            return []

    with one_thread():
        for benchmark in benchmarks:
            sys.stderr.write(f"measuring {benchmark.part}\n")
            before = len(rows)
            for case in [benchmark.small_case(place)] if dry_run else benchmark.cases(place):
                rows += tried(f"{benchmark.part} {case}", benchmark.measure, place, budget, (case,))
                keep()
            if not dry_run:
                judged += tried(f"{benchmark.part} gates", benchmark.gates, rows[before:], place)
    table, paths = keep()
    sys.stdout.write(table + "".join(f"written: {path}\n" for path in paths))
    return FAILED if any(gate.status == FAIL for gate in judged) else 0


def _device(name: str) -> torch.device:
    if name not in DEVICES:
        raise UserError(f"unknown device {name!r}", "--device", f"one of {', '.join(DEVICES)}")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("no CUDA device is visible", "--device", "use --device cpu")
    return torch.device(name)
