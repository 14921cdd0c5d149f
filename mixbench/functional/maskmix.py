"""Mixing with a mask, and what AutoMix and SAMix ask of one that is learned.

AutoMix: Liu et al., ECCV 2022, arXiv:2103.13027. SAMix: Li et al., arXiv:2111.15454. Official code
of both: Westlake-AI/openmixup.
"""

import torch
from torch import Tensor

from mixbench.functional.mixed import Mixed, check_batch, check_lam, check_perm, mix_targets, take

MASK_LOSSES = ("L1", "L1+Variance", "L2+Variance", "Sparsity")


def maskmix(x: Tensor, targets: Tensor, *, mask: Tensor, lam: Tensor, perm: Tensor) -> Mixed:
    """Mix every image with its partner, pixel by pixel, and the labels as a whole.

    Args:
        x: (B, C, H, W) images of a floating type.
        targets: (B, K) soft targets.
        mask: (B, 1, H, W) or (1, 1, H, W) weight of the first image, in [0, 1].
        lam: (B,) or (1,) weight of the first label; it need not be the mean of the mask.
        perm: (B,) index of each image's partner.

    Returns:
        Mixed batch with ``lam`` (B,) as applied; gradients reach the mask.

    Raises:
        ValueError: If a shape does not fit, or as :func:`mixbench.functional.check_batch`.

    Example:
        >>> x, targets = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1), torch.eye(2)
        >>> mask, lam = torch.full((1, 1, 1, 1), 0.75), torch.tensor([0.7])
        >>> mixed = maskmix(x, targets, mask=mask, lam=lam, perm=torch.tensor([1, 0]))
        >>> mixed.x.flatten(), mixed.targets[0]
        (tensor([0.2500, 0.7500]), tensor([0.7000, 0.3000]))
    """
    check_batch(x, targets)
    check_lam(lam, len(x))
    check_perm(perm, len(x))
    perm = perm.to(x.device, non_blocking=True)
    lam = lam.reshape(-1).to(x.device, torch.float32, non_blocking=True)
    mixed = blend(x, take(x, perm), mask)
    return Mixed(mixed, mix_targets(targets, perm, lam), lam.expand(len(x)), perm)


def blend(x: Tensor, other: Tensor, mask: Tensor) -> Tensor:
    """Put two batches of images together, pixel by pixel.

    Args:
        x: (B, C, H, W) images of a floating type.
        other: (B, C, H, W) images, one for each of ``x``.
        mask: (B, 1, H, W) or (1, 1, H, W) weight of ``x``, in [0, 1].

    Returns:
        (B, C, H, W) of the type of ``x``; gradients reach the mask.

    Raises:
        ValueError: If a shape does not fit.

    Example:
        >>> blend(torch.ones(1, 1, 1, 2), torch.zeros(1, 1, 1, 2), torch.tensor([[[[0.25, 1.0]]]]))
        tensor([[[[0.2500, 1.0000]]]])
    """
    if x.shape != other.shape:
        raise ValueError(f"images {tuple(x.shape)} and {tuple(other.shape)} differ in shape")
    if mask.ndim != 4 or mask.shape[0] not in (1, len(x)) or mask.shape[1:] != (1, *x.shape[2:]):
        raise ValueError(f"mask {tuple(mask.shape)} does not fit images {tuple(x.shape)}")
    wide = torch.promote_types(x.dtype, mask.dtype)
    # As a lerp, so that two equal pixels stay exactly what they are.
    return other.to(wide).lerp(x.to(wide), mask.to(wide)).to(x.dtype)


def rescale_lam(lam: Tensor, k: float) -> Tensor:
    """Move weights towards the ends or the middle, as SAMix does before its mixer sees them.

    Args:
        lam: Weights in [0, 1], of any shape.
        k: How little they move: slope 1 at 0 is (k + 1) / (k + 1/3). From 0 to 10.

    Returns:
        ``(4/3 t^3 - 2 t^2 + (k + 1) t) / (k + 1/3)``; 0, 0.5 and 1 stay where they are.

    Raises:
        ValueError: If ``k`` is out of range.

    Example:
        >>> rescale_lam(torch.tensor([0.0, 0.25, 0.5, 1.0]), 0.25)
        tensor([0.0000, 0.3571, 0.5000, 1.0000])
    """
    if not 0 <= k <= 10:
        raise ValueError(f"k must lie in [0, 10], got {k}")
    return (4 / 3 * lam**3 - 2 * lam**2 + (k + 1) * lam) / (k + 1 / 3)


