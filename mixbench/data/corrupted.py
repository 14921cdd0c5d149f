"""Published sets of corrupted test images, read where they lie.

CIFAR-10-C and CIFAR-100-C are a folder of ``<corruption>.npy`` with 5 N images, the severities one
after another, and ``labels.npy``. Tiny-ImageNet-C and ImageNet-C are a folder of
``<corruption>/<severity>/<class>/*.JPEG``.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path, PurePath

import numpy as np
import torch
from torch import Tensor

from mixbench.data.files.arrays import UnreadableArraysError, map_array, read_array
from mixbench.data.files.decode import decode, is_image
from mixbench.data.files.tree import MAX_IMAGE_BYTES, files_below, folder_entries, is_hidden
from mixbench.data.images import Batch, ImageSet, Splits
from mixbench.data.sampling import BatchIndex
from mixbench.errors import UnreadableImageError, UserError
from mixbench.files import read_bytes

CORRUPTED_LAYOUT = (
    "<corruption>.npy and labels.npy as CIFAR-10-C, or <corruption>/<severity>/<class>/*.JPEG as "
    "ImageNet-C"
)
LEVELS = 5  # severities of each corruption
_LABELS = "labels.npy"


class CorruptedFiles(ABC):
    """The corrupted images of a test set.

    Args:
        root: Their folder.
        splits: The data whose test images they are.
        where: Config key and folder, for messages.
    """

    layout = ""

    def __init__(self, root: Path, splits: Splits, where: str) -> None:
        self.root, self.splits, self.where = root, splits, where

    @abstractmethod
    def check(self, names: Iterable[str]) -> None:
        """Refuse corruptions that are missing, or whose images are not those of the test set.

        Args:
            names: Names of the corruptions.

        Raises:
            UserError: With the first reason.
        """

    @abstractmethod
    def images(self, name: str, severity: int) -> ImageSet:
        """The test images under a corruption.

        Args:
            name: Name of the corruption.
            severity: 1 to 5.

        Returns:
            As many images as the test set has.

        Raises:
            UserError: As :meth:`check`.
        """

    def _unfit(self, what: str, todo: str = "") -> UserError:
        return UserError(what, self.where, todo or f"expected {self.layout}")


def open_corrupted(folder: str, splits: Splits) -> CorruptedFiles:
    """The corrupted images in a folder.

    Args:
        folder: Value of ``eval.corrupted``.
        splits: The data whose test images they are.

    Returns:
        Their files.

    Raises:
        UserError: If it is no folder of either layout.
    """
    root = folder_of_corrupted(folder)
    kind = CorruptedArrays if any(root.glob("*.npy")) else CorruptedFolders
    return kind(root, splits, f"eval.corrupted={folder}")


def folder_of_corrupted(folder: str) -> Path:
    """A folder of corrupted images, if it is one.

    Args:
        folder: Value of ``eval.corrupted``.

    Returns:
        Its path.

    Raises:
        UserError: If it is none.
    """
    root, where = Path(folder), f"eval.corrupted={folder}"
    if root.is_file():
        what = "a folder of corrupted images is expected, and this is a file"
        raise UserError(what, where, "unpack it, and give the folder")
    if not root.is_dir():
        raise UserError("no such folder", where, f"expected {CORRUPTED_LAYOUT}")
    return root


class CorruptedArrays(CorruptedFiles):
    """Arrays of all severities, as CIFAR-10-C has them."""

    layout = "<corruption>.npy (5 N, H, W, 3) uint8 and labels.npy (5 N,) for N test images"

    def check(self, names: Iterable[str]) -> None:
        """Also that each label is that of the test image at the same place."""
        if not len(self._rows):
            return
        for name in names:
            self._array(name)

    def images(self, name: str, severity: int) -> ImageSet:
        """Rows of the array, which stays on disk."""
        rows = self._rows + (severity - 1) * self._count
        return _ArrayImages(self._array(name), rows, self.splits.test.labels)

    @cached_property
    def _labels(self) -> np.ndarray:
        path = self.root / _LABELS
        try:
            labels = read_array(path)
        except FileNotFoundError as error:
            raise self._unfit(f"there is no {_LABELS}") from error
        except UnreadableArraysError as error:
            raise self._unfit(f"{_LABELS} cannot be read: {error}") from error
        if labels.ndim != 1 or labels.dtype.kind not in "iu" or len(labels) % LEVELS:
            what = f"{_LABELS} is {labels.dtype} {labels.shape}, no list of {LEVELS} x N labels"
            raise self._unfit(what)
        return labels

    @property
    def _count(self) -> int:
        """Images of each severity."""
        return len(self._labels) // LEVELS

    @cached_property
    def _rows(self) -> Tensor:
        """Place of each test image among those of a severity."""
        rows, test = self.splits.test_rows, self.splits.test.labels
        if rows is None:
            rows = torch.arange(len(test))
        if len(rows) and int(rows.max()) >= self._count:
            what = f"{_LABELS} has {self._count:,} labels for each severity, and the test set holds"
            raise self._unfit(f"{what} image {int(rows.max())} of {len(test):,}", self._remedy)
        for level in range(LEVELS):
            block = self._labels[level * self._count : (level + 1) * self._count]
            found = torch.from_numpy(block.astype(np.int64))[rows]
            wrong = (found != test.cpu()).nonzero()
            if len(wrong):
                row = int(wrong[0])
                names = self.splits.info.class_names
                said, true = int(found[row]), int(test[row])
                known = names[said] if 0 <= said < len(names) else "no class of the data"
                what = (
                    f"{_LABELS} says {said} ({known}) of test image {row} at severity {level + 1}, "
                    f"which is {true} ({names[true] if names else 'unnamed'}); {len(wrong):,} "
                    f"of {len(test):,} labels differ"
                )
                raise self._unfit(what, self._remedy)
        return rows

    @property
    def _remedy(self) -> str:
        return f"give the corrupted images of {self.splits.info.name}, in their order"

    def _array(self, name: str) -> np.ndarray:
        info = self.splits.info
        try:
            array = map_array(self.root / f"{name}.npy")
        except FileNotFoundError as error:
            others = sorted(path.stem for path in self.root.glob("*.npy") if path.name != _LABELS)
            what = f"there is no {name}.npy; found {', '.join(others) or 'none'}"
            raise self._unfit(what, "leave it out of eval.corruptions, or put it there") from error
        except UnreadableArraysError as error:
            raise self._unfit(f"{name}.npy cannot be read: {error}") from error
        wanted = (LEVELS * self._count, info.height, info.width, 3)
        if array.shape != wanted or array.dtype != np.uint8:
            what = f"{name}.npy is {array.dtype} {array.shape}, and uint8 {wanted} is needed"
            raise self._unfit(what)
        return array


class _ArrayImages(ImageSet):
    """Some rows of an array on disk.

    Args:
        array: (M, H, W, 3) uint8.
        rows: (N,) rows of the images.
        labels: (N,) int64.
    """

    def __init__(self, array: np.ndarray, rows: Tensor, labels: Tensor) -> None:
        super().__init__(labels)
        self.array, self.rows = array, rows

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the array."""
        _, height, width, channels = self.array.shape
        return channels, height, width

    def __getitem__(self, draw: BatchIndex) -> Batch:
        rows = draw.indices.cpu()
        pixels = torch.from_numpy(self.array[self.rows[rows].numpy()])
        labels = self.labels.cpu()[rows]
        return Batch(pixels.permute(0, 3, 1, 2).contiguous(), labels, rows)

    def subset(self, rows: Tensor) -> "_ArrayImages":
        """The images at ``rows`` (M,), in that order."""
        return _ArrayImages(self.array, self.rows[rows], self.labels[rows])


