"""``metrics.csv``: one row per step that logged something, one column per value."""

import csv
import io
import math
from pathlib import Path
from typing import Any

from mixbench.errors import UserError
from mixbench.files import read_text, write_text

CURVE_KEYS = ("epoch", "step")
MAX_CURVE_BYTES = 1 << 30
LARGEST_VALUE = 3.5e38  # of a number in single precision


def write_curves(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write all rows; columns appear in the order in which values first appeared.

    Args:
        path: The file.
        rows: Values by name, ``epoch`` and ``step`` among them.
    """
    columns = list(dict.fromkeys([*CURVE_KEYS, *(name for row in rows for name in row)]))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def read_cells(path: Path) -> list[dict[str, Any]]:
    """Read whole rows as they are written, for a run that goes on.

    Args:
        path: The file.

    Returns:
        Cells by column, empty ones left out and ``epoch`` and ``step`` as numbers; rows that are
        damaged are left out.

    Raises:
        UserError: If the file cannot be read.
    """
    rows = []
    for row in _rows(_text(path), path):
        cells: dict[str, Any] = {name: cell for name, cell in row.items() if name and cell}
        try:
            cells |= {key: int(cells[key]) for key in CURVE_KEYS if key in cells}
        except ValueError:
            continue
        if "step" in cells:
            rows.append({key: cells.get(key, "") for key in CURVE_KEYS} | cells)
    return rows


def read_curves(path: Path) -> tuple[list[dict[str, float]], list[str]]:
    """Read what :func:`write_curves` wrote, half a last line left out.

    Args:
        path: The file.

    Returns:
        Rows with the values that are present, and warnings.

    Raises:
        UserError: If the file cannot be read.
    """
    text = _text(path)
    warnings = []
    if text and not text.endswith("\n"):
        text = text[: text.rfind("\n") + 1]
        warnings.append(f"{path}: the last line is incomplete and left out")
    rows = []
    for number, row in enumerate(_rows(text, path), start=2):
        numbers = _numbers(row)
        if numbers is None:
            warnings.append(f"{path}:{number}: not a row of numbers, left out")
        else:
            rows.append(numbers)
    return rows, warnings


def _text(path: Path) -> str:
    try:
        return read_text(path, MAX_CURVE_BYTES)
    except OSError as error:
        raise UserError(f"the curves cannot be read: {error.strerror}", str(path)) from error
    except ValueError as error:
        raise UserError(f"the curves cannot be read: {error}", str(path)) from error


def _rows(text: str, path: Path) -> list[dict[str, Any]]:
    try:
        return list(csv.DictReader(io.StringIO(text)))
    except csv.Error as error:
        raise UserError(f"the curves cannot be read: {error}", str(path)) from error


def _numbers(row: dict[str, Any]) -> dict[str, float] | None:
    """Values of a row, or None where no run can have logged them; a diverged one logs nan."""
    try:
        found = {name: float(value) for name, value in row.items() if value}
    except (ValueError, TypeError):
        return None
    places = [found[key] for key in CURVE_KEYS if key in found]
    if not all(place >= 0 and place.is_integer() for place in places):
        return None
    finite = filter(math.isfinite, found.values())
    return found if all(abs(value) <= LARGEST_VALUE for value in finite) else None
