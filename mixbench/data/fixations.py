"""Human eye fixations on images, in the layout of CUB-GHA (Rong et al., 2021, arXiv:2111.01628).

Each line is a scan path: run, image id, width and height of the image in pixels, and then place
(x, y, in pixels) and duration (ms) of each fixation.
"""

import csv
import gzip
import math
from collections import defaultdict
from pathlib import Path

import torch
from torch import Tensor

from mixbench.errors import UserError
from mixbench.files import open_regular

_HEAD = 4  # columns before the fixations


def read_fixations(path: Path) -> dict[int, Tensor]:
    """Fixations of each image, of all people together.

    Args:
        path: A CSV file, plain or with the ending ``.gz``.

    Returns:
        By image id, (F, 3) float64: x and y as shares of the image's width and height, in [0, 1],
        and duration in milliseconds; in the order of the file.

    Raises:
        UserError: If the file is missing, or a line is no scan path.
    """
    found: dict[int, list[list[float]]] = defaultdict(list)
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        open_regular(path).close()  # to open a pipe would wait for ever
        with opened(path, "rt", encoding="utf-8", newline="") as file:
            for number, line in enumerate(csv.reader(file), 1):
                try:
                    image, points = _scan_path(line)
                except ValueError as error:
                    raise UserError(
                        f"the line is not a scan path: {error}",
                        f"{path}:{number}",
                        "expected: run, image, width, height, then x, y, ms of each fixation",
                    ) from None
                found[image] += points
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(
            f"the fixations cannot be read: {error}",
            str(path),
            "give the CSV file of the fixations",
        ) from error
    return {
        image: torch.tensor(points, dtype=torch.float64).reshape(-1, 3)
        for image, points in found.items()
    }


def _scan_path(line: list[str]) -> tuple[int, list[list[float]]]:
    if len(line) < _HEAD or (len(line) - _HEAD) % 3:
        raise ValueError(f"{len(line)} columns")
    _, image, width, height = (int(value) for value in line[:_HEAD])
    if min(width, height) < 1:
        raise ValueError(f"an image of {width} x {height} pixels")
    numbers = [float(value) for value in line[_HEAD:]]
    points = []
    for x, y, duration in zip(*[iter(numbers)] * 3, strict=True):
        if not (0 <= x <= width and 0 <= y <= height and 0 <= duration < math.inf):
            raise ValueError(f"a fixation at {x:g}, {y:g} of {duration:g} ms")
        points.append([x / width, y / height, duration])
    return image, points
