"""AlignMix: mix feature maps after one was moved to the layout of the other.

Venkataramanan et al., CVPR 2022, arXiv:2103.15375; official code
shashankvkt/AlignMixup_CVPR22.
"""

import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from mixbench.functional.draws import draw_lam, draw_perm
from mixbench.functional.mixed import (
    Mixed,
    check_batch,
    check_lam,
    check_perm,
    lerp_,
    mix_targets,
    take,
)
from mixbench.functional.sinkhorn import check_solver
from mixbench.functional.transport import (
    PlanSettings,
    check_cost_scale,
    position_plan,
    product,
)

PLANS = ("transport", "shuffled", "identity", "weights")


class Aligned(NamedTuple):
    """Record of :func:`alignmix`: the side whose layout was kept, and the plan (B, r, r).

    ``plan`` is None where no position was moved.
    """

    side: int
    plan: Tensor | None


def check_map(h: Tensor) -> None:
    """Refuse features that cannot be aligned.

    Args:
        h: (B, C, H, W) features.

    Raises:
        ValueError: If ``h`` is not a floating (B, C, H, W) map, or is empty.
    """
    if h.ndim != 4 or not h.is_floating_point() or not h.numel():
        raise ValueError(
            f"align needs a feature map (B, C, H, W) of a floating type, got {tuple(h.shape)} "
            f"{h.dtype}; reshape tokens (B, N, C) with h.transpose(1, 2).unflatten(2, (H, W))"
        )


def check_finite(h: Tensor) -> None:
    """Refuse features that are no numbers. Looking waits for the device: not for every step.

    Args:
        h: Features of any shape.

    Raises:
        ValueError: If ``h`` holds NaN or infinity.
    """
    if not bool(h.isfinite().all()):
        raise ValueError(
            f"the features {tuple(h.shape)} hold NaN or infinity; lower lr or look at the input"
        )


def alignment_cancels(
    side: int,
    *,
    solver: str = "compat",
    finalize: str = "none",
    plan: str = "transport",
) -> bool:
    """True if the mean over positions is the same with and without alignment.

    The mean of ``F R^T`` weighs every position of ``F`` by its column sum in the plan R. Where
    these sums are 1, a head that begins with average pooling sees plain interpolation: alignment
    has no effect on its logits and gradients.

    Args:
        side: Side whose layout is kept, see :func:`align`.
        solver: As for :func:`position_plan`. ``compat`` has exact column sums, which is what side
            0 needs, and poor row sums. ``scaled`` leaves an error of about 5e-4 of the pooled
            norm on either side.
        finalize: ``row`` gives up the exact column sums of ``compat``.
        plan: As for :func:`align`.

    Returns:
        True if moving positions may be skipped in front of average pooling.

    Example:
        >>> alignment_cancels(0), alignment_cancels(1), alignment_cancels(1, solver="scaled")
        (True, False, True)
    """
    if plan in ("shuffled", "identity"):
        return True
    if plan == "weights":
        return False
    return solver == "scaled" or (solver == "compat" and side == 0 and finalize == "none")


def align(
    h: Tensor,
    *,
    lam: Tensor,
    perm: Tensor,
    side: int = 0,
    plan: str | Tensor = "transport",
    order: Tensor | None = None,
    only_mean: bool = False,
    post_align: Callable[[Tensor], Tensor] | None = None,
    eps: float = 0.1,
    iters: int = 100,
    solver: str = "compat",
    stop: float | None = None,
    cost_scale: str = "none",
    finalize: str = "none",
    generator: Generator | None = None,
) -> Tensor:
    """Interpolate every feature map with its partner after one was moved to the other's layout.

    Args:
        h: (B, C, H, W) feature maps.
        lam: (B,) or (1,) weight of the own map, in [0, 1].
        perm: (B,) index of each map's partner.
        side: 0 keeps the layout of the own map, ``lam F + (1 - lam) F' R^T``; 1 keeps that of the
            partner, ``lam F R + (1 - lam) F'``.
        plan: ``transport`` is the method; the others are controls. ``shuffled`` moves the
            positions by a random permutation, ``identity`` not at all. ``weights`` moves none, but
            multiplies positions by the sums that the transport plan gives them, in random order:
            what its lack of convergence alone does to the mean over positions. A (B, r, r) or
            (1, r, r) tensor is used as it is.
        order: (B, r) permutation of the positions that ``shuffled`` and ``weights`` use; drawn if
            not given.
        only_mean: The head uses nothing but the mean over positions, as average pooling in front
            of a linear layer does. Positions are then not moved where it makes no difference, see
            :func:`alignment_cancels`.
        post_align: Applied to the result, for example the last normalisation and ReLU, which the
            official pre-activation network lacks. After it positions differ, so that
            ``only_mean`` has no effect.
        eps: Entropic weight of the transport plan, see :func:`position_plan`.
        iters: Sinkhorn iterations.
        solver: ``compat``, ``scaled`` or ``pot``, see :func:`sinkhorn`.
        stop: Early stop of ``compat``, see :func:`sinkhorn`.
        cost_scale: Unit of the cost, see :func:`position_cost`.
        finalize: ``row`` repairs the rows of a plan, see :func:`position_plan`.
        generator: Random source of ``order`` (CPU by default).

    Returns:
        (B, C, H, W) mixed maps in the type and memory format of ``h``. Gradients flow to both maps
        and not into the plan.

    Raises:
        ValueError: If a setting is out of range, or a shape does not fit.

    Example:
        >>> h = torch.tensor([[[[0.0, 1.0]]], [[[1.1, 0.1]]]])
        >>> settings = {"lam": torch.tensor([0.5]), "perm": torch.tensor([1, 0]), "eps": 0.01}
        >>> align(h, **settings)[0]
        tensor([[[0.0500, 1.0500]]])
        >>> align(h, side=1, **settings)[0]
        tensor([[[1.0500, 0.0500]]])
    """
    check_map(h)
    check_lam(lam, h.shape[0])
    check_perm(perm, h.shape[0])
    partner = take(h, perm)
    settings: PlanSettings = {
        "eps": eps,
        "iters": iters,
        "solver": solver,
        "stop": stop,
        "cost_scale": cost_scale,
        "finalize": finalize,
    }
    only_mean = only_mean and post_align is None
    weights = _weights(h, partner, side, plan, order, only_mean, generator, settings)
    if weights is None:
        mixed = lerp_(partner, h, lam)
    elif side == 0:
        mixed = lerp_(_move(partner, weights.transpose(1, 2)), h, lam)
    else:
        mixed = lerp_(partner, _move(h, weights), lam).to(h.dtype)
    return mixed if post_align is None else post_align(mixed)


