"""Lists of images with their labels: CSV and its relatives, and lines of JSON.

The first line names the columns; without such a line they are path, label and perhaps split. Names
of columns are those that data sets use most; ``file_name`` is that of Hugging Face's image folders.
"""

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mixbench.data.classes import first_names
from mixbench.data.files.decode import is_image
from mixbench.data.files.tree import SPLIT_WORDS
from mixbench.errors import UserError, counted
from mixbench.files import read_text

LIST_SUFFIXES = (".csv", ".tsv", ".txt", ".jsonl")
PATH_COLUMNS = ("path", "file_name", "filename", "file", "filepath", "file_path", "image",
                "image_path", "img", "img_path", "name")  # fmt: skip
CLASS_COLUMNS = ("label", "labels", "class", "class_name", "target", "category", "y")
SPLIT_COLUMNS = ("split", "set", "subset", "partition", "fold_name")
MAX_LIST_BYTES = 1 << 28
DELIMITERS = (",", ";", "\t", "|")
LAYOUT = "a list has the columns path and label, and split where it names the test images"
_WHOLE = re.compile(r"[+]?(\d{1,15})(\.0*)?")


@dataclass
class ImageList:
    """Images with their classes, as a list names them.

    Attributes:
        path: File of the list.
        names: Path of each image, as the list spells it.
        labels: Class of each, as text; whole numbers without sign, zeros in front, or fraction.
        splits: ``train``, ``validation`` or ``test`` for each; None where the list does not say.
        repeated: Number of lines that repeat another one, and are left out.
        notices: What a user should know of the list, in full sentences.
    """

    path: Path
    names: list[str]
    labels: list[str]
    splits: list[str] | None = None
    repeated: int = 0
    notices: list[str] = field(default_factory=list)

    @property
    def classes(self) -> list[str]:
        """Names of the classes, numbers in their order."""
        found = set(self.labels)
        number = all(label.isdecimal() for label in found)
        return sorted(found, key=int) if number else sorted(found)


def read_list(path: Path, *, labelled: bool = True) -> ImageList | None:
    """Read a list of images.

    Args:
        path: File whose name ends in one of :data:`LIST_SUFFIXES`.
        labelled: Refuse a list without labels; else the answer is None.

    Returns:
        The list, each image once.

    Raises:
        UserError: If it cannot be read, lacks a column or a value, names a split that is none, or
            gives one image two classes or splits.
    """
    try:
        text = read_text(path, MAX_LIST_BYTES)
    except OSError as error:
        raise UserError(f"the list cannot be read: {error.strerror or error}", str(path)) from error
    except ValueError as error:
        todo = "save it again as UTF-8"
        raise UserError(f"the list is not UTF-8: {error}", str(path), todo) from error
    try:
        lines = _json_rows(text, path) if path.suffix.lower() == ".jsonl" else _csv_rows(text, path)
    except csv.Error as error:
        raise UserError(f"the list is not a CSV file: {error}", str(path), LAYOUT) from error
    if not lines or len(lines) < 2:
        raise UserError("the list names no image", str(path), LAYOUT)
    (_, header), *rows = lines
    names, labels, splits = (
        _column_of(header, known) for known in (PATH_COLUMNS, CLASS_COLUMNS, SPLIT_COLUMNS)
    )
    if names is None or (labels is None and labelled):
        lacks = " and ".join(
            word for word, place in (("path", names), ("label", labels)) if place is None
        )
        shown = first_names([name[:40] for name in header])
        what = f"the list has no column {lacks}; found {shown}"
        raise UserError(what, str(path), f"{LAYOUT}, divided by a comma, semicolon, tab or |")
    if labels is None:
        return None
    found = _checked(path, rows, (names, labels, splits))
    left = [name for place, name in enumerate(header) if place not in (names, labels, splits)]
    if left:
        found.notices.append(f"columns of {path.name} that are not read: {first_names(left)}")
    return found


