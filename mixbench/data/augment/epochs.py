"""Crop and mirror of a whole epoch at once, for sets that lie in memory as they do on a device.

After airbench (Jordan, arXiv:2404.00498). What is drawn for an image is what its batch would draw,
so that nothing but the time and the memory of a run depends on it.
"""

import math

import torch
from torch import Generator
from torch.utils.data import Dataset

from mixbench.config.schema import DataConfig
from mixbench.data.augment.batches import (
    alternating_flips,
    crop_flip,
    draw_crop_flip,
    to_device_of,
)
from mixbench.data.augment.images import operations
from mixbench.data.images import Batch, ImageSet, ResidentImages
from mixbench.data.sampling import BatchIndex, KeyedBatches

BY_BATCH, BY_EPOCH = "batch", "epoch"
LARGEST = 256 * 2**20  # bytes of pixels that are augmented ahead
SLICE = 4 * 2**20  # bytes that one call crops, which takes five times as much: caches hold that


def augmented_by_epoch(config: DataConfig, images: ImageSet, taken: bool) -> str:
    """Whether the images of an epoch can be cropped and mirrored at once.

    Args:
        config: Reads ``workers``, ``pad`` and what changes single images.
        images: The training set.
        taken: Whether the method trains on images that are cropped already.

    Returns:
        ``epoch``, or ``batch: `` and the reason.
    """
    if config.workers:
        return f"{BY_BATCH}: processes of data.workers load the images"
    if config.pad == "mean":
        return f"{BY_BATCH}: data.pad=mean pads after normalisation"
    if not isinstance(images, ResidentImages) or operations(config):
        return f"{BY_BATCH}: the images are read or changed one by one"
    if not taken:
        return f"{BY_BATCH}: the method makes its input of the images as they are stored"
    return BY_EPOCH


class EpochImages(Dataset[Batch]):
    """A resident set whose training batches are cut from an epoch that is augmented at once.

    The augmented images are uint8 and take as much memory as the set itself, next to it: 146 MiB
    for the 50,000 images of CIFAR. Larger sets are augmented in parts of whole batches, of at most
    256 MiB each. Part by part replaces the one before. A run that goes on inside an epoch augments
    what is left of it, and a process only the images of its own batches.

    Args:
        images: The set, where the batches are read.
        batches: The sampler of the training batches.
        config: Reads ``padding``, ``flip`` and ``flip_rule``.
        largest: Bytes of a part; at least one batch.
    """

    def __init__(
        self,
        images: ImageSet,
        batches: KeyedBatches,
        config: DataConfig,
        largest: int = LARGEST,
    ) -> None:
        self.images, self.batches, self.config = images, batches, config
        self.count = max(1, largest // (batches.batch_size * math.prod(images.shape)))
        self._part: dict[tuple[int, int], Batch] = {}

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, draw: BatchIndex) -> Batch:
        place = (draw.epoch, draw.number)
        if place not in self._part:
            self._part = {}  # before the next one takes memory
            self._part = self._augment(self.batches.draws(draw.epoch, draw.number, self.count))
        return self._part[place]

    def _augment(self, draws: list[BatchIndex]) -> dict[tuple[int, int], Batch]:
        """Batches by epoch and number, with images that are cropped and mirrored."""
        config, size = self.config, self.batches.batch_size
        whole = self.images[BatchIndex(torch.cat([draw.indices for draw in draws]), 0)]
        drawn = [
            draw_crop_flip(
                size, config.padding, config.flip, Generator().manual_seed(draw.method_seed)
            )
            for draw in draws
        ]
        moves = [torch.cat(parts) for parts in zip(*drawn, strict=True)]
        offsets, flips = to_device_of(whole.images, *moves)
        if config.alternating:
            flips = alternating_flips(whole.ids, self.batches.seed, draws[0].epoch)
        rows = max(1, SLICE // whole.images[0].numel())
        pieces = (t.split(rows) for t in (whole.images, offsets, flips))
        for x, offset, flip in zip(*pieces, strict=True):
            x.copy_(crop_flip(x, offset, flip, config.padding))
        parts = zip(*(t.split(size) for t in whole[:3]), strict=True)
        return {
            (draw.epoch, draw.number): Batch(*part, augmented=True)
            for draw, part in zip(draws, parts, strict=True)
        }
