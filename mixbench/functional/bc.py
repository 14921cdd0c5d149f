"""Between-class learning (BC) and its waveform-like form BC+.

Tokozume, Ushiku, Harada, CVPR 2018, arXiv:1711.10284; official code
mil-tokyo/bc_learning_image.
"""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from mixbench.functional.draws import draw_lam
from mixbench.functional.mixed import Mixed, check_batch, check_lam, lerp_, readable, take


def subtract_image_mean(x: Tensor) -> Tensor:
    """Remove each image's mean over all its channels and pixels, as BC+ does before scaling.

    Args:
        x: (B, ...) images of a floating type.

    Returns:
        (B, ...) zero-mean images.
    """
    return x - x.mean(dim=tuple(range(1, x.ndim)), keepdim=True)


def pixel_std(x: Tensor) -> Tensor:
    """Loudness of each image: population deviation over all its values, in float32.

    Args:
        x: (B, ...) images.

    Returns:
        (B,) deviations.
    """
    flat = x.float().flatten(1).contiguous()
    # As Tensor.std, which is 20 times slower on the CPU.
    centred = flat - flat.mean(dim=1, keepdim=True)
    return torch.linalg.vector_norm(centred, dim=1) / flat.shape[1] ** 0.5


def bc_plus_lam(ratio: Tensor, gain: Tensor, partner_gain: Tensor) -> Tensor:
    """Weight at which the first image is heard with share ``ratio``.

    Solves ``p g1 / ((1 - p) g2) = r / (1 - r)`` in the form ``r g2 / (r g2 + (1 - r) g1)``, which
    has no division by zero at r = 0 or g2 = 0. Two silent images give ``p = r``.

    Args:
        ratio: (B,) label ratio r of the first image, in [0, 1].
        gain: (B,) loudness g1 of the first images.
        partner_gain: (B,) loudness g2 of their partners.

    Returns:
        (B,) weight p of the first image, in [0, 1].
    """
    first, second = ratio * partner_gain, (1 - ratio) * gain
    total = first + second
    return torch.where(total > 0, first / torch.where(total > 0, total, 1), ratio)


def draw_other_class(targets: Tensor, generator: Generator | None = None) -> Tensor:
    """Draw for every row a uniformly random partner of another class from the batch.

    Args:
        targets: (B, K) single-label targets; the class is their argmax.
        generator: Random source of the scores (CPU by default).

    Returns:
        (B,) partner index on ``targets``' device. A row that has no partner of another class is
        paired with itself.
    """
    batch = targets.shape[0]
    device = generator.device if generator is not None else None
    scores = torch.rand(batch, batch, generator=generator, device=device)
    scores = scores.to(targets.device, non_blocking=True)
    y = targets.argmax(dim=1)
    same = y[:, None] == y
    # A score below every draw marks the row itself: it wins only where all others are masked.
    scores = scores.masked_fill(same, -2).masked_fill(torch.eye(batch, device=y.device) > 0, -1)
    return scores.argmax(dim=1)


def draw_other_class_pairs(
    labels: Tensor, count: int, generator: Generator | None = None
) -> Tensor:
    """Draw pairs of a whole data set, uniform over all ordered pairs of different classes.

    This is the distribution of drawing two images with replacement until their labels differ,
    without the rejection loop.

    Args:
        labels: (N,) class indices of the data set, on the CPU.
        count: Number of pairs.
        generator: CPU random source.

    Returns:
        (2, count) int64 indices of first and second images.

    Raises:
        ValueError: If all labels are equal.
    """
    labels = labels.long()  # uint8 would index as a mask
    total = labels.shape[0]
    order = labels.argsort(stable=True)
    sizes = labels.bincount()
    others = total - sizes[labels]
    if int(others.max()) == 0:
        raise ValueError("between-class pairs need at least two classes, the data has one")
    first = torch.multinomial(others.double(), count, replacement=True, generator=generator)
    # The other classes' images are the sorted order with one block, the own class, left out.
    block = (sizes.cumsum(0) - sizes)[labels[first]]
    spot = (torch.rand(count, dtype=torch.float64, generator=generator) * others[first]).long()
    second = order[torch.where(spot >= block, spot + sizes[labels[first]], spot)]
    return torch.stack([first, second])


