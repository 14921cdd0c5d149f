"""P3, photographs: images per CPU second from JPEG files to random crops.

The path of files in this package, in process and in a worker, against torchvision's transforms on
Pillow images. All decode with Pillow; what differs is the work around it.
"""

import io
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset

from mixbench.config.schema import DataConfig
from mixbench.data.augment.batches import crop_flip, draw_crop_flip, to_float
from mixbench.data.files.encoded import FileImages, Part
from mixbench.data.sampling import SAMPLE, KeyedBatches, mix_seed
from mixbench.perf.input import MEAN, PART, SEED, STD, per_batch
from mixbench.perf.peers import NOT_INSTALLED
from mixbench.perf.report import Row, Rule
from mixbench.perf.timing import Budget, interleave

BASE = "PIL, in process"  # as of the other input paths: ratios refer to the row of the shape
FILES, WORKER = "files, mixbench", "files, one worker, mixbench"
BATCH, SIZE, AREA, HEIGHT, WIDTH, QUALITY = 64, 224, 0.08, 375, 500, 90
SHAPE = f"B{BATCH} 3x{SIZE}x{SIZE} of JPEG {WIDTH}x{HEIGHT}"
FEED = 5_000  # images per second that one large GPU asks for
CORES = "cores for 5k img/s"


def photographs(count: int) -> list[bytes]:
    """JPEG files of blurred random colours with some grain.

    Args:
        count: Number of files.

    Returns:
        Their contents, the same for equal ``count``.
    """
    generator = Generator().manual_seed(SEED)
    coarse = torch.rand(count, 3, 24, 32, generator=generator)
    files = []
    for x in coarse:
        fine = F.interpolate(x[None], size=(HEIGHT, WIDTH), mode="bilinear")[0]
        fine = fine + 0.02 * torch.randn(fine.shape, generator=generator)
        pixels = (fine * 255).clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=QUALITY)
        files.append(file.getvalue())
    return files


class SingleFiles(Dataset[Tensor]):
    """Files one by one through Pillow and a transform.

    Args:
        files: Contents.
        transform: Maps a PIL image to a tensor.
    """

    def __init__(self, files: list[bytes], transform: Callable[[Image.Image], Tensor]) -> None:
        self.files, self.transform = files, transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> Tensor:
        return self.transform(Image.open(io.BytesIO(self.files[row])).convert("RGB"))


def epoch_of_files(images: FileImages, epoch: int, workers: int, device: torch.device) -> int:
    """One epoch as training reads it: uint8 crops from the files, the rest on the device.

    Args:
        images: The set.
        epoch: Number of the epoch, which keys its order, its crops and its mirroring.
        workers: Worker processes.
        device: Where the batches go.

    Returns:
        Number of images.
    """
    mean, std = (torch.tensor(v, device=device)[:, None, None] for v in (MEAN, STD))
    generator = Generator()
    batches = KeyedBatches(len(images), min(BATCH, len(images)), SEED)
    batches.set_epoch(epoch)
    context = "fork" if workers else None
    loader = DataLoader(
        images,
        batch_size=None,
        sampler=batches,
        num_workers=workers,
        multiprocessing_context=context,
    )
    count = 0
    for number, batch in enumerate(loader):
        pixels = batch.images.to(device, non_blocking=True)
        generator.manual_seed(mix_seed(SAMPLE, SEED, epoch, number))
        offsets, flips = draw_crop_flip(len(pixels), 0, True, generator)
        count += len((to_float(crop_flip(pixels, offsets, flips, 0)) - mean) / std)
    return count


def measure(device: torch.device, budget: Budget) -> list[Row]:
    """Time one epoch of each path, in turn.

    Args:
        device: Where the batches end.
        budget: Number of files and of turns.

    Returns:
        Rows with the number of cores that a feed of 5,000 images per second asks for.
    """
    files = photographs(budget.files)
    labels = torch.zeros(len(files), dtype=torch.long)
    part = Part([str(row) for row in range(len(files))], files.__getitem__, labels)
    images = FileImages(part, DataConfig(size=SIZE, crop_area=AREA))
    numbers = {name: iter(range(budget.input_rounds + 1)) for name in (FILES, WORKER)}
    paths: dict[str, Callable[[], int]] = {
        name: lambda name=name, workers=workers: epoch_of_files(
            images, next(numbers[name]), workers, device
        )
        for name, workers in ((FILES, 0), (WORKER, 1))
    }
    notes = {
        BASE: "RandomResizedCrop, RandomHorizontalFlip, ToTensor, Normalize per image",
        FILES: "uint8 crops keyed by image, flip and normalise per batch",
        WORKER: "the same in a forked worker, its CPU time and its start included",
    }
    skipped = {}
    try:
        from torchvision import transforms
    except ImportError:
        skipped[BASE] = f"torchvision is {NOT_INSTALLED}"
    else:
        steps = [
            transforms.RandomResizedCrop(SIZE, scale=(AREA, 1)),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
        loader = DataLoader(
            SingleFiles(files, transforms.Compose(steps)),
            batch_size=min(BATCH, len(files)),
            shuffle=True,
            generator=Generator().manual_seed(SEED),
        )
        paths[BASE] = lambda: sum(len(x.to(device)) for x in loader)
    measures = {name: per_batch(path, device, BATCH) for name, path in paths.items()}
    for warm in measures.values():
        warm()
    seconds = interleave(measures, budget.input_rounds)
    rows = []
    for name in (BASE, FILES, WORKER):
        rounds = [1000 * value for value in seconds.get(name, [])]
        rate = BATCH / float(np.median(seconds[name])) if name in seconds else 0
        figures = {CORES: FEED / rate} if rate else {}
        why = skipped.get(name, "")
        rows.append(
            Row(PART, SHAPE, name, BATCH, rounds, note=notes[name], skipped=why, figures=figures)
        )
    return rows


def rules(device: torch.device) -> list[Rule]:
    """What must hold: the keyed path costs no more than single images do.

    Args:
        device: Where it was measured; the rule is the same on all.

    Returns:
        One rule.
    """
    del device
    return [Rule(PART, SHAPE, FILES, BASE, 1 / 1.1)]
