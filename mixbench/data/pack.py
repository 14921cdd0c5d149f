"""Packed sets: one ``.npz`` file for training, one for test.

A pack holds ``images`` (N, H, W[, C]) uint8, or ``jpeg`` (all files end to end, uint8) with
``offsets`` (N + 1,), and ``label`` (N,), optionally ``class_names``.
"""

import hashlib
import zipfile
from pathlib import Path

import numpy as np
import torch

from mixbench.data.decode import decode_all
from mixbench.data.images import DataSource, ResidentImages, existing
from mixbench.errors import UserError


class Pack(DataSource):
    """``data=pack data.train=FILE data.test=FILE [data.name=...]``."""

    @property
    def name(self) -> str:
        """The given name, else the stem of the training file."""
        return self.config.name or existing(self.config.train, "data.train").stem

    def fingerprint(self) -> str:
        """Hash of both files."""
        digest = hashlib.sha256()
        for path in self._paths():
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    def read(self) -> tuple[ResidentImages, ResidentImages, list[str], int]:
        """Decode both files; the class names of the training file count."""
        (train, names, skipped), (test, test_names, more) = map(self._read, self._paths())
        if names != test_names:
            raise UserError(
                f"training and test files name different classes: {_difference(names, test_names)}",
                "data.train, data.test",
                "use files of the same data set",
            )
        return train, test, names, skipped + more

    def _paths(self) -> tuple[Path, Path]:
        config = self.config
        return existing(config.train, "data.train"), existing(config.test, "data.test")

    def _read(self, path: Path) -> tuple[ResidentImages, list[str], int]:
        try:
            with np.load(path, allow_pickle=False) as archive:
                # Each access unpacks anew, so every member is read once.
                members = {key: archive[key] for key in archive.files if key in _KEYS}
        except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
            raise UserError(
                f"not a readable .npz pack: {error}", str(path), "see the layout in the README"
            ) from error
        labels = members.get("label")
        if labels is None or not {"images"} <= members.keys() | (
            {"images"} if {"jpeg", "offsets"} <= members.keys() else set()
        ):
            raise UserError(
                f"a pack needs label and images, or label, jpeg and offsets; found "
                f"{', '.join(sorted(members)) or 'none of them'}",
                str(path),
            )
        labels = torch.from_numpy(labels.astype(np.int64))
        if "images" in members:
            images, rows = _pixels(members["images"], path), torch.arange(len(labels))
        else:
            blob, offsets = members["jpeg"], members["offsets"]
            items = [f"image {row} of {path.name}" for row in range(len(offsets) - 1)]

            def load(row: int) -> bytes:
                return blob[offsets[row] : offsets[row + 1]].tobytes()

            images, rows = decode_all(items, load, self.config)
            if len(items) != len(labels):
                raise UserError(f"{len(items)} images but {len(labels)} labels", str(path))
        if len(labels) == 0:
            raise UserError("the pack holds no image", str(path))
        if "images" in members and len(images) != len(labels):
            raise UserError(f"{len(images)} images but {len(labels)} labels", str(path))
        names = [str(name) for name in members.get("class_names", [])]
        names = names or [str(index) for index in range(int(labels.max()) + 1)]
        if int(labels.min()) < 0 or int(labels.max()) >= len(names):
            raise UserError(
                f"labels run from {int(labels.min())} to {int(labels.max())} but there are "
                f"{len(names)} class names",
                str(path),
            )
        return ResidentImages(images, labels[rows]), names, len(labels) - len(rows)


_KEYS = ("images", "jpeg", "offsets", "label", "class_names")


def _pixels(images: np.ndarray, path: Path) -> torch.Tensor:
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise UserError(
            f"images must be uint8 (N, H, W[, C]), got {images.dtype} {images.shape}", str(path)
        )
    tensor = torch.from_numpy(images)
    tensor = tensor[:, None] if images.ndim == 3 else tensor.permute(0, 3, 1, 2)
    if tensor.shape[1] not in (1, 3):
        raise UserError(f"images have {tensor.shape[1]} channels, expected 1 or 3", str(path))
    return tensor.expand(-1, 3, -1, -1).contiguous()


def _difference(first: list[str], second: list[str]) -> str:
    only = sorted(set(first) ^ set(second))
    return ", ".join(only[:5]) if only else "the same names in another order"
