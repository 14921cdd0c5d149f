"""Parquet files as Hugging Face distributes image data sets; needs the extra ``parquet``.

A column holds the images, as structs of ``bytes`` and ``path``, and one their labels; the names of
the classes stand in the metadata of the file.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mixbench.data.encoded import Part
from mixbench.data.images import check_labels
from mixbench.data.tree import check_regular
from mixbench.errors import UserError

ROWS = 256  # of one piece, which holds 2 GiB at most
IMAGE_COLUMNS, LABEL_COLUMNS = ("image", "img"), ("label", "labels", "fine_label")


def is_parquet(path: Path) -> bool:
    """Whether a path names a Parquet file, or a folder that holds some."""
    return path.suffix == ".parquet" or (path.is_dir() and any(path.glob("**/*.parquet")))


def read_parquet(path: Path) -> tuple[Part, list[str]]:
    """Images and labels of a file, or of all files of a folder in the order of their names.

    Args:
        path: File or folder.

    Returns:
        The images, still encoded, and the class names; numbers where the file gives none.

    Raises:
        UserError: If pyarrow is missing, or the file is not of this layout.
    """
    try:
        import pyarrow as pa  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(
            "reading Parquet needs pyarrow", str(path), "pip install 'mixbench[parquet]'"
        ) from error
    files = sorted(path.glob("**/*.parquet")) if path.is_dir() else [path]
    try:
        table: Any = pa.concat_tables([_table(file) for file in files])
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"not readable as Parquet: {error}", str(path)) from error
    image = _column(table, IMAGE_COLUMNS, path)
    label = _column(table, LABEL_COLUMNS, path)
    try:
        raw = table[image]  # in pieces, as one cannot hold more than 2 GiB
        if pa.types.is_struct(raw.type):
            pieces = [piece.field("bytes") for piece in raw.chunks]
            raw = pa.chunked_array(pieces, raw.type.field("bytes").type)
        labels = torch.from_numpy(np.asarray(table[label]).astype(np.int64))
    except (pa.ArrowException, KeyError, ValueError, TypeError) as error:
        raise UserError(f"{image} and {label} are not images and labels", str(path)) from error
    names = _class_names(table.schema.metadata or {}, label)
    names = names or [str(index) for index in range(int(labels.max()) + 1 if len(labels) else 0)]
    check_labels(labels, len(raw), names, str(path))

    def load(row: int) -> bytes:
        return raw[row].as_py() or b""

    return Part([f"image {row} of {path.name}" for row in range(len(raw))], load, labels), names


def _table(file: Path) -> Any:
    """All rows of a file, read in pieces: those of one row group can be more than 2 GiB."""
    import pyarrow as pa  # pyright: ignore[reportMissingImports]
    import pyarrow.parquet as pq  # pyright: ignore[reportMissingImports]

    check_regular(file.stat(), None)
    with pq.ParquetFile(file) as opened:
        return pa.Table.from_batches(opened.iter_batches(ROWS), opened.schema_arrow)


def _column(table: Any, known: tuple[str, ...], path: Path) -> str:
    for name in known:
        if name in table.column_names:
            return name
    raise UserError(
        f"no column {' or '.join(known)}; found {', '.join(table.column_names)}", str(path)
    )


def _class_names(metadata: dict[bytes, bytes], label: str) -> list[str]:
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        return [str(name) for name in features[label]["names"]]
    except (KeyError, TypeError, ValueError):
        return []
