"""P8: the cut of PuzzleMix, all images at once on the device against one by one on the host.

Both minimise the same energy, so that each tells what it costs beyond the least one.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator

import mixbench.functional as mf
from mixbench.perf.benchmark import Benchmark
from mixbench.perf.peers import Variant
from mixbench.perf.report import Limit, Row, Rule
from mixbench.perf.timing import Budget

BASE, RELAXED = "exact, image by image", "relaxed, mixbench"
EXCESS = "excess energy %"
SIZE = 32


class Cuts:
    """Images of 32 x 32 pixels to be cut into blocks.

    Attributes:
        batch: Number of images.
    """

    def __init__(self, batch: int, blocks: int, labels: int = 3) -> None:
        self.batch, self.blocks, self.labels = batch, blocks, labels

    def __str__(self) -> str:
        return f"B{self.batch} {self.blocks}x{self.blocks} blocks, {self.labels} labels"

    def problem(self, device: torch.device) -> mf.CutProblem:
        """Costs of smooth images that are salient around one place each."""
        generator = Generator().manual_seed(self.blocks)
        small = torch.rand(self.batch, 3, 6, 6, generator=generator)
        pixels = F.interpolate(small, (SIZE, SIZE), mode="bilinear")
        center = torch.rand(self.batch, 2, generator=generator) * SIZE
        far = (torch.arange(SIZE) - center[:, :, None]).square() / 60
        around = torch.exp(-far[:, 0, :, None] - far[:, 1, None]) + 0.05
        saliency = around * torch.rand(self.batch, SIZE, SIZE, generator=generator)
        perm = torch.randperm(self.batch, generator=generator)
        costs = mf.puzzle_costs(pixels, saliency, perm, (self.blocks, self.blocks))
        lam = mf.draw_lam(self.batch, 1.0, generator)
        problem = mf.cut_problem(costs, lam, labels=self.labels)
        return mf.CutProblem(*(part.to(device) for part in problem))


CASES = (*(Cuts(100, blocks) for blocks in (2, 4, 8, 16)), Cuts(100, 8, labels=2))


class CutBenchmark(Benchmark):
    """P8; the host solves image by image, as the official code does."""

    part, base = "P8", BASE

    def cases(self, device: torch.device) -> Sequence[Cuts]:
        return CASES

    def own(self, case: Cuts, device: torch.device, budget: Budget) -> list[Variant]:
        return [
            Variant(BASE, mf.exact_cut, "one minimal cut each, by SciPy"),
            Variant(RELAXED, mf.relaxed_cut, "all images at once"),
        ]

    def inputs(self, case: Cuts, device: torch.device) -> Callable[[int], tuple[Any, ...]]:
        problem = case.problem(device)
        return lambda number: (problem,)

    def rounds(self, budget: Budget) -> int:
        return budget.plan_rounds

    def figures(
        self, case: Cuts, variant: Variant, row: Row, device: torch.device
    ) -> dict[str, float]:
        problem, solve = case.problem(device), variant.call
        assert solve is not None
        least = mf.cut_energy(problem, mf.exact_cut(problem))
        found = mf.cut_energy(problem, solve(problem))
        return {EXCESS: 100 * (found / least - 1).mean().item()}

    def rules(self, device: torch.device) -> list[Rule | Limit]:
        rules: list[Rule | Limit] = []
        for case in map(str, CASES):
            rules.append(Rule(self.part, case, RELAXED, BASE, 5.0))
            rules.append(Limit(self.part, case, RELAXED, EXCESS, 1.0))
        return rules
