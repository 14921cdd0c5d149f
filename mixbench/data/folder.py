"""Image folders: ``train/<class>/*`` and ``val/<class>/*`` below ``data.root``."""

import hashlib
from pathlib import Path

import torch

from mixbench.data.decode import decode_all
from mixbench.data.images import DataSource, ResidentImages, existing
from mixbench.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


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
            for path, _ in _files(root / part)[0]:
                line = f"{path.relative_to(root).as_posix()}\0{path.stat().st_size}\n"
                digest.update(line.encode())
        return digest.hexdigest()

    def read(self) -> tuple[ResidentImages, ResidentImages, list[str], int]:
        """Decode both parts; classes are the sorted folder names of ``train``."""
        root = existing(self.config.root, "data.root")
        (files, names), (test_files, test_names) = _files(root / "train"), _files(root / "val")
        if names != test_names:
            only = ", ".join(sorted(set(names) ^ set(test_names))[:5])
            raise UserError(f"train and val have different classes: {only}", str(root))
        train, skipped = self._read(files)
        test, more = self._read(test_files)
        return train, test, names, skipped + more

    def _read(self, files: list[tuple[Path, int]]) -> tuple[ResidentImages, int]:
        items = [str(path) for path, _ in files]
        images, rows = decode_all(items, lambda row: files[row][0].read_bytes(), self.config)
        labels = torch.tensor([label for _, label in files])[rows]
        return ResidentImages(images, labels), len(files) - len(rows)


def _files(folder: Path) -> tuple[list[tuple[Path, int]], list[str]]:
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
