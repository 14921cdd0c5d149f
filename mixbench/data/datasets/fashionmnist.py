"""Fashion-MNIST: 60,000 + 10,000 grey images of clothes, 28x28 pixels, 10 classes.

Xiao, Rasul, Vollgraf, arXiv:1708.07747; data by zalandoresearch/fashion-mnist, MIT licence. Shown
in RGB. Read from the four ``idx`` files, or from one ``.npz`` or ``.npz.xz`` with ``train_images``,
``train_labels``, ``test_images`` and ``test_labels``.
"""

import gzip
import io
import math
import zlib
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from mixbench.data.classes import stored_labels
from mixbench.data.datasets.original import OfficialFile, OriginalSource
from mixbench.data.files.archive import Files, FolderFiles
from mixbench.data.files.arrays import MAX_RATIO, Arrays, check_size
from mixbench.data.images import Content, ResidentImages, Stats
from mixbench.errors import UserError
from mixbench.files import read_bytes

_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
_PARTS = (("train", "train"), ("t10k", "test"))


class FashionMnist(OriginalSource):
    """``data=fashionmnist [data.root=FOLDER or FILE.npz.xz]``."""

    official_files = tuple(
        OfficialFile(file, f"{_URL}{file}", md5)
        for file, md5 in (
            ("train-images-idx3-ubyte.gz", "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
            ("train-labels-idx1-ubyte.gz", "25c81989df183df01b3e8a0aad5dffbe"),
            ("t10k-images-idx3-ubyte.gz", "bef4ecab320f06d8554ea6380940ec79"),
            ("t10k-labels-idx1-ubyte.gz", "bb300cfdad3c16e7a12a480ee83cd310"),
        )
    )
    top, marker = "FashionMNIST/raw", "train-images-idx3-ubyte"
    layout = "train-images-idx3-ubyte[.gz], train-labels-idx1-ubyte[.gz] and the same of t10k"
    constants = Stats([0.2860] * 3, [0.3530] * 3)
    names = (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    )

    @cached_property
    def files(self) -> list[Files]:
        """One file each, or a folder."""
        return [FolderFiles(place) if place.is_dir() else _Single(place) for place in self.places]

    def read(self) -> Content:
        """Both parts."""
        first = self.places[0]
        if first.is_file() and first.suffix in (".npz", ".xz"):
            arrays = _read_npz(first)
        else:
            arrays = {}
            for file, part in _PARTS:
                arrays[f"{part}_images"] = self._idx(f"{file}-images-idx3-ubyte", 3)
                arrays[f"{part}_labels"] = self._idx(f"{file}-labels-idx1-ubyte", 1)
        train, test = (self._part(arrays, part) for _, part in _PARTS)
        return Content(train, test, list(self.names), unused=self.unused)

    def _part(self, arrays: dict[str, np.ndarray], part: str) -> ResidentImages:
        images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"]
        if images.dtype != np.uint8 or images.ndim != 3:
            raise UserError(
                f"{part}_images must be uint8 (N, H, W), got {images.dtype} {images.shape}",
                str(self.places[0]),
            )
        y = stored_labels(labels, list(self.names), str(self.places[0]), len(images))
        return ResidentImages(torch.from_numpy(images)[:, None].repeat(1, 3, 1, 1), y.indices)

    def _idx(self, name: str, rank: int) -> np.ndarray:
        """An array of bytes behind a head of big-endian numbers: kind, rank and lengths."""
        for files in self.files:
            found = [known for known in files.names if known.removesuffix(".gz") == name]
            if found:
                raw = files.read(found[0])
                raw = _unpacked(raw, files.root) if found[0].endswith(".gz") else raw
                shape = tuple(np.frombuffer(raw[4 : 4 + 4 * rank], ">u4").tolist())
                if raw[:4] != bytes((0, 0, 8, rank)) or len(raw) != 4 + 4 * rank + math.prod(shape):
                    raise UserError(f"{found[0]} is not an idx file of bytes", str(files.root))
                return np.frombuffer(bytearray(raw[4 + 4 * rank :]), np.uint8).reshape(shape)
        raise UserError(f"{name} is missing", str(self.places[0]), f"expected {self.layout}")


class _Single(Files):
    """One file that is no archive."""

    @property
    def names(self) -> list[str]:
        """Its own."""
        return [self.root.name]

    def read(self, name: str) -> bytes:
        """Its content."""
        if name != self.root.name:
            raise self._missing(name)
        try:
            return read_bytes(self.root, None)
        except OSError as error:
            raise self._missing(name, error) from error


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    keys = [f"{part}_{kind}" for _, part in _PARTS for kind in ("images", "labels")]
    try:
        with Arrays(path) as archive:
            return {key: archive[key] for key in keys}
    except (OSError, ValueError) as error:
        raise UserError(
            f"the file is not the .npz of Fashion-MNIST: {error}",
            str(path),
            f"it holds {', '.join(keys)}",
        ) from error


def _unpacked(raw: bytes, path: Path) -> bytes:
    try:
        with gzip.open(io.BytesIO(raw)) as file:
            content = file.read(MAX_RATIO * len(raw) + 1)
        check_size(len(content), len(raw), 0, free_of_ratio=0)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise UserError(f"the file cannot be read: {error}", str(path), "get it again") from error
    return content
