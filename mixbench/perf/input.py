"""P3: images per CPU second from stored uint8 pixels to augmented, normalised batches.

The resident path of this package against single images through PIL, torchvision's transforms and
a DataLoader. The CPU time of worker processes counts.
"""

import itertools
import multiprocessing
import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset

from mixbench.config.schema import DataConfig
from mixbench.data.augment.batches import crop_flip, draw_crop_flip, to_device_of, to_float
from mixbench.data.augment.epochs import EpochImages
from mixbench.data.images import ResidentImages
from mixbench.data.sampling import SAMPLE, KeyedBatches, mix_seed
from mixbench.perf.benchmark import Benchmark, Case
from mixbench.perf.peers import NOT_INSTALLED, Variant
from mixbench.perf.report import Limit, Rule
from mixbench.perf.timing import Budget

BASE = "PIL, in process"
IN_WORKER = "the same in a forked worker, its CPU time and its start included"
RESIDENT, WORKER = "resident, mixbench", "PIL, one worker"
WHOLE, COMPILED = "resident, a whole epoch at once", "resident, compiled"
SIZE, PADDING, SEED = 32, 4, 0
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


class SingleImages(Dataset[Tensor]):
    """Images one by one through PIL, as torchvision's own data sets hand them out.

    Args:
        count: Number of images.
        read: Gives the PIL image of a row.
        transform: Maps it to a tensor.
    """

    def __init__(
        self, count: int, read: Callable[[int], Any], transform: Callable[[Any], Tensor]
    ) -> None:
        self.count, self.read, self.transform = count, read, transform

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> Tensor:
        return self.transform(self.read(row))


def augmented(
    pixels: Tensor, offsets: Tensor, flips: Tensor, stats: tuple[Tensor, Tensor], padding: int
) -> Tensor:
    """What a method makes of uint8 images before it mixes them.

    Args:
        pixels: (B, 3, H, W) uint8.
        offsets: (B, 2) of :func:`draw_crop_flip`, on the device of the images.
        flips: (B,) of it.
        stats: Mean and deviation of each channel, (3, 1, 1).
        padding: Pixels around the image in which the crop moves.

    Returns:
        (B, 3, H, W) network input.
    """
    return (to_float(crop_flip(pixels, offsets, flips, padding)) - stats[0]) / stats[1]


def keyed_epoch(
    images: Any,
    epoch: int,
    device: torch.device,
    batch: int,
    padding: int = 0,
    workers: int = 0,
    augment: Callable[..., Tensor] = augmented,
) -> int:
    """One epoch as training reads it: uint8 batches where the images lie, the rest on the device.

    Args:
        images: The set.
        epoch: Number of the epoch, which keys its order and its augmentation.
        device: Where the batches go.
        batch: Images per batch, at most the whole set.
        padding: Pixels around the image in which the crop moves.
        workers: Worker processes.
        augment: :func:`augmented`, or the same compiled.

    Returns:
        Number of images.
    """
    stats = _stats(device)
    batches = _batches(images, epoch, batch)
    options: Any = {"num_workers": workers, "multiprocessing_context": _context(workers)}
    count = 0
    for number, part in enumerate(DataLoader(images, batch_size=None, sampler=batches, **options)):
        pixels = part.images.to(device, non_blocking=True)
        moves = to_device_of(pixels, *_moves(epoch, number, len(pixels), padding))
        count += len(augment(pixels, *moves, stats, padding))
    return count


def whole_epoch(
    images: ResidentImages, epoch: int, device: torch.device, batch: int, padding: int
) -> int:
    """The same epoch as ``data.augment_by=epoch`` makes it: augmented at once, cut into batches.

    Args:
        images: The set, on the device.
        epoch: Number of the epoch.
        device: Where the batches go.
        batch: Images per batch, at most the whole set.
        padding: Pixels around the image in which the crop moves.

    Returns:
        Number of images.
    """
    (mean, std), batches = _stats(device), _batches(images, epoch, batch)
    whole = EpochImages(images, batches, DataConfig(crop=padding))
    loader = DataLoader(whole, batch_size=None, sampler=batches)
    return sum(len((to_float(part.images) - mean) / std) for part in loader)


def _batches(images: Any, epoch: int, batch: int) -> KeyedBatches:
    batches = KeyedBatches(len(images), min(batch, len(images)), SEED)
    batches.set_epoch(epoch)
    return batches


def _moves(epoch: int, number: int, rows: int, padding: int) -> tuple[Tensor, Tensor]:
    generator = Generator().manual_seed(mix_seed(SAMPLE, SEED, epoch, number))
    return draw_crop_flip(rows, padding, True, generator)


