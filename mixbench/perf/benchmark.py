"""The shape of every part of the measurements: cases, variants of each, and what must hold."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch

from mixbench.perf.peers import Variant, tried
from mixbench.perf.report import FAIL, PASS, SKIPPED, Gate, Limit, Row, Rule, judge
from mixbench.perf.timing import Budget, interleave, repeated, waits

NO_GPU, NOT_ASKED = "no GPU", "run with --device cuda"


@dataclass(frozen=True)
class Case:
    """Input that all variants get alike; its text is the shape in the table."""

    batch: int
    title: str

    def __str__(self) -> str:
        return self.title


class Benchmark(ABC):
    """One part of the measurements. At each case all variants run in turn.

    Attributes:
        part: Name of the part, such as ``P1``.
        base: Variant that ratios refer to.
        peers: Functions that give the variants of other libraries for a case.
        watched: Cases at which none of our variants may make the host wait for a GPU.
    """

    part: ClassVar[str]
    base: ClassVar[str]
    peers: tuple[Callable[[Any], list[Variant]], ...] = ()
    watched: ClassVar[Sequence[Any]] = ()

    @abstractmethod
    def cases(self, device: torch.device) -> Sequence[Any]:
        """Cases that are measured by default: each has a ``batch`` size and a text."""

    def small_case(self, device: torch.device) -> Any:
        """The case that a dry run measures."""
        return self.cases(device)[-1]

    @abstractmethod
    def own(self, case: Any, device: torch.device, budget: Budget) -> list[Variant]:
        """The base and the variants of this package, in the order of the table."""

    @abstractmethod
    def rules(self, device: torch.device) -> list[Rule | Limit]:
        """Rules that the rows must meet that were measured on a device."""

    def inputs(self, case: Any, device: torch.device) -> Callable[[int], tuple[Any, ...]]:
        """Map from a running number to the arguments of a variant; the number itself by default."""
        del case, device
        return lambda number: (number,)

    def rounds(self, budget: Budget) -> int:
        """Number of turns."""
        return budget.rounds

    def timer(
        self, call: Callable[[int], object], device: torch.device, budget: Budget
    ) -> Callable[[], float]:
        """Measure one turn of a variant, in seconds of one batch."""
        return repeated(call, device, budget.round_s)

    def traffic(self, case: Any, variant: Variant) -> int | None:
        """Bytes that must be moved at least."""
        del case, variant
        return None

    def figures(
        self, case: Any, variant: Variant, row: Row, device: torch.device
    ) -> dict[str, float]:
        """Further figures of a variant that has run, by the title of their column."""
        del case, variant, row, device
        return {}

    def measure(
        self, device: torch.device, budget: Budget, cases: Sequence[Any] | None = None
    ) -> list[Row]:
        """Time every variant at every case.

        Args:
            device: Where the variants compute.
            budget: How long to measure.
            cases: What to measure; :meth:`cases` if None.

        Returns:
            Rows in the order of the variants, skipped ones included.
        """
        rows = []
        for case in cases or self.cases(device):
            inputs = self.inputs(case, device)
            variants = self.own(case, device, budget)
            for peer in self.peers:
                variants += [tried(variant, *inputs(0)) for variant in peer(case)]
            measures = {
                variant.name: self.timer(_numbered(variant.call, inputs), device, budget)
                for variant in variants
                if variant.call is not None
            }
            seconds = interleave(measures, self.rounds(budget))
            for variant in variants:
                row = Row(self.part, str(case), variant.name, case.batch)
                row.rounds_ms = [1000 * value for value in seconds.get(variant.name, [])]
                row.traffic = self.traffic(case, variant)
                row.note, row.skipped = variant.note, variant.skipped
                if row.rounds_ms:
                    row.figures = self.figures(case, variant, row, device)
                rows.append(row)
        return rows

    def gates(self, rows: list[Row], device: torch.device) -> list[Gate]:
        """Hold what was measured against the rules, and look for waits on a GPU.

        Args:
            rows: What was measured.
            device: Where it was measured.

        Returns:
            Gates; those of another device are skipped.
        """
        judged = judge(self.rules(device), rows)
        if not self.watched:
            return judged
        quiet = f"{self.part} on cuda: no variant of mixbench waits for the device"
        if device.type != "cuda":
            why = NOT_ASKED if torch.cuda.is_available() else NO_GPU
            names = f"{self.part} ratios on cuda", quiet
            return [*judged, *(Gate(name, SKIPPED, why) for name in names)]
        calls = {
            f"{variant.name}, {case}": partial(variant.call, *self.inputs(case, device)(0))
            for case in self.watched
            for variant in self.own(case, device, Budget())
            if variant.call is not None
        }
        waiting = waits(calls)
        return [*judged, Gate(quiet, FAIL if waiting else PASS, ", ".join(waiting))]


def _numbered(
    call: Callable[..., object], inputs: Callable[[int], tuple[Any, ...]]
) -> Callable[[int], object]:
    return lambda number: call(*inputs(number))
