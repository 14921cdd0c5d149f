"""P9: how the time and the memory of a CPU grow with ten times as much of something.

Images that are read and augmented for an epoch, methods whose configuration is checked, records of
which a leaderboard is made, and test images that are scored and stored.
"""

import ctypes
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mixbench.config.names import METHODS
from mixbench.leaderboard.render import render
from mixbench.leaderboard.rows import build_leaderboard, find_runs
from mixbench.perf.benchmark import Benchmark, Case
from mixbench.perf.input import PADDING, keyed_epoch, smooth_images
from mixbench.perf.peers import NOT_INSTALLED, Variant
from mixbench.perf.report import Limit, Row, Rule
from mixbench.perf.timing import Budget
from mixbench.records.predictions import Predictions, write_predictions
from mixbench.records.record import Record, write_record

BASE, TEN = "as many", "ten times as many"
FACTOR = 10
MOST = 12.0  # times the time, for ten times as much
PEAK = "peak MB"
CLASSES, SEEDS = 10, 10


@dataclass(frozen=True)
class Amount(Case):
    """A number of things that the base has to do with.

    Args:
        batch: How many.
        title: Its text in the table.
        work: Prepares files in a folder for a number of them, and returns what is timed.
    """

    work: Callable[[Path, int], Callable[[], Any]]


def read_images(folder: Path, number: int) -> Callable[[], Any]:
    """Reading a file of images, and an epoch of cropped, mirrored and normalised batches.

    Args:
        folder: Where the file is written.
        number: Images of 32x32 pixels.

    Returns:
        What is timed.
    """
    from mixbench.config.compose import compose
    from mixbench.data import DATA

    images = smooth_images(number + CLASSES)
    pixels = images.images.permute(0, 2, 3, 1).numpy()
    labels = np.arange(len(pixels)) % CLASSES  # every class in both parts
    for part, rows in (("train", slice(number)), ("test", slice(number, None))):
        np.savez(folder / f"{part}.npz", images=pixels[rows], label=labels[rows])
    words = f"data=pack data.train={folder}/train.npz data.test={folder}/test.npz"
    config = compose(f"method=erm {words}").data

    def epoch() -> int:
        splits = DATA.get("pack")(config).load(holdout=False)
        return keyed_epoch(splits.train, 0, torch.device("cpu"), 128, PADDING)

    return epoch


def check_methods(folder: Path, number: int) -> Callable[[], Any]:
    """The configurations of runs of as many methods, checked as far as possible without data.

    Args:
        folder: Not used.
        number: How many; methods come again with another seed when all have had a turn.

    Returns:
        What is timed.
    """
    from mixbench.config.compose import compose
    from mixbench.training.job import incompatibility, resolve

    words: list[str] = []
    for text in (f"method={name} data=digits" for name in METHODS.names()):
        if len(words) < number and not incompatibility(compose(text)):
            words.append(text)
    runs = [f"{words[n % len(words)]} seed={n // len(words)}" for n in range(number)]
    return lambda: [resolve(compose(run)).identity.id for run in runs]


def rank_records(folder: Path, number: int) -> Callable[[], Any]:
    """The leaderboard of finished runs, ten seeds of each configuration.

    Args:
        folder: Where the records are written.
        number: How many.

    Returns:
        What is timed.
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(number, generator=generator).tolist()
    for run in range(number):
        row, seed = divmod(run, SEEDS)
        name = f"row{row}" if row else "erm"
        hashed = f"{row:016x}"
        top1 = 90 + noise[run] + row % 7
        record = Record(
            id=f"{name}-s{seed}",
            method=name,
            data="made-up",
            net="preactresnet18",
            recipe="quick",
            seed=seed,
            epochs=16,
            select="last",
            config_hash=hashed,
            recipe_hash="0" * 16,
            status="done",
            metrics={"top1": top1, "nll": 0.5, "ece": 0.04},
            img_per_s=1000.0,
            train_size=50_000,
        )
        place = folder / record.id
        place.mkdir()
        write_record(place, record)
    return lambda: render(build_leaderboard(find_runs([folder])))


def score_images(folder: Path, number: int) -> Callable[[], Any]:
    """The scores of test images of ten classes, and the file of their predictions.

    Args:
        folder: Where it is written.
        number: How many.

    Returns:
        What is timed.
    """
    from mixbench.metrics import scores

    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(number, CLASSES, generator=generator)
    labels = torch.randint(CLASSES, (number,), generator=generator)
    predictions = Predictions(logits, labels, torch.arange(number))

    def score() -> dict[str, float]:
        write_predictions(folder / "predictions.npz", predictions)
        return scores(logits, labels)

    return score


AMOUNTS = (
    Amount(5_000, "5,000 images", read_images),
    Amount(3, "3 methods", check_methods),
    Amount(100, "100 records", rank_records),
    Amount(1_000, "1,000 test images", score_images),
)


class GrowthBenchmark(Benchmark):
    """P9, on the CPU alone; the limit is a fifth more than in proportion."""

    part, base = "P9", BASE
    folder = Path()  # of the files of a measurement

    def cases(self, device: torch.device) -> tuple[Amount, ...]:
        return AMOUNTS if device.type == "cpu" else ()

    def small_case(self, device: torch.device) -> Amount:
        return Amount(10, "10 records", rank_records)

    def own(self, case: Amount, device: torch.device, budget: Budget) -> list[Variant]:
        variants = []
        for name, number in ((BASE, case.batch), (TEN, FACTOR * case.batch)):
            place = self.folder / f"{case.work.__name__}-{number}"
            place.mkdir()
            try:
                variants.append(Variant(name, case.work(place, number)))
            except ImportError:
                variants.append(Variant(name, skipped=f"lightning is {NOT_INSTALLED}"))
        return variants

    def inputs(self, case: Amount, device: torch.device) -> Callable[[int], tuple[Any, ...]]:
        return lambda number: ()

    def rounds(self, budget: Budget) -> int:
        return budget.plan_rounds

    def measure(self, device: torch.device, budget: Budget, cases: Any = None) -> list[Row]:
        with tempfile.TemporaryDirectory(prefix="mixbench-") as folder:
            self.folder = Path(folder)
            rows = super().measure(device, budget, cases)
        for row in rows:
            row.images *= FACTOR if row.variant == TEN else 1
        return rows

    def figures(
        self, case: Amount, variant: Variant, row: Row, device: torch.device
    ) -> dict[str, float]:
        assert variant.call is not None
        peak = peak_mb(variant.call)
        return {} if peak is None else {PEAK: peak}

    def rules(self, device: torch.device) -> list[Rule | Limit]:
        return [Rule(self.part, str(case), TEN, BASE, 1 / MOST) for case in self.cases(device)]


def peak_mb(call: Callable[[], Any]) -> float | None:
    """The most memory that a call has at once beyond what the process has before it.

    Args:
        call: What is watched.

    Returns:
        Millions of bytes; None where the system does not tell.
    """
    try:
        ctypes.CDLL(None).malloc_trim(0)  # freed memory that is kept would be used unseen
        Path("/proc/self/clear_refs").write_text("5")  # the highest mark starts anew
        before = _status_mb("VmRSS")
        call()
        return max(0.0, _status_mb("VmHWM") - before)
    except (AttributeError, OSError, StopIteration):
        return None


def _status_mb(name: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(name))
