"""ImageNet (ILSVRC 2012): 1,000 classes, 1,281,167 training and 50,000 validation images.

Russakovsky et al., IJCV 2015, arXiv:1409.0575. Read from a folder with ``train/<wnid>/*.JPEG`` and
``val``, which is either sorted into the same folders or flat as it is distributed; a flat one needs
the list of its classes. Validation serves as test set. Any subset of the classes, such as
ImageNet-100, is read in the same way. Labels count the sorted WordNet ids.
"""

import hashlib
import re
from functools import cached_property
from pathlib import Path

from mixbench.data.encoded import Part
from mixbench.data.folder import class_files, part_of
from mixbench.data.images import SUFFIXES, Stats
from mixbench.data.place import data_folder
from mixbench.data.source import DataSource
from mixbench.errors import UserError

TRUTH = "ILSVRC2012_validation_ground_truth.txt"  # line n: number 1-1000 of image n
LISTS = ("val_annotations.txt", "val.txt", "LOC_val_solution.csv")  # lines with image and class
LAYOUT = (
    f"train/<wnid>/*.JPEG and val/<wnid>/*.JPEG, or a flat val/ with {', '.join(LISTS)}, or with "
    f"{TRUTH} and the table of its numbers, synsets.txt (one wnid a line)"
)


class ImageNet(DataSource):
    """``data=imagenet [data.root=FOLDER]``; files are read by ``data.workers`` processes."""

    constants = Stats([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])

    @cached_property
    def root(self) -> Path:
        """The folder of ``train`` and ``val``.

        Raises:
            UserError: If it is not there; it can only be had with an account.
        """
        given = self.config.root
        places = [Path(given)] if given else [data_folder() / "imagenet"]
        for place in (*places, *(place / "ILSVRC/Data/CLS-LOC" for place in places)):
            if (place / "train").is_dir() and (place / "val").is_dir():
                return place
        raise UserError(
            "imagenet is not there: it cannot be fetched without an account",
            str(places[0]),
            f"get it from https://image-net.org/download.php, unpack it into {places[0]} or give "
            f"data.root=FOLDER; expected {LAYOUT}",
        )

    def fingerprint(self) -> str:
        """Hash of all names and sizes with their classes; images are not read."""
        digest = hashlib.sha256()
        (train, names), val = self._train, self._val
        for path, label in (*train, *val):
            place = path.relative_to(self.root).as_posix()
            line = f"{place}\0{path.stat().st_size}\0{names[label]}\n"
            digest.update(line.encode())
        return digest.hexdigest()

    def class_ids(self) -> list[str]:
        """The names of the folders."""
        return self._train[1]

    def parts(self) -> tuple[Part, Part, list[str]]:
        """Training and validation images; classes are named by their words where they are known."""
        files, wnids = self._train
        return part_of(files), part_of(self._val), _words(self.root, wnids)

    @cached_property
    def _train(self) -> tuple[list[tuple[Path, int]], list[str]]:
        return class_files(self.root / "train")

    @cached_property
    def _val(self) -> list[tuple[Path, int]]:
        folder, wnids = self.root / "val", self._train[1]
        if any(place.is_dir() for place in folder.iterdir()):
            files, found = class_files(folder)
            if found != wnids:
                only = ", ".join(sorted(set(found) ^ set(wnids))[:5])
                raise UserError(f"train and val have different classes: {only}", str(self.root))
            return files
        images = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
        classes = self._listed(images)
        index = {wnid: label for label, wnid in enumerate(wnids)}
        lost = [path.name for path in images if path.stem not in classes]
        if lost:
            raise UserError(f"no class is given for {', '.join(lost[:5])}", str(folder))
        strange = sorted(set(classes.values()) - set(wnids))
        if strange:
            raise UserError(
                f"val holds classes that train lacks: {', '.join(strange[:5])}", str(self.root)
            )
        return [(path, index[classes[path.stem]]) for path in images]

    def _listed(self, images: list[Path]) -> dict[str, str]:
        """Class of each image by its stem, from the first list that is there."""
        folders = (self.root / "val", self.root, *list(self.root.glob("*/data")))
        for folder in folders:
            for name in LISTS:
                if (folder / name).is_file():
                    lines = (folder / name).read_text(encoding="utf-8").splitlines()
                    words = [re.split(r"[\t ,]+", line.strip()) for line in lines if line.strip()]
                    pairs = [line for line in words if len(line) > 1 and line[0] != "ImageId"]
                    return {Path(line[0]).stem: line[1] for line in pairs}
            if (folder / TRUTH).is_file() and (folder / "synsets.txt").is_file():
                numbers = (folder / TRUTH).read_text(encoding="utf-8").split()
                synsets = (folder / "synsets.txt").read_text(encoding="utf-8").split()
                if len(numbers) != len(images):
                    raise UserError(
                        f"{len(images)} images but {len(numbers)} lines", str(folder / TRUTH)
                    )
                pairs = zip(images, numbers, strict=True)
                return {path.stem: synsets[int(number) - 1] for path, number in pairs}
        raise UserError(
            "val is one flat folder, and nothing says which image is of which class",
            str(self.root / "val"),
            f"expected {LAYOUT}",
        )


def _words(root: Path, wnids: list[str]) -> list[str]:
    for name in ("words.txt", "LOC_synset_mapping.txt"):
        if (root / name).is_file():
            lines = (root / name).read_text(encoding="utf-8").splitlines()
            known = dict(re.split(r"[\t ]", line, maxsplit=1) for line in lines if " " in line)
            return [known.get(wnid, wnid).split(",")[0].strip() for wnid in wnids]
    return wnids
