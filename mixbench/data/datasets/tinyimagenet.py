"""Tiny-ImageNet: 200 classes, 100,000 training and 10,000 validation images of 64x64 pixels.

From Stanford's CS231n. Its validation images lie in one flat folder, their classes in
``val_annotations.txt``; read as one folder per class they would all be one class. The test images
have no labels, so that validation serves as test set, as in every paper. Labels count the sorted
WordNet ids.
"""

import torch

from mixbench.data.datasets.original import OfficialFile, OriginalSource
from mixbench.data.files.archive import Files
from mixbench.data.files.encoded import Part
from mixbench.data.images import Stats, corners
from mixbench.errors import UserError


class TinyImageNet(OriginalSource):
    """``data=tinyimagenet [data.root=tiny-imagenet-200.zip]``."""

    official_files = (
        OfficialFile(
            "tiny-imagenet-200.zip",
            "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
            "90528d7ca1a48142e341f4ef8d21d0de",
        ),
    )
    top, marker = "tiny-imagenet-200", "wnids.txt"
    layout = "tiny-imagenet-200/{wnids.txt, words.txt, train/<wnid>/images, val/images}"
    # Of the 100,000 training images, as most code for this data set has them.
    constants = Stats([0.4802, 0.4481, 0.3975], [0.2770, 0.2691, 0.2821])

    def class_ids(self) -> list[str]:
        """The sorted ids."""
        files, base = self.locate(self.marker)
        return sorted(files.text(f"{base}wnids.txt"))

    def parts(self) -> tuple[Part, Part, list[str]]:
        """Training and validation images with their boxes, and the classes' words."""
        files, base = self.locate(self.marker)
        wnids = sorted(files.text(f"{base}wnids.txt"))
        index = {wnid: label for label, wnid in enumerate(wnids)}
        train: list[tuple[str, int, list[float]]] = []
        inside = _by_class(files, f"{base}train/")
        if set(inside) != set(wnids):
            only = ", ".join(sorted(set(inside) ^ set(wnids))[:5])
            raise UserError(f"wnids.txt and train/ differ in the classes {only}", str(files.root))
        for wnid in wnids:
            boxes = {name: box for name, _, box in _annotations(files, *inside[wnid][1:])}
            train += [
                (name, index[wnid], boxes.get(name.rpartition("/")[2], []))
                for name in inside[wnid][0]
            ]
        lines = _annotations(files, f"{base}val/val_annotations.txt", True)
        strange = sorted({wnid for _, wnid, _ in lines} - set(wnids))
        if strange:
            raise UserError(
                f"val_annotations.txt names classes that train/ lacks: {', '.join(strange[:5])}",
                str(files.root),
            )
        present = set(files.names)
        val = [(f"{base}val/images/{name}", index[wnid], box) for name, wnid, box in lines]
        lost = [name for name, _, _ in val if name not in present]
        if lost or not val:
            what = f"{lost[0]} and {len(lost) - 1} more are missing" if lost else "val/ is empty"
            raise UserError(what, str(files.root), f"expected {self.layout}")
        parts = _part(files, train), _part(files, val)
        parts[0].unused.update(self.unused)
        return *parts, _words(files, base, wnids)


def _by_class(files: Files, folder: str) -> dict[str, tuple[list[str], str, bool]]:
    """Images of each class, its list of boxes, and whether that names classes."""
    found: dict[str, list[str]] = {}
    for name in files.names:
        if name.startswith(folder) and "/images/" in name:
            found.setdefault(name.removeprefix(folder).partition("/")[0], []).append(name)
    return {
        wnid: (sorted(names), f"{folder}{wnid}/{wnid}_boxes.txt", False)
        for wnid, names in found.items()
    }


def _annotations(files: Files, name: str, classes: bool) -> list[tuple[str, str, list[float]]]:
    """File, class (empty where the list has none) and box of each line."""
    if not classes and name not in files.names:
        return []
    found = []
    for number, line in enumerate(files.text(name), 1):
        words = line.split("\t")
        try:
            file, wnid = words[0], words[1] if classes else ""
            box = [float(word) for word in words[1 + classes :]]
            if len(box) != 4:
                raise ValueError("a box has four numbers")
        except (IndexError, ValueError) as error:
            where = f"{files.root}, {name}:{number}"
            raise UserError(f"this is not a line of annotations: {error}", where) from error
        found.append((file, wnid, box))
    return found


def _part(files: Files, rows: list[tuple[str, int, list[float]]]) -> Part:
    names = [name for name, _, _ in rows]
    labels = torch.tensor([label for _, label, _ in rows])
    boxed = torch.tensor([bool(box) for _, _, box in rows])
    boxes = corners(torch.tensor([box or [0.0] * 4 for _, _, box in rows]), labels)
    boxes[~boxed] = -1
    return Part(names, lambda row: files.image(names[row]), labels, boxes)


def _words(files: Files, base: str, wnids: list[str]) -> list[str]:
    """First word of each class, with its id where two classes share it."""
    name = f"{base}words.txt"
    lines = files.text(name) if name in files.names else []
    known = dict(line.split("\t", 1) for line in lines if "\t" in line)
    words = [known.get(wnid, wnid).split(",")[0].strip() for wnid in wnids]
    return [
        f"{word} ({wnid})" if words.count(word) > 1 else word
        for word, wnid in zip(words, wnids, strict=True)
    ]
