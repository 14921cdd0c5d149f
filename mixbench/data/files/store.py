"""Pixels of image files on disk, uncompressed, so that crops are cut without decoding.

A store is two files: ``NAME.pixels`` holds the rows of all images, one image after another, and
``NAME.npz`` their heights and widths. The first is mapped into memory, so that processes share it.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mixbench.data.files.arrays import Arrays
from mixbench.data.files.decode import (
    SAMPLED_IMAGES,
    decode_resized,
    in_threads,
    size_of,
    unreadable_error,
)
from mixbench.errors import UserError
from mixbench.files import write_bytes

WINDOW = 512  # images that are decoded ahead of what is written
CHANNELS = 3


class PixelStore:
    """The images of a store by their row, (H, W, 3) uint8.

    Args:
        path: Its file of pixels.

    Raises:
        OSError: If a file is missing.
        ValueError: If the files are damaged or do not fit together.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with Arrays(path.with_suffix(".npz")) as index:
            self.sides = index["sides"].astype(np.int64)  # (N, 2) heights and widths in pixels
        ends = np.cumsum(self.sides.prod(axis=1) * CHANNELS)
        self.starts = np.concatenate([[0], ends])
        self.pixels = np.memmap(path, np.uint8, "r")
        if len(self.pixels) != self.starts[-1]:
            raise ValueError(f"{path.name} has {len(self.pixels):,} of {self.starts[-1]:,} bytes")

    def __reduce__(self) -> tuple[type["PixelStore"], tuple[Path]]:
        return type(self), (self.path,)  # a worker maps the file, and is sent none of its pixels

    def __getitem__(self, row: int) -> np.ndarray:
        height, width = self.sides[row]
        return self.pixels[self.starts[row] : self.starts[row + 1]].reshape(height, width, CHANNELS)


def write_store(
    path: Path, names: Sequence[str], load: Callable[[int], bytes], side: int, *, skip: bool
) -> None:
    """Decode image files into a store.

    Args:
        path: Its file of pixels; the folder must exist.
        names: What messages call each file.
        load: Returns the content of file i.
        side: Length in pixels that the shorter side of each image is brought to.
        skip: Leave a file that cannot be read without pixels; it is refused otherwise.

    Raises:
        UserError: If a file cannot be read, or the disk has no room for the pixels.
        OSError: If the files cannot be written.
    """
    _check_room(path, len(names), load, side)
    sides: list[tuple[int, int]] = []

    def decoded(row: int) -> np.ndarray:
        try:
            return decode_resized(load(row), side)
        except OSError as error:
            if not skip:
                raise unreadable_error([f"{names[row]} ({error})"], len(names)) from error
            return np.empty((0, 0, CHANNELS), np.uint8)

    def write(file: BinaryIO) -> None:
        for image in _in_order(decoded, len(names)):
            sides.append(image.shape[:2])
            file.write(image.tobytes())

    write_bytes(path, write)
    index = np.array(sides, np.int32).reshape(-1, 2)
    # Written last: where it is, the pixels are complete.
    write_bytes(path.with_suffix(".npz"), lambda file: np.savez(file, sides=index))


def _in_order(decode: Callable[[int], np.ndarray], count: int) -> Iterator[np.ndarray]:
    for start in range(0, count, WINDOW):
        yield from in_threads(decode, range(start, min(start + WINDOW, count)))


def _check_room(path: Path, count: int, load: Callable[[int], bytes], side: int) -> None:
    """Refuse a disk that is too small, by the ratios of a few images."""
    ratios = []
    for row in sorted({place * count // SAMPLED_IMAGES for place in range(SAMPLED_IMAGES)}):
        try:
            width, height = size_of(load(row))
        except OSError:  # told when all are decoded
            continue
        ratios.append(max(width, height) / min(width, height))
    needed = count * side * side * CHANNELS * (float(np.mean(ratios)) if ratios else 1.0)
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise UserError(
            f"the pixels of {count:,} images take about {needed / 1e9:,.0f} GB, and "
            f"{free / 1e9:,.0f} GB are free",
            str(path.parent),
            "make room, set MIXBENCH_DATA to a larger disk, or give a smaller data.store, at "
            "least data.resize or data.size",
        )
