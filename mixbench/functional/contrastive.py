"""Losses of mixed views without labels, for the self-supervised SAMix.

Momentum contrast: He et al., CVPR 2020, arXiv:1911.05722. Mixed: Li et al., arXiv:2111.15454;
official code Westlake-AI/openmixup.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mixbench.functional.mixed import check_lam


def info_nce(z: Tensor, positive: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """Find the key of the other view of each image among those in a queue.

    Args:
        z: (B, D) unit vectors of the trained encoder.
        positive: (B, D) unit keys of the same images; no gradient flows to them.
        queue: (D, N) unit keys of other images.
        temperature: Divisor of the cosines, > 0.

    Returns:
        (B,) loss of each image in nats, in float32.

    Example:
        >>> z, queue = torch.eye(2), torch.zeros(2, 3)
        >>> info_nce(z, z, queue, 1.0)  # log(1 + 3/e)
        tensor([0.7437, 0.7437])
    """
    z, positive, queue = z.float(), positive.detach().float(), queue.detach().float()
    with torch.autocast(z.device.type, enabled=False):  # which would round all cosines to bfloat16
        others = z @ queue
    scores = torch.cat([(z * positive).sum(dim=1, keepdim=True), others], dim=1) / temperature
    return F.cross_entropy(scores, scores.new_zeros(len(z), dtype=torch.long), reduction="none")


def mixed_info_nce(
    z: Tensor, first: Tensor, second: Tensor, queue: Tensor, lam: Tensor, temperature: float
) -> Tensor:
    """Find the keys of both images in a mixed one, each weighed by its share.

    Args:
        z: (B, D) unit vectors of the mixed images.
        first: (B, D) unit keys of the first images.
        second: (B, D) unit keys of their partners.
        queue: (D, N) unit keys of other images.
        lam: (B,) or (1,) weight of the first image.
        temperature: Divisor of the cosines, > 0.

    Returns:
        Scalar loss in nats, in float32.

    Raises:
        ValueError: If ``lam`` is of the wrong number or no share.
    """
    check_lam(lam, len(z))
    lam = lam.to(z.device, torch.float32, non_blocking=True)
    one, other = (info_nce(z, keys, queue, temperature) for keys in (first, second))
    return (lam * one + (1 - lam) * other).mean()


def two_way_nce(
    z: Tensor, first: Tensor, second: Tensor, lam: Tensor, temperature: float
) -> Tensor:
    """Tell the keys of the two images in a mixed one from each other, without a queue.

    Args:
        z: (B, D) unit vectors of the mixed images.
        first: (B, D) unit keys of the first images.
        second: (B, D) unit keys of their partners.
        lam: (B,) or (1,) weight of the first image.
        temperature: Divisor of the cosines, > 0.

    Returns:
        Scalar loss in nats, in float32.

    Raises:
        ValueError: If ``lam`` is of the wrong number or no share.
    """
    check_lam(lam, len(z))
    z, lam = z.float(), lam.to(z.device, torch.float32, non_blocking=True)
    gap = (z * (first - second).detach().float()).sum(dim=1) / temperature
    return (lam * F.softplus(-gap) + (1 - lam) * F.softplus(gap)).mean()