class CorruptedFolders(CorruptedFiles):
    """A folder for each corruption, severity and class, as ImageNet-C has them."""

    layout = "<corruption>/<severity>/<class>/*.JPEG, with a folder for each of the classes"

    def check(self, names: Iterable[str]) -> None:
        """The folders; the images in them are counted when they are asked for."""
        for name in names:
            for severity in range(1, LEVELS + 1):
                self._classes(name, severity)

    def images(self, name: str, severity: int) -> ImageSet:
        """The files of the test images by their names, or of as many images of each class."""
        folder, test = self.root / name / str(severity), self.splits.test
        found: list[tuple[str, int]] = []
        for label, wanted in enumerate(self._classes(name, severity)):
            files = [file for file in files_below(folder / wanted)[0] if not is_hidden(file)]
            found += [(f"{wanted}/{file}", label) for file in files if is_image(file)]
        names = self._test_names
        stems = {PurePath(file).stem: row for row, (file, _) in enumerate(found)}
        if names is not None and len(stems) == len(found) and all(n in stems for n in names):
            chosen = [found[stems[each]] for each in names]
            wrong = [r for r, (_, label) in enumerate(chosen) if label != int(test.labels[r])]
            if wrong:
                what = f"{name}/{severity}/{chosen[wrong[0]][0]} lies in another class than the "
                what += f"test image of that name; so do {len(wrong)} of {len(chosen)}"
                raise self._unfit(what, "give the corrupted images of this data set")
            found = chosen
        else:
            self._check_counts(name, severity, [label for _, label in found])
        paths = [str(folder / file) for file, _ in found]
        labels = torch.tensor([label for _, label in found], dtype=torch.int64)
        return _FolderImages(paths, labels, self.splits.info.height, self.splits.info.width)

    @cached_property
    def _test_names(self) -> list[str] | None:
        names = self.splits.test_names()
        return None if names is None else [PurePath(name).stem for name in names]

    def _classes(self, name: str, severity: int) -> Sequence[str]:
        """Names of the folders in the order of the classes."""
        info = self.splits.info
        folder = self.root / name / str(severity)
        if not folder.is_dir():
            others = [each for each in folder_entries(self.root)[0] if not is_hidden(each)]
            what = f"there is no folder {name}/{severity}; found {', '.join(others[:20]) or 'none'}"
            raise self._unfit(what, "leave it out of eval.corruptions, or put it there")
        found = {each for each in folder_entries(folder)[0] if not is_hidden(each)}
        for wanted in (info.class_ids, info.class_names):
            if wanted and found == set(wanted):
                return wanted
        wanted = info.class_ids or info.class_names
        lacking, strange = sorted(set(wanted) - found), sorted(found - set(wanted))
        what = f"the classes of {name}/{severity} are not those of {info.name}: "
        told = [f"{len(lacking)} are missing, such as {lacking[0]}"] if lacking else []
        told += [f"{len(strange)} are unknown, such as {strange[0]}"] if strange else []
        raise self._unfit(what + ", ".join(told))

    def _check_counts(self, name: str, severity: int, labels: list[int]) -> None:
        classes = self.splits.info.num_classes
        found = torch.tensor(labels, dtype=torch.int64).bincount(minlength=classes)
        wanted = self.splits.test.labels.cpu().bincount(minlength=classes)
        if wrong := (found != wanted).nonzero().flatten().tolist():
            first = wrong[0]
            raise self._unfit(
                f"{name}/{severity} has {int(found[first]):,} images of class "
                f"{self._classes(name, severity)[first]}, and the test set {int(wanted[first]):,}",
                "give the corrupted images of all test images; with data.limit, file names of "
                "both have to agree",
            )


