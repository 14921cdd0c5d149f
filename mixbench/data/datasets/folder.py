"""Own images: folders of classes, or a list that names each image with its class.

A folder holds ``train/<class>/**`` with ``val/<class>/**`` or ``test/<class>/**``, or the folders
of classes alone; a list is a CSV file or its like, or ``metadata.csv`` of Hugging Face in a folder.
Where nothing says which the test images are, a part of each class is set aside, or a fold is.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path

from mixbench.data.division import divide, training_count
from mixbench.data.files.class_files import (
    FOLDER_LAYOUT,
    ClassFiles,
    class_files,
    fingerprint_of,
    labels_of_val,
)
from mixbench.data.files.decode import is_image
from mixbench.data.files.encoded import Part
from mixbench.data.files.listing import LIST_SUFFIXES, ImageList, read_list
from mixbench.data.files.tree import SPLIT_WORDS, files_below, folder_entries, is_hidden
from mixbench.data.source import DataSource, existing_path
from mixbench.errors import UserError, counted

METADATA = ("metadata.csv", "metadata.jsonl")  # lists of Hugging Face's image folders
SHOWN_FILES = 3  # missing files named in a message


@dataclass
class _Found:
    """What lies at ``data.root``: both parts, or one that is still to be divided."""

    train: ClassFiles
    test: ClassFiles | None = None
    notices: list[str] = field(default_factory=list)


@dataclass
class _Divided:
    """Both parts of a data set, and how its test images were set aside, if they were."""

    train: ClassFiles
    test: ClassFiles
    fingerprint: str
    notices: list[str]
    division: str = ""


class Folder(DataSource):
    """``data=folder data.root=FOLDER_OR_LIST [data.size=PIXELS]``."""

    @property
    def name(self) -> str:
        """The given name, else the folder's or the list's own."""
        root = self.root.resolve()
        return self.config.name or (root.name if root.is_dir() else root.stem)

    @property
    def root(self) -> Path:
        """The folder or the list."""
        return existing_path(self.config.root, "data.root")

    def fingerprint(self) -> str:
        """Hash of the names, classes and contents of all images and of the division of them.

        All folds of a set share it.
        """
        return self._divided.fingerprint

    @property
    def division(self) -> str:
        """How the test images were set aside."""
        return self._divided.division

    def check_division(self) -> None:
        """Refuse such keys only where there are test images; others divide by them."""
        if self._found.test is not None:
            super().check_division()

    def train_count(self) -> int:
        """Number of training images, before any is decoded; the same for all folds."""
        train, test = self._divided.train, self._divided.test
        return training_count(len(train.names), len(test.names), self.config.folds)

    def parts(self) -> tuple[Part, Part, list[str]]:
        """Both parts; classes are those of the training images."""
        found = self._divided
        train, test = found.train, found.test
        labels = labels_of_val(train, test, self.config.classes)
        parts = train.part(), test.part(labels)
        parts[0].notices += found.notices
        return *parts, train.classes

    @cached_property
    def _divided(self) -> _Divided:
        found = self._found
        if found.test is None:
            return self._set_aside(found)
        self.check_division()
        both = found.train, found.test
        listed = any(part.listed for part in both)  # whose names do not tell the split
        digest = _joined(both) if listed else fingerprint_of(both)
        return _Divided(*both, digest, found.notices)

    def _set_aside(self, found: _Found) -> _Divided:
        """Test images of a set that has none, or the fold that is asked for."""
        pool = found.train
        contents = [
            digest or os.fsencode(name)
            for digest, name in zip(pool.hashes, pool.names, strict=True)
        ]
        division = divide(
            self.config, pool.labels, contents, pool.names, pool.classes, str(self.root)
        )
        train, test = pool.taken(division.train), pool.taken(division.test)
        train.unused.update(pool.unused)
        # All folds together, so that they are one set; the rest of a test set is no third part.
        parts = [pool.taken(rows) for rows in division.parts]
        notices = [*found.notices, *division.notices]
        return _Divided(train, test, _joined(parts), notices, division.text)

    @cached_property
    def _found(self) -> _Found:
        root = self.root
        if root.is_dir():
            return self._listed_folder(root) or self._folders(root)
        if root.suffix.lower() in LIST_SUFFIXES:
            listed = read_list(root)
            assert listed is not None
            return _by_split(root.parent, listed, self._skips)
        packed = root.suffix.lower() in (".npz", ".parquet")
        todo = (
            f"read it with data=pack data.train={root}" if packed else f"expected {FOLDER_LAYOUT}"
        )
        raise UserError(f"{root.name} is neither a folder nor a list of images", str(root), todo)

    @property
    def _skips(self) -> bool:
        return self.config.on_corrupt == "skip"

    def _listed_folder(self, root: Path) -> _Found | None:
        """A folder of Hugging Face's kind; None where no list of it has labels."""
        whole = _metadata(root)
        if whole is not None:
            if whole.splits is None:
                words = [SPLIT_WORDS.get(name.split("/")[0].casefold(), "") for name in whole.names]
                whole.splits = words if all(words) else None
            return _counting(_by_split(root, whole, self._skips), root)
        folders, train, test = self._split_folders(root)
        listed = [None if name is None else _metadata(root / name) for name in (train, test)]
        if listed[0] is None or train is None:
            return None
        if test is None or listed[1] is None:
            what = f"{train} has a list of its images, and {test or 'the test'} has none"
            raise UserError(what, str(root), "give both a metadata.csv with file_name and label")
        parts = [
            _files(root, each, f"{name}/", self._skips)
            for each, name in zip(listed, (train, test), strict=True)
            if each is not None
        ]
        notices = [note for each in listed if each is not None for note in each.notices]
        found = _Found(parts[0], parts[1], _said(folders, test, root) + notices)
        return _counting(found, root / train, root / test)

    def _folders(self, root: Path) -> _Found:
        """Folders of classes, in folders of splits or alone."""
        lack = self.config.classes == "train"
        folders, train, test = self._split_folders(root)
        inside = {name: _subfolders(root / name) for name in (train, test) if name is not None}
        others = [name for name in folders if name.casefold() not in SPLIT_WORDS]
        classes = others and not any(inside.values())  # some of which are called like splits
        if train is not None and test is not None and not classes:
            if inside[train] and not inside[test]:
                raise UserError(
                    f"the folder {test} holds no folders of classes, and {train} does",
                    str(root / test),
                    f"sort its images by class, or give data.root={root / train} to have a part of "
                    "each class set aside",
                )
            both = class_files(root, train), class_files(root, test, empty=lack)
            notices = _said(folders, test, root)
            if others:
                notices.append(f"folders of neither split, which are not used: {', '.join(others)}")
            return _Found(*both, notices)
        if any(inside.values()):  # what is called so and holds folders is a split and no class
            raise _one_split(root, train, folders)
        if not folders:
            raise _no_folders(root)
        if len(folders) == 1 and _subfolders(root / folders[0]):
            raise UserError(
                f"the only folder here is {folders[0]}, which holds folders itself",
                str(root),
                f"give data.root={root / folders[0]}",
            )
        return _Found(class_files(root, ""))

    def _split_folders(self, root: Path) -> tuple[list[str], str | None, str | None]:
        """All folders, and those of the training and of the test images."""
        folders = [name for name in folder_entries(root)[0] if not is_hidden(name)]
        named: dict[str, list[str]] = {}
        for name in folders:
            named.setdefault(SPLIT_WORDS.get(name.casefold(), ""), []).append(name)
        given = self.config.test
        if given is not None and given not in folders:
            what = f"there is no folder {given}; found {', '.join(folders[:5]) or 'no folder'}"
            raise UserError(what, "data.test", "name the folder of the test images in data.root")
        for split in ("train", "validation", "test"):
            found = named.get(split, [])
            if len(found) > 1 and (given is None or split == "train"):
                what = f"{' and '.join(found)} could each be the folder of the same split"
                raise UserError(what, str(root), "rename one, or give data.test=FOLDER")
        train, val, test = (
            next(iter(named.get(split, [])), None) for split in ("train", "validation", "test")
        )
        return folders, train, given or val or test


