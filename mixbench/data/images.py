"""Sets of images, what is known of them, and how they are divided."""

import copy
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from mixbench.config.schema import DataInfo
from mixbench.data.sampling import BatchIndex
from mixbench.functional.augmix import ChainViews

HOLDOUT_LIMIT = 5_000
SPLIT_SEED = 0  # hold-outs and subsets are the same for all methods and seeds
# Classes, side in pixels and training images as published, to tell a cost before data is there.
PUBLISHED_SIZES = {
    "cifar10": (10, 32, 50_000),
    "cifar100": (100, 32, 50_000),
    "cub200": (200, 224, 5_994),
    "fashionmnist": (10, 28, 60_000),
    "imagenet": (1000, 224, 1_281_167),
    "tinyimagenet": (200, 64, 100_000),
}


class Batch(NamedTuple):
    """Images (B, C, H, W) uint8, their labels, and the images' rows in their set (B,).

    Labels are (B,) int64 class indices; of multi-label data (B, K) float32, 1 for a class that is
    present, 0 for one that is not, and NaN where it is unknown. ``maps`` (B, h, w) float32 belong
    to the images, where a method reads some. ``crops`` (B, 4) float32 are top, left, bottom and
    right of what the images show of their files, as shares of height and width, where that was
    drawn. ``views`` are mixed views of the images, which are then cropped and mirrored already.
    ``boxes`` (B, M, 7) float64 are the objects in them, where a suite reads some: class, top, left,
    bottom and right in pixels of the part of the file that the image shows, and that part's height
    and width; rows without an object are -1. ``soft`` (B, K) float32 are labels that people gave,
    where a method or a suite reads some; NaN in rows whose class counts. ``added`` (B, P, C, H, W)
    float32 are second components of observations, in pixel values: that of each image, and in
    training another draw; ``set_size`` is then the number of images of their set. Images that are
    ``augmented`` are cropped and mirrored already.
    """

    images: Tensor
    labels: Tensor
    ids: Tensor
    maps: Tensor | None = None
    crops: Tensor | None = None
    views: ChainViews | None = None
    boxes: Tensor | None = None
    soft: Tensor | None = None
    added: Tensor | None = None
    set_size: int | None = None
    augmented: bool = False


