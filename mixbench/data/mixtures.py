"""Observations: each image with a second component beside it, of which only the sum is shown.

The second component of an image is keyed by the image and by nothing else: it is the same in every
epoch, for every method and seed, and for any number of worker processes.
"""

import dataclasses
import math

import torch
from torch import Generator, Tensor

from mixbench.config.schema import DataConfig, DataInfo
from mixbench.data.images import Batch, ImageSet, Splits
from mixbench.data.sampling import OBSERVE, BatchIndex, mix_seed
from mixbench.errors import UserError, counted
from mixbench.functional.observations import AMPLITUDE, FREQUENCY, line_image, wave_image

TRAIN, TEST, HOLDOUT = range(3)  # parts of a data set; the first number of a component's key
FRESH = 1  # stream of the draws that training adds to those of the images
BLACK_AND_WHITE = 127  # grey value up to which a pixel counts as black


class Observations(ImageSet):
    """Images of another set, each with a second component.

    Args:
        images: The set.
        config: Reads ``second``, ``level`` and ``binary``.
        part: Which part of the data set it is; equal rows of two parts have other components.
        grey: Show one channel of images whose three channels are equal.
        pool: Images that second components are taken from, for ``data.second=images``.
    """

    def __init__(
        self,
        images: ImageSet,
        config: DataConfig,
        part: int,
        grey: bool,
        pool: ImageSet | None = None,
    ) -> None:
        super().__init__(images.labels)
        self.images, self.config, self.part = images, config, part
        self.grey, self.pool = grey, pool

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        channels, height, width = self.images.shape
        return (1 if self.grey else channels), height, width

    def __getitem__(self, draw: BatchIndex) -> Batch:
        batch = self.images[draw]
        rows = draw.indices.tolist()
        keys = [[mix_seed(OBSERVE, self.part, row) for row in rows]]
        if draw.crop_seed is not None:
            keys.append(draw.image_seeds(rows, OBSERVE, FRESH))
        added = torch.stack([self._second(seeds) for seeds in keys], dim=1)
        added = added.to(batch.images.device, non_blocking=True)
        images = self._shown(batch.images)
        return batch._replace(images=images, added=added, set_size=len(self))

    def sample(self) -> Tensor:
        """The images alone."""
        return self._shown(self.images.sample())

    def subset(self, rows: Tensor) -> "Observations":
        """The images at ``rows`` (M,), with the components of their new places."""
        return self._over(self.images.subset(rows))

    def with_labels(self, labels: Tensor) -> "Observations":
        """The same images under other ``labels``."""
        return self._over(self.images.with_labels(labels))

    def to(self, device: torch.device) -> "Observations":
        """The images on another device; second components are drawn on the CPU."""
        return self._over(self.images.to(device))

    def _over(self, images: ImageSet) -> "Observations":
        return Observations(images, self.config, self.part, self.grey, self.pool)

    def _shown(self, images: Tensor) -> Tensor:
        images = images[:, :1] if self.grey else images
        return (images > BLACK_AND_WHITE) * images.new_tensor(255) if self.config.binary else images

    def _second(self, seeds: list[int]) -> Tensor:
        """Second components (B, C, H, W) float32, one for each seed."""
        channels, height, width = self.shape
        kind, level = self.config.second, self.config.level
        if kind == "images":
            assert self.pool is not None
            size = len(self.pool)
            rows = torch.tensor([seed % size for seed in seeds])
            return self._shown(self.pool[BatchIndex(rows, 0)].images).cpu() / 255
        if kind == "none" or level == 0:
            return torch.zeros(len(seeds), channels, height, width)
        generator = Generator()
        if kind == "lines":
            places = torch.empty(len(seeds), level, dtype=torch.int64)
            for place, seed in zip(places, seeds, strict=True):
                generator.manual_seed(seed)
                place.copy_(torch.randperm(height + width, generator=generator)[:level])
            made = line_image(places, (height, width))
        else:
            drawn = torch.empty(len(seeds), 4, level)
            for numbers, seed in zip(drawn, seeds, strict=True):
                torch.rand(4, level, generator=generator.manual_seed(seed), out=numbers)
            strength, rate, phase, turn = drawn.unbind(1)
            made = wave_image(
                AMPLITUDE[0] + (AMPLITUDE[1] - AMPLITUDE[0]) * strength,
                FREQUENCY[0] + (FREQUENCY[1] - FREQUENCY[0]) * rate,
                2 * math.pi * phase,
                turn < 0.5,
                (height, width),
            )
        return made.expand(-1, channels, -1, -1)


def observe_splits(splits: Splits, config: DataConfig) -> Splits:
    """The parts of a data set with second components beside their images.

    Args:
        splits: Images and labels.
        config: Reads ``second``, ``level``, ``first_classes``, ``second_classes`` and ``binary``.

    Returns:
        The same with images of the first classes only, in one channel where all are grey; pixels
        stay in [0, 1], as ``info`` says of them.

    Raises:
        UserError: If a class is unknown or has no image, or more lines are asked for than the
            images have rows and columns.
    """
    info = splits.info
    if config.second == "lines" and config.level > info.height + info.width:
        raise UserError(
            f"images of {info.height}x{info.width} pixels have {info.height + info.width} rows and "
            "columns for lines",
            f"data.level={config.level}",
            "use a smaller level",
        )
    shown = splits.train.sample()
    grey = shown.shape[1] == 1 or bool((shown == shown[:, :1]).all())
    parts: list[ImageSet | None] = []
    kept: list[Tensor] = []
    for part, images in ((TRAIN, splits.train), (TEST, splits.test), (HOLDOUT, splits.val)):
        if images is None:
            parts.append(None)
            continue
        rows = _of_classes(images, config.first_classes, info, "data.first_classes")
        pool = None
        if config.second == "images":
            key = "data.second_classes"
            pool = images.subset(_of_classes(images, config.second_classes, info, key))
        parts.append(Observations(images.subset(rows), config, part, grey, pool))
        kept.append(rows)
    train, test, val = parts
    assert train is not None
    assert test is not None
    channels = 1 if grey else info.channels
    info = dataclasses.replace(
        info,
        channels=channels,
        mean=[0.0] * channels,
        std=[1.0] * channels,
        train_size=len(train),
        test_size=len(test),
    )
    rows = splits.test_rows
    return Splits(train, test, info, val, None if rows is None else rows[kept[1]])


def second_span(config: DataConfig) -> tuple[float, float]:
    """Smallest and largest value that a pixel of second components can have."""
    level = float(max(1, config.level))
    return (-level, level) if config.second == "waves" else (0.0, 1.0)


def _of_classes(images: ImageSet, classes: list[int], info: DataInfo, key: str) -> Tensor:
    """Rows of the images of some classes; all of them if none is named."""
    if not classes:
        return torch.arange(len(images))
    bad = [number for number in classes if not 0 <= number < info.num_classes]
    if bad:
        raise UserError(
            f"{info.name} has {counted(info.num_classes, 'class')}, numbered from 0, "
            f"and none is {bad[0]}",
            f"{key}={classes}",
            "correct the number",
        )
    rows = torch.isin(images.labels, torch.tensor(classes)).nonzero()[:, 0]
    if not len(rows):
        what = f"{info.name} has no image of class {classes[0]} in one of its parts"
        raise UserError(what, f"{key}={classes}", "name other classes, or add images of this class")
    return rows
