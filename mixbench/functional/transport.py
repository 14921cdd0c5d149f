"""Correspondence between the positions of two feature maps, by optimal transport.

The alignment step of AlignMix (Venkataramanan et al., CVPR 2022, arXiv:2103.15375; official code
shashankvkt/AlignMixup_CVPR22).
"""

from contextlib import nullcontext
from typing import TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor

from mixbench.functional.sinkhorn import sinkhorn

COST_SCALES = ("none", "mean", "dim", "cosine")


class PlanSettings(TypedDict):
    """Settings of :func:`position_plan`, which :func:`align` and :func:`alignmix` hand on."""

    eps: float
    iters: int
    solver: str
    stop: float | None
    cost_scale: str
    finalize: str


@torch.no_grad()
def position_cost(a: Tensor, b: Tensor, *, scale: str = "none") -> Tensor:
    """Squared distance between every position of one map and every position of another.

    No gradient passes through it, as none passes through the plan.

    Args:
        a: (B, C, ...) feature maps with n positions, of a floating type.
        b: (B, C, ...) feature maps with m positions.
        scale: ``none`` is the paper's distance, which grows with the features and their number.
            ``mean`` divides by its mean over the pairs of positions of each sample, ``dim`` by C.
            ``cosine`` brings every position to norm 1 before, so that the cost is 2 - 2 cos; a
            position of norm 0 stays 0.

    Returns:
        (B, n, m) costs >= 0, in float32, or in float64 for float64 features.

    Raises:
        ValueError: If ``scale`` is unknown.

    Note:
        The official code forms the (B, C, n, m) differences. Here it is one matrix product of
        centred features, never in reduced precision: rounding the features to bfloat16 alone
        would move the plans of features that are not normalised by a tenth.

    Example:
        >>> a, b = torch.tensor([[[0.0, 1.0]]]), torch.tensor([[[1.0, 3.0]]])
        >>> position_cost(a, b)
        tensor([[[1., 9.],
                 [0., 4.]]])
    """
    check_cost_scale(scale)
    wide = torch.promote_types(a.dtype, torch.float32)
    a, b = (side.flatten(2).to(wide) for side in (a, b))
    if scale == "cosine":
        a, b = F.normalize(a, dim=1), F.normalize(b, dim=1)
    # |a|^2 + |b|^2 - 2ab cancels; around a common centre its terms are as small as they can be.
    center = (a.mean(dim=2, keepdim=True) + b.mean(dim=2, keepdim=True)) / 2
    a, b = a - center, b - center
    cost = product(a.transpose(1, 2), b, exact=True).mul_(-2)
    # In place: on a CPU fresh memory for the squares takes as long as all the arithmetic.
    cost += a.square_().sum(dim=1)[:, :, None]
    cost += b.square_().sum(dim=1)[:, None, :]
    cost.clamp_(min=0)
    if scale == "mean":
        return cost / cost.mean(dim=(1, 2), keepdim=True).clamp(min=torch.finfo(wide).tiny)
    return cost / a.shape[1] if scale == "dim" else cost


def product(a: Tensor, b: Tensor, *, exact: bool = False) -> Tensor:
    """Batched matrix product in the type of its factors, whatever autocast says.

    Args:
        a: (B, n, k) factors.
        b: (B, k, m) factors.
        exact: Nor may the device round float32 factors, as TF32 does.

    Returns:
        (B, n, m) products.
    """
    kind = a.device.type
    autocast = torch.amp.is_autocast_available(kind)
    with torch.autocast(kind, enabled=False) if autocast else nullcontext():
        if exact and _rounds_float32(kind):
            return torch.bmm(a.double(), b.double()).to(a.dtype)
        return torch.bmm(a, b)


def _rounds_float32(kind: str) -> bool:
    """True if products of float32 matrices are allowed to round their factors."""
    backend = getattr(torch.backends, "cuda" if kind == "cuda" else "mkldnn")
    return backend.matmul.fp32_precision not in ("none", "ieee")


# As torch.compiler.assume_constant_result, which imports the whole compiler to set this mark.
vars(_rounds_float32)["_dynamo_marked_constant"] = True


def check_cost_scale(scale: str) -> None:
    """Refuse an unknown scale of the cost.

    Args:
        scale: See :func:`position_cost`.

    Raises:
        ValueError: If it is unknown.
    """
    if scale not in COST_SCALES:
        raise ValueError(f"cost_scale must be one of {', '.join(COST_SCALES)}, got {scale!r}")


@torch.no_grad()
def position_plan(
    h: Tensor,
    partner: Tensor,
    *,
    side: int = 0,
    eps: float = 0.1,
    iters: int = 100,
    solver: str = "compat",
    stop: float | None = None,
    cost_scale: str = "none",
    finalize: str = "none",
) -> Tensor:
    """Plan that finds every position of one map in another, by optimal transport.

    Args:
        h: (B, C, H, W) feature maps.
        partner: (B, C, H, W) feature maps of their partners.
        side: Side whose layout is kept: 0 that of ``h``, 1 that of ``partner``. ``scaled`` and
            ``pot`` meet the marginal exactly that this side sums over; ``compat`` does not know
            it.
        eps: Entropic weight. It has a meaning only together with ``cost_scale``.
        iters: Sinkhorn iterations.
        solver: ``compat``, ``scaled`` or ``pot``, see :func:`sinkhorn`.
        stop: Early stop of ``compat``, see :func:`sinkhorn`; the official code has 0.1.
        cost_scale: See :func:`position_cost`.
        finalize: ``row`` brings the rows to the sum 1 where ``side`` is 0.

    Returns:
        (B, r, r) plan R of r = H * W positions, rows of ``h`` and columns of ``partner``; rows and
        columns sum to 1 as far as the solver converged. No gradient passes through it.

    Example:
        >>> h = torch.tensor([0.0, 1.0, 2.0]).view(1, 1, 1, 3)
        >>> position_plan(h, h.flip(3), eps=0.01, solver="scaled").round()
        tensor([[[0., 0., 1.],
                 [0., 1., 0.],
                 [1., 0., 0.]]])
    """
    found = sinkhorn(
        position_cost(h, partner, scale=cost_scale),
        eps=eps,
        iters=iters,
        solver=solver,
        last="rows" if side == 0 and solver != "compat" else "columns",
        stop=stop,
        finalize=finalize if side == 0 else "none",
    )
    return found.plan * found.plan.shape[1]