class ImageSet(Dataset[Batch], ABC):
    """Images that are handed out in batches of rows.

    Args:
        labels: (N,) int64, or (N, K) float32, as in :class:`Batch`.
        boxes: (N, M, 5) float32: class, top, left, bottom, right of up to M objects of each image,
            in pixels of its file, ends exclusive; rows without an object are -1. None where the
            data set has none.
    """

    def __init__(self, labels: Tensor, boxes: Tensor | None = None) -> None:
        self.labels, self.boxes = labels, boxes

    def __len__(self) -> int:
        return self.labels.shape[0]

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images that are handed out."""

    @abstractmethod
    def __getitem__(self, draw: BatchIndex) -> Batch: ...

    def sample(self) -> Tensor:
        """Images (M, C, H, W) uint8 that stand for all of them in statistics; all of them here."""
        return self[BatchIndex(torch.arange(len(self)), 0)].images

    @abstractmethod
    def subset(self, rows: Tensor) -> Self:
        """The images at ``rows`` (M,), in that order."""

    def shown(self, rows: Tensor) -> Tensor:
        """The part of their files that images show in evaluation.

        Args:
            rows: (M,) int64 rows.

        Returns:
            (M, 4) float32 top, left, bottom and right in pixels of the file, ends exclusive.
        """
        _, height, width = self.shape
        return torch.tensor([0.0, 0.0, height, width]).expand(len(rows), 4)

    def with_labels(self, labels: Tensor) -> Self:
        """The same images under other ``labels`` of the same form."""
        other = copy.copy(self)
        other.labels = labels
        return other

    def to(self, device: torch.device) -> "ImageSet":
        """The same set on another device, where it can lie there."""
        del device
        return self


class ResidentImages(ImageSet):
    """A whole set as one uint8 tensor, on the device if it is moved there.

    Args:
        images: (N, C, H, W) uint8.
        labels: As in :class:`ImageSet`.
        boxes: As in :class:`ImageSet`.
        extents: (N, 4) float32 what :meth:`ImageSet.shown` says; None where images are whole and of
            the size of their files.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        boxes: Tensor | None = None,
        extents: Tensor | None = None,
    ) -> None:
        super().__init__(labels, boxes)
        self.images, self.extents = images, extents

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    def __getitem__(self, draw: BatchIndex) -> Batch:
        rows = draw.indices.to(self.images.device, non_blocking=True)
        # Copies whole images, on the CPU 20 times faster than indexing.
        images, labels = (t.index_select(0, rows) for t in (self.images, self.labels))
        return Batch(images, labels, rows)

    def sample(self) -> Tensor:
        """All images."""
        return self.images

    def shown(self, rows: Tensor) -> Tensor:
        """The part of their files that images show."""
        return super().shown(rows) if self.extents is None else self.extents[rows]

    def resized(self, size: int, fit: str = "crop") -> "ResidentImages":
        """The same images with their shorter side brought to ``size`` and the centre cut out.

        With ``fit`` ``squeeze`` the whole images are brought to squares of that side.
        """
        images, (top, left, bottom, right) = _fit(self.images, size, fit)
        extents = self.shown(torch.arange(len(self)))
        corner, sides = extents[:, :2].repeat(1, 2), extents[:, 2:] - extents[:, :2]
        share = torch.tensor([top, left, bottom, right])
        extents = corner + share * sides.repeat(1, 2)
        return ResidentImages(images, self.labels, self.boxes, extents)

    def to(self, device: torch.device) -> "ResidentImages":
        """The same set on another device."""
        images, labels = self.images.to(device), self.labels.to(device)
        return ResidentImages(images, labels, self.boxes, self.extents)

    def subset(self, rows: Tensor) -> "ResidentImages":
        """The images at ``rows`` (M,), in that order."""
        boxes, extents = (None if t is None else t[rows] for t in (self.boxes, self.extents))
        return ResidentImages(self.images[rows], self.labels[rows], boxes, extents)


@dataclass
class Splits:
    """Training images, test images, hold-out where ``select=val`` asks for one, and the facts.

    ``test_rows`` (N,) are the places of the test images in the original test set, by which labels
    that others gave them are found; ``test_names`` finds out the names of their files, where they
    have such. ``judged`` makes the images that people judged, where ``data.judgements`` names some.
    """

    train: ImageSet
    test: ImageSet
    info: DataInfo
    val: ImageSet | None = None
    test_rows: Tensor | None = None
    test_names: Callable[[], list[str] | None] = lambda: None
    judged: Callable[[], Any] | None = None  # of mixbench.data.judged.JudgedMixtures


class Content(NamedTuple):
    """All that a data set holds: its images, class names, and what could not be read.

    ``skipped`` counts the images of training and of the test that were left out. ``notices`` and
    ``unused`` are as in :class:`mixbench.config.schema.DataInfo`.
    """

    train: ImageSet
    test: ImageSet
    class_names: list[str]
    skipped: tuple[int, int] = (0, 0)
    stats: "Stats | None" = None  # of all training images, where they are known already
    notices: Sequence[str] = ()
    unused: Mapping[str, int] = MappingProxyType({})
    shared_images: int | None = None  # test images that are training images too, where compared


def sum_counts(*counts: Mapping[str, int]) -> dict[str, int]:
    """Counts by reason of several parts of a data set, added.

    Args:
        *counts: Of each part.

    Returns:
        Their sums, in the order in which the reasons appear.
    """
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return dict(total)


def unused_line(unused: Mapping[str, int]) -> str:
    """One line on what of a data set is left out.

    Args:
        unused: Counts by reason, a noun in the singular.

    Returns:
        The line.
    """
    return f"not used: {', '.join(f'{count:,} x {reason}' for reason, count in unused.items())}"


