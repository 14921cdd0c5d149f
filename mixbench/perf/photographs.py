"""P3, photographs: images per CPU second from JPEG files to random crops.

The path of files in this package, in process and in a worker, and that of pixels that were kept by
``data.store``, against torchvision's transforms on Pillow images, as its folder loader has them.
Files are decoded with Pillow on every path; what differs is the work around it.
"""

import io
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Generator, Tensor

from mixbench.config.schema import DataConfig
from mixbench.data.files.encoded import FileImages, Part
from mixbench.data.files.store import PixelStore, write_store
from mixbench.data.sampling import KeyedBatches
from mixbench.perf.benchmark import Case
from mixbench.perf.input import (
    BASE,
    IN_WORKER,
    SEED,
    EpochBenchmark,
    SingleImages,
    input_variants,
    keyed_epoch,
    pillow_steps,
    single_epoch,
)
from mixbench.perf.peers import Variant
from mixbench.perf.report import Limit, Row, Rule
from mixbench.perf.timing import Budget

FILES, WORKER = "files, mixbench", "files, one worker, mixbench"
STORED = "kept pixels, mixbench"
CROPS, STORED_CROPS = "PIL, crops alone", "kept pixels, crops alone, mixbench"
SIDE = 256  # shorter side of the kept images in pixels
SIZE, AREA, HEIGHT, WIDTH, QUALITY = 224, 0.08, 375, 500, 90
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


class PhotographBenchmark(EpochBenchmark):
    """P3, photographs; the keyed path costs no more than single images do, and kept crops half."""

    case = Case(64, f"B64 3x{SIZE}x{SIZE} of JPEG {WIDTH}x{HEIGHT}")

    def own(self, case: Case, device: torch.device, budget: Budget) -> list[Variant]:
        files = photographs(budget.files)
        labels = torch.zeros(len(files), dtype=torch.long)
        part = Part([str(row) for row in range(len(files))], files.__getitem__, labels)
        images = FileImages(part, DataConfig(size=SIZE, crop_area=AREA))
        stored = images.stored(_kept(part).__getitem__)
        steps = pillow_steps("RandomResizedCrop", size=SIZE, scale=(AREA, 1))

        def read(row: int) -> Image.Image:
            return Image.open(io.BytesIO(files[row])).convert("RGB")

        def crop(image: Image.Image) -> Tensor:
            return torch.from_numpy(np.array(steps.transforms[0](image)))

        single, cut = (SingleImages(len(files), read, each) for each in (steps, crop))
        paths = {
            BASE: (
                lambda epoch: single_epoch(single, device, case.batch),
                "RandomResizedCrop, RandomHorizontalFlip, ToTensor, Normalize per image",
            ),
            FILES: (
                lambda epoch: keyed_epoch(images, epoch, device, case.batch),
                "uint8 crops keyed by image, flip and normalise per batch",
            ),
            WORKER: (
                lambda epoch: keyed_epoch(images, epoch, device, case.batch, workers=1),
                IN_WORKER,
            ),
            STORED: (
                lambda epoch: keyed_epoch(stored, epoch, device, case.batch),
                f"the same from a file of pixels, shorter side {SIDE}, mapped into memory",
            ),
            CROPS: (
                lambda epoch: single_epoch(cut, device, case.batch),
                "RandomResizedCrop per image, to uint8",
            ),
            STORED_CROPS: (
                lambda epoch: _cropped_epoch(stored, epoch, case.batch),
                "uint8 crops keyed by image",
            ),
        }
        return input_variants(paths, () if steps else (BASE, CROPS))

    def figures(
        self, case: Case, variant: Variant, row: Row, device: torch.device
    ) -> dict[str, float]:
        return {CORES: FEED * row.median_ms / 1000 / case.batch}

    def rules(self, device: torch.device) -> list[Rule | Limit]:
        case = str(self.case)
        return [
            Rule(self.part, case, FILES, BASE, 1 / 1.1),
            Rule(self.part, case, STORED_CROPS, CROPS, 2.0),
        ]


def _cropped_epoch(images: FileImages, epoch: int, batch: int) -> int:
    """One epoch of uint8 crops; the number of images."""
    batches = KeyedBatches(len(images), min(batch, len(images)), SEED)
    batches.set_epoch(epoch)
    return sum(len(images[draw].images) for draw in batches)


def _kept(part: Part) -> PixelStore:
    """The pixels of files, in a store that goes with the process."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.pixels"
        write_store(path, part.names, part.load, SIDE, skip=False)
        return PixelStore(path)
