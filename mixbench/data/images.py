"""Decoded images in memory, what is known of them, and how they are divided."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mixbench.data.keyed import Draw
from mixbench.errors import UserError
from mixbench.schema import DataConfig, DataInfo

HOLDOUT_LIMIT = 5_000
SPLIT_SEED = 0  # hold-outs and subsets are the same for all methods and seeds


class Batch(NamedTuple):
    """Images (B, C, H, W) uint8, labels (B,) int64, and the images' rows in their set (B,)."""

    images: Tensor
    labels: Tensor
    ids: Tensor


class ResidentImages(Dataset[Batch]):
    """A whole set as one uint8 tensor, on the device if it is moved there.

    Args:
        images: (N, C, H, W) uint8.
        labels: (N,) int64 class indices.
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return self.images.shape[0]

    def __getitem__(self, draw: Draw) -> Batch:
        rows = draw.indices.to(self.images.device, non_blocking=True)
        # Copies whole images, on the CPU 20 times faster than indexing.
        images, labels = (t.index_select(0, rows) for t in (self.images, self.labels))
        return Batch(images, labels, rows)

    def to(self, device: torch.device) -> "ResidentImages":
        """The same set on another device."""
        return ResidentImages(self.images.to(device), self.labels.to(device))

    def subset(self, rows: Tensor) -> "ResidentImages":
        """The images at ``rows`` (M,), in that order."""
        return ResidentImages(self.images[rows], self.labels[rows])


@dataclass
class Splits:
    """Training images, test images, hold-out where ``select=val`` asks for one, and the facts."""

    train: ResidentImages
    test: ResidentImages
    info: DataInfo
    val: ResidentImages | None = None


class DataSource(ABC):
    """A data set that can be named, identified and read.

    Args:
        config: The ``data`` part of a run.
    """

    def __init__(self, config: DataConfig) -> None:
        self.config = config

    @property
    def name(self) -> str:
        """Shown name, part of every run id."""
        return self.config.name or self.config.kind

    @abstractmethod
    def fingerprint(self) -> str:
        """Content hash of the files, without decoding them."""

    @abstractmethod
    def read(self) -> tuple[ResidentImages, ResidentImages, list[str], int]:
        """Decode everything: training images, test images, class names, unreadable images."""

    def load(self, *, holdout: bool = False) -> Splits:
        """Read, take the subsets that the configuration asks for, and describe the result.

        Args:
            holdout: Set aside a stratified part of the training images.

        Returns:
            The splits; the hold-out is no longer part of ``train``.

        Raises:
            UserError: If files are missing, unreadable or do not fit together.
        """
        config = self.config
        train, test, class_names, skipped = self.read()
        keep = len(train)
        if config.train_fraction < 1:
            keep = max(1, round(keep * config.train_fraction))
        train = train.subset(stratified(train.labels, min(keep, config.limit or keep)))
        test = test.subset(stratified(test.labels, min(len(test), config.limit or len(test))))
        val = None
        if holdout:
            count = min(round(len(train) * config.val_fraction), HOLDOUT_LIMIT)
            if not 0 < count < len(train):
                raise UserError(
                    f"a hold-out of {count} of {len(train)} training images is not usable",
                    "data.val_fraction",
                    "change the fraction or use select=last",
                )
            rows = stratified(train.labels, count)
            rest = torch.ones(len(train), dtype=torch.bool)
            rest[rows] = False
            train, val = train.subset(rest.nonzero().flatten()), train.subset(rows)
        mean, std = channel_stats(train.images)
        residual_mean, residual_std = channel_stats(train.images, subtract_image_mean=True)
        _, channels, height, width = train.images.shape
        info = DataInfo(
            num_classes=len(class_names),
            height=height,
            width=width,
            channels=channels,
            mean=mean,
            std=std,
            residual_mean=residual_mean,
            residual_std=residual_std,
            class_names=class_names,
            name=self.name,
            train_size=len(train),
            test_size=len(test),
            skipped=skipped,
        )
        return Splits(train, test, info, val)


def existing(path: str | None, key: str) -> Path:
    """A file or folder that the configuration names.

    Args:
        path: Value of the key.
        key: The key, for the message.

    Returns:
        The path.

    Raises:
        UserError: If it is not given or does not exist.
    """
    if path is None:
        raise UserError(f"{key} is not given", "data", f"add {key}=PATH")
    if not Path(path).exists():
        raise UserError(f"no such file or folder: {path}", key, f"correct {key}=")
    return Path(path)


def stratified(labels: Tensor, count: int) -> Tensor:
    """Rows of a class-balanced random subset, in their original order.

    Args:
        labels: (N,) int64 class indices.
        count: Number of rows.

    Returns:
        (count,) int64 rows; all of them, in order, where ``count`` is N.
    """
    if count >= len(labels):
        return torch.arange(len(labels))
    from sklearn.model_selection import train_test_split

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
