"""Packed sets: one ``.npz`` file for training, one for test, or one for both.

A pack holds ``images`` (N, H, W[, C]) uint8, or ``jpeg`` (all files end to end, uint8) with
``offsets`` (N + 1,), and ``label`` or ``labels`` (N,), optionally ``class_names``, ``bbox`` (N, 4):
xmin, ymin, xmax, ymax in pixels, the last pixel included, and ``original_index`` (N,), the place of
each image in the set that the pack was taken from. Where ``data.test`` is left out, a part of each
class or a fold can be set aside for the test. A file for both holds ``train_images``,
``train_labels``, ``test_images`` and ``test_labels``, as MedMNIST has them, or ``x_train``,
``y_train``, ``x_test`` and ``y_test`` of Keras. In its place stands a Parquet file, or a folder of
such, as Hugging Face distributes data sets.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mixbench.data.classes import Labels, class_names, joined_classes, stored_labels, whole_numbers
from mixbench.data.division import Division, divide, training_count
from mixbench.data.files.arrays import Arrays
from mixbench.data.files.encoded import Part, part_of
from mixbench.data.files.parquet import Shards, files_of_set, is_parquet, read_parquet
from mixbench.data.images import Content, ResidentImages, corners, sum_counts
from mixbench.data.source import DataSource, existing_path, read_content
from mixbench.errors import UserError
from mixbench.files import open_regular

PACK_KEYS = "data.train, data.test"
PACK_LAYOUT = (
    "images, or jpeg and offsets, with label; or train_images, train_labels, test_images and "
    "test_labels"
)
_BOUNDS = "jpeg holds all files end to end as uint8, offsets (N + 1,) their bounds in order"
_PLACES = "give the place of each image in the set that the pack was taken from, counted from 0"
_PLAIN = (("images", "label"), ("images", "labels"), ("jpeg", "label"), ("jpeg", "labels"))
_DIVIDED = (("{}_images", "{}_labels"), ("{}_images", "{}_label"), ("x_{}", "y_{}"))


class Pack(DataSource):
    """``data=pack data.train=FILE [data.test=FILE|data.test_fraction=0.2] [data.name=...]``."""

    @property
    def name(self) -> str:
        """The given name, else the stem of the training file."""
        return self.config.name or existing_path(self.config.train, "data.train").stem

    def fingerprint(self) -> str:
        """Hash of the files of both parts, or of the file and its division; computed once.

        All folds of a file share it.

        Raises:
            UserError: If both parts have a file in common.
        """
        return self._fingerprint

    @property
    def division(self) -> str:
        """How test images were set aside."""
        return "" if self._pool is None else self._pool.division.text

    def check_division(self) -> None:
        """Refuse such keys only where there are test images; others divide by them."""
        if not self._undivided:
            super().check_division()

    @property
    def _undivided(self) -> bool:
        """Whether test images have to be set aside."""
        config = self.config
        asked = config.test_fraction is not None or config.folds is not None
        return asked and config.test is None and not self._train_side.divided

    @cached_property
    def _pool(self) -> "_Pool | None":
        """All images of a file that has no test images, and how it is divided."""
        if not self._undivided:
            return None
        images, labels = self._train_side.read()
        indices, contents = labels.indices.tolist(), _contents(images)
        names = [str(row) for row in range(len(indices))]
        where = str(self._train_side.path)
        division = divide(self.config, indices, contents, names, labels.classes, where)
        return _Pool(images, labels, division)

    @cached_property
    def _fingerprint(self) -> str:
        if self._pool is not None:
            files = b"".join(map(_hash, self._train_side.files))
            places = repr(self._pool.division.parts).encode()
            return hashlib.sha256(files + places).hexdigest()
        known = {file: _hash(file) for side in self._sides for file in side.files}
        train, test = ([known[file] for file in side.files] for side in self._sides)
        twice = [row for row, digest in enumerate(train) if digest in test]
        apart = self._sides[0].arrays != self._sides[1].arrays  # other arrays of one file
        if twice and not apart:
            raise UserError(
                f"training and test images are the same: {self._sides[0].files[twice[0]]}",
                PACK_KEYS,
                "a score on training images says nothing; give another file to data.test",
            )
        return hashlib.sha256(b"".join(train + test)).hexdigest()

    def class_ids(self) -> list[str]:
        """From ``wnid``, the id of each image, if the training file has an image of each class."""
        wnids = self._train_side.array("wnid")
        if wnids is None:
            return []
        train, _, names = self._both
        labels = (train.labels if self._pool is None else self._pool.labels.indices).tolist()
        if len(wnids) != len(labels):
            return []
        pairs = set(zip(labels, wnids.tolist(), strict=True))
        ids = [str(wnid) for _, wnid in sorted(pairs)]
        return ids if len(ids) == len(names) == len(set(labels)) else []

    def train_count(self) -> int:
        """Number of training images."""
        train, test, _ = self._both
        return training_count(len(train.labels), len(test.labels), self.config.folds)

    def original_rows(self) -> tuple[Tensor | None, Tensor | None]:
        """``original_index`` of both files; None where a file has none."""
        if self._pool is not None:
            path, rows = self.config.train, self._train_side.array("original_index")
            if rows is None:
                return None, None
            places = whole_numbers(rows, str(path), "original_index", _PLACES)
            division = self._pool.division
            return places[division.train], places[division.test]
        train, test = (
            None if rows is None else whole_numbers(rows, str(side.path), "original_index", _PLACES)
            for side in self._sides
            for rows in [side.array("original_index")]
        )
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
        content = read_content(train, test, names, self.config)
        if self.parts() is not None:  # which say it themselves
            return content
        notices, unused = self._remarks
        every = list(dict.fromkeys([*content.notices, *notices]))
        return content._replace(notices=every, unused=unused)

    @cached_property
    def _both(self) -> tuple[Part | ResidentImages, Part | ResidentImages, list[str]]:
        if self._pool is not None:
            (train, test), names = self._pool.taken(), self._pool.labels.classes
        else:
            (train, labels), (test, others) = (side.read() for side in self._sides)
            names, indices = joined_classes(labels, others, self.config.classes, PACK_KEYS)
            if test.boxes is not None:
                test.boxes[..., 0] = indices[:, None].float()
            test.labels = indices
        if isinstance(train, Part):
            train.notices, train.unused = self._remarks
        return train, test, names

    @property
    def _remarks(self) -> tuple[list[str], dict[str, int]]:
        """Notices on files that are read in place of others; counts of files that are not read."""
        if self._pool is not None:
            side = self._train_side
            return self._pool.division.notices, side.others({side.split})
        train, test = self._sides
        together = train.path.resolve() == test.path.resolve()
        used = {train.split, test.split}
        unused = [train.others(used if together else {train.split})]
        unused += [] if together else [test.others({test.split})]
        notices = []
        if test.split not in ("", "test"):
            notices.append(f"the test images are those of the split {test.split}; there is no test")
        notices += [
            f"{side.path.name} is one of {count} files; the others are not read"
            for side in (train, test)
            if side.path.is_file() and (count := files_of_set(side.path)) > 1
        ]
        return notices, sum_counts(*unused)

    @cached_property
    def _sides(self) -> tuple["_Side", "_Side"]:
        """The places of the training and the test images."""
        train, test = self._train_side, self.config.test
        if test is None and not train.divided:
            raise UserError(
                "data.test is not given",
                str(train.path),
                "add data.test=FILE, or data.test_fraction=0.2 to set a part of each class aside",
            )
        path = train.path if test is None else existing_path(test, "data.test")
        return train, _Side(path, "test")

    @cached_property
    def _train_side(self) -> "_Side":
        return _Side(existing_path(self.config.train, "data.train"), "train")


@dataclass
class _Pool:
    """All images of a file, of which a part is tested."""

    images: Part | ResidentImages
    labels: Labels
    division: Division

    def taken(self) -> tuple[Part | ResidentImages, Part | ResidentImages]:
        """Training and test images."""
        images = self.images
        if isinstance(images, Part):
            return part_of(images, self.division.train), part_of(images, self.division.test)
        train, test = (torch.tensor(rows) for rows in (self.division.train, self.division.test))
        return images.subset(train), images.subset(test)


class _Side:
    """The training or the test images: where they lie, and what else lies there.

    Args:
        path: File or folder.
        part: ``train`` or ``test``.

    Attributes:
        files: All files that belong to it.
        split: Name of the split there; empty where the files hold no other.
        arrays: Names of images and labels in an ``.npz``.
    """

    def __init__(self, path: Path, part: str) -> None:
        self.path = path
        if is_parquet(path):
            self._shards: Shards | None = Shards(path)
            self.arrays = ("", "")
            self.split, self.files = self._shards.chosen(part)
            self._splits = {split: len(files) for split, files in self._shards.by_split.items()}
            return
        self._shards, self.files = None, [path]
        try:
            with Arrays(path) as archive:
                self._names = archive.names
                self.split, self.arrays = _layout(self._names, part, path)
                self._splits = {
                    split: archive.shape(keys[0])[0]
                    for split, keys in (_splits(self._names) if self.split else {}).items()
                }
        except UserError:
            raise
        except (OSError, ValueError, IndexError) as error:
            raise _unreadable(path, error) from error

    @property
    def divided(self) -> bool:
        """True if training and test images have their own place in the same file or folder."""
        return len(self._splits) > 1

    def others(self, used: set[str]) -> dict[str, int]:
        """Counts of what belongs to other splits."""
        noun = "image" if self._shards is None else "Parquet file"
        found = {
            f"{noun} of {f'the split {split}' if split else 'no split'}": count
            for split, count in self._splits.items()
            if split not in used
        }
        hidden = 0 if self._shards is None else self._shards.hidden
        return found | ({"hidden Parquet file": hidden} if hidden else {})

    def array(self, name: str) -> np.ndarray | None:
        """An array beside images and labels; None where there is none."""
        if self._shards is not None or name not in self._names:
            return None
        if self.split and name != "class_names":  # that of both parts
            return None
        return self._read(name)

    def read(self) -> tuple[Part | ResidentImages, Labels]:
        """Images and labels."""
        if self._shards is not None:
            return read_parquet(self.path, self.files)
        images, label = (self._read(key) for key in self.arrays)
        where, named = str(self.path), self.array("class_names")
        unique = "wnid" not in self._names
        names = [] if named is None else class_names(named, where, repeated=not unique)
        offsets = self._read("offsets") if self.arrays[0] == "jpeg" else None
        count = len(images) if offsets is None else len(offsets) - 1
        found = stored_labels(label, names, f"{where}, {self.arrays[1]}", count)
        self._compare_labels(label)
        boxes = self.array("bbox")
        if boxes is not None:
            boxes = _boxes(boxes, found.indices, where)
        if offsets is not None:
            return encoded_part(images, offsets, self.path, found.indices, boxes), found
        return ResidentImages(_pixels(images, self.path), found.indices, boxes), found

    def _compare_labels(self, label: np.ndarray) -> None:
        """Refuse ``label`` beside other ``labels``."""
        if not self.split and {"label", "labels"} <= {*self._names}:
            other = self._read("labels")
            if not np.array_equal(label, other):
                raise UserError(
                    "label and labels are both there, and differ",
                    str(self.path),
                    "keep only the array to train on",
                )

    def _read(self, name: str) -> np.ndarray:
        try:
            with Arrays(self.path) as archive:
                found = archive[name]
            if not found.ndim:
                raise ValueError(f"{name} is a single value, and one for each image is wanted")
            return found
        except (OSError, ValueError) as error:
            raise _unreadable(self.path, error) from error


def _contents(images: Part | ResidentImages) -> list[bytes]:
    """SHA-256 of each file, or of the pixels of each image."""
    if isinstance(images, Part):
        raw = map(images.load, range(len(images.names)))
    else:
        raw = (image.tobytes() for image in images.images.numpy())
    return [hashlib.sha256(each).digest() for each in raw]


def _layout(names: list[str], part: str, path: Path) -> tuple[str, tuple[str, str]]:
    """The split that a file is read for, empty if it holds one only, and its two arrays."""
    for images, label in _PLAIN:
        if {images, label} <= {*names} and (images != "jpeg" or "offsets" in names):
            return "", (images, label)
    splits = _splits(names)
    for split in ("train",) if part == "train" else ("test", "val"):
        if split in splits:
            return split, splits[split]
    raise UserError(
        f"the file has no {part} images with labels; found {', '.join(names[:30]) or 'no array'}",
        str(path),
        f"a pack holds {PACK_LAYOUT}",
    )


def _splits(names: list[str]) -> dict[str, tuple[str, str]]:
    """The two arrays of each split of a file that holds several."""
    found = {}
    for split in ("train", "val", "test"):
        for pair in _DIVIDED:
            images, label = (key.format(split) for key in pair)
            if {images, label} <= {*names}:
                found.setdefault(split, (images, label))
    return found


def _hash(path: Path) -> bytes:
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        what = f"{path.name} cannot be read: {error.strerror}"
        raise UserError(what, str(path), "put the file itself there") from error


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(
        f"the file cannot be read as an .npz pack: {error}",
        str(path),
        f"a pack holds {PACK_LAYOUT}",
    )


def _boxes(boxes: np.ndarray, labels: Tensor, where: str) -> Tensor:
    if boxes.shape != (len(labels), 4) or boxes.dtype.kind not in "iuf":
        raise UserError(
            f"bbox must be ({len(labels)}, 4), got {boxes.dtype} {boxes.shape}",
            where,
            "give xmin, ymin, xmax and ymax of each image",
        )
    if not np.isfinite(boxes).all():
        raise UserError(
            "bbox holds NaN or infinity", where, "correct these boxes, or leave bbox out"
        )
    return corners(torch.from_numpy(boxes.astype(np.float32)), labels)


def encoded_part(
    blob: np.ndarray,
    offsets: np.ndarray,
    path: Path,
    labels: Tensor | None = None,
    boxes: Tensor | None = None,
) -> Part:
    """Image files that lie end to end in one array.

    Args:
        blob: (bytes,) uint8 all files.
        offsets: (N + 1,) their bounds.
        path: File of the arrays, for messages.
        labels: (N,) class indices; zeros if None.
        boxes: (N, M, 5) as in :class:`mixbench.data.images.ImageSet`.

    Returns:
        The files.

    Raises:
        UserError: If the arrays do not belong together.
    """
    ends = whole_numbers(offsets, str(path), "offsets", _BOUNDS).tolist()
    ordered = all(first <= last for first, last in pairwise(ends))
    if blob.dtype != np.uint8 or blob.ndim != 1 or not ordered or ends[-1] > len(blob):
        raise UserError(
            f"jpeg {blob.dtype} {blob.shape} and offsets up to {max(ends)} do not belong together",
            str(path),
            _BOUNDS,
        )

    def load(row: int) -> bytes:
        return blob[ends[row] : ends[row + 1]].tobytes()

    names = [f"image {row} of {path.name}" for row in range(len(ends) - 1)]
    labels = torch.zeros(len(names), dtype=torch.int64) if labels is None else labels
    return Part(names, load, labels, boxes)


def _pixels(images: np.ndarray, path: Path) -> torch.Tensor:
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise UserError(
            f"images must be uint8 (N, H, W[, C]), got {images.dtype} {images.shape}", str(path)
        )
    tensor = torch.from_numpy(images)
    tensor = tensor[:, None] if images.ndim == 3 else tensor.permute(0, 3, 1, 2)
    if tensor.shape[1] not in (1, 3):
        raise UserError(
            f"images have {tensor.shape[1]} channels, expected 1 or 3",
            str(path),
            "store grey or RGB images",
        )
    return tensor.expand(-1, 3, -1, -1).contiguous()
