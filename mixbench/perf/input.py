"""P3: images per CPU second from stored uint8 pixels to augmented, normalised batches.

The resident path of this package against single images through PIL, torchvision's transforms and
a DataLoader. The CPU time of worker processes counts.
"""

import multiprocessing
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset

from mixbench.data.augment.batches import crop_flip, draw_crop_flip, to_float
from mixbench.data.images import ResidentImages
from mixbench.data.sampling import SAMPLE, KeyedBatches, mix_seed
from mixbench.perf.report import Row, Rule
from mixbench.perf.timing import Budget, interleave

PART, BASE = "P3", "PIL, in process"
RESIDENT, WORKER = "resident, mixbench", "PIL, one worker"
BATCH, SIZE, PADDING, SEED = 128, 32, 4, 0
SHAPE = f"B{BATCH} 3x{SIZE}x{SIZE}"
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # of CIFAR-10


def smooth_images(count: int) -> ResidentImages:
    """Blurred random colours with some grain, so that pixels are neither constant nor pure noise.

    Args:
        count: Number of images.

    Returns:
        Images and labels, the same for equal ``count``.
    """
    generator = Generator().manual_seed(SEED)
    coarse = torch.rand(count, 3, 6, 6, generator=generator)
    x = F.interpolate(coarse, size=(SIZE, SIZE), mode="bilinear")
    x = x + 0.05 * torch.randn(x.shape, generator=generator)
    labels = torch.randint(10, (count,), generator=generator)
    return ResidentImages((x * 255).clamp(0, 255).to(torch.uint8), labels)


class SingleImages(Dataset[tuple[Tensor, int]]):
    """The same images one by one through PIL, as torchvision's own data sets hand them out.

    Args:
        images: The set.
        transform: Maps a PIL image to a tensor.
    """

    def __init__(self, images: ResidentImages, transform: Callable[[Any], Tensor]) -> None:
        self.pixels: np.ndarray = images.images.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels: list[int] = images.labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        from PIL import Image

        return self.transform(Image.fromarray(self.pixels[row])), self.labels[row]


def resident_epoch(images: ResidentImages, epoch: int) -> int:
    """One epoch as training reads it, where the images lie.

    Args:
        images: The set, on its device.
        epoch: Number of the epoch, which keys its order and its augmentation.

    Returns:
        Number of images.
    """
    device = images.images.device
    mean, std = (torch.tensor(v, device=device)[:, None, None] for v in (MEAN, STD))
    generator = Generator()
    batches = KeyedBatches(len(images), BATCH, SEED)
    batches.set_epoch(epoch)
    count = 0
    for number, batch in enumerate(DataLoader(images, batch_size=None, sampler=batches)):
        generator.manual_seed(mix_seed(SAMPLE, SEED, epoch, number))
        offsets, flips = draw_crop_flip(len(batch.images), PADDING, True, generator)
        x = (to_float(crop_flip(batch.images, offsets, flips, PADDING)) - mean) / std
        count += len(x)
    return count


def single_epoch(images: SingleImages, workers: int, device: torch.device) -> int:
    """One epoch through a DataLoader; its worker has ended when this returns.

    Args:
        images: The set.
        workers: Worker processes.
        device: Where the batches go.

    Returns:
        Number of images.
    """
    # A forked worker starts at once; one that imports torch anew would be charged for it.
    fork = workers > 0 and "fork" in multiprocessing.get_all_start_methods()
    loader = DataLoader(
        images,
        batch_size=min(BATCH, len(images)),
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        multiprocessing_context="fork" if fork else None,
        generator=Generator().manual_seed(SEED),
    )
    count = 0
    for x, _ in loader:
        count += len(x.to(device))
    return count


def cpu_seconds() -> float:
    """CPU time of this process and of all its processes that have ended.

    Returns:
        Seconds.
    """
    import resource  # not on every platform

    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


def per_batch(
    epoch: Callable[[], int], device: torch.device, batch: int = BATCH
) -> Callable[[], float]:
    """Measure an epoch with all processes that it starts.

    Args:
        epoch: Reads an epoch and returns its number of images.
        device: Where it ends.
        batch: Images per batch.

    Returns:
        Measures once and returns CPU seconds per batch.
    """

    def measure() -> float:
        multiprocessing.active_children()  # collects what ended before
        begin = cpu_seconds()
        count = epoch()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        multiprocessing.active_children()
        return (cpu_seconds() - begin) / count * batch

    return measure


def measure(device: torch.device, budget: Budget) -> list[Row]:
    """Time one epoch of each path, in turn.

    Args:
        device: Where the batches end.
        budget: Number of images and of turns.

    Returns:
        Rows, skipped ones included.
    """
    images = smooth_images(budget.images)
    resident, epochs = images.to(device), iter(range(1, budget.input_rounds + 1))
    resident_epoch(resident, 0)
    measures = {RESIDENT: per_batch(lambda: resident_epoch(resident, next(epochs)), device)}
    notes = {
        BASE: "RandomCrop, RandomHorizontalFlip, ToTensor, Normalize per image",
        WORKER: "the same in a forked worker, its CPU time and its start included",
        RESIDENT: "uint8 tensor, keyed batches, crop, flip and normalise per batch",
    }
    skipped = ""
    try:
        from torchvision import transforms
    except ImportError:
        skipped = "torchvision is not installed"
    else:
        steps = [
            transforms.RandomCrop(SIZE, padding=PADDING),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
        single = SingleImages(images, transforms.Compose(steps))
        measures[BASE] = per_batch(lambda: single_epoch(single, 0, device), device)
        measures[WORKER] = per_batch(lambda: single_epoch(single, 1, device), device)
    seconds = interleave(measures, budget.input_rounds)
    return [
        Row(
            PART,
            SHAPE,
            name,
            BATCH,
            [1000 * value for value in seconds.get(name, [])],
            note=notes[name],
            skipped="" if name in seconds else skipped,
        )
        for name in (BASE, WORKER, RESIDENT)
    ]


def rules(device: torch.device) -> list[Rule]:
    """What must hold; to beat the better PIL path is to beat both.

    Args:
        device: Where it was measured; the rules are the same on all.

    Returns:
        One rule per PIL path.
    """
    del device
    return [Rule(PART, SHAPE, RESIDENT, peer, 8.0) for peer in (BASE, WORKER)]