def draw_side(generator: Generator | None = None) -> int:
    """Draw which side's layout is kept, both alike.

    Args:
        generator: Random source. The result is a number of the host, as it decides what runs; a
            generator on a device makes the host wait.

    Returns:
        0 or 1, see :func:`align`.

    Example:
        >>> draw_side(torch.Generator().manual_seed(0)) in (0, 1)
        True
    """
    device = generator.device if generator is not None else None
    return int(torch.randint(2, (1,), generator=generator, device=device))


def alignmix(
    h: Tensor,
    targets: Tensor,
    *,
    alpha: float = 2.0,
    per_sample: bool = False,
    partner: str = "random",
    lam: Tensor | None = None,
    perm: Tensor | None = None,
    side: int | None = None,
    plan: str | Tensor = "transport",
    order: Tensor | None = None,
    only_mean: bool = False,
    post_align: Callable[[Tensor], Tensor] | None = None,
    eps: float = 0.1,
    iters: int = 100,
    solver: str = "compat",
    stop: float | None = None,
    cost_scale: str = "none",
    finalize: str = "none",
    generator: Generator | None = None,
) -> Mixed:
    """Align and mix feature maps and mix their labels. Decisions that are not given are drawn.

    Args:
        h: (B, C, H, W) feature maps; the official code takes the last ones before pooling.
        targets: (B, K) soft or multi-hot labels.
        alpha: Beta(alpha, alpha) of the weight, > 0; unused when ``lam`` is given.
        per_sample: Draw one weight per map; the official code draws one per batch.
        partner: How partners are drawn, see :func:`draw_perm`; unused when ``perm`` is given.
        lam: (B,) or (1,) weight of the own map and label, in [0, 1].
        perm: (B,) index of each map's partner.
        side: Side whose layout is kept, 0 or 1, see :func:`align`; drawn by :func:`draw_side`.
        plan: See :func:`align`.
        order: See :func:`align`.
        only_mean: See :func:`align`.
        post_align: See :func:`align`.
        eps: Entropic weight of the transport plan, see :func:`position_plan`.
        iters: Sinkhorn iterations.
        solver: ``compat``, ``scaled`` or ``pot``, see :func:`sinkhorn`.
        stop: Early stop of ``compat``, see :func:`sinkhorn`.
        cost_scale: Unit of the cost, see :func:`position_cost`.
        finalize: ``row`` repairs the rows of a plan, see :func:`position_plan`.
        generator: Random source of the drawn decisions (CPU by default).

    Returns:
        Mixed batch with ``lam`` (B,) as applied; ``aux`` is an :class:`Aligned`, whose plan
        :func:`marginal_error` and :func:`plan_entropy` describe.

    Raises:
        ValueError: If ``targets`` are class indices, a setting is out of range, or a shape
            does not fit.

    Note:
        A batch of 1 is mixed with itself, after a warning.
        Where average pooling and a linear layer follow, as in the official networks, alignment
        changes nothing as far as the plan is converged, see :func:`alignment_cancels`; the label
        of a mixture is the same in all cases.

    Example:
        >>> h, targets = torch.tensor([[[[0.0, 1.0]]], [[[1.1, 0.1]]]]), torch.eye(2)
        >>> lam, perm = torch.tensor([0.75]), torch.tensor([1, 0])
        >>> mixed = alignmix(h, targets, lam=lam, perm=perm, side=0, eps=0.01)
        >>> mixed.targets
        tensor([[0.7500, 0.2500],
                [0.2500, 0.7500]])
        >>> mixed.aux.plan[0].round()
        tensor([[0., 1.],
                [1., 0.]])
    """
    check_batch(h, targets)
    check_map(h)
    batch = h.shape[0]
    if not (alpha > 0 and math.isfinite(alpha)):
        raise ValueError(f"alignmix: alpha must be > 0 and finite, got {alpha}")
    if batch == 1:
        warnings.warn("a batch of 1 has no partner and is mixed with itself", stacklevel=2)
    if perm is None:
        perm = draw_perm(batch, generator, rule=partner)
    check_perm(perm, batch)
    if lam is None:
        lam = draw_lam(batch if per_sample else 1, alpha, generator)
    check_lam(lam, batch)
    if side is None:
        side = draw_side(generator)
    perm = perm.to(h.device, non_blocking=True)
    lam = lam.reshape(-1).to(h.device, torch.float32, non_blocking=True)
    settings: PlanSettings = {
        "eps": eps,
        "iters": iters,
        "solver": solver,
        "stop": stop,
        "cost_scale": cost_scale,
        "finalize": finalize,
    }
    own, only_mean = h.detach(), only_mean and post_align is None
    other = take(own, perm)
    weights = _weights(own, other, side, plan, order, only_mean, generator, settings)
    plan = "identity" if weights is None else weights
    mixed = align(h, lam=lam, perm=perm, side=side, plan=plan, post_align=post_align)
    labels = mix_targets(targets, perm, lam)
    return Mixed(mixed, labels, lam.expand(batch), perm, Aligned(side, weights))


