"""Losses to soft labels, in float32."""

import torch
import torch.nn.functional as F
from torch import Tensor


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy to soft targets, in float32, averaged over the batch.

    Args:
        logits: (B, K) network output.
        targets: (B, K) soft labels.

    Returns:
        Scalar loss in nats.
    """
    return F.cross_entropy(logits.float(), targets.float())


def soft_kl(logits: Tensor, targets: Tensor) -> Tensor:
    """KL divergence from softmax(logits) to soft targets, with ``0 log 0 = 0``.

    Its gradient is that of :func:`soft_cross_entropy`; its value is lower by the entropy of the
    targets, so the two are not comparable between methods.

    Args:
        logits: (B, K) network output.
        targets: (B, K) soft labels whose rows sum to 1.

    Returns:
        Scalar loss in nats, summed over classes and averaged over the batch.
    """
    targets = targets.float()
    log_probs = F.log_softmax(logits.float(), dim=1)
    return (torch.xlogy(targets, targets) - targets * log_probs).sum(dim=1).mean()


def soft_binary_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy per class for multi-label targets, in float32.

    Args:
        logits: (B, K) network output.
        targets: (B, K) multi-hot or mixed labels in [0, 1]; NaN where a label is unknown, which
            mixing hands on to every image that such a label is part of.

    Returns:
        Scalar loss in nats, averaged over the labels that are known; 0 where none is.

    Example:
        >>> soft_binary_cross_entropy(torch.zeros(1, 2), torch.tensor([[1.0, float("nan")]]))
        tensor(0.6931)
    """
    unknown, targets = targets.isnan(), targets.float().nan_to_num()
    losses = F.binary_cross_entropy_with_logits(logits.float(), targets, reduction="none")
    known = (~unknown).sum().clamp(min=1)
    return losses.masked_fill(unknown, 0).sum() / known
