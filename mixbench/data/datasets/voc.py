"""PASCAL VOC 2007: photographs with objects of 20 classes, several to an image.

Everingham et al., IJCV 2010: 5,011 training and validation and 4,952 test images. Each image has a
label per class: 1 where it is present, 0 where not, and unknown where every object of the class is
marked as difficult; an unknown label takes no part in the loss and in the score. Any copy with
VOC's folders is read, those of other years as well; one without a test part is tested on ``val``.
"""

import xml.etree.ElementTree as ET

import torch

from mixbench.data.datasets.original import OfficialFile, OriginalSource
from mixbench.data.files.archive import Files
from mixbench.data.files.encoded import Part
from mixbench.data.images import Stats
from mixbench.errors import UserError

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
_URL = "https://thor.robots.ox.ac.uk/pascal/VOC/voc2007/"
_FLAGS = {"1": 1.0, "-1": 0.0, "0": float("nan")}


class Voc2007(OriginalSource):
    """``data=voc2007 [data.root=FOLDER, or an archive with VOCdevkit]``."""

    task = "multilabel"
    official_files = (
        OfficialFile(
            "VOCtrainval_06-Nov-2007.tar",
            f"{_URL}VOCtrainval_06-Nov-2007.tar",
            "c52e279531787c972589f7e41ab4ae64",
        ),
        OfficialFile(
            "VOCtest_06-Nov-2007.tar",
            f"{_URL}VOCtest_06-Nov-2007.tar",
            "b6e924de25625d8de591ea690078ad9f",
        ),
    )
    top, marker = "VOCdevkit", "VOC2007/ImageSets/Main/trainval.txt"
    layout = "VOCdevkit/VOC2007/{JPEGImages, Annotations, ImageSets/Main/<class>_<split>.txt}"
    constants = Stats([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])  # of ImageNet, as papers do

    def parts(self) -> tuple[Part, Part, list[str]]:
        """``trainval`` and ``test``, or ``train`` and ``val`` where there is no test part."""
        for split, other in (("trainval", "test"), ("train", "val")):
            train, test = self._place(split), self._place(other)
            if train is not None and test is not None:
                parts = _part(*train, split), _part(*test, other)
                parts[0].unused.update(self.unused)
                return *parts, list(VOC_CLASSES)
        raise UserError(
            f"no labels of trainval and test, nor of train and val, for {self.config.kind}",
            ", ".join(map(str, self.places)),
            f"expected {self.layout}",
        )

    def _place(self, split: str) -> tuple[Files, str] | None:
        end = f"ImageSets/Main/{VOC_CLASSES[0]}_{split}.txt"
        for files in self.files:
            base = files.prefix(end)
            if base is not None:
                return files, base
        return None


def _part(files: Files, base: str, split: str) -> Part:
    rows: dict[str, list[float]] = {}
    for name in VOC_CLASSES:
        path = f"{base}ImageSets/Main/{name}_{split}.txt"
        for number, line in enumerate(files.text(path), 1):
            words = line.split()
            if len(words) != 2 or words[1] not in _FLAGS:
                raise UserError(
                    "the line is not an image and 1, 0 or -1", f"{files.root}, {path}:{number}"
                )
            rows.setdefault(words[0], []).append(_FLAGS[words[1]])
    short = [image for image, flags in rows.items() if len(flags) != len(VOC_CLASSES)]
    if short or not rows:
        what = f"{short[0]} is not in the lists of all classes" if short else "no image is listed"
        raise UserError(what, f"{files.root}, {base}ImageSets/Main")
    names = [f"{base}JPEGImages/{image}.jpg" for image in rows]
    boxes = [_objects(files, f"{base}Annotations/{image}.xml") for image in rows]
    widest = max(1, *map(len, boxes))
    padded = torch.full((len(boxes), widest, 5), -1.0)
    for row, found in enumerate(boxes):
        if found:
            padded[row, : len(found)] = torch.tensor(found)
    labels = torch.tensor(list(rows.values()))
    return Part(names, lambda row: files.image(names[row]), labels, padded)


def _objects(files: Files, name: str) -> list[list[float]]:
    """Class and box of each object, difficult ones included."""
    raw = files.read(name)
    if b"<!DOCTYPE" in raw or b"<!ENTITY" in raw:  # entities can unfold to any size
        raise UserError(f"{name} declares entities", str(files.root))
    try:
        found = []
        for item in ET.fromstring(raw).iter("object"):
            label = VOC_CLASSES.index(item.findtext("name", ""))
            left, top, right, bottom = (
                float(item.findtext(f"bndbox/{key}", ""))
                for key in ("xmin", "ymin", "xmax", "ymax")
            )
            # VOC counts pixels from 1 and includes the last.
            found.append([label, top - 1, left - 1, bottom, right])
        return found
    except (ET.ParseError, ValueError) as error:
        raise UserError(
            f"this is not an annotation of VOC: {error}", f"{files.root}, {name}"
        ) from error
