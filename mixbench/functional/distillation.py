"""Distillation: the predictions of a teacher as labels.

Hinton et al., arXiv:1503.02531.
"""

from torch import Tensor

from mixbench.functional.losses import soft_kl


def distillation_loss(logits: Tensor, teacher_logits: Tensor, temperature: float = 4.0) -> Tensor:
    """Divergence from a teacher's softened predictions.

    Args:
        logits: (B, K) output of the network that learns.
        teacher_logits: (B, K) output of the teacher for the same images.
        temperature: Divides the logits of both.

    Returns:
        Scalar ``temperature ** 2`` times the KL divergence in nats, averaged over the batch, so
        that gradients are of one size at any temperature.

    Example:
        >>> import torch
        >>> distillation_loss(torch.zeros(1, 2), torch.ones(1, 2))
        tensor(0.)
    """
    soft = (teacher_logits.float() / temperature).softmax(dim=1)
    return temperature**2 * soft_kl(logits.float() / temperature, soft)
