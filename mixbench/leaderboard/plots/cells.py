"""Small diagrams of one row each, side by side."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

CELL = 1.6  # inches of width that a diagram has at least
MOST_CELLS = 12
LABELS = 0.65  # inches of the numbers and the title at the left


def columns_of(width: float, count: int) -> int:
    """Diagrams that stand side by side.

    Args:
        width: Of the figure, in inches.
        count: Diagrams in all.

    Returns:
        Their number, one at least.
    """
    return max(1, min(count, int(width / CELL)))


def title_room(width: float, count: int) -> float:
    """Inches that a title above a diagram has, which is centred on the axes.

    Args:
        width: Of the figure, in inches.
        count: Diagrams in all.

    Returns:
        Inches.
    """
    return (width - LABELS) / columns_of(width, count)


def lines_of(width: float, count: int) -> int:
    """Lines that the diagrams make, at as many as fit side by side."""
    return math.ceil(count / columns_of(width, count))


def cell_axes(
    part: "SubFigure", width: float, count: int, heights: Sequence[float] = (1.0,)
) -> "list[list[Axes]]":
    """Axes of diagrams that share their scales.

    Args:
        part: What is divided.
        width: Of the figure, in inches.
        count: Diagrams.
        heights: Of the axes of a diagram, from top to bottom, relative to each other.

    Returns:
        For each diagram its axes.
    """
    columns, high = columns_of(width, count), len(heights)
    lines = lines_of(width, count)
    grid = part.subplots(
        lines * high,
        columns,
        squeeze=False,
        sharex=True,
        height_ratios=list(heights) * lines,
    )
    found: list[list[Axes]] = []
    for place in range(lines * columns):
        line, column = divmod(place, columns)
        own = grid[line * high : (line + 1) * high, column].tolist()
        if place < count:
            found.append(own)
        else:
            for axes in own:
                axes.remove()
    return found
