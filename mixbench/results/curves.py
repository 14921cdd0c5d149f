"""``metrics.csv``: one row per step that logged something, one column per value."""

import csv
import io
from pathlib import Path
from typing import Any

from mixbench.results.files import write_text

KEYS = ("epoch", "step")


def write_curves(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write all rows; columns appear in the order in which values first appeared.

    Args:
        path: The file.
        rows: Values by name, ``epoch`` and ``step`` among them.
    """
    columns = list(dict.fromkeys([*KEYS, *(name for row in rows for name in row)]))
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
    """
    rows = []
    for row in csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))):
        cells: dict[str, Any] = {name: cell for name, cell in row.items() if name and cell}
        try:
            cells |= {key: int(cells[key]) for key in KEYS if key in cells}
        except ValueError:
            continue
        if "step" in cells:
            rows.append({key: cells.get(key, "") for key in KEYS} | cells)
    return rows


def read_curves(path: Path) -> tuple[list[dict[str, float]], list[str]]:
    """Read what :func:`write_curves` wrote, half a last line left out.

    Args:
        path: The file.

    Returns:
        Rows with the values that are present, and warnings.
    """
    text = path.read_text(encoding="utf-8")
    warnings = []
    if text and not text.endswith("\n"):
        text = text[: text.rfind("\n") + 1]
        warnings.append(f"{path}: the last line is incomplete and left out")
    rows = []
    for number, row in enumerate(csv.DictReader(io.StringIO(text)), start=2):
        try:
            rows.append({name: float(value) for name, value in row.items() if value})
        except (ValueError, TypeError):
            warnings.append(f"{path}:{number}: not a row of numbers, left out")
    return rows, warnings
