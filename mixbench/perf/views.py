"""P3, views: images per CPU second from stored pixels to normalised images with AugMix views.

Whole batches on their device against single images through Pillow, both of this package and with
the same draws, and the transform of torchvision that bears the name.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor
from torch.utils.data import default_collate

import mixbench.functional as mf
from mixbench.config.schema import DataConfig
from mixbench.data.augment.augmix import AugMixImages
from mixbench.data.augment.batches import crop_flip, draw_crop_flip, to_float
from mixbench.data.sampling import BatchIndex, KeyedBatches
from mixbench.native.library import serves
from mixbench.perf.benchmark import Case
from mixbench.perf.input import (
    BASE,
    MEAN,
    PADDING,
    RESIDENT,
    SEED,
    STD,
    EpochBenchmark,
    smooth_images,
)
from mixbench.perf.peers import NOT_INSTALLED, Variant
from mixbench.perf.report import Limit, Rule
from mixbench.perf.timing import Budget

VIEWS = 2  # of an image
MOST = 1024  # images of an epoch, as Pillow takes long
TORCHVISION = "torchvision AugMix"

Read = Callable[[BatchIndex], tuple[Tensor, Tensor]]  # images and views, in [0, 1]


def view_epoch(read: Read, count: int, epoch: int, device: torch.device, batch: int) -> int:
    """One epoch of normalised images with their views.

    Args:
        read: Reads a batch.
        count: Images of the set.
        epoch: Number of the epoch, which keys its order and all draws.
        device: Where the batches go.
        batch: Images per batch, at most the whole set.

    Returns:
        Number of images.
    """
    mean, std = (torch.tensor(v, device=device)[:, None, None] for v in (MEAN, STD))
    batches = KeyedBatches(count, min(batch, count), SEED)
    batches.set_epoch(epoch)
    done = 0
    for index in batches:
        images, views = (part.to(device, non_blocking=True) for part in read(index))
        ready = [(part - mean) / std for part in (images, views)]
        done += len(ready[0])
    return done


def by_tensors(images: Any) -> Read:
    """The path of ``method.backend=tensor``."""

    def read(index: BatchIndex) -> tuple[Tensor, Tensor]:
        batch = images[index]
        generator = Generator().manual_seed(index.method_seed)
        moves = draw_crop_flip(len(batch.images), PADDING, True, generator)
        pixels = crop_flip(batch.images, *moves, PADDING)
        chains = mf.draw_chains(VIEWS * len(pixels), generator=generator)
        return to_float(pixels), mf.augmix(pixels, chains=chains)

    return read


def by_pillow(images: Any) -> Read:
    """The path of ``method.backend=pil``."""

    def draw(count: int, generator: Generator) -> mf.Chains:
        return mf.draw_chains(count, generator=generator)

    dataset = AugMixImages(images, DataConfig(crop=PADDING, flip=True), draw, VIEWS)

    def read(index: BatchIndex) -> tuple[Tensor, Tensor]:
        batch = dataset[index]
        assert batch.views is not None
        return to_float(batch.images), batch.views.x

    return read


def by_torchvision(images: Any) -> Read | None:
    """The path of torchvision's transforms on single images; None without it."""
    try:
        from torchvision import transforms
    except ImportError:
        return None
    crop = transforms.Compose(
        [transforms.RandomCrop(images.shape[1:], PADDING), transforms.RandomHorizontalFlip()]
    )
    augmix = transforms.AugMix(severity=3, mixture_width=3, chain_depth=-1, all_ops=False)

    def read(index: BatchIndex) -> tuple[Tensor, Tensor]:
        clean = [crop(images.images[row]) for row in index.indices.tolist()]
        views = [augmix(image) for _ in range(VIEWS) for image in clean]
        return to_float(default_collate(clean)), to_float(default_collate(views))

    return read


class ViewBenchmark(EpochBenchmark):
    """P3, views; batches on their device cost a tenth of single images."""

    case = Case(256, f"B256 3x32x32 with {VIEWS} AugMix views")  # the batch of the recipe quick

    def own(self, case: Case, device: torch.device, budget: Budget) -> list[Variant]:
        images = smooth_images(min(budget.images, MOST))
        count, means = len(images), "C code" if serves(torch.empty(0, device=device)) else "torch"

        def epochs(read: Read) -> Callable[[int], int]:
            return lambda epoch: view_epoch(read, count, epoch, device, case.batch)

        variants = [
            Variant(BASE, epochs(by_pillow(images)), "backend=pil: one image after the other"),
            Variant(RESIDENT, epochs(by_tensors(images.to(device))), f"backend=tensor, by {means}"),
        ]
        theirs = by_torchvision(images)
        if theirs is None:
            return [*variants, Variant(TORCHVISION, skipped=NOT_INSTALLED)]
        note = "single tensors; levels in steps, views rounded to uint8"
        return [*variants, Variant(TORCHVISION, epochs(theirs), note)]

    def rules(self, device: torch.device) -> list[Rule | Limit]:
        return [Rule(self.part, str(self.case), RESIDENT, BASE, 10.0)]
