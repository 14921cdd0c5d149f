"""Mixing of test images, for suites that judge what a method mixes."""

import math

import torch
from torch import Tensor

import mixbench.functional as mf
from mixbench.data.augment.batches import to_float
from mixbench.data.sampling import SAMPLE, SHARED, mix_seed
from mixbench.methods.base import Method


def normalizes_by_channel(method: Method) -> bool:
    """True if a method does no more to pixels than to take the data's mean and divide by the std.

    Args:
        method: The method, on the CPU.

    Returns:
        False for BC+ and whatever else has a rule of its own.
    """
    info = method.info
    shape = (1, info.channels, 2, 2)
    probe = torch.linspace(0, 1, math.prod(shape)).reshape(shape)
    mean, std = (torch.tensor(values)[:, None, None] for values in (info.mean, info.std))
    return torch.equal(method.normalize(probe), (probe - mean) / std)


@torch.no_grad()
def mix_for_evaluation(
    method: Method, images: Tensor, labels: Tensor, perm: Tensor, *key: int
) -> tuple[Tensor, mf.Mixed]:
    """Mix images without augmentation.

    Args:
        method: The method; its layers keep their mode.
        images: (B, C, H, W) uint8.
        labels: (B,) class indices.
        perm: (B,) partners.
        *key: Numbers from which alone all other decisions are drawn.

    Returns:
        The normalised batch, and what became of it and of its labels after ``predict``.
    """
    method.generator.manual_seed(mix_seed(SAMPLE, *key))
    method.shared_generator.manual_seed(mix_seed(SHARED, *key))
    x = method._layout(method.normalize(to_float(images)))
    mixed = method.mix(x, mf.one_hot(labels, method.info.num_classes), perm=perm)
    return x, method.predict(mixed)[1]
