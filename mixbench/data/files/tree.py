"""Files below a folder: which there are, which of them count, and their content."""

import os
from pathlib import Path

from mixbench.errors import UserError

MAX_IMAGE_BYTES = 1 << 30  # of one image file; what decodes to Pillow's limit of pixels is smaller
HIDDEN_FILE = "hidden file"  # in counts of what is not used
# Made by file managers, archivers and network stores beside the files of people.
_HIDDEN = {
    *("__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini"),
    *("@eadir", "#recycle", "$recycle.bin", "system volume information"),
}

# What splits are called, and which of three each is.
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}


def is_hidden(name: str) -> bool:
    """Tell whether a file is hidden: a part of its path begins with a dot, or the like.

    Args:
        name: Path relative to the folder or archive, with ``/``.

    Returns:
        True for ``.ipynb_checkpoints/a.png``, ``ant/._a.png``, ``__MACOSX/a.png``, ``Thumbs.db``.
    """
    return any(
        (part[:1] == "." and part not in (".", "..")) or part.casefold() in _HIDDEN
        for part in name.split("/")
    )


def folder_entries(folder: Path) -> tuple[list[str], list[str]]:
    """Entries of a folder.

    Args:
        folder: The folder.

    Returns:
        Sorted names of the folders in it, links to such included, and of all other entries.

    Raises:
        UserError: If it cannot be read.
    """
    folders, others = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                (folders if _is_folder(entry) else others).append(entry.name)
    except OSError as error:
        what = f"a folder cannot be read: {error.strerror or error}"
        raise UserError(what, str(folder)) from error
    return sorted(folders), sorted(others)


def files_below(root: Path) -> tuple[list[str], int]:
    """All files at any depth, folder by folder as torchvision's ``ImageFolder`` lists them.

    Links to folders are followed, but for those that lead back to a folder that they lie in. A
    hidden folder is listed as if it were a file: what lies in it is not for people.

    Args:
        root: The folder.

    Returns:
        Paths relative to the folder, with ``/``, and the number of links that were not followed.

    Raises:
        UserError: If a folder cannot be read.
    """
    found: list[tuple[str, list[str]]] = []
    circles = 0
    around = tuple(_key(folder) for folder in root.absolute().parents)
    waiting = [("", around)]
    while waiting:  # no recursion, which very deep folders would end
        place, above = waiting.pop()
        folders, names = folder_entries(root / place)
        key = _key(root / place)
        if key in above:
            circles += 1
            continue
        prefix = f"{place}/" if place else ""
        hidden = [name for name in folders if is_hidden(name)]
        found.append((place, [prefix + name for name in sorted([*names, *hidden])]))
        waiting += [(prefix + name, (*above, key)) for name in folders if name not in hidden]
    return [name for _, names in sorted(found) for name in names], circles


def _key(folder: Path) -> tuple[int, int]:
    facts = os.stat(folder)
    return facts.st_dev, facts.st_ino


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
