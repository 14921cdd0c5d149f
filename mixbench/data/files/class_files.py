"""Image files with their classes: one folder per class, or named by a list."""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from mixbench.data.classes import Labels, joined_classes
from mixbench.data.files.decode import is_image
from mixbench.data.files.encoded import Part
from mixbench.data.files.hashes import content_hashes
from mixbench.data.files.tree import (
    HIDDEN_FILE,
    MAX_IMAGE_BYTES,
    files_below,
    folder_entries,
    is_hidden,
)
from mixbench.errors import UserError
from mixbench.files import read_bytes

FOLDER_LAYOUT = (
    "train/<class>/* and val/<class>/* below data.root, or <class>/* alone, of which a part is set "
    "aside"
)
OUTSIDE, CIRCLE = "file outside of the folders of classes", "link to a folder around it"


@dataclass
class ClassFiles:
    """Image files with their classes.

    Attributes:
        root: Folder of the data set.
        names: Paths of the files relative to it, with ``/``.
        labels: Class index of each.
        classes: Names of the classes.
        unused: Number of other files, by the reason why they are not used.
        listed: Whether a list names them, so that their paths do not tell the split.
    """

    root: Path
    names: list[str]
    labels: list[int]
    classes: list[str]
    unused: Counter[str]
    listed: bool = False

    @cached_property
    def hashes(self) -> list[bytes]:
        """SHA-256 of each file."""
        return content_hashes(self.root, self.names, MAX_IMAGE_BYTES)

    def taken(self, rows: Sequence[int]) -> "ClassFiles":
        """The files at some rows, with all classes; what is not used is counted elsewhere."""
        names, labels = [self.names[row] for row in rows], [self.labels[row] for row in rows]
        files = ClassFiles(self.root, names, labels, self.classes, Counter(), self.listed)
        files.hashes = [self.hashes[row] for row in rows]
        return files

    def part(self, labels: torch.Tensor | None = None) -> Part:
        """The files as one split, with ``labels`` (N,) in place of their own."""
        paths = [os.path.join(self.root, name) for name in self.names]
        return Part(
            paths,
            lambda row: read_bytes(paths[row], MAX_IMAGE_BYTES),
            torch.tensor(self.labels) if labels is None else labels,
            unused=dict(self.unused),
            hashes=lambda: self.hashes,
        )


def fingerprint_of(splits: Sequence[ClassFiles]) -> str:
    """Hash of files that are named after their classes, or of which a list says the class.

    Args:
        splits: The parts of a data set.

    Returns:
        SHA-256 over the name, the class and the content of each, in order.
    """
    digest = hashlib.sha256()
    for split in splits:
        for name, label, content in zip(split.names, split.labels, split.hashes, strict=True):
            words = (os.fsencode(name), split.classes[label].encode(errors="surrogateescape"))
            digest.update(b"\0".join((*words, content.hex().encode())) + b"\n")
    return digest.hexdigest()


def labels_of_val(train: ClassFiles, val: ClassFiles, take: str) -> torch.Tensor:
    """Labels of the test images as indices of the classes of training.

    Args:
        train: Training images.
        val: Test images.
        take: Value of ``data.classes``.

    Returns:
        (N,) int64.

    Raises:
        UserError: If their classes differ, as :func:`mixbench.data.classes.joined_classes`.
    """
    own, others = (Labels(torch.tensor(part.labels), part.classes) for part in (train, val))
    return joined_classes(own, others, take, str(train.root))[1]


def class_files(root: Path, part: str, *, empty: bool = False) -> ClassFiles:
    """Images of a folder with one folder per class, at any depth below it.

    Args:
        root: Folder of the data set.
        part: Name of the folder in it; empty for the folder itself.
        empty: Whether a class may have no image.

    Returns:
        The images, class by class in the order of names.

    Raises:
        UserError: If there is none, or a class without any.
    """
    folder, unused = root / part, Counter[str]()
    prefix = f"{part}/" if part else ""
    names: list[str] = []
    labels: list[int] = []
    classes: list[str] = []
    folders, others = folder_entries(folder)
    unused.update(HIDDEN_FILE if is_hidden(name) else OUTSIDE for name in others)
    for name in folders:
        if is_hidden(name):
            unused[HIDDEN_FILE] += 1
            continue
        below, circles = files_below(folder / name)
        unused += Counter({CIRCLE: circles})
        reasons = [why_unused(file) for file in below]
        unused.update(filter(None, reasons))
        images = [file for file, why in zip(below, reasons, strict=True) if not why]
        names += [f"{prefix}{name}/{file}" for file in images]
        labels += [len(classes)] * len(images)
        classes.append(name)
    filled = set(labels)
    bare = [name for label, name in enumerate(classes) if label not in filled]
    if not names or (bare and not empty):
        what = f"there is no image in {', '.join(bare[:5])}" if bare else "no image is found"
        raise UserError(what, str(folder), f"expected {FOLDER_LAYOUT}")
    return ClassFiles(root, names, labels, classes, unused)


def why_unused(name: str) -> str:
    """The reason why a file among images is not used.

    Args:
        name: Its path below the folder of its class.

    Returns:
        The reason, empty for an image.
    """
    if is_hidden(name):
        return HIDDEN_FILE
    if is_image(name):
        return ""
    suffix = os.path.splitext(name)[1].lower()
    return f"unusual suffix {suffix}" if suffix else "file without a suffix"
