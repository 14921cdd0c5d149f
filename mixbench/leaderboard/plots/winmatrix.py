"""``winmatrix``: the difference of each row from each other one."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from mixbench.errors import UserError
from mixbench.leaderboard.columns import describe
from mixbench.leaderboard.compare import Line, pairwise
from mixbench.leaderboard.plots.panels import TablePanel, assemble, best_rows, note_left_out
from mixbench.leaderboard.plots.style import (
    BETTER,
    BLACK,
    MUTED,
    SMALL,
    WORSE,
    fitted,
    printed_width,
    signed,
)
from mixbench.leaderboard.rows import Leaderboard

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

MOST = 16  # rows of a matrix
NAMES = 0.3  # share of the width that the names of rows have
LEAST_TEXT = 4.5  # points below which a number is left out
_EDGE = 0.12  # inches around the matrix


def draw_winmatrix(board: Leaderboard, width: float, title: bool = True) -> "Figure":
    """Differences between all pairs of rows, and whether the seeds separate the two.

    Args:
        board: The leaderboard.
        width: Inches.
        title: Whether the facts that rows have in common stand above them.

    Returns:
        The figure.

    Raises:
        UserError: If no table has two rows with a finite score, or there are too many tables.
    """
    panels: list[TablePanel] = []
    notes: list[str] = []
    for group in board.groups:
        rows = [
            row
            for row in group.rows
            if row.summaries[group.score].mean == row.summaries[group.score].mean
        ]
        lacking = [row.label for row in group.rows if row not in rows]
        rows, more = best_rows(group, rows, MOST)
        if len(rows) < 2:
            continue
        labels = [row.label for row in rows]
        notes += note_left_out(lacking, f"without a finite mean of {group.score}")
        notes += note_left_out(more, f"behind the best {MOST}")
        lines = pairwise(group, labels)
        draw = partial(_draw, labels=labels, lines=lines, score=group.score, width=width)
        panels.append(TablePanel(group, _cell(width, len(labels)) * len(labels) + 0.35, draw))
    if not panels:
        what = "no table has two rows with a finite score"
        raise UserError(what, "plot winmatrix", "train a second method: mixbench bench ...")
    notes.insert(0, _explained(board))
    return assemble("winmatrix", board, panels, width, title=title, notes=notes)


def _explained(board: Leaderboard) -> str:
    text = "Each cell is the score of its row minus that of the row with the column's number. "
    if all(len(row.seeds) < 2 for group in board.groups for row in group.rows):
        return f"{text}One seed separates no pair."
    return (
        f"{text}Coloured cells are pairs that differ (p < 0.05, one comparison each, by the "
        "variance pooled over all rows)."
    )


def _cell(width: float, count: int) -> float:
    """Inches of a cell's side."""
    return min(0.42, ((1 - NAMES) * width - 2 * _EDGE) / count)


def _draw(
    part: "SubFigure",
    labels: Sequence[str],
    lines: Mapping[tuple[str, str], Line],
    score: str,
    width: float,
) -> None:
    from matplotlib.patches import Rectangle

    axes = part.subplots()
    side = _cell(width, len(labels))
    column = describe(score)
    digits = 1 if column.percent else 3
    texts = {pair: signed(line.difference, digits) for pair, line in lines.items()}
    size = _text_size(list(texts.values()), side)
    for (mine, other), line in lines.items():
        y, x = labels.index(mine), labels.index(other)
        better = (line.difference > 0) == (column.better != "lower")
        colour = (BETTER if better else WORSE) if line.separated else "#f2f2f2"
        axes.add_patch(
            Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=colour, edgecolor="white", linewidth=0.8)
        )
        text = texts[mine, other] if size >= LEAST_TEXT else texts[mine, other][0]
        ink = "white" if line.separated else MUTED
        place: dict[str, Any] = {"ha": "center", "va": "center_baseline"}
        axes.text(x, y, text, fontsize=max(size, LEAST_TEXT), color=ink, **place)
    _label(axes, labels, width)


def _text_size(texts: Sequence[str], side: float) -> float:
    """Points at which the longest number fits into a cell."""
    widest = max(printed_width(text, SMALL) for text in texts)
    return min(SMALL, SMALL * 0.92 * side / widest)


def _label(axes: "Axes", labels: Sequence[str], width: float) -> None:
    count = len(labels)
    axes.set(xlim=(-0.5, count - 0.5), ylim=(count - 0.5, -0.5), aspect="equal")
    room = NAMES * width - 0.15
    names = [f"{fitted(label, room)} {place}" for place, label in enumerate(labels, start=1)]
    axes.set_yticks(range(count), names)
    axes.set_xticks(range(count), [str(place) for place in range(1, count + 1)])
    axes.tick_params(length=0, labeltop=True, labelbottom=False, colors=BLACK)
    axes.spines[:].set_visible(False)
