"""Sinkhorn iterations in one launch on a GPU, by Triton; imported where it is used.

One program solves one problem with the arithmetic of :mod:`mixbench.functional.sinkhorn`: in the
log domain, with a fixed number of iterations, and without a look of the host. Up to 64 by 64 costs
stay in registers, and larger ones are read again in every iteration. Cuturi, NeurIPS 2013,
arXiv:1306.0895.
"""

import math
from typing import Any

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

_TILE = 4096  # costs that a program holds at a time: 32 registers of each of 128 threads
_LOWEST = tl.constexpr(-3.4e38)
_LOG2E, _LN2 = tl.constexpr(math.log2(math.e)), tl.constexpr(math.log(2))


def solve(
    cost: Tensor,
    eps: float,
    iters: int,
    log_shares: tuple[float, float],
    last: str,
    *,
    falling: int,
    centered: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Plans and potentials of a batch of problems.

    Args:
        cost: (B, n, m) costs in float32.
        eps: Weight of the entropy, in the unit of the cost.
        iters: Iterations of two half-steps each.
        log_shares: Natural logarithms of what one row and what one column holds of the mass.
        last: The marginal that the last half-step meets exactly, ``rows`` or ``columns``.
        falling: Number of iterations over which the entropic weight falls from the mean cost to
            ``eps``; 0 keeps it at ``eps``.
        centered: Move the potentials so that those of the columns have the mean 0.

    Returns:
        Plans (B, n, m) and the potentials of rows (B, n) and columns (B, m).
    """
    cost = cost.contiguous()
    batch, rows, columns = cost.shape
    plan, u, v = torch.empty_like(cost), cost.new_empty(batch, rows), cost.new_empty(batch, columns)
    # A problem that ends on rows is the transposed one, which ends on columns.
    sides = [(rows, columns, log_shares[0], u), (columns, 1, log_shares[1], v)]
    if last == "rows":
        sides.reverse()
    (first, first_step, log_first, f), (final, final_step, log_final, g) = sides
    width = triton.next_power_of_2(final)
    height = min(triton.next_power_of_2(first), _TILE // width)
    tiles = triton.cdiv(first, height)
    warps = max(1, height * width // 1024)
    launch: Any = _solve_one[(batch,)]
    with torch.cuda.device_of(cost):
        launch(
            *(cost, plan, f, g, torch.empty_like(f), first, final, first_step, final_step),
            *(eps, log_first / math.log(2), log_final / math.log(2), iters, falling),
            height=height,
            width=width,
            tiles=tiles,
            zero_mean=("f" if last == "rows" else "g") if centered else "",
            num_warps=warps if tiles == 1 else 2 * warps,  # more of them where reading takes time
            enable_fp_fusion=True,
        )
    return plan, u, v


@triton.jit
def _solve_one(
    cost,
    plan,
    f_out,
    g_out,
    kept,
    first,
    final,
    first_step,
    final_step,
    eps,
    log_first,
    log_final,
    iters,
    falling,
    height: tl.constexpr,
    width: tl.constexpr,
    tiles: tl.constexpr,
    zero_mean: tl.constexpr,
):
    """Solve one problem whose rows are the side that is met first; logarithms have the base 2."""
    problem = tl.program_id(0).to(tl.int64)
    row, column = tl.arange(0, height)[:, None], tl.arange(0, width)[None, :]
    there = column < final
    places = row * first_step + column * final_step
    step = height * first_step
    cost += problem * first * final
    plan += problem * first * final
    kept += problem * first + row

    weight = tl.full((), 1.0, tl.float32)  # of the entropy, in eps
    log_ratio = tl.full((), 0.0, tl.float32)
    if falling > 0:
        total = tl.full((), 0.0, tl.float32)
        for tile in range(tiles):
            inside = (tile * height + row < first) & there
            total += tl.sum(tl.load(cost + places + tile * step, inside, 0.0))
        weight = tl.maximum(total / (first * final) / eps, 1.0)
        log_ratio = tl.log2(weight)

    # What is not there costs infinity, so that it adds 0 to every sum.
    costs = tl.load(cost + places, (row < first) & there, float("inf"))
    g = tl.zeros((1, width), tl.float32)
    top, total = g, g
    slope = -_LOG2E / (eps * weight)
    for done in range(iters):
        # Of the next iteration, ahead of what takes long; the last ones have eps itself.
        lower = tl.exp2(log_ratio * tl.maximum(1 - (done + 1) / tl.maximum(falling, 1), 0))
        change, lower_slope = weight / lower, -_LOG2E / (eps * lower)
        top, total = tl.full((1, width), _LOWEST, tl.float32), tl.zeros((1, width), tl.float32)
        for tile in range(tiles):
            valid = tile * height + row < first
            if tiles > 1:
                costs = tl.load(cost + places + tile * step, valid & there, float("inf"))
            f = _potential(costs, g, slope, log_first, valid)
            tl.store(kept + tile * height, f, valid)
            value = tl.fma(costs, slope, f)
            higher = tl.maximum(top, tl.max(value, 0, keep_dims=True))
            total *= tl.exp2(top - higher)
            total += tl.sum(tl.exp2(value - higher), 0, keep_dims=True)
            top = higher
        g = tl.where(there, (log_final - top - tl.log2(total)) * change, 0.0)
        weight, slope = lower, lower_slope

    tl.debug_barrier()  # what one thread kept is read by others
    shift = tl.full((), 0.0, tl.float32)
    if zero_mean == "g":
        shift += tl.sum(g) / final
    elif zero_mean == "f":
        for tile in range(tiles):
            f = tl.load(kept + tile * height, tile * height + row < first, 0.0)
            shift -= tl.sum(f) / first

    # From the very numbers of the last half-step, so that its marginal is met but for rounding.
    share = tl.exp2(log_final) / total
    for tile in range(tiles):
        valid = tile * height + row < first
        if tiles > 1:
            costs = tl.load(cost + places + tile * step, valid & there, float("inf"))
        f = tl.load(kept + tile * height, valid, 0.0)
        found = tl.exp2(tl.fma(costs, slope, f) - top) * share
        tl.store(plan + places + tile * step, found, valid & there)
        tl.store(f_out + problem * first + tile * height + row, (f + shift) * (eps * _LN2), valid)
    tl.store(g_out + problem * final + column, (g - shift) * (eps * _LN2), there)


@triton.jit
def _potential(costs, other, slope, log_share, valid):
    """The potential of each row that gives it its share; 0 for rows that are not there."""
    # Fused wherever it stands: where costs are thousands of eps, rounding twice would be seen.
    value = tl.fma(costs, slope, other)
    top = tl.max(value, 1, keep_dims=True)
    total = tl.sum(tl.exp2(value - top), 1, keep_dims=True)
    return tl.where(valid, log_share - top - tl.log2(total), 0.0)