def _stats(device: torch.device) -> tuple[Tensor, Tensor]:
    mean, std = (torch.tensor(v, device=device)[:, None, None] for v in (MEAN, STD))
    return mean, std


def single_epoch(images: SingleImages, device: torch.device, batch: int, workers: int = 0) -> int:
    """One epoch through a DataLoader; its worker has ended when this returns.

    Args:
        images: The set.
        device: Where the batches go.
        batch: Images per batch, at most the whole set.
        workers: Worker processes.

    Returns:
        Number of images.
    """
    loader = DataLoader(
        images,
        batch_size=min(batch, len(images)),
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        multiprocessing_context=_context(workers),
        generator=Generator().manual_seed(SEED),
    )
    return sum(len(x.to(device)) for x in loader)


def _context(workers: int) -> str | None:
    # A forked worker starts at once; one that imports torch anew would be charged for it.
    return "fork" if workers and "fork" in multiprocessing.get_all_start_methods() else None


def cpu_seconds() -> float:
    """CPU time of this process and of all its processes that have ended.

    Returns:
        Seconds.
    """
    import resource  # not on every platform

    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


def per_batch(epoch: Callable[[], int], device: torch.device, batch: int) -> Callable[[], float]:
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


def pillow_steps(first: str, **options: Any) -> Any:
    """Transforms of single images by torchvision: a crop, mirroring and normalisation.

    Args:
        first: Name of the crop in ``torchvision.transforms``.
        **options: Its arguments.

    Returns:
        The transform, or None without torchvision.
    """
    try:
        from torchvision import transforms
    except ImportError:
        return None
    return transforms.Compose(
        [
            getattr(transforms, first)(**options),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )


class EpochBenchmark(Benchmark):
    """A part whose variants read an epoch of images and return their number; CPU time per batch."""

    part, base = "P3", BASE
    case: ClassVar[Case]

    def cases(self, device: torch.device) -> tuple[Case, ...]:
        return (self.case,)

    def rounds(self, budget: Budget) -> int:
        return budget.input_rounds

    def timer(
        self, call: Callable[[int], Any], device: torch.device, budget: Budget
    ) -> Callable[[], float]:
        numbers = itertools.count()
        timer = per_batch(lambda: call(next(numbers)), device, self.case.batch)
        timer()  # the first epoch builds tables
        return timer


class InputBenchmark(EpochBenchmark):
    """P3, stored pixels; to beat the better PIL path is to beat both."""

    case = Case(128, f"B128 3x{SIZE}x{SIZE}")

    def own(self, case: Case, device: torch.device, budget: Budget) -> list[Variant]:
        images = smooth_images(budget.images)
        pixels = images.images.permute(0, 2, 3, 1).contiguous().numpy()
        resident = images.to(device)
        steps = pillow_steps("RandomCrop", size=SIZE, padding=PADDING)
        single = SingleImages(len(images), lambda row: Image.fromarray(pixels[row]), steps)
        paths = {
            BASE: (
                lambda epoch: single_epoch(single, device, case.batch),
                "RandomCrop, RandomHorizontalFlip, ToTensor, Normalize per image",
            ),
            WORKER: (lambda epoch: single_epoch(single, device, case.batch, 1), IN_WORKER),
            RESIDENT: (
                lambda epoch: keyed_epoch(resident, epoch, device, case.batch, PADDING),
                "uint8 tensor, keyed batches, crop, flip and normalise per batch",
            ),
            WHOLE: (
                lambda epoch: whole_epoch(resident, epoch, device, case.batch, PADDING),
                "as data.augment_by=epoch does: the same numbers, cropped and mirrored at once",
            ),
        }
        if device.type != "cpu":  # where it takes seconds to compile, and saves none
            call = torch.compile(augmented, fullgraph=True)
            paths[COMPILED] = (
                lambda epoch: keyed_epoch(
                    resident, epoch, device, case.batch, PADDING, augment=call
                ),
                "as trainer.compile_input does: crop, flip and normalise in one kernel",
            )
        return input_variants(paths, () if steps else (BASE, WORKER))

    def rules(self, device: torch.device) -> list[Rule | Limit]:
        return [Rule(self.part, str(self.case), RESIDENT, peer, 8.0) for peer in (BASE, WORKER)]


def input_variants(
    paths: dict[str, tuple[Callable[[int], int], str]], skipped: Sequence[str]
) -> list[Variant]:
    """Variants of paths of images.

    Args:
        paths: By name what reads an epoch of a number, and a note.
        skipped: Names of those that need torchvision where it is missing.

    Returns:
        Variants in the same order.
    """
    why = f"torchvision is {NOT_INSTALLED}"
    return [
        Variant(name, None, note, why) if name in skipped else Variant(name, call, note)
        for name, (call, note) in paths.items()
    ]
