"""Parquet files as Hugging Face distributes image data sets; needs the extra ``parquet``.

A column holds the images, as structs of ``bytes`` and ``path``, and one their labels; the names of
the classes stand in the metadata of the file.
"""

import json
import re
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from mixbench.data.classes import Labels, class_names, first_names, stored_labels
from mixbench.data.files.arrays import check_size
from mixbench.data.files.encoded import Part
from mixbench.data.files.tree import SPLIT_WORDS
from mixbench.errors import UserError
from mixbench.files import open_regular

BATCH_ROWS = 256  # of one piece, which holds 2 GiB at most
IMAGE_COLUMNS, LABEL_COLUMNS = ("image", "img"), ("label", "labels", "fine_label")
SHOWN_SHARDS = 5  # missing files named in a message
_SHARD = re.compile(r"(.*?)(\d+)-of-(\d+).*")  # train-00000-of-00002.parquet


def is_parquet(path: Path) -> bool:
    """Tell whether a path names a Parquet file, or a folder that holds some."""
    return path.suffix == ".parquet" or (path.is_dir() and any(path.glob("**/*.parquet")))


def files_of_set(path: Path) -> int:
    """Number of files in the set of a Parquet file, by the name of the file."""
    found = _SHARD.fullmatch(path.name) if path.suffix == ".parquet" else None
    return int(found[3]) if found else 1