def mask_loss(
    mask: Tensor, lam: Tensor, *, mode: str = "L1+Variance", margin: float = 0.1
) -> Tensor:
    """Distance of a learned mask from the area asked for, and from values of 0 and 1.

    Mean and variance are those of the whole batch, as in the official code, not of each image.

    Args:
        mask: (B, 1, H, W) weight of the first image, in [0, 1].
        lam: (B,) or (1,) area asked for.
        mode: ``L1``: distance of the mean from ``lam`` beyond the margin (AutoMix);
            ``L1+Variance``: the same less twice the variance (SAMix); ``L2+Variance``: with squares
            of distance and margin; ``Sparsity``: mean of ``M (1 - M)`` beyond the margin.
        margin: Distance that costs nothing.

    Returns:
        Scalar, in float32; negative where the variance outweighs the distance.

    Raises:
        ValueError: If the mode is unknown.

    Example:
        >>> mask = torch.tensor([1.0, 1.0, 0.0, 0.0]).reshape(1, 1, 2, 2)
        >>> mask_loss(mask, torch.tensor([0.8]), mode="L1"), mask_loss(mask, torch.tensor([0.8]))
        (tensor(0.2000), tensor(-0.3000))
    """
    if mode not in MASK_LOSSES:
        raise ValueError(f"mask loss must be one of {', '.join(MASK_LOSSES)}, got {mode!r}")
    wide = torch.promote_types(mask.dtype, torch.float32)
    mask = mask.to(wide)
    if mode == "Sparsity":
        return ((mask * (1 - mask)).mean() - margin).clamp(min=0)
    gap = mask.mean() - lam.to(mask.device, wide, non_blocking=True).mean()
    area = gap.abs() - margin
    if mode == "L2+Variance":
        area = gap.square() - margin**2
    area = area.clamp(min=0)
    return area if mode == "L1" else area - 2 * mask.var(correction=0)


def adjust_mask(mask: Tensor, lam: Tensor, *, within: float = 0.0) -> Tensor:
    """Rescale the mask of each image so that its mean is ``lam``.

    Args:
        mask: (B, 1, H, W) weight of the first image, in [0, 1].
        lam: (B,) or (1,) mean asked for.
        within: Leave masks whose mean is at most this far from ``lam``.

    Returns:
        (B, 1, H, W) masks; one that is too large is shrunk, and of one that is too small the
        partner's share is, so that all values stay in [0, 1].

    Example:
        >>> mask = torch.tensor([0.2, 0.6]).reshape(1, 1, 1, 2)
        >>> [adjust_mask(mask, torch.tensor([lam])).flatten().tolist() for lam in (0.2, 0.4)]
        [[0.10000000149011612, 0.30000001192092896], [0.20000000298023224, 0.6000000238418579]]
    """
    lam = lam.to(mask.device, mask.dtype, non_blocking=True).reshape(-1, 1, 1, 1)
    mean = mask.mean(dim=(1, 2, 3), keepdim=True)
    smaller, larger = mask * (lam / mean), 1 - (1 - mask) * ((1 - lam) / (1 - mean))
    moved = torch.where(mean > lam, smaller, torch.where(mean < lam, larger, mask))
    return torch.where((mean - lam).abs() > within, moved, mask)


def eta_binary_cross_entropy(
    logits: Tensor, targets: Tensor, eta: float, *, floor: float = 0.0
) -> Tensor:
    """Binary cross-entropy per class, with less weight on classes that the label does not hold.

    Args:
        logits: (B, K) network output.
        targets: (B, K) mixed labels.
        eta: Weight of the classes that are absent from a label, in [0, 1].
        floor: Weight that absent classes have in the label: s/K under label smoothing s.

    Returns:
        Scalar loss in nats, summed over classes and averaged over the batch, in float32.

    Raises:
        ValueError: If ``eta`` is out of range.

    Example:
        >>> logits, targets = torch.zeros(1, 3), torch.tensor([[0.5, 0.5, 0.0]])
        >>> eta_binary_cross_entropy(logits, targets, 0.0)  # 2 log 2
        tensor(1.3863)
    """
    _check_eta(eta)
    targets = targets.float()
    terms = torch.nn.functional.binary_cross_entropy_with_logits(
        logits.float(), targets, reduction="none"
    )
    return torch.where(targets > floor, terms, eta * terms).sum(dim=1).mean()


def pair_cross_entropy(
    logits: Tensor, targets: Tensor, own: Tensor, *, perm: Tensor, lam: Tensor, eta: float
) -> Tensor:
    """Tell the two mixed classes from each other, and with weight ``eta`` from all others.

    A reading of our own of the local and global terms in the abstract of SAMix; the equation of
    the paper was not at hand, and the released code does not hold it.

    Args:
        logits: (B, K) network output.
        targets: (B, K) mixed labels, for the term over all classes.
        own: (B, K) labels before mixing; their largest entries name the two classes.
        perm: (B,) index of each image's partner.
        lam: (B,) or (1,) weight of the first label.
        eta: Weight of the cross-entropy over all classes, in [0, 1].

    Returns:
        Scalar loss in nats, averaged over the batch, in float32. An image whose partner is of its
        own class has the cross-entropy over all classes alone, at full weight.

    Raises:
        ValueError: If ``eta`` is out of range.

    Example:
        >>> logits, own = torch.zeros(2, 4), torch.eye(4)[:2]
        >>> perm, lam = torch.tensor([1, 0]), torch.tensor([0.5])
        >>> pair_cross_entropy(logits, own, own, perm=perm, lam=lam, eta=0.0)  # log 2
        tensor(0.6931)
    """
    _check_eta(eta)
    first = own.argmax(dim=1)
    second = take(first, perm)
    log_p = logits.float().log_softmax(dim=1)
    whole = -(targets.float() * log_p).sum(dim=1)
    pair = log_p.gather(1, torch.stack([first, second], dim=1)).log_softmax(dim=1)
    lam = lam.to(pair.device, torch.float32, non_blocking=True)
    local = -(lam * pair[:, 0] + (1 - lam) * pair[:, 1])
    return torch.where(first == second, whole, local + eta * whole).mean()


def _check_eta(eta: float) -> None:
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie in [0, 1], got {eta}")