class Stats(NamedTuple):
    """Mean and deviation of each channel for pixels in [0, 1].

    The ``residual`` pair is the same after each image's own mean is removed.
    """

    mean: list[float]
    std: list[float]
    residual_mean: list[float] | None = None
    residual_std: list[float] | None = None


def stratified(labels: Tensor, count: int) -> Tensor:
    """Rows of a class-balanced random subset, in their original order.

    Args:
        labels: (N,) int64 class indices; of multi-label data (N, K), which are not balanced.
        count: Number of rows.

    Returns:
        (count,) int64 rows; all of them, in order, where ``count`` is N.
    """
    if count >= len(labels):
        return torch.arange(len(labels))
    from sklearn.model_selection import train_test_split

    if labels.ndim > 1:
        labels = torch.zeros(len(labels), dtype=torch.long)
    counts = labels.bincount()
    classes = int((counts > 0).sum())
    rare = int(counts[counts > 0].min()) < 2 or min(count, len(labels) - count) < classes
    rows, _ = train_test_split(
        np.arange(len(labels)),
        train_size=count,
        random_state=SPLIT_SEED,
        stratify=None if rare else labels.numpy(),
    )
    return torch.from_numpy(np.sort(rows))


def corners(boxes: Tensor, labels: Tensor) -> Tensor:
    """One box per image in the form of :class:`ImageSet`.

    Args:
        boxes: (N, 4) float32 xmin, ymin, xmax, ymax in pixels, the last pixel included.
        labels: (N,) int64 class of each image.

    Returns:
        (N, 1, 5) float32 class, top, left, bottom, right, ends exclusive.
    """
    left, top, right, bottom = boxes.unbind(1)
    return torch.stack([labels.float(), top, left, bottom + 1, right + 1], dim=1)[:, None]


def _fit(images: Tensor, size: int, fit: str) -> tuple[Tensor, tuple[float, float, float, float]]:
    """Resized images, and top, left, bottom and right of their part as shares of the sides."""
    height, width = images.shape[2:]
    scale = size / min(height, width)
    sides = max(size, round(height * scale)), max(size, round(width * scale))
    if fit == "squeeze":
        sides = size, size
    top, left = ((side - size) // 2 for side in sides)
    result = images.new_empty(len(images), images.shape[1], size, size)
    for part, target in zip(images.split(1024), result.split(1024), strict=True):
        large = F.interpolate(part.float(), sides, mode="bilinear", antialias=True)
        target.copy_(large[:, :, top : top + size, left : left + size].round())
    (tall, wide), ends = sides, (top + size, left + size)
    return result, (top / tall, left / wide, ends[0] / tall, ends[1] / wide)


def image_stats(images: Tensor) -> Stats:
    """All statistics of a set.

    Args:
        images: (N, C, H, W) uint8.

    Returns:
        Means and deviations.
    """
    return Stats(*channel_stats(images), *channel_stats(images, subtract_image_mean=True))


def channel_stats(
    images: Tensor, *, subtract_image_mean: bool = False
) -> tuple[list[float], list[float]]:
    """Mean and deviation of each channel over a set, for pixels in [0, 1].

    Args:
        images: (N, C, H, W) uint8.
        subtract_image_mean: Remove each image's mean over all its values first.

    Returns:
        Means and deviations, one per channel. The deviation of a constant channel is given as 1,
        so that dividing by it is harmless.
    """
    total = torch.zeros(images.shape[1], dtype=torch.float64)
    squares = torch.zeros_like(total)
    for chunk in images.split(1024):
        x = chunk.to(torch.float32) / 255
        if subtract_image_mean:
            x = x - x.mean(dim=(1, 2, 3), keepdim=True)
        total += x.sum(dim=(0, 2, 3), dtype=torch.float64).cpu()
        squares += x.square().sum(dim=(0, 2, 3), dtype=torch.float64).cpu()
    count = images.shape[0] * images.shape[2] * images.shape[3]
    mean = total / count
    std = (squares / count - mean.square()).clamp(min=0).sqrt()
    return mean.tolist(), torch.where(std > 1e-6, std, 1.0).tolist()