def _weights(
    h: Tensor,
    partner: Tensor,
    side: int,
    plan: str | Tensor,
    order: Tensor | None,
    only_mean: bool,
    generator: Generator | None,
    settings: PlanSettings,
) -> Tensor | None:
    """The (B, r, r) plan that was asked for; None where positions stay what and where they are."""
    batch, count = h.shape[0], h.shape[2] * h.shape[3]
    _check(batch, count, side, plan, order, settings)
    if isinstance(plan, Tensor):
        return plan.detach().to(h.device, non_blocking=True).expand(batch, count, count)
    solver, finalize = settings["solver"], settings["finalize"]
    cancels = alignment_cancels(side, solver=solver, finalize=finalize, plan=plan)
    if count == 1 or plan == "identity" or (only_mean and cancels):
        return None
    if plan == "transport":
        return position_plan(h, partner, side=side, **settings)
    if order is None:
        order = _draw_order(batch, count, generator)
    order = order.to(h.device, non_blocking=True)
    if plan == "shuffled":
        return F.one_hot(order, count).to(torch.promote_types(h.dtype, torch.float32))
    found = position_plan(h, partner, side=side, **settings)
    return found.sum(dim=1 if side == 0 else 2).gather(1, order).diag_embed()


def _check(
    batch: int,
    count: int,
    side: int,
    plan: str | Tensor,
    order: Tensor | None,
    settings: PlanSettings,
) -> None:
    if side not in (0, 1):
        raise ValueError(f"side must be 0 (own layout) or 1 (the partner's), got {side}")
    if isinstance(plan, Tensor):
        if plan.shape not in ((batch, count, count), (1, count, count)):
            raise ValueError(f"plan must be ({batch}, {count}, {count}), got {tuple(plan.shape)}")
    elif plan not in PLANS:
        raise ValueError(f"plan must be one of {', '.join(PLANS)}, got {plan!r}")
    if order is not None and order.shape != (batch, count):
        raise ValueError(f"order must hold ({batch}, {count}) places, got {tuple(order.shape)}")
    check_cost_scale(settings["cost_scale"])
    solved = {key: value for key, value in settings.items() if key != "cost_scale"}
    check_solver(**cast(Any, solved))


def _draw_order(batch: int, positions: int, generator: Generator | None) -> Tensor:
    device = generator.device if generator is not None else None
    return torch.rand(batch, positions, generator=generator, device=device).argsort(dim=1)


def _move(h: Tensor, weights: Tensor) -> Tensor:
    """``h`` times ``weights`` (B, r, r) over its positions, in at least float32, in its format."""
    wide = torch.promote_types(h.dtype, torch.float32)
    flat, weights = h.flatten(2).to(wide), weights.to(wide)
    last = torch.channels_last
    if not h.is_contiguous() and h.is_contiguous(memory_format=last):
        moved = product(weights.transpose(1, 2), flat.transpose(1, 2)).transpose(1, 2)
    else:
        moved = product(flat, weights)
    return moved.unflatten(2, h.shape[2:])
