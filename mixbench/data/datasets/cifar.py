"""CIFAR-10 and CIFAR-100 from the authors' ``python`` archives.

Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009: 50,000 training and
10,000 test images of 32x32 pixels in 10 or 100 classes. The archives hold pickles, which are read
by :mod:`mixbench.data.files.unpickle`; the reader of torchvision would run what they name.
"""

from typing import Any

import numpy as np
import torch

from mixbench.data.classes import stored_labels
from mixbench.data.datasets.original import OfficialFile, OriginalSource
from mixbench.data.files.unpickle import UnsafePickleError, unpickle_arrays
from mixbench.data.images import Content, ResidentImages, Stats
from mixbench.errors import UserError

SIDE = 32  # pixels
_URL = "https://www.cs.toronto.edu/~kriz/"


class Cifar10(OriginalSource):
    """``data=cifar10 [data.root=cifar-10-python.tar.gz]``."""

    official_files = (
        OfficialFile(
            "cifar-10-python.tar.gz",
            f"{_URL}cifar-10-python.tar.gz",
            "c58f30108f718f92721af3b95e74349a",
        ),
    )
    top, marker = "cifar-10-batches-py", "test_batch"
    layout = "cifar-10-batches-py/{data_batch_1..5, test_batch, batches.meta}"
    constants = Stats([0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616])
    train_files: tuple[str, ...] = tuple(f"data_batch_{n}" for n in range(1, 6))
    test_file, meta_file = "test_batch", "batches.meta"
    labels_key, names_key = "labels", "label_names"

    def read(self) -> Content:
        """All batches, in the order of the files."""
        names = [str(name) for name in self._load(self.meta_file).get(self.names_key, [])]
        parts = [self._load(name) for name in self.train_files]
        train = self._images(parts, names)
        test = self._images([self._load(self.test_file)], names)
        return Content(train, test, names, unused=self.unused)

    def _load(self, name: str) -> dict[str, Any]:
        files, base = self.locate(self.marker)
        try:
            return unpickle_arrays(files.read(base + name))
        except UnsafePickleError as error:
            raise UserError(
                f"{name} is not what CIFAR's authors distribute: {error}",
                str(files.root),
                "get the original again; nothing in it was run",
            ) from error

    def _images(self, parts: list[dict[str, Any]], names: list[str]) -> ResidentImages:
        try:
            pixels = np.concatenate([part["data"] for part in parts])
            values = np.array([label for part in parts for label in part[self.labels_key]])
            images = torch.from_numpy(pixels).view(-1, 3, SIDE, SIDE)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(
                f"the batches do not hold images and {self.labels_key}: {error}",
                str(self.places[0]),
                f"expected {self.layout}",
            ) from error
        labels = stored_labels(values, names, str(self.places[0]), len(images))
        return ResidentImages(images, labels.indices)


class Cifar100(Cifar10):
    """``data=cifar100 [data.root=cifar-100-python.tar.gz]``; the fine labels."""

    official_files = (
        OfficialFile(
            "cifar-100-python.tar.gz",
            f"{_URL}cifar-100-python.tar.gz",
            "eb9058c3a382ffc7106e4002c42a8d85",
        ),
    )
    top, marker = "cifar-100-python", "test"
    layout = "cifar-100-python/{train, test, meta}"
    constants = Stats([0.5071, 0.4865, 0.4409], [0.2673, 0.2564, 0.2762])
    train_files = ("train",)
    test_file, meta_file = "test", "meta"
    labels_key, names_key = "fine_labels", "fine_label_names"
