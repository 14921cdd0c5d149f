"""P2: transport plans between feature maps, time and error together.

A plan that is found faster counts for nothing if it is another plan, so every variant is held
against the solution in float64. The features are those of an untrained PreActResNet-18, once as
they are and once with every position brought to norm 1.
"""

import os
from collections.abc import Callable
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import mixbench.functional as mf
from mixbench.backbones.cifar import preactresnet18
from mixbench.config.schema import DataInfo, NetConfig
from mixbench.data.augment.batches import to_float
from mixbench.perf.benchmark import NO_GPU, NOT_ASKED, Benchmark
from mixbench.perf.input import MEAN, STD, smooth_images
from mixbench.perf.peers import NOT_INSTALLED, Variant, load_file, on_its_device
from mixbench.perf.report import Limit, Row, Rule
from mixbench.perf.timing import Budget

BASE = "broadcast loop"
COMPAT, SCALED, SHORT = "compat, mixbench", "scaled, mixbench", "scaled 50, mixbench"
# The solve alone, of costs that are there, which is one launch.
COMPAT_LAUNCH, SCALED_LAUNCH = "compat, one launch", "scaled, one launch"
ERROR, MICROSECONDS = "plan error", "us"
EPS, ITERATIONS, REFERENCE_ITERATIONS = 0.1, 100, 4000
RAW, NORMALISED = "raw", "norm 1"

Solve = Callable[[Tensor, Tensor], Tensor]  # two maps (B, C, H, W) to plans (B, r, r), row sums 1


class Maps(NamedTuple):
    """Feature maps of one layer: batch size, image size in pixels, layer, images compared, kind.

    The kind is ``raw``, whose squared distances are in the hundreds, or ``norm 1``.
    """

    batch: int
    size: int
    layer: int
    compared: int
    kind: str = RAW

    def __str__(self) -> str:
        side = self.size // 2 ** (self.layer - 1)
        return f"B{self.batch} r{side * side} {self.kind}"


CASES = tuple(
    Maps(*maps, kind)
    for maps in ((128, 32, 4, 16), (32, 56, 4, 16), (32, 32, 3, 16), (4, 56, 3, 2))
    for kind in (RAW, NORMALISED)
)
SMALL, LARGE = CASES[0], CASES[4]  # with rules
LARGE_BATCH = LARGE._replace(batch=SMALL.batch)  # on a GPU, which it fills