class Shards:
    """Parquet files by the split that their names tell, as Hugging Face finds it.

    A split is a word of the file's name, or of the nearest folder below ``path`` that has one:
    ``train-00000-of-00002.parquet``, ``train/0000.parquet``.

    Args:
        path: File or folder; what begins with a dot is none of the files of a folder.

    Attributes:
        by_split: Sorted files of each split; of the empty word those that name none.
        hidden: Number of files left out, as they begin with a dot.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.by_split: dict[str, list[Path]] = {}
        self.hidden = 0
        self._folders: dict[str, set[Path]] = {}
        if not path.is_dir():
            self.by_split[""] = [path]
            return
        for file in sorted(file for file in path.glob("**/*.parquet") if not file.is_dir()):
            inner = file.relative_to(path)
            if any(name.startswith(".") for name in inner.parts):
                self.hidden += 1
            else:
                split, folder = _split_of(inner)
                self.by_split.setdefault(split, []).append(file)
                self._folders.setdefault(split, set()).add(folder)

    def chosen(self, part: str) -> tuple[str, list[Path]]:
        """Files of the training or of the test images.

        Args:
            part: ``train``, or ``test``, which may be called validation.

        Returns:
            Split and files; all files, and an empty word, where no name tells a split.

        Raises:
            UserError: If there are other splits only, or some of its files are missing.
        """
        splits = ("train",) if part == "train" else ("test", "validation")
        for split in ("",) if set(self.by_split) == {""} else splits:
            if split in self.by_split:
                if self.path.is_dir():  # a single file is what was asked for
                    self._check_one_set(split, part)
                    _check_whole(self.by_split[split])
                return split, self.by_split[split]
        found = ", ".join(split for split in self.by_split if split) or "hidden ones only"
        raise UserError(
            f"no Parquet file of the split {part}; found {found}",
            str(self.path),
            f"give data.{part}= the folder or the file of these images",
        )

    def _check_one_set(self, split: str, part: str) -> None:
        """Refuse a split in several folders, such as those of several configurations."""
        folders = sorted(map(str, self._folders[split]))
        if len(folders) > 1:
            raise UserError(
                f"Parquet files of several sets lie together: {split} is in {first_names(folders)}",
                str(self.path),
                f"give data.{part}= the folder of one of them",
            )


def read_parquet(path: Path, files: list[Path]) -> tuple[Part, Labels]:
    """Images and labels of files, in their order.

    Args:
        path: The file or folder that they belong to, for messages.
        files: The files.

    Returns:
        The images, still encoded, and the labels with their class names.

    Raises:
        UserError: If pyarrow is missing, or a file is not of this layout.
    """
    try:
        import pyarrow as pa  # pyright: ignore[reportMissingImports]
        import pyarrow.parquet as pq  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(
            "reading Parquet needs pyarrow", str(path), "pip install 'mixbench[parquet]'"
        ) from error
    try:
        for file in files:
            open_regular(file).close()  # to open a pipe would wait for ever
        schema: Any = pq.read_schema(files[0])
        image = _column(schema.names, IMAGE_COLUMNS, path)
        label = _column(schema.names, LABEL_COLUMNS, path)
        classes = _one_layout(pq, files, image, label)
        _check_size(pq, files)
        table: Any = pa.concat_tables([_table(file, [image, label]) for file in files])
    except UserError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        what = f"the file cannot be read as Parquet: {str(error).splitlines()[0].rstrip(':')}"
        raise UserError(what, str(path)) from error
    try:
        raw = table[image]  # in pieces, as one cannot hold more than 2 GiB
        if pa.types.is_struct(raw.type):
            pieces = [piece.field("bytes") for piece in raw.chunks]
            raw = pa.chunked_array(pieces, raw.type.field("bytes").type)
        values = _values(table[label], label, path)
    except (pa.ArrowException, KeyError, ValueError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{image} and {label} are not images and labels",
            str(path),
            "store images as encoded files and labels as numbers or text",
        ) from error
    names = class_names(np.array(classes, str), str(path))
    where = f"{path}, column {label} ({table[label].type})"
    found = stored_labels(values, names, where, len(raw))

    def load(row: int) -> bytes:
        return raw[row].as_py() or b""

    named = [f"image {row} of {path.name}" for row in range(len(raw))]
    return Part(named, load, found.indices), found


def _table(file: Path, columns: list[str]) -> Any:
    """Columns of a file, read in pieces: those of one row group can be more than 2 GiB."""
    import pyarrow as pa  # pyright: ignore[reportMissingImports]
    import pyarrow.parquet as pq  # pyright: ignore[reportMissingImports]

    with pq.ParquetFile(file) as opened:
        schema = pa.schema([field for field in opened.schema_arrow if field.name in columns])
        return pa.Table.from_batches(opened.iter_batches(BATCH_ROWS, columns=columns), schema)


def _check_whole(files: list[Path]) -> None:
    """Refuse files of which others are missing, by the numbers in their names."""
    sets: dict[tuple[Path, str], list[re.Match[str]]] = {}
    for file in files:
        if shard := _SHARD.fullmatch(file.name):
            sets.setdefault((file.parent, shard[1]), []).append(shard)
    for (folder, name), shards in sets.items():
        numbers, count = {int(shard[2]) for shard in shards}, int(shards[0][3])
        if len(shards) > count or any(int(shard[3]) != count for shard in shards):
            what = (
                f"Parquet files of several sets lie together: {first_names([s[0] for s in shards])}"
            )
            raise UserError(what, str(folder), "keep the files of one set")
        first = int(count in numbers)  # some count from 1
        wanted = range(first, first + count)
        there = sum(number in wanted for number in numbers)
        if there < count:
            lost = islice((number for number in wanted if number not in numbers), SHOWN_SHARDS)
            named = [f"{name}{number:0{len(shards[0][2])}}-of-{shards[0][3]}" for number in lost]
            more = " ..." if count - there > SHOWN_SHARDS else ""
            what = f"{there} of {count} Parquet files are there; missing: {', '.join(named)}{more}"
            raise UserError(what, str(folder), "download the others")


def _one_layout(pq: Any, files: list[Path], image: str, label: str) -> list[str]:
    """The class names of files, whose columns have to be of the same types."""
    first, named = {}, {}
    for file in files:
        schema = pq.read_schema(file)
        fields = {name: schema.field(name) for name in (image, label) if name in schema.names}
        types = {name: str(field.type) for name, field in fields.items()}
        first = first or types
        if types != first:
            differing = [
                f"{name} is {types.get(name, 'missing')} and not {first[name]}"
                for name in first
                if types.get(name) != first[name]
            ]
            raise UserError(
                f"Parquet files have different columns: {', '.join(differing)}, as in "
                f"{files[0].name}",
                str(file),
                "use files of one data set",
            )
        classes = _class_names(schema.metadata or {}, label)
        named = named or classes
        if classes and classes != named:
            what = f"the class names are not those of {files[0].name}"
            raise UserError(what, f"{file}, column {label}", "use files of one data set")
    return list(named)


def _split_of(file: Path) -> tuple[str, Path]:
    """Split of a file, by the nearest word that tells it, and the folder of all of that split."""
    for place in (file, *file.parents):
        for word in re.split(r"[^a-z]+", place.name.lower()):
            if word in SPLIT_WORDS:
                return SPLIT_WORDS[word], place.parent if place.suffix == ".parquet" else place
    return "", Path()


def _check_size(pq: Any, files: list[Path]) -> None:
    """Refuse what unpacks beyond the limits, by what the files themselves say."""
    unpacked = 0
    for file in files:
        metadata = pq.read_metadata(file)
        groups = (metadata.row_group(index) for index in range(metadata.num_row_groups))
        unpacked += sum(group.total_byte_size for group in groups)
    check_size(unpacked, sum(file.stat().st_size for file in files))


def _values(column: Any, label: str, path: Path) -> np.ndarray:
    """Labels as an array of numbers or of objects; none may be missing."""
    if column.null_count:
        raise UserError(
            f"{column.null_count} of {len(column)} labels are missing",
            f"{path}, {label}",
            "give each image a label, or leave these images out",
        )
    return np.asarray(column)


def _column(names: list[str], known: tuple[str, ...], path: Path) -> str:
    for name in known:
        if name in names:
            return name
    raise UserError(
        f"the file has no column {' or '.join(known)}; found {', '.join(names)}", str(path)
    )


def _class_names(metadata: dict[bytes, bytes], label: str) -> list[str]:
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        return [str(name) for name in features[label]["names"]]
    except (KeyError, TypeError, ValueError):
        return []
