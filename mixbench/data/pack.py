"""Packed sets: one ``.npz`` file for training, one for test.

A pack holds ``images`` (N, H, W[, C]) uint8, or ``jpeg`` (all files end to end, uint8) with
``offsets`` (N + 1,), and ``label`` or ``labels`` (N,), optionally ``class_names``, ``bbox`` (N, 4):
xmin, ymin, xmax, ymax in pixels, the last pixel included, and ``original_index`` (N,), the place of
each image in the set that the pack was taken from. In its place stands a Parquet file, or a folder
of such, as Hugging Face distributes data sets.
"""

import hashlib
import zipfile
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mixbench.data.encoded import Part, read_part
from mixbench.data.images import Content, ResidentImages, check_labels, corners
from mixbench.data.parquet import is_parquet, read_parquet
from mixbench.data.source import DataSource, existing
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
            for each in sorted(path.glob("**/*.parquet")) if path.is_dir() else [path]:
                with each.open("rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    def class_ids(self) -> list[str]:
        """From ``wnid``, the id of each image, if the training file has an image of each class."""
        path = self._paths()[0]
        if is_parquet(path):
            return []
        with np.load(path, allow_pickle=False) as archive:
            if "wnid" not in archive.files:
                return []
            labels = archive["label" if "label" in archive.files else "labels"].tolist()
            pairs = set(zip(labels, archive["wnid"].tolist(), strict=True))
        ids = [str(wnid) for _, wnid in sorted(pairs)]
        return ids if len(ids) == len(self._both[2]) == len(set(labels)) else []

    def original_rows(self) -> tuple[Tensor | None, Tensor | None]:
        """``original_index`` of both files; None where a file has none."""
        train, test = map(_original_index, self._paths())
        return train, test

    def parts(self) -> tuple[Part, Part, list[str]] | None:
        """Both files, where they hold encoded images."""
        train, test, names = self._both
        if isinstance(train, Part) and isinstance(test, Part):
            return train, test, names
        return None

    def read(self) -> Content:
        """Decode both files; the class names of the training file count."""
        train, test, names = self._both
        (train_set, skipped), (test_set, more) = (
            read_part(each, self.config) if isinstance(each, Part) else (each, 0)
            for each in (train, test)
        )
        return Content(train_set, test_set, names, skipped + more)

    @cached_property
    def _both(self) -> tuple[Part | ResidentImages, Part | ResidentImages, list[str]]:
        (train, names), (test, test_names) = map(self._read, self._paths())
        if names != test_names:
            raise UserError(
                f"training and test files name different classes: {_difference(names, test_names)}",
                "data.train, data.test",
                "use files of the same data set",
            )
        return train, test, names

    def _paths(self) -> tuple[Path, Path]:
        config = self.config
        return existing(config.train, "data.train"), existing(config.test, "data.test")

    def _read(self, path: Path) -> tuple[Part | ResidentImages, list[str]]:
        if is_parquet(path):
            return read_parquet(path)
        try:
            with np.load(path, allow_pickle=False) as archive:
                # Each access unpacks anew, so every member is read once.
                members = {key: archive[key] for key in archive.files if key in _KEYS}
        except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
            raise UserError(
                f"not a readable .npz pack: {error}", str(path), "see the layout in the README"
            ) from error
        y = members.get("label", members.get("labels"))
        if y is None or not ("images" in members or {"jpeg", "offsets"} <= members.keys()):
            raise UserError(
                f"a pack needs label and images, or label, jpeg and offsets; found "
                f"{', '.join(sorted(members)) or 'none of them'}",
                str(path),
            )
        labels, boxes = torch.from_numpy(y.astype(np.int64)), None
        if "bbox" in members:
            boxes = corners(torch.from_numpy(members["bbox"].astype(np.float32)), labels)
        if "images" in members:
            held: Part | ResidentImages = ResidentImages(
                _pixels(members["images"], path), labels, boxes
            )
            count = len(held.images)
        else:
            held = _encoded(members["jpeg"], members["offsets"], path, labels, boxes)
            count = len(held.names)
        names = [str(name) for name in members.get("class_names", [])]
        if len(labels) == 0:
            raise UserError("the pack holds no image", str(path))
        names = names or [str(index) for index in range(int(labels.max()) + 1)]
        check_labels(labels, count, names, str(path))
        return held, names


def _original_index(path: Path) -> Tensor | None:
    if is_parquet(path):
        return None
    with np.load(path, allow_pickle=False) as archive:
        if "original_index" not in archive.files:
            return None
        return torch.from_numpy(archive["original_index"].astype(np.int64))


_KEYS = ("images", "jpeg", "offsets", "label", "labels", "class_names", "bbox")


def _encoded(
    blob: np.ndarray,
    offsets: np.ndarray,
    path: Path,
    labels: torch.Tensor,
    boxes: torch.Tensor | None,
) -> Part:
    def load(row: int) -> bytes:
        return blob[offsets[row] : offsets[row + 1]].tobytes()

    names = [f"image {row} of {path.name}" for row in range(len(offsets) - 1)]
    return Part(names, load, labels, boxes)


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
