"""Random decisions that depend on a seed and the number of an image alone.

Neither the batch an image is in, nor the device, nor the order of the images changes what is drawn
for it, so that every method meets the same patterns, attacks and subsets.
"""

import torch
from torch import Tensor

_SIGN = -(1 << 63)
_ADD, _FIRST, _SECOND = (
    value - (1 << 64) for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)


def keys(seed: int, index: Tensor, count: int) -> Tensor:
    """One 64-bit key for each of ``count`` places of each image.

    With h the output function of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014), the key of place j
    of image i is ``h(h(h(seed) xor i) xor j)``.

    Args:
        seed: Seed, any integer of 64 bits.
        index: (B,) int64 numbers of the images.
        count: Number of places.

    Returns:
        (B, count) int64; the bits are those of the unsigned key.
    """
    start = torch.tensor([(seed + (1 << 63)) % (1 << 64) - (1 << 63)], device=index.device)
    places = torch.arange(count, device=index.device)
    return _mix(_mix(_mix(start) ^ index)[:, None] ^ places)


def orders(seed: int, index: Tensor, count: int) -> Tensor:
    """A random order of ``count`` places for each image.

    Args:
        seed: Seed.
        index: (B,) int64 numbers of the images.
        count: Number of places.

    Returns:
        (B, count) int64 places by ascending unsigned key.
    """
    return (keys(seed, index, count) ^ _SIGN).argsort(dim=1, stable=True)


def uniform(seed: int, index: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Numbers in [0, 1) for each image.

    Args:
        seed: Seed.
        index: (B,) int64 numbers of the images.
        shape: Shape of what is drawn for one image.

    Returns:
        (B, *shape) float32 with 24 random bits each.
    """
    drawn = keys(seed, index, torch.Size(shape).numel())
    return (_shifted(drawn, 40).float() / (1 << 24)).view(len(index), *shape)


def subset(total: int, count: int | None, seed: int = 0) -> Tensor:
    """The images that a costly evaluation looks at, the same for every network.

    Args:
        total: Number of images.
        count: How many to choose; all of them if None or too many.
        seed: Seed of the choice.

    Returns:
        (min(count, total),) int64 ascending numbers of images.

    Raises:
        ValueError: If ``count`` is not positive.
    """
    if count is not None and count < 1:
        raise ValueError(f"a subset needs at least one image, got {count}")
    everything = torch.arange(total)
    if count is None or count >= total:
        return everything
    return orders(seed, torch.zeros(1, dtype=torch.int64), total)[0, :count].sort().values


def _mix(z: Tensor) -> Tensor:
    z = z + _ADD  # int64 wraps around
    z = (z ^ _shifted(z, 30)) * _FIRST
    z = (z ^ _shifted(z, 27)) * _SECOND
    return z ^ _shifted(z, 31)


def _shifted(z: Tensor, bits: int) -> Tensor:
    """Shift right without copying the sign."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)