class _FolderImages(ImageSet):
    """Image files that are decoded whenever a batch asks for them.

    Args:
        paths: Of the files.
        labels: (N,) int64.
        height: Pixels of the columns.
        width: Pixels of the rows.
    """

    def __init__(self, paths: list[str], labels: Tensor, height: int, width: int) -> None:
        super().__init__(labels)
        self.paths, self.height, self.width = paths, height, width

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the images that a network sees."""
        return 3, self.height, self.width

    def __getitem__(self, draw: BatchIndex) -> Batch:
        rows = draw.indices.cpu()
        pixels = [self._decoded(self.paths[row]) for row in rows.tolist()]
        images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()
        return Batch(images, self.labels[rows], rows)

    def subset(self, rows: Tensor) -> "_FolderImages":
        """The images at ``rows`` (M,), in that order."""
        paths = [self.paths[row] for row in rows.tolist()]
        return _FolderImages(paths, self.labels[rows], self.height, self.width)

    def _decoded(self, path: str) -> np.ndarray:
        try:
            image = decode(read_bytes(path, MAX_IMAGE_BYTES))
        except OSError as error:
            what = f"a corrupted image cannot be read: {path} ({error})"
            raise UnreadableImageError(
                what, "eval.corrupted", "put the file there again"
            ) from error
        if image.shape[:2] != (self.height, self.width):
            size = f"{image.shape[1]}x{image.shape[0]}"
            raise UnreadableImageError(
                f"{path} has {size} pixels, and the network sees {self.width}x{self.height}",
                "eval.corrupted",
                "train on images of that size, as corruptions change with it",
            )
        return image
