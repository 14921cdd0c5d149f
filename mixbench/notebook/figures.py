"""Curves of a table, drawn with Matplotlib."""

import io
from collections import defaultdict

from PIL import Image

from mixbench.errors import UserError
from mixbench.notebook.table import Table

SIZE, DPI = (5.2, 3.2), 110  # inches, dots per inch


def curves(
    table: Table, x: str, y: str, by: str | None = None, *, scale: str = "log"
) -> Image.Image:
    """One column over another.

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
    for name in (x, y, *([by] if by else [])):
        if name not in table.columns:
            raise UserError(f"no column {name!r}", "curves", f"there are {table.columns}")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        todo = "pip install 'mixbench[notebooks]'"
        raise UserError("Matplotlib is not installed", "curves", todo) from error

    lines: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in table.rows:
        if row.get(x) is not None and row.get(y) is not None:
            lines[str(row.get(by)) if by else ""].append((row[x], row[y]))
    figure = Figure(SIZE, DPI, layout="constrained")
    axes = figure.subplots()
    for name, points in lines.items():
        axes.plot(*zip(*sorted(points), strict=True), marker="o", label=name)
    axes.set(xscale=scale, xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    if by:
        axes.legend(title=by)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return Image.open(file)
