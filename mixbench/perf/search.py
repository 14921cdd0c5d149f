"""P7: the search for latent vectors, all restarts of all images at once against one by one.

The base is what one writes down first: a loop over images and restarts with an optimiser each, in
which each step reads its loss. A loop over images alone, which has the restarts of one at once,
stands beside it.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

import mixbench.functional as mf
from mixbench.nn.gan import ImageGenerator
from mixbench.perf.benchmark import Benchmark
from mixbench.perf.peers import Variant
from mixbench.perf.report import Limit, Rule
from mixbench.perf.timing import Budget

BASE, BATCHED = "loop over images and restarts", "all at once, mixbench"
BY_IMAGE = "loop over images, their restarts at once"
STEPS, RATE, PENALTY = 10, 0.05, 1e-3  # of a search; a whole one takes 500 steps


class Searches:
    """Images of 28x28 pixels to separate, from some starting points each.

    Attributes:
        batch: Number of searches, images times restarts.
    """

    def __init__(self, images: int, restarts: int, width: int) -> None:
        self.images, self.restarts, self.width = images, restarts, width
        self.batch = images * restarts

    def __str__(self) -> str:
        return f"{self.images} images x {self.restarts}, width {self.width}"

    def inputs(self, device: torch.device) -> tuple[Any, ...]:
        """Generators, observations that they made, and starting points."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            nets = [ImageGenerator(width=self.width) for _ in range(2)]
        nets = [net.to(device).eval().requires_grad_(False) for net in nets]
        latents = [net.latent for net in nets]
        true = mf.draw_starts(torch.arange(self.images) + self.images, 1, latents)
        starts = mf.draw_starts(torch.arange(self.images), self.restarts, latents)
        pairs = zip(nets, true, strict=True)
        y = torch.stack([net(z[:, 0].to(device)) for net, z in pairs]).sum(dim=0)
        return nets, y, [start.to(device) for start in starts]


SMALL, PAPER = Searches(32, 4, 16), Searches(2, 4, 256)
RECIPE = Searches(64, 4, 32)  # a batch of the test of recipe=demix_small
LARGE = Searches(128, 8, 256)  # on a GPU


def search_one_by_one(
    nets: Sequence[Any], y: Tensor, starts: Sequence[Tensor], together: int = 1
) -> Tensor:
    """The search, written down plainly.

    Args:
        nets: Generators.
        y: (B, C, H, W) observations.
        starts: (B, R, L) starting points for each generator.
        together: Restarts of an image that descend at once; divides R.

    Returns:
        (B, R) errors.
    """
    errors = []
    for image in range(len(y)):
        for begin in range(0, starts[0].shape[1], together):
            chosen = slice(begin, begin + together)
            z = [start[image, chosen].clone().requires_grad_() for start in starts]
            optimiser = torch.optim.Adam(z, RATE)
            last: list[float] = []
            for _ in range(STEPS):
                optimiser.zero_grad()
                made = sum(net(each) for net, each in zip(nets, z, strict=True))
                error = (y[image] - made).square().sum(dim=(1, 2, 3))
                loss = error.sum() + PENALTY * sum(each.square().sum() for each in z)
                loss.backward()
                optimiser.step()
                last = error.tolist()
            errors += last
    return torch.tensor(errors).view(starts[0].shape[:2])


class SearchBenchmark(Benchmark):
    """P7: searches per second; calls cost a loop its time on a GPU, and on a CPU if it is small."""

    part, base = "P7", BASE

    def cases(self, device: torch.device) -> Sequence[Searches]:
        return (SMALL, RECIPE, PAPER) if device.type == "cpu" else (SMALL, LARGE)

    def own(self, case: Searches, device: torch.device, budget: Budget) -> list[Variant]:
        by_image = partial(search_one_by_one, together=case.restarts)
        batched = partial(mf.latent_search, steps=STEPS, lr=RATE, penalties=[PENALTY])
        calls = {BASE: search_one_by_one, BY_IMAGE: by_image, BATCHED: batched}
        return [Variant(name, call, f"{STEPS} steps each") for name, call in calls.items()]

    def inputs(self, case: Searches, device: torch.device) -> Callable[[int], tuple[Any, ...]]:
        given = case.inputs(device)
        return lambda number: given

    def rounds(self, budget: Budget) -> int:
        return budget.plan_rounds

    def rules(self, device: torch.device) -> list[Rule | Limit]:
        gated = (LARGE,) if device.type == "cuda" else (SMALL, RECIPE)
        return [Rule(self.part, str(case), BATCHED, BASE, 20.0) for case in gated]
