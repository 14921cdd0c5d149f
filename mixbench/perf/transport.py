"""P2: transport plans between feature maps, time and error together.

A plan that is found faster counts for nothing if it is another plan, so every variant is held
against the solution in float64. The features are those of an untrained PreActResNet-18, once as
they are and once with every position brought to norm 1.
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import mixbench.functional as mf
from mixbench.backbones.cifar import preactresnet18
from mixbench.config.schema import DataInfo, NetConfig
from mixbench.data.augment.batches import to_float
from mixbench.perf.input import MEAN, STD, smooth_images
from mixbench.perf.peers import NOT_INSTALLED, Variant, load_file, on_its_device, tried
from mixbench.perf.report import Limit, Row, Rule
from mixbench.perf.timing import Budget, interleave, repeated

PART, BASE = "P2", "broadcast loop"
COMPAT, SCALED, SHORT = "compat, mixbench", "scaled, mixbench", "scaled 50, mixbench"
ERROR = "plan error"
EPS, ITERATIONS, REFERENCE_ITERATIONS = 0.1, 100, 4000
RAW, NORMALISED = "raw", "norm 1"

Solve = Callable[[Tensor, Tensor], Tensor]  # two maps (B, C, H, W) to plans (B, r, r), row sums 1


class Shape(NamedTuple):
    """Feature maps of one layer: batch size, image size in pixels, layer, images compared."""

    batch: int
    size: int
    layer: int
    compared: int


SHAPES = (Shape(128, 32, 4, 16), Shape(32, 56, 4, 16), Shape(32, 32, 3, 16), Shape(4, 56, 3, 2))


def features(shape: Shape, kind: str) -> Tensor:
    """Feature maps of smooth images.

    Args:
        shape: What to take of the network.
        kind: ``raw``, whose squared distances are in the hundreds, or ``norm 1``.

    Returns:
        (B, C, H, W) maps, the same for equal arguments.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = preactresnet18(NetConfig(final_norm=False), DataInfo(10, shape.size, shape.size))
    mean, std = (torch.tensor(value)[:, None, None] for value in (MEAN, STD))
    x = (to_float(smooth_images(shape.batch).images) - mean) / std
    x = F.interpolate(x, size=(shape.size, shape.size), mode="bilinear")
    with torch.no_grad():
        h = net.forward_stages(x, stop=shape.layer)
    return F.normalize(h, dim=1) if kind == NORMALISED else h


def broadcast_loop(h: Tensor, partner: Tensor) -> Tensor:
    """What the formula says, written down plainly.

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


def own_variants() -> list[Variant]:
    """The base and what this package offers.

    Returns:
        Variants, the base first.
    """
    plan = partial(mf.position_plan, eps=EPS, side=0)
    return [
        Variant(BASE, broadcast_loop, f"{ITERATIONS} iterations"),
        Variant(COMPAT, plan, f"{ITERATIONS} iterations, the arithmetic of the base"),
        Variant(SCALED, partial(plan, solver="scaled"), f"{ITERATIONS} iterations, eps falling"),
        Variant(SHORT, partial(plan, solver="scaled", iters=50), "50 iterations, eps falling"),
    ]


def _pot() -> list[Variant]:
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


def _geomloss() -> list[Variant]:
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


def _official() -> list[Variant]:
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


PEERS = (_pot, _geomloss, _official)


def plan_error(found: Tensor, exact: Tensor) -> float:
    """Mean distance of the rows of two plans.

    Args:
        found: (B, r, r) plan whose rows sum to 1.
        exact: (B, r, r) the same, converged.

    Returns:
        Mean over rows of the sum of absolute differences, from 0 to 2 for whole rows.
    """
    return float((found.double() - exact).abs().sum(dim=2).mean())


def measure(device: torch.device, budget: Budget, shapes: tuple[Shape, ...] = SHAPES) -> list[Row]:
    """Time every variant on both kinds of features, and compare its plans.

    Args:
        device: Where the features lie.
        budget: How long to measure.
        shapes: Layers.

    Returns:
        Rows in the order of the variants, skipped ones included.
    """
    rows = []
    for shape in shapes:
        for kind in (RAW, NORMALISED):
            h = features(shape, kind).to(device)
            partner = h.roll(1, dims=0)
            rows += _measure(h, partner, _title(shape, kind), shape, budget)
    return rows


def _title(shape: Shape, kind: str) -> str:
    side = shape.size // 2 ** (shape.layer - 1)
    return f"B{shape.batch} r{side * side} {kind}"


def _measure(h: Tensor, partner: Tensor, title: str, shape: Shape, budget: Budget) -> list[Row]:
    few = [side[: shape.compared] for side in (h, partner)]
    exact = mf.position_plan(
        *(side.double() for side in few), eps=EPS, iters=REFERENCE_ITERATIONS, solver="scaled"
    )
    variants = own_variants()
    for peer in PEERS:
        variants += [tried(variant, *few) for variant in peer()]
    calls = {v.name: _plain(v.call, h, partner) for v in variants if v.call is not None}
    measures = {name: repeated(call, h.device, budget.round_s) for name, call in calls.items()}
    seconds = interleave(measures, budget.plan_rounds)
    rows = []
    for variant in variants:
        figures = {}
        if variant.call is not None:
            figures[ERROR] = plan_error(variant.call(*few), exact)
        rounds = [1000 * value for value in seconds.get(variant.name, [])]
        rows.append(
            Row(
                PART,
                title,
                variant.name,
                shape.batch,
                rounds,
                note=variant.note,
                skipped=variant.skipped,
                figures=figures,
            )
        )
    return rows


def _plain(solve: Solve, h: Tensor, partner: Tensor) -> Callable[[int], object]:
    def call(number: int) -> object:
        del number
        with torch.no_grad():
            return solve(h, partner)

    return call


def rules(device: torch.device) -> list[Rule | Limit]:
    """What must hold on raw features: speed at r = 16, and plans that are nearer the solution.

    Args:
        device: Where it was measured; the rules are the same on all.

    Returns:
        Rules of times and of errors.
    """
    del device
    small, large = _title(SHAPES[0], RAW), _title(SHAPES[2], RAW)
    return [
        Rule(PART, small, COMPAT, BASE, 5.0),  # the same arithmetic, so less can be gained
        Rule(PART, small, SCALED, BASE, 8.0),
        Limit(PART, small, COMPAT, ERROR, BASE),
        Limit(PART, small, SCALED, ERROR, 0.02),
        Limit(PART, large, SCALED, ERROR, 0.2),
    ]


def watched(device: torch.device) -> dict[str, Callable[[], object]]:
    """What must not make the host wait for a device.

    Args:
        device: A CUDA device.

    Returns:
        Our variants by name.
    """
    h = features(SHAPES[0], RAW).to(device)
    partner = h.roll(1, dims=0)
    own = own_variants()[1:]
    return {v.name: partial(v.call, h, partner) for v in own if v.call is not None}
