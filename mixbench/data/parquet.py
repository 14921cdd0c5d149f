"""Parquet files as Hugging Face distributes image data sets; needs the extra ``parquet``.

A column holds the images, as structs of ``bytes`` and ``path``, and one their labels; the names of
the classes stand in the metadata of the file.
"""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from mixbench.arrays import check_size
from mixbench.data.classes import Labels, class_names, stored_labels
from mixbench.data.encoded import Part
from mixbench.data.tree import check_regular
from mixbench.errors import UserError

ROWS = 256  # of one piece, which holds 2 GiB at most
IMAGE_COLUMNS, LABEL_COLUMNS = ("image", "img"), ("label", "labels", "fine_label")
_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}


def is_parquet(path: Path) -> bool:
    """Whether a path names a Parquet file, or a folder that holds some."""
    return path.suffix == ".parquet" or (path.is_dir() and any(path.glob("**/*.parquet")))


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
        if path.is_file():
            self.by_split[""] = [path]
            return
        for file in sorted(path.glob("**/*.parquet")):
            inner = file.relative_to(path)
            if any(name.startswith(".") for name in inner.parts):
                self.hidden += 1
            else:
                self.by_split.setdefault(_split_of(inner), []).append(file)

    def chosen(self, part: str) -> tuple[str, list[Path]]:
        """Files of the training or of the test images.

        Args:
            part: ``train``, or ``test``, which may be called validation.

        Returns:
            Split and files; all files, and an empty word, where no name tells a split.

        Raises:
            UserError: If there are other splits only.
        """
        if set(self.by_split) == {""}:
            return "", self.by_split[""]
        for split in ("train",) if part == "train" else ("test", "validation"):
            if split in self.by_split:
                return split, self.by_split[split]
        found = ", ".join(split for split in self.by_split if split) or "hidden ones only"
        raise UserError(
            f"no Parquet file of the split {part}; found {found}",
            str(self.path),
            f"give data.{part}= the folder or the file of these images",
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
            check_regular(file.stat(), None)
        schema: Any = pq.read_schema(files[0])
        image = _column(schema.names, IMAGE_COLUMNS, path)
        label = _column(schema.names, LABEL_COLUMNS, path)
        _check_size(pq, files)
        table: Any = pa.concat_tables([_table(file, [image, label]) for file in files])
    except UserError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        what = f"not readable as Parquet: {str(error).splitlines()[0]}"
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
        raise UserError(f"{image} and {label} are not images and labels", str(path)) from error
    names = class_names(np.array(_class_names(schema.metadata or {}, label), str), str(path))
    found = stored_labels(values, names, f"{path}, {label}", len(raw))

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
        return pa.Table.from_batches(opened.iter_batches(ROWS, columns=columns), schema)


def _split_of(file: Path) -> str:
    for name in (file.name, *reversed(file.parts[:-1])):
        for word in re.split(r"[^a-z]+", name.lower()):
            if word in _SPLITS:
                return _SPLITS[word]
    return ""


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
    raise UserError(f"no column {' or '.join(known)}; found {', '.join(names)}", str(path))


def _class_names(metadata: dict[bytes, bytes], label: str) -> list[str]:
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        return [str(name) for name in features[label]["names"]]
    except (KeyError, TypeError, ValueError):
        return []