def _said(folders: Sequence[str], test: str, root: Path) -> list[str]:
    """Which folder the test images come from, where that may surprise."""
    kinds = {name: SPLIT_WORDS.get(name.casefold()) for name in folders}
    left = [name for name, kind in kinds.items() if kind not in (None, "train") and name != test]
    if left:
        paths = ", ".join(str(root / name) for name in left)
        use = f"; data.test={left[0]} takes it in its place"
        return [f"{test} is the test set: {paths} is not used{use}"]
    return [] if test == "val" else [f"the test images are those of the folder {test}"]


def _metadata(folder: Path) -> ImageList | None:
    """The list of a folder of Hugging Face's kind, if it has one with labels."""
    for name in METADATA:
        if (folder / name).is_file():
            return read_list(folder / name, labelled=False)
    return None


def _counting(found: _Found, *folders: Path) -> _Found:
    """The same, with a count of the images in the folders that no list names."""
    parts = [part for part in (found.train, found.test) if part is not None]
    named = {os.path.join(part.root, name) for part in parts for name in part.names}
    left = sum(
        is_image(name) and not is_hidden(name) and os.path.join(folder, name) not in named
        for folder in folders
        for name in files_below(folder)[0]
    )
    if left:
        found.train.unused["image that the list does not name"] += left
    return found


