"""ImageNet (ILSVRC 2012): 1,000 classes, 1,281,167 training and 50,000 validation images.

Russakovsky et al., IJCV 2015, arXiv:1409.0575. Read from a folder with ``train/<wnid>/*.JPEG`` and
``val``, which is either sorted into the same folders or flat as it is distributed; a flat one needs
the list of its classes. Validation serves as test set. Any subset of the classes, such as
ImageNet-100, is read in the same way. Labels count the sorted WordNet ids. Boxes of validation
images are read where their annotations are, one XML file for an image.
"""

import re
import xml.etree.ElementTree as ET
from collections import Counter
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from mixbench.data.files.class_files import (
    ClassFiles,
    class_files,
    fingerprint_of,
    labels_of_val,
    why_unused,
)
from mixbench.data.files.encoded import Part
from mixbench.data.files.location import data_folder
from mixbench.data.files.tree import is_hidden
from mixbench.data.images import Stats
from mixbench.data.source import DataSource
from mixbench.errors import UserError

TRUTH = "ILSVRC2012_validation_ground_truth.txt"  # line n: number 1-1000 of image n
LISTS = ("val_annotations.txt", "val.txt", "LOC_val_solution.csv")  # lines with image and class
# Folders below that of train and val, or beside those around it, that hold the annotations of val.
BOXES = ("Annotations/CLS-LOC/val", "../../Annotations/CLS-LOC/val", "bbox/val")
_CORNERS = ("ymin", "xmin", "ymax", "xmax")
_KNOWN = (*LISTS, TRUTH, "synsets.txt")
IMAGENET_LAYOUT = (
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
            f"data.root=FOLDER; expected {IMAGENET_LAYOUT}",
        )

    def fingerprint(self) -> str:
        """Hash of the names, the classes and the contents of all images; computed once."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        return fingerprint_of((self._train, self._val))

    def class_ids(self) -> list[str]:
        """The names of the folders."""
        return self._train.classes

    def parts(self) -> tuple[Part, Part, list[str]]:
        """Training and validation images; classes are named by their words where they are known."""
        names = _words(self.root, self._train.classes)
        labels = labels_of_val(self._train, self._val, self.config.classes)
        val = self._val.part(labels)
        val.boxes = _boxes(self.root, self._val.names, self._train.classes)
        return self._train.part(), val, names

    @cached_property
    def _train(self) -> ClassFiles:
        return class_files(self.root, "train")

    @cached_property
    def _val(self) -> ClassFiles:
        folder, wnids = self.root / "val", self._train.classes
        if any(place.is_dir() and not is_hidden(place.name) for place in folder.iterdir()):
            return class_files(self.root, "val", empty=self.config.classes == "train")
        files = sorted(path.name for path in folder.iterdir() if path.name not in _KNOWN)
        images = [name for name in files if not why_unused(name)]
        unused = Counter(filter(None, map(why_unused, files)))
        classes = self._listed(images)
        index = {wnid: label for label, wnid in enumerate(wnids)}
        lost = [name for name in images if Path(name).stem not in classes]
        if lost:
            raise UserError(f"no class is given for {', '.join(lost[:5])}", str(folder))
        strange = sorted(set(classes.values()) - set(wnids))
        if strange:
            raise UserError(
                f"val holds classes that train lacks: {', '.join(strange[:5])}", str(self.root)
            )
        labels = [index[classes[Path(name).stem]] for name in images]
        return ClassFiles(self.root, [f"val/{name}" for name in images], labels, wnids, unused)

    def _listed(self, images: list[str]) -> dict[str, str]:
        """Class of each image by its stem, from the first list that is there."""
        folders = (self.root / "val", self.root, *list(self.root.glob("*/data")))
        for folder in folders:
            for name in LISTS:
                if (folder / name).is_file():
                    lines = _text(folder / name).splitlines()
                    words = [re.split(r"[\t ,]+", line.strip()) for line in lines if line.strip()]
                    pairs = [line for line in words if len(line) > 1 and line[0] != "ImageId"]
                    return {Path(line[0]).stem: line[1] for line in pairs}
            if (folder / TRUTH).is_file() and (folder / "synsets.txt").is_file():
                numbers = _text(folder / TRUTH).split()
                synsets = _text(folder / "synsets.txt").split()
                if len(numbers) != len(images):
                    raise UserError(
                        f"{len(images)} images but {len(numbers)} lines", str(folder / TRUTH)
                    )
                known = {str(number): wnid for number, wnid in enumerate(synsets, 1)}
                strange = sorted(set(numbers) - set(known))
                if strange:
                    what = f"no class has the number {', '.join(strange[:5])}"
                    raise UserError(what, str(folder / TRUTH), "use the synsets.txt beside it")
                pairs = zip(images, numbers, strict=True)
                return {Path(name).stem: known[number] for name, number in pairs}
        raise UserError(
            "val is one flat folder, and nothing says which image is of which class",
            str(self.root / "val"),
            f"expected {IMAGENET_LAYOUT}",
        )


def _boxes(root: Path, images: list[str], wnids: list[str]) -> Tensor | None:
    """Objects (N, M, 5) of the validation images; None where no annotations are there."""
    folder = next((root / name for name in BOXES if (root / name).is_dir()), None)
    if folder is None:
        return None
    index = {wnid: label for label, wnid in enumerate(wnids)}
    found = [_objects(folder / f"{Path(name).stem}.xml", index) for name in images]
    boxes = torch.full((len(found), max(1, *map(len, found)), 5), -1.0)
    for row, objects in zip(boxes, found, strict=True):
        if objects:
            row[: len(objects)] = torch.tensor(objects)
    return boxes


def _objects(path: Path, index: dict[str, int]) -> list[list[float]]:
    """Class, top, left, bottom and right of each object of known class; none without the file.

    The numbers are taken as they stand, as the official code of localisation does.
    """
    if not path.is_file():
        return []
    text = _text(path)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:  # entities can unfold to any size
        raise UserError(f"{path.name} declares entities", str(path.parent))
    try:
        return [
            [
                float(index[item.findtext("name", "")]),
                *(float(item.findtext(f"bndbox/{key}", "")) for key in _CORNERS),
            ]
            for item in ET.fromstring(text).iter("object")
            if item.findtext("name", "") in index
        ]
    except (ET.ParseError, ValueError) as error:
        what = f"this is not an annotation of ImageNet: {path.name}: {error}"
        raise UserError(what, str(path.parent), "get it again") from error


def _words(root: Path, wnids: list[str]) -> list[str]:
    for name in ("words.txt", "LOC_synset_mapping.txt"):
        if (root / name).is_file():
            lines = _text(root / name).splitlines()
            known = dict(re.split(r"[\t ]", line, maxsplit=1) for line in lines if " " in line)
            return [known.get(wnid, wnid).split(",")[0].strip() for wnid in wnids]
    return wnids


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the file cannot be read as text: {error}", str(path)) from error