def bc(
    x: Tensor,
    targets: Tensor,
    *,
    plus: bool = False,
    prob: float = 1.0,
    lam: Tensor | None = None,
    perm: Tensor | None = None,
    gain: Callable[[Tensor], Tensor] = pixel_std,
    generator: Generator | None = None,
) -> Mixed:
    """Mix inputs of different classes at a random ratio. Missing decisions are drawn.

    BC divides internally, ``r x1 + (1 - r) x2``. BC+ weighs by loudness and keeps the energy,
    ``(p x1 + (1 - p) x2) / sqrt(p^2 + (1 - p)^2)`` with p of :func:`bc_plus_lam`. Train on the
    result with :func:`soft_kl`.

    Args:
        x: (B, ...) inputs of a floating type; for BC+ normalised to zero image mean, see
            :func:`subtract_image_mean`.
        targets: (B, K) single-label targets.
        plus: Use BC+.
        prob: Chance of each input to be mixed; others have the ratio 1. Unused when ``lam`` is
            given.
        lam: (N,) label ratio r of the first image; drawn uniform in [0, 1] per example.
        perm: (N,) index of the partners of the first N inputs, N <= B; the other inputs then
            serve as partners only. Drawn with :func:`draw_other_class`, N = B.
        gain: Maps inputs (B, ...) to their loudness (B,), for BC+ on other signals than images.
        generator: Random source of the drawn decisions (CPU by default).

    Returns:
        Mixed batch of N rows with ``lam`` (N,) the label ratio and ``aux`` the image weight p (N,).

    Raises:
        ValueError: If ``targets`` are class indices or multi-label (read on the CPU only, where
            looking costs no synchronisation), ``x`` is of an integer type, sizes differ, or
            ``lam`` is no share.

    Example:
        >>> x, targets = torch.tensor([[1.0, -1.0], [3.0, -3.0]]), torch.eye(2)
        >>> bc(x, targets, plus=True, lam=torch.tensor([0.5, 0.5])).aux
        tensor([0.7500, 0.2500])
    """
    check_batch(x, targets)
    if readable(targets) and (targets.sum(1) - 1).abs().max() > 1e-3:
        raise ValueError("bc needs single-label targets whose rows sum to 1; use SpliceMix")
    if perm is None:
        perm = draw_other_class(targets, generator)
    rows = perm.shape[0]
    if lam is None:
        lam = draw_lam(rows, 1.0, generator, prob=prob)
    else:
        check_lam(lam, rows)
    perm = perm.to(x.device, non_blocking=True)
    lam = lam.reshape(-1).to(x.device, torch.float32, non_blocking=True).expand(rows)
    first, partner = x[:rows], take(x, perm)
    soft = lerp_(take(targets, perm), targets[:rows], lam)
    if not plus:
        return Mixed(lerp_(partner, first, lam), soft, lam, perm, lam)
    loudness = gain(x)
    weight = bc_plus_lam(lam, loudness[:rows], take(loudness, perm))
    # The sum of an image with itself is not one of uncorrelated signals: it stays as it is.
    weight = torch.where(perm == torch.arange(rows, device=perm.device), 1, weight)
    norm = (weight.square() + (1 - weight).square()).sqrt()
    scale, partner_scale = (
        (share / norm).reshape(-1, *[1] * (x.ndim - 1)) for share in (weight, 1 - weight)
    )
    mixed = (first.float() * scale).addcmul_(partner.float(), partner_scale)
    return Mixed(mixed.to(x.dtype), soft, lam, perm, weight)
