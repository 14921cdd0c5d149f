"""Losses of two networks that play against each other, and their regularisers.

Goodfellow et al., NeurIPS 2014, arXiv:1406.2661; hinge: Miyato et al., ICLR 2018,
arXiv:1802.05957; R1: Mescheder, Geiger, Nowozin, ICML 2018, arXiv:1801.04406; diversity:
Mao et al., CVPR 2019, arXiv:1903.05628.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

GAN_LOSSES = ("log", "hinge")
EPS = 1e-5  # of a distance of images, against a division by 0


def discriminator_loss(real: Tensor, fake: Tensor, kind: str = "log") -> Tensor:
    """Loss of the network that tells observed from made images.

    Args:
        real: (N,) logits of observed images.
        fake: (M,) logits of made images.
        kind: ``log``, the cross-entropy ``-E log D(y) - E log(1 - D(fake))``; or ``hinge``.

    Returns:
        Scalar in float32.

    Raises:
        ValueError: If the kind is unknown.

    Example:
        >>> discriminator_loss(torch.zeros(2), torch.zeros(2))  # 2 log 2
        tensor(1.3863)
    """
    real, fake = real.float(), fake.float()
    if kind == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    _check(kind)
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def generator_loss(fake: Tensor, kind: str = "log", *, saturating: bool = False) -> Tensor:
    """Loss of the networks that make images.

    Args:
        fake: (N,) logits of made images.
        kind: As for :func:`discriminator_loss`; of ``hinge`` it is the mean logit.
        saturating: Of ``log``: minimise ``E log(1 - D)``, the min-max form, whose gradient vanishes
            where the images are told apart well, in place of ``-E log D``.

    Returns:
        Scalar in float32.

    Raises:
        ValueError: If the kind is unknown.

    Example:
        >>> generator_loss(torch.zeros(2)), generator_loss(torch.zeros(2), saturating=True)
        (tensor(0.6931), tensor(-0.6931))
    """
    fake = fake.float()
    if kind == "hinge":
        return -fake.mean()
    _check(kind)
    return -F.softplus(fake).mean() if saturating else F.softplus(-fake).mean()


def r1_penalty(logits: Tensor, x: Tensor) -> Tensor:
    """Mean squared gradient of logits by the images that they are of.

    Args:
        logits: (N,) logits, with a graph to ``x``.
        x: (N, C, H, W) images.

    Returns:
        Scalar, with a graph to the weights.

    Example:
        >>> x = torch.ones(2, 1, 1, 3, requires_grad=True)
        >>> r1_penalty((2 * x).sum(dim=(1, 2, 3)), x)  # 3 pixels of slope 2
        tensor(12.)
    """
    (slope,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    return slope.float().square().sum(dim=(1, 2, 3)).mean()


def diversity_penalty(z: Tensor, made: Tensor) -> Tensor:
    """Distance of latent vectors over that of their images, large where a generator collapses.

    Args:
        z: (N, L) latent vectors.
        made: (N, C, H, W) images of them; the second half of the batch is compared with the first.

    Returns:
        Scalar in float32; 0 for fewer than two images.

    Example:
        >>> z = torch.tensor([[0.0], [1.0]])
        >>> diversity_penalty(z, z.view(2, 1, 1, 1) / 2)
        tensor(2.0000)
    """
    half = len(z) // 2
    if not half:
        return made.float().sum() * 0
    apart = (z[:half] - z[half : 2 * half]).float().abs().mean()
    return apart / ((made[:half] - made[half : 2 * half]).float().abs().mean() + EPS)


def _check(kind: str) -> None:
    if kind not in GAN_LOSSES:
        raise ValueError(f"the loss must be one of {', '.join(GAN_LOSSES)}, got {kind!r}")
