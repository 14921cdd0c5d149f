"""Corruptions by noise: Gaussian, shot, impulse and speckle."""

from functools import cache

import torch
from torch import Tensor

from mixbench.evaluation.corruptions.filters import unit_pixels


def gaussian_noise(images: Tensor, sigma: float, z: Tensor) -> Tensor:
    """Noise that is added.

    Args:
        images: (B, 3, H, W) uint8.
        sigma: Standard deviation, of 1.
        z: (B, 3, H, W) standard normal numbers.

    Returns:
        (B, 3, H, W) float64 grey levels.
    """
    return (unit_pixels(images) + sigma * z.double()).clamp(0, 1) * 255


def speckle_noise(images: Tensor, sigma: float, z: Tensor) -> Tensor:
    """Noise in proportion to the brightness; arguments as for :func:`gaussian_noise`."""
    x = unit_pixels(images)
    return (x + x * (sigma * z.double())).clamp(0, 1) * 255


def impulse_noise(images: Tensor, amount: float, u: Tensor, salt: Tensor) -> Tensor:
    """Values that become 0 or 1, each channel of a pixel for itself.

    Args:
        images: (B, 3, H, W) uint8.
        amount: Share of the values.
        u: (B, 3, H, W) uniform numbers; a value is replaced where they are ``amount`` or less.
        salt: (B, 3, H, W) bool, whether it becomes 1.

    Returns:
        (B, 3, H, W) float64 grey levels.
    """
    return torch.where(u <= amount, 255.0 * salt.double(), images.double())


def shot_noise(images: Tensor, photons: float, u: Tensor) -> Tensor:
    """Numbers of photons by Poisson's distribution, as a quantile of a uniform number.

    Args:
        images: (B, 3, H, W) uint8.
        photons: Mean number of photons of a white value.
        u: (B, 3, H, W) uniform numbers below 1.

    Returns:
        (B, 3, H, W) float64 grey levels.
    """
    return (photon_counts(images, photons, u).double() / photons).clamp(0, 1) * 255


def photon_counts(images: Tensor, photons: float, u: Tensor) -> Tensor:
    """The smallest count whose distribution function is ``u`` or more, 0 where a value is 0.

    Arguments are those of :func:`shot_noise`.

    Returns:
        (B, 3, H, W) int64.
    """
    table = _distribution(photons).to(images.device)
    levels = images.long()
    # All rows in one: that of a grey level lies between this level and the next.
    found = torch.searchsorted(table.flatten(), levels.double() + u.double())
    return (found - levels * table.shape[1]).where(levels > 0, 0)


@cache
def _distribution(photons: float) -> Tensor:
    """Poisson's distribution function for each grey level (256, counts), plus the level."""
    counts = int(photons + 12 * photons**0.5 + 30)
    mean = torch.arange(256, dtype=torch.float64)[:, None] / 255 * photons
    n = torch.arange(counts, dtype=torch.float64)
    function = torch.special.gammaincc(n + 1, mean.clamp(min=1e-300))
    # Rounding must not let a row fall, nor reach into the next.
    function = function.cummax(dim=1).values.clamp(max=1 - 1e-12)
    return function + torch.arange(256, dtype=torch.float64)[:, None]
