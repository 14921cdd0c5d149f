"""The record that every mixing operation returns, soft labels, and the checks of a batch."""

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Mixed(NamedTuple):
    """A mixed batch and the decisions that made it.

    ``x`` (B, ...) is the mixed input and ``targets`` (B, K) its soft labels. ``lam`` (B,) or (1,)
    is the realised weight of the first image, ``perm`` (B,) the partner index. ``aux`` carries
    whatever a method hands from one hook to the next. A method with several forward passes uses
    dicts with equal keys for ``targets``.
    """

    x: Tensor
    targets: Any
    lam: Tensor | None = None
    perm: Tensor | None = None
    aux: Any = None


def check_batch(x: Tensor, targets: Tensor, *, integer_x: bool = False) -> None:
    """Refuse a batch that an operation would mix wrongly, before any work is done.

    Args:
        x: (B, ...) inputs.
        targets: (B, K) soft or multi-hot labels.
        integer_x: Accept integer inputs; right for operations that only move pixels.

    Raises:
        ValueError: If one is no tensor, ``targets`` are class indices, the batch sizes differ,
            ``x`` is empty, or ``x`` is of an integer type that the operation would have to
            interpolate.
    """
    for name, value in (("x", x), ("targets", targets)):
        if not isinstance(value, Tensor):
            raise ValueError(f"{name} must be a tensor, got {type(value).__name__}")
    if targets.ndim != 2 or not targets.is_floating_point():
        raise ValueError(
            f"targets must be soft labels (B, K) of a floating type, got {tuple(targets.shape)} "
            f"{targets.dtype}; convert class indices with mixbench.functional.one_hot(y, K)"
        )
    if x.ndim < 2 or x.shape[0] != targets.shape[0]:
        raise ValueError(
            f"x {tuple(x.shape)} and targets {tuple(targets.shape)} must have the same batch size"
        )
    if x.numel() == 0:
        raise ValueError(f"x {tuple(x.shape)} has an empty dimension; nothing to mix")
    if not integer_x and not x.is_floating_point():
        raise ValueError(
            f"x {tuple(x.shape)} is {x.dtype}; convert to float first (x.float() / 255)"
        )


def readable(values: Tensor) -> bool:
    """True if reading values is free: on the CPU, and not while a graph is traced.

    Args:
        values: Any tensor.

    Returns:
        False where reading would wait for a device or break a compiled graph.
    """
    return values.device.type == "cpu" and not torch.compiler.is_compiling()


def check_lam(lam: Tensor, rows: int) -> None:
    """Refuse weights of the wrong number and, where looking is free, weights that are no shares.

    Args:
        lam: (rows,) or (1,) weights, or a scalar.
        rows: Rows to be mixed.

    Raises:
        ValueError: If the number does not fit, or a weight is not in [0, 1], NaN included.
    """
    if lam.numel() not in (1, rows):
        raise ValueError(f"lam must hold 1 or {rows} weights, got {tuple(lam.shape)}")
    if readable(lam) and not bool(((lam >= 0) & (lam <= 1)).all()):
        raise ValueError(f"lam must lie in [0, 1], got {lam.min().item()} to {lam.max().item()}")


def check_perm(perm: Tensor, rows: int) -> None:
    """Refuse partner indices of the wrong number.

    Args:
        perm: (rows,) partner indices.
        rows: Rows to be mixed.

    Raises:
        ValueError: If the shape is another.
    """
    if perm.shape != (rows,):
        raise ValueError(f"perm must hold {rows} partners, got {tuple(perm.shape)}")


def one_hot(
    y: Tensor, num_classes: int, *, smoothing: float = 0.0, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Class indices as smoothed one-hot targets.

    The true class gets ``1 - s + s/K`` and every other class ``s/K``, before any mixing.

    Args:
        y: (B,) class indices.
        num_classes: Number of classes K.
        smoothing: Label smoothing s, in [0, 1].
        dtype: Floating type of the result.

    Returns:
        (B, K) targets whose rows sum to 1.

    Raises:
        ValueError: If ``y`` is not a vector of integers, or a label lies outside [0, K). The
            range is only read on the CPU; on a device the indexing kernel itself asserts it.

    Example:
        >>> one_hot(torch.tensor([1]), 4, smoothing=0.2)
        tensor([[0.0500, 0.8500, 0.0500, 0.0500]])
    """
    if y.ndim != 1 or y.is_floating_point() or y.dtype == torch.bool:
        raise ValueError(f"y must be class indices (B,), got {tuple(y.shape)} {y.dtype}")
    if not 0 <= smoothing <= 1:
        raise ValueError(f"smoothing must lie in [0, 1], got {smoothing}")
    if readable(y) and y.numel():
        low, high = (int(end) for end in y.aminmax())
        if not 0 <= low <= high < num_classes:
            raise ValueError(f"labels must lie in [0, {num_classes}), got {low} to {high}")
    off = smoothing / num_classes
    targets = torch.full((y.shape[0], num_classes), off, dtype=dtype, device=y.device)
    return targets.scatter_(1, y.long()[:, None], 1 - smoothing + off)


def take(x: Tensor, perm: Tensor) -> Tensor:
    """Rows of ``x`` in the order ``perm``, on ``x``'s device and in its memory format.

    Args:
        x: (B, ...) values.
        perm: (N,) row indices on any device.

    Returns:
        (N, ...) gathered rows.
    """
    perm = perm.to(x.device, non_blocking=True)
    # Copies whole rows, on the CPU 3 times faster than x[perm], but returns them contiguous.
    last = torch.channels_last
    if x.ndim == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=last):
        return x.permute(0, 2, 3, 1).index_select(0, perm).permute(0, 3, 1, 2)
    return x.index_select(0, perm)


def mix_targets(targets: Tensor, perm: Tensor, lam: Tensor) -> Tensor:
    """Weigh each label by ``lam`` and its partner's by ``1 - lam``.

    Args:
        targets: (B, K) soft or multi-hot labels.
        perm: (B,) partner index.
        lam: (B,) or (1,) weight of the first label.

    Returns:
        (B, K) mixed targets.
    """
    return lerp_(take(targets, perm), targets, lam)


def lerp_(start: Tensor, end: Tensor, weight: Tensor) -> Tensor:
    """Interpolate rows from ``start`` (weight 0) to ``end`` (weight 1) in at least float32.

    Reduced-precision rows are mixed in float32 and rounded once: bf16 weights would lose small
    contributions of either side.

    Args:
        start: (B, ...) rows taken at weight 0; may be overwritten, so hand in a copy.
        end: (B, ...) rows taken at weight 1.
        weight: (B,) or (1,) weights.

    Returns:
        (B, ...) rows of the type and memory format of ``end``.
    """
    wide = torch.promote_types(end.dtype, torch.float32)
    weight = weight.to(end.device, wide, non_blocking=True)
    weight = weight.reshape(-1, *[1] * (end.ndim - 1))
    start, end_wide = start.to(wide), end.to(wide)
    # Autograd copies the whole tensor several times for a write into a view, as ``take`` gives.
    recorded = start.requires_grad and torch.is_grad_enabled()
    mixed = start.lerp(end_wide, weight) if recorded else start.lerp_(end_wide, weight)
    return mixed.to(end.dtype)
