"""Rows of named values, for a notebook to show as a table or as curves."""

import io
from dataclasses import dataclass
from typing import Any

from PIL import Image

from mixbench.errors import UserError
from mixbench.leaderboard.columns import NONE
from mixbench.leaderboard.text import escaped, markdown_table

SIZE, DPI = (5.2, 3.2), 110  # inches, dots per inch


@dataclass
class Table:
    """Rows that have the same columns, or some of them; Jupyter shows them as a table."""

    rows: list[dict[str, Any]]

    @property
    def columns(self) -> list[str]:
        """Names in the order in which they first appear."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def column(self, name: str) -> list[Any]:
        """Values of a column, None where a row has none."""
        return [row.get(name) for row in self.rows]

    def _repr_markdown_(self) -> str:
        lines = [[_text(row.get(name)) for name in self.columns] for row in self.rows]
        return markdown_table([escaped(name, "markdown") for name in self.columns], lines)


def _text(value: Any) -> str:
    if value is None:
        return NONE
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) >= 5e-5 or value == 0 else f"{value:.4f}"
    return escaped(str(value), "markdown")


def curves(
    table: Table, x: str, y: str, by: str | None = None, *, scale: str = "log"
) -> Image.Image:
    """One column over another, drawn with Matplotlib.

    Args:
        table: The values; rows that lack one of them are left out.
        x: Column of the x axis, values > 0 on a logarithmic one.
        y: Column of the y axis.
        by: Column whose values have a curve each.
        scale: Of the x axis: ``log`` or ``linear``.

    Returns:
        The figure.

    Raises:
        UserError: If a column is not there, or Matplotlib is not installed.
    """
    for name in filter(None, (x, y, by)):
        if name not in table.columns:
            raise UserError(f"no column {name!r}", "curves", f"there are {table.columns}")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        todo = "pip install 'mixbench[notebooks]'"
        raise UserError("Matplotlib is not installed", "curves", todo) from error

    figure = Figure(SIZE, DPI, layout="constrained")
    axes = figure.subplots()
    for value in dict.fromkeys(table.column(by) if by else [None]):
        rows = [row for row in table.rows if by is None or row.get(by) == value]
        points = sorted((row[x], row[y]) for row in rows if None not in (row.get(x), row.get(y)))
        axes.plot(*zip(*points, strict=True), marker="o", label=str(value))
    axes.set(xscale=scale, xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    if by:
        axes.legend(title=by)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return Image.open(file)
