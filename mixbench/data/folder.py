"""Image folders: ``train/<class>/*`` and ``val/<class>/*`` below ``data.root``."""

import hashlib
from pathlib import Path

import torch

from mixbench.data.encoded import Part
from mixbench.data.images import SUFFIXES
from mixbench.data.source import DataSource, existing
from mixbench.errors import UserError


class Folder(DataSource):
    """``data=folder data.root=FOLDER [data.size=PIXELS]``; ``val`` is the test set."""

    @property
    def name(self) -> str:
        """The given name, else the folder's own."""
        return self.config.name or existing(self.config.root, "data.root").resolve().name

    def fingerprint(self) -> str:
        """Hash of all names and sizes; contents are not read."""
        root = existing(self.config.root, "data.root")
        digest = hashlib.sha256()
        for part in ("train", "val"):
            for path, _ in class_files(root / part)[0]:
                line = f"{path.relative_to(root).as_posix()}\0{path.stat().st_size}\n"
                digest.update(line.encode())
        return digest.hexdigest()

    def parts(self) -> tuple[Part, Part, list[str]]:
        """Both parts; classes are the sorted folder names of ``train``."""
        root = existing(self.config.root, "data.root")
        (files, names), (test_files, test_names) = (
            class_files(root / "train"),
            class_files(root / "val"),
        )
        if names != test_names:
            only = ", ".join(sorted(set(names) ^ set(test_names))[:5])
            raise UserError(f"train and val have different classes: {only}", str(root))
        return part_of(files), part_of(test_files), names


def part_of(files: list[tuple[Path, int]]) -> Part:
    """Files with their labels as one split.

    Args:
        files: Path and class index of each.

    Returns:
        The split.
    """
    return Part(
        [str(path) for path, _ in files],
        lambda row: files[row][0].read_bytes(),
        torch.tensor([label for _, label in files]),
    )


def class_files(folder: Path) -> tuple[list[tuple[Path, int]], list[str]]:
    """Images of a folder with one folder per class.

    Args:
        folder: The outer folder.

    Returns:
        Path and class index of each image, and the sorted names of the classes.

    Raises:
        UserError: If there is none, or a class without any.
    """
    classes = sorted(path for path in folder.glob("*") if path.is_dir())
    files = [
        (path, label)
        for label, place in enumerate(classes)
        for path in sorted(place.iterdir())
        if path.suffix.lower() in SUFFIXES
    ]
    filled = {label for _, label in files}
    empty = [place.name for label, place in enumerate(classes) if label not in filled]
    if not files or empty:
        what = f"no image in {', '.join(empty[:5])}" if empty else "no images found"
        raise UserError(
            what, str(folder), "expected train/<class>/* and val/<class>/* below data.root"
        )
    return files, [place.name for place in classes]
