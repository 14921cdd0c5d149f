"""The handwritten digits inside scikit-learn: real images that need no download.

1,797 grey images of 8x8 pixels from UCI's Optical Recognition of Handwritten Digits, shown at
32x32 in RGB and divided into 1,437 for training and 360 for test.
"""

import functools
import hashlib
from typing import Any

import numpy as np
import torch

from mixbench.data.images import SPLIT_SEED, Content, ResidentImages
from mixbench.data.source import DataSource

TEST_SIZE = 360
ENLARGE = 4  # 8x8 to 32x32


class Digits(DataSource):
    """The embedded data set."""

    def fingerprint(self) -> str:
        """Content hash of the arrays."""
        images, labels = _arrays()
        return hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()

    def read(self) -> Content:
        """Split with seed 0, each class at the same share."""
        from sklearn.model_selection import train_test_split

        images, labels = _arrays()
        rows = train_test_split(
            np.arange(len(labels)), test_size=TEST_SIZE, stratify=labels, random_state=SPLIT_SEED
        )
        train, test = (
            ResidentImages(_shown(images[part]), torch.from_numpy(labels[part]))
            for part in map(np.sort, rows)
        )
        return Content(train, test, [str(digit) for digit in range(10)])


@functools.cache
def _arrays() -> tuple[np.ndarray, np.ndarray]:
    """Images and labels, parsed once from text though a run asks for them three times."""
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    images = (digits.images * (255 / 16)).round().astype(np.uint8)
    labels = digits.target.astype(np.int64)
    for array in (images, labels):
        array.flags.writeable = False  # all that ask share them
    return images, labels


def _shown(images: np.ndarray) -> torch.Tensor:
    large = images.repeat(ENLARGE, axis=1).repeat(ENLARGE, axis=2)
    return torch.from_numpy(large)[:, None].repeat(1, 3, 1, 1)
