"""MS-COCO 2014: photographs with objects of 80 classes, several to an image.

Lin et al., ECCV 2014, arXiv:1405.0312: 82,783 training and 40,504 validation images, on which
papers on several labels per image train and test. A class is present where any object of it is
marked, crowds included. Images without an object stay, with no class present. Any copy with COCO's
folders and annotation files is read, whatever its categories are.
"""

import json
from pathlib import PurePosixPath
from typing import Any

import torch

from mixbench.data.datasets.original import OfficialFile, OriginalSource
from mixbench.data.files.archive import Files
from mixbench.data.files.encoded import Part
from mixbench.data.images import Stats
from mixbench.errors import UserError, counted

MAX_JSON_BYTES = 2 << 30  # of an annotation file; the official ones have 0.33 GB
_TRIED = 100  # images that are looked for to find their folder
_URL = "http://images.cocodataset.org/"


class Coco(OriginalSource):
    """``data=coco [data.root=FOLDER]``."""

    task = "multilabel"
    official_files = (
        OfficialFile(
            "train2014.zip", f"{_URL}zips/train2014.zip", "0da8c0bd3d6becc4dcb32757491aca88"
        ),
        OfficialFile("val2014.zip", f"{_URL}zips/val2014.zip", "a3d79f5ed8d289b7a7554ce06a5782b3"),
        OfficialFile(
            "annotations_trainval2014.zip",
            f"{_URL}annotations/annotations_trainval2014.zip",
            "0a379cfc70b0e71301e0f377548639bd",
        ),
    )
    top, marker = "coco", "annotations/instances_train2014.json"
    layout = "{train2014, val2014}/*.jpg and annotations/instances_{train2014, val2014}.json"
    constants = Stats([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])  # of ImageNet, as papers do

    def parts(self) -> tuple[Part, Part, list[str]]:
        """``train2014`` and ``val2014``; classes in the order of their category ids."""
        lists = [self._listed(split) for split in ("train2014", "val2014")]
        if lists[0].classes != lists[1].classes:
            raise UserError(
                "train2014 and val2014 do not have the same categories",
                ", ".join(map(str, self.places)),
                "get the original again",
            )
        train, test = (self._part(each) for each in lists)
        train.unused.update(self.unused)
        return train, test, list(lists[0].classes.values())

    def _listed(self, split: str) -> "_List":
        name = f"annotations/instances_{split}.json"
        files, base = self.locate(name)
        return _List(split, files, f"{base}{name}")

    def _part(self, listed: "_List") -> Part:
        files, folder = self._images(listed)
        names = [f"{folder}{name}" for name in listed.images]
        empty = int((listed.labels.sum(dim=1) == 0).sum())
        notices = []
        if empty:
            verb = "shows" if empty == 1 else "show"
            notices.append(
                f"{counted(empty, 'image')} of {listed.split} {verb} no object of any class, and "
                "stay as such"
            )
        others = sum(name.startswith(folder) for name in files.names) - len(
            {*names} & {*files.names}
        )
        unused = {f"file of {listed.split} without an entry": others} if others else {}
        return Part(
            names,
            lambda row: files.image(names[row]),
            listed.labels,
            notices=notices,
            unused=unused,
        )

    def _images(self, listed: "_List") -> tuple[Files, str]:
        """The place that holds the images of a list, and their folder in it."""
        for name in listed.images[:_TRIED]:
            end = f"{listed.split}/{name}"
            for files in self.files:
                base = files.prefix(end)
                if base is not None:
                    return files, f"{base}{listed.split}/"
        raise UserError(
            f"no images of {listed.split}, such as {listed.images[0]}",
            ", ".join(map(str, self.places)),
            f"expected {self.layout}",
        )


class _List:
    """An annotation file, checked.

    Args:
        split: Name of the split.
        files: Where it lies.
        name: Its name there.

    Attributes:
        classes: Names of the categories by id, in the order of the ids.
        images: File names, in the order of the list.
        labels: (N, K) 1 for a class that is present, else 0.
    """

    def __init__(self, split: str, files: Files, name: str) -> None:
        self.split, self.where = split, f"{files.root}, {name}"
        content = self._read(files, name)
        self.classes = dict(sorted(self._named(content, "categories", "name").items()))
        named = self._named(content, "images", "file_name")
        self.images = list(named.values())
        for image in self.images:
            if PurePosixPath(image).name != image or "\\" in image:
                raise self._wrong(f"the file name {image[:80]!r} leads elsewhere")
        rows = {key: row for row, key in enumerate(named)}
        columns = {key: column for column, key in enumerate(self.classes)}
        self.labels = torch.zeros(len(rows), len(columns))
        places = []
        for number, entry in enumerate(self._entries(content, "annotations")):
            image, category = entry.get("image_id"), entry.get("category_id")
            if type(image) is not int or image not in rows:
                raise self._wrong(f"annotation {number} is of no image of the list")
            if type(category) is not int or category not in columns:
                raise self._wrong(f"annotation {number} is of no category of the list")
            places.append((rows[image], columns[category]))
        if places:
            self.labels[tuple(torch.tensor(places).t())] = 1.0

    def _read(self, files: Files, name: str) -> dict[str, Any]:
        raw = files.read(name)
        if len(raw) > MAX_JSON_BYTES:
            raise self._wrong(f"it has more than {MAX_JSON_BYTES >> 30} GB")
        try:
            content = json.loads(raw)
        except RecursionError as error:
            raise self._wrong("it is nested too deeply") from error
        except ValueError as error:
            raise self._wrong(str(error).splitlines()[0][:120]) from error
        if not isinstance(content, dict):
            raise self._wrong("it holds no mapping")
        return content

    def _entries(self, content: dict[str, Any], key: str) -> list[dict[str, Any]]:
        entries = content.get(key)
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise self._wrong(f"{key} is not a list of mappings")
        return entries

    def _named(self, content: dict[str, Any], key: str, word: str) -> dict[int, str]:
        """Names of entries by id; both have to be there, and each only once."""
        found: dict[int, str] = {}
        for number, entry in enumerate(self._entries(content, key)):
            own, name = entry.get("id"), entry.get(word)
            if type(own) is not int or not isinstance(name, str) or not name:
                raise self._wrong(f"entry {number} of {key} needs a whole number id and a {word}")
            if own in found:
                raise self._wrong(f"{key} has the id {own} twice")
            found[own] = name
        if len({*found.values()}) < len(found):
            raise self._wrong(f"{key} has a {word} twice")
        if not found:
            raise self._wrong(f"{key} is empty")
        return found

    def _wrong(self, why: str) -> UserError:
        return UserError(f"this is not an annotation file of COCO: {why}", self.where)