def _by_split(base: Path, listed: ImageList, skip: bool) -> _Found:
    """Images of a list, divided where the list says how."""
    notices = list(listed.notices)
    if listed.splits is None:
        return _Found(_files(base, listed, "", skip), notices=notices)
    counts = Counter(listed.splits)
    test = "test" if counts["test"] else "validation"
    for split in ("train", test):
        if not counts[split]:
            what = f"no image of the split {split if split == 'train' else 'test'}"
            todo = "correct the column, or leave it out to have a part of the images set aside"
            raise UserError(f"the list has {what}", str(listed.path), todo)
    if test == "validation":
        notices.append("the test images are those of the split validation; there is no test")
    train, tested = (_files(base, listed, "", skip, split) for split in ("train", test))
    left = counts["validation"] if test == "test" else 0
    if left:
        train.unused["image of the split validation"] += left
    return _Found(train, tested, notices)


def _files(
    base: Path, listed: ImageList, prefix: str, skip: bool, split: str | None = None
) -> ClassFiles:
    """Files of a list, all or those of a split."""
    rows = [
        row
        for row in range(len(listed.names))
        if split is None or (listed.splits is not None and listed.splits[row] == split)
    ]
    names = [_place(base, prefix, listed.names[row]) for row in rows]
    lost = {place for place, name in enumerate(names) if not (base / name).is_file()}
    unused = Counter[str]()
    if lost and not (skip and len(lost) < len(rows)):
        shown = ", ".join(names[place] for place in sorted(lost)[:SHOWN_FILES])
        raise UserError(
            f"{len(lost)} of {len(rows)} files of the list are not there: {shown}"
            f"{' ...' if len(lost) > SHOWN_FILES else ''}",
            str(listed.path),
            "paths count from the folder of the list; data.on_corrupt=skip leaves such lines out",
        )
    unused.update({"file of the list that is not there": len(lost)} if lost else {})
    if listed.repeated and split in (None, "train"):
        unused["line of the list that repeats another"] += listed.repeated
    kept = [(listed.labels[row], names[k]) for k, row in enumerate(rows) if k not in lost]
    own = {label for label, _ in kept}
    classes = [name for name in listed.classes if name in own]
    index = {name: label for label, name in enumerate(classes)}
    labels = [index[label] for label, _ in kept]
    return ClassFiles(base, [name for _, name in kept], labels, classes, unused, listed=True)


def _place(base: Path, prefix: str, name: str) -> str:
    """A path of a list relative to its folder; one that was written on Windows has no ``/``."""
    if "\\" in name and not (base / (prefix + name)).exists():
        name = name.replace("\\", "/")
    return name if os.path.isabs(name) else prefix + name


def _joined(parts: Sequence[ClassFiles]) -> str:
    """Hash of parts whose bounds the names of the files do not tell."""
    text = " ".join(fingerprint_of([part]) for part in parts)
    return hashlib.sha256(text.encode()).hexdigest()


def _subfolders(folder: Path) -> list[str]:
    return [name for name in folder_entries(folder)[0] if not is_hidden(name)]


def _one_split(root: Path, train: str | None, folders: Sequence[str]) -> UserError:
    shown = ", ".join(folders[:5])
    if train is None:
        return UserError(
            f"there is no folder train; found {shown}", str(root), f"expected {FOLDER_LAYOUT}"
        )
    return UserError(
        f"there is no folder of test images beside {train}; found {shown}",
        str(root),
        f"add val with the same classes, or give data.root={root / train} to have a part of each "
        "class set aside",
    )


def _no_folders(root: Path) -> UserError:
    if any(root.glob("*.parquet")):
        todo = f"read Parquet files with data=pack data.train={root}"
        return UserError("there is no folder of a class", str(root), todo)
    lists = [name for name in folder_entries(root)[1] if name.lower().endswith(LIST_SUFFIXES)]
    todo = f"expected {FOLDER_LAYOUT}"
    if lists:
        todo = f"if {lists[0]} names the images with their classes: data.root={root / lists[0]}"
    loose = sum(1 for name in chain(files_below(root)[0]) if not is_hidden(name))
    what = f"there is no folder of a class, but {counted(loose, 'file')}" if loose else ""
    return UserError(what or "the folder is empty", str(root), todo)
