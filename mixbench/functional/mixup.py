"""Input Mixup: convex combinations of two images and of their labels.

Zhang et al., ICLR 2018, arXiv:1710.09412; official code facebookresearch/mixup-cifar10.
"""

import torch
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


def even_shares(lam: Tensor) -> tuple[Tensor, Tensor]:
    """Shares of pixels that interpolation shows of an image and of its partner.

    Args:
        lam: (B,) or (1,) weight of the first image.

    Returns:
        Two shares (B or 1, 1, 1), the same for every pixel.

    Example:
        >>> own, partner = even_shares(torch.tensor([0.75]))
        >>> own.shape, partner.item()
        (torch.Size([1, 1, 1]), 0.25)
    """
    own = lam[:, None, None]
    return own, 1 - own


def mixup(
    x: Tensor,
    targets: Tensor,
    *,
    alpha: float = 1.0,
    per_sample: bool = False,
    prob: float = 1.0,
    partner: str = "random",
    fold: bool = False,
    lam: Tensor | None = None,
    perm: Tensor | None = None,
    generator: Generator | None = None,
) -> Mixed:
    """Interpolate every input with its partner. Decisions that are not given are drawn.

    Args:
        x: (B, ...) inputs of a floating type: images, waveforms or features.
        targets: (B, K) soft or multi-hot labels.
        alpha: Beta(alpha, alpha) of the weight; unused when ``lam`` is given.
        per_sample: Draw one weight per input; the paper draws one per batch.
        prob: Chance that the batch is mixed, with ``per_sample`` that of each row; one that is not
            mixed has the weight 1. Unused when ``lam`` is given.
        partner: How partners are drawn, see :func:`draw_perm`; unused when ``perm`` is given.
        fold: Replace every weight by max(lam, 1 - lam), so that the first image dominates.
        lam: (B,) or (1,) weight of the first image, in [0, 1].
        perm: (B,) index of each input's partner.
        generator: Random source of the drawn decisions (CPU by default).

    Returns:
        Mixed batch with ``lam`` (B,) as applied.

    Raises:
        ValueError: If ``targets`` are class indices, ``x`` is of an integer type, the batch sizes
            differ, ``alpha`` is negative or not finite, or ``lam`` or ``prob`` is no share.

    Example:
        >>> x, targets = torch.tensor([[0.0], [1.0]]), torch.eye(2)
        >>> mixed = mixup(x, targets, lam=torch.tensor([0.75]), perm=torch.tensor([1, 0]))
        >>> mixed.x
        tensor([[0.2500],
                [0.7500]])
        >>> mixed.targets
        tensor([[0.7500, 0.2500],
                [0.2500, 0.7500]])
    """
    check_batch(x, targets)
    batch = x.shape[0]
    if perm is None:
        perm = draw_perm(batch, generator, rule=partner)
    check_perm(perm, batch)
    if lam is None:
        lam = draw_lam(batch if per_sample else 1, alpha, generator, prob=prob)
    else:
        check_lam(lam, batch)
    if fold:
        lam = torch.maximum(lam, 1 - lam)
    perm = perm.to(x.device, non_blocking=True)
    lam = lam.reshape(-1).to(x.device, torch.float32, non_blocking=True)
    mixed = lerp_(take(x, perm), x, lam)
    return Mixed(mixed, mix_targets(targets, perm, lam), lam.expand(batch), perm)