def features(maps: Maps) -> Tensor:
    """Feature maps of smooth images.

    Args:
        maps: What to take of the network.

    Returns:
        (B, C, H, W) maps, the same for equal arguments.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = preactresnet18(NetConfig(final_norm=False), DataInfo(10, maps.size, maps.size))
    mean, std = (torch.tensor(value)[:, None, None] for value in (MEAN, STD))
    x = (to_float(smooth_images(maps.batch).images) - mean) / std
    x = F.interpolate(x, size=(maps.size, maps.size), mode="bilinear")
    with torch.no_grad():
        h = net.forward_stages(x, stop=maps.layer)
    return F.normalize(h, dim=1) if maps.kind == NORMALISED else h


def broadcast_loop(h: Tensor, partner: Tensor) -> Tensor:
    """The formula, written down plainly.

    Args:
        h: (B, C, H, W) feature maps.
        partner: (B, C, H, W) feature maps of their partners.

    Returns:
        (B, r, r) plans times r, after as many iterations as the other variants.
    """
    a, b = h.flatten(2), partner.flatten(2)
    cost = (a[:, :, :, None] - b[:, :, None, :]).square().sum(dim=1)
    count = cost.shape[1]
    log_share = torch.full_like(cost[:, :, 0], 1 / count).log()
    u, v = torch.zeros_like(log_share), torch.zeros_like(log_share)
    for _ in range(ITERATIONS):
        u = EPS * (log_share - ((v[:, None, :] - cost) / EPS).logsumexp(dim=2))
        v = EPS * (log_share - ((u[:, :, None] - cost) / EPS).logsumexp(dim=1))
    return count * ((u[:, :, None] + v[:, None, :] - cost) / EPS).exp()


def launched(solver: str) -> Solve:
    """The solve without the costs, which are worked out once for each pair of maps.

    Args:
        solver: Of :func:`mixbench.functional.sinkhorn`.

    Returns:
        The same as the other variants give.
    """
    costs = cache(mf.position_cost)
    last = "columns" if solver == "compat" else "rows"

    def solve(h: Tensor, partner: Tensor) -> Tensor:
        found = mf.sinkhorn(costs(h, partner), eps=EPS, iters=ITERATIONS, solver=solver, last=last)
        return found.plan * found.plan.shape[1]

    return solve


def own_variants(device: torch.device) -> list[Variant]:
    """The base and what this package offers.

    Args:
        device: Where they solve; only a GPU is given the kernel.

    Returns:
        Variants, the base first.
    """
    plan = partial(mf.position_plan, eps=EPS, side=0)
    note = f"{ITERATIONS} iterations, without the costs"
    launches = [
        Variant(name, launched(solver), note)
        for name, solver in ((COMPAT_LAUNCH, "compat"), (SCALED_LAUNCH, "scaled"))
    ]
    if device.type != "cuda":
        why = NOT_ASKED if torch.cuda.is_available() else NO_GPU
        launches = [Variant(each.name, skipped=why) for each in launches]
    return [
        Variant(BASE, broadcast_loop, f"{ITERATIONS} iterations"),
        Variant(COMPAT, plan, f"{ITERATIONS} iterations, the arithmetic of the base"),
        Variant(SCALED, partial(plan, solver="scaled"), f"{ITERATIONS} iterations, eps falling"),
        Variant(SHORT, partial(plan, solver="scaled", iters=50), "50 iterations, eps falling"),
        *launches,
    ]


def _pot(maps: Maps) -> list[Variant]:
    del maps
    names = "log-domain, POT batch", "kernel domain, POT batch"
    try:
        from ot.batch import dist_batch, solve_batch
    except ImportError:
        return [Variant(name, skipped=NOT_INSTALLED) for name in names]

    def solve(method: str, h: Tensor, partner: Tensor) -> Tensor:
        a, b = (side.flatten(2).transpose(1, 2).contiguous() for side in (h, partner))
        cost = dist_batch(a, b, metric="sqeuclidean")
        share = torch.full_like(cost[:, :, 0], 1 / cost.shape[1])
        found = solve_batch(
            cost, EPS, share, share, max_iter=ITERATIONS, tol=0.0, method=method, grad="detach"
        )
        return found.plan * cost.shape[1]

    methods, note = ("log_sinkhorn", "sinkhorn"), f"{ITERATIONS} iterations, float32"
    return [
        Variant(name, partial(solve, method), note)
        for name, method in zip(names, methods, strict=True)
    ]


def _geomloss(maps: Maps) -> list[Variant]:
    del maps
    name = "eps falling, geomloss"
    try:
        from geomloss import SamplesLoss  # pyright: ignore[reportMissingImports]
    except ImportError:
        return [Variant(name, skipped=NOT_INSTALLED)]
    # Its cost is half the squared distance, and its blur the root of the weight of the entropy.
    loss = SamplesLoss(
        "sinkhorn",
        p=2,
        blur=(EPS / 2) ** 0.5,
        scaling=0.9,
        debias=False,
        potentials=True,
        backend="tensorized",
    )

    def solve(h: Tensor, partner: Tensor) -> Tensor:
        a, b = (side.flatten(2).transpose(1, 2).contiguous() for side in (h, partner))
        u, v = loss(a, b)
        cost = mf.position_cost(h, partner)
        count = cost.shape[1]
        return ((u.view(-1, count, 1) + v.view(-1, 1, count) - cost / 2) / (EPS / 2)).exp() / count

    return [Variant(name, solve, "scaling 0.9; as many iterations as its features ask for")]


def _official(maps: Maps) -> list[Variant]:
    del maps
    name, root = "official file", os.environ.get("ALIGNMIX")
    if not root:
        return [Variant(name, skipped="ALIGNMIX=path not given")]
    path = Path(root) / "cifar10_100" / "utils" / "OT.py"
    try:
        solver = load_file(path).SinkhornDistance(EPS, ITERATIONS)
    except FileNotFoundError:
        missing = "no cifar10_100/utils/OT.py in the ALIGNMIX folder"
        return [Variant(name, skipped=missing)]
    except Exception as error:  # whatever a checkout of any age holds
        return [Variant(name, skipped=f"failed with {type(error).__name__}")]

    def solve(h: Tensor, partner: Tensor) -> Tensor:
        a, b = (side.flatten(2).transpose(1, 2) for side in (h, partner))
        return solver(a, b) * a.shape[1]

    note = f"at most {ITERATIONS} iterations; waits for the device in each"
    return [Variant(name, on_its_device(solve), note)]


def plan_error(found: Tensor, exact: Tensor) -> float:
    """Mean distance of the rows of two plans.

    Args:
        found: (B, r, r) plan whose rows sum to 1.
        exact: (B, r, r) the same, converged.

    Returns:
        Mean over rows of the sum of absolute differences, from 0 to 2 for whole rows.
    """
    return float((found.double() - exact).abs().sum(dim=2).mean())


class TransportBenchmark(Benchmark):
    """P2: on raw features speed at r = 16, and plans that are nearer the solution.

    On a GPU the solve alone takes at most 40 us at r = 16, and 120 us at r = 64.
    """

    part, base = "P2", BASE
    watched = (SMALL,)
    peers = (_pot, _geomloss, _official)

    def cases(self, device: torch.device) -> tuple[Maps, ...]:
        return CASES if device.type == "cpu" else (*CASES, LARGE_BATCH)

    def own(self, case: Maps, device: torch.device, budget: Budget) -> list[Variant]:
        return own_variants(device)

    def inputs(self, case: Maps, device: torch.device) -> Callable[[int], tuple[Tensor, Tensor]]:
        pair = _pair(case, device)
        return lambda number: pair

    def rounds(self, budget: Budget) -> int:
        return budget.plan_rounds

    def figures(
        self, case: Maps, variant: Variant, row: Row, device: torch.device
    ) -> dict[str, float]:
        *few, exact = _solution(case, device)
        found = {ERROR: plan_error(variant.call(*few), exact)} if variant.call else {}
        if variant.name in (COMPAT_LAUNCH, SCALED_LAUNCH):
            found[MICROSECONDS] = 1000 * row.median_ms
        return found

    def rules(self, device: torch.device) -> list[Rule | Limit]:
        small, large = str(SMALL), str(LARGE)
        return [
            Rule(self.part, small, COMPAT, BASE, 5.0),  # the same arithmetic: less can be gained
            Rule(self.part, small, SCALED, BASE, 8.0),
            Limit(self.part, small, COMPAT, ERROR, BASE),
            Limit(self.part, small, SCALED, ERROR, 0.02),
            Limit(self.part, large, SCALED, ERROR, 0.2),
            *(
                Limit(self.part, shape, name, MICROSECONDS, most)
                for shape, most in ((small, 40.0), (str(LARGE_BATCH), 120.0))
                for name in (COMPAT_LAUNCH, SCALED_LAUNCH)
            ),
        ]


def _pair(maps: Maps, device: torch.device) -> tuple[Tensor, Tensor]:
    h = features(maps).to(device)
    return h, h.roll(1, dims=0)


@lru_cache(maxsize=1)
def _solution(maps: Maps, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs of maps that are compared, and their plans, converged in float64."""
    h, partner = (side[: maps.compared] for side in _pair(maps, device))
    exact = mf.position_plan(
        h.double(), partner.double(), eps=EPS, iters=REFERENCE_ITERATIONS, solver="scaled"
    )
    return h, partner, exact