def _csv_rows(text: str, path: Path) -> list[tuple[int, list[str]]]:
    """Line number and cells of each row, the names of the columns first."""
    lines = text.splitlines()
    first = next((line for line in lines if line.strip()), "")
    delimiter = max(DELIMITERS, key=lambda sign: (first.count(sign), -DELIMITERS.index(sign)))
    if delimiter not in first:
        what = f"the columns of the list cannot be told apart in {first[:60]!r}"
        raise UserError(what, str(path), f"{LAYOUT}, divided by a comma, semicolon, tab or |")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader if any(cells)]
    header = rows[0][1]
    if is_image(header[0]) and len(header) in (2, 3):  # a line of an image, and no header
        rows.insert(0, (0, ["path", "label", "split"][: len(header)]))
    width = len(rows[0][1])
    for number, cells in rows:
        if len(cells) != width:
            what = f"line {number} has {counted(len(cells), 'column')} in place of {width}"
            raise UserError(what, f"{path}:{number}", "quote what holds the delimiter")
    return rows


def _json_rows(text: str, path: Path) -> list[tuple[int, list[str]]]:
    """As :func:`_csv_rows`, of one JSON object a line."""
    found: list[tuple[int, dict[str, Any]]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            what = f"line {number} is not JSON: {error}"
            raise UserError(what, f"{path}:{number}", "write one object a line") from error
        if not isinstance(row, dict):
            raise UserError(f"line {number} is not a JSON object", f"{path}:{number}", LAYOUT)
        found.append((number, row))
    header = list(dict.fromkeys(key for _, row in found for key in row))
    rows = [(number, [_cell(row.get(key)) for key in header]) for number, row in found]
    return [(0, header), *rows]


def _cell(value: Any) -> str:
    return "" if value is None else value.strip() if isinstance(value, str) else json.dumps(value)


def _column_of(header: Sequence[str], known: Sequence[str]) -> int | None:
    """Place of the first known name of a column."""
    words = [name.strip().casefold() for name in header]
    return next((words.index(name) for name in known if name in words), None)


def _checked(
    path: Path, rows: Sequence[tuple[int, list[str]]], places: tuple[int, int, int | None]
) -> ImageList:
    """Each image once, with a class and, where the list has splits, one of these."""
    names, labels, splits = (
        [""] * len(rows) if place is None else [cells[place] for _, cells in rows]
        for place in places
    )
    numbers = [number for number, _ in rows]
    for what, values in (("path", names), ("label", labels), ("split", splits)):
        missing = [numbers[row] for row, value in enumerate(values) if not value]
        if missing and (what != "split" or places[2] is not None):
            raise UserError(
                f"{len(missing)} of {len(rows)} lines have no {what}; the first: line {missing[0]}",
                f"{path}:{missing[0]}",
                f"give each image a {what}, or leave these lines out",
            )
    if all(_WHOLE.fullmatch(label) for label in labels):  # 3, 3.0 and 03 are one class
        labels = [str(int(label.partition(".")[0])) for label in labels]
    splits = [split.casefold() for split in splits]
    unknown = sorted({split for split in splits if split} - SPLIT_WORDS.keys())
    if unknown:
        what = f"the list names unknown splits: {first_names(unknown)}"
        raise UserError(what, str(path), f"known are {', '.join(SPLIT_WORDS)}")
    seen: dict[str, tuple[str, str]] = {}
    kept = []
    for row, (name, label, split) in enumerate(zip(names, labels, splits, strict=True)):
        own = (label, SPLIT_WORDS.get(split, ""))
        if name not in seen:
            kept.append(row)
        other = seen.setdefault(name, own)
        if other != own:
            of = "labels" if other[0] != own[0] else "splits"
            place = 0 if of == "labels" else 1
            raise UserError(
                f"{name} has two {of}, {other[place]} and {own[place]}",
                f"{path}:{numbers[row]}",
                f"keep one of these lines; an image has one of the {of}",
            )
    words = [seen[names[row]] for row in kept]
    return ImageList(
        path,
        [names[row] for row in kept],
        [label for label, _ in words],
        None if places[2] is None else [split for _, split in words],
        len(rows) - len(kept),
    )
