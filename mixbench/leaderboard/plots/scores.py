"""``leaderboard``: each row's seeds, mean and interval on one axis."""

import math
from functools import partial
from typing import TYPE_CHECKING

from mixbench.errors import UserError
from mixbench.leaderboard.columns import describe
from mixbench.leaderboard.plots.panels import (
    MOST_ROWS,
    TablePanel,
    assemble,
    best_rows,
    clipped,
    label_rows,
    note_left_out,
    reference_of,
    score_limits,
    score_title,
    seed_values,
    title_below,
)
from mixbench.leaderboard.plots.style import BETTER, INK, MUTED, PALE
from mixbench.leaderboard.rows import Leaderboard, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

ROW = 0.17  # inches of a row
AROUND = 0.42  # inches of the axis below the rows


def draw_scores(
    board: Leaderboard, width: float, title: bool = True, score: str | None = None
) -> "Figure":
    """The score of each row: its seeds as small dots, their mean, and its 95 % interval.

    Args:
        board: The leaderboard.
        width: Inches.
        title: Whether the facts that rows have in common stand above them.
        score: What is shown; None for what the tables are ranked by.

    Returns:
        The figure.

    Raises:
        UserError: If no row has the score, or there are too many tables.
    """
    panels: list[TablePanel] = []
    parts: list[tuple[list[Row], str]] = []
    notes: list[str] = []
    for group in board.groups:
        name = score or group.score
        rows = [row for row in group.rows if math.isfinite(_mean(row, name))]
        if not rows:
            continue
        lacking = [row.label for row in group.rows if row not in rows]
        rows, more = best_rows(group, rows, MOST_ROWS, name)
        notes += note_left_out(lacking, f"without a finite mean of {name}")
        notes += note_left_out(more, f"behind the best {MOST_ROWS}")
        draw = partial(_draw, rows=rows, score=name, reference=reference_of(group), width=width)
        panels.append(TablePanel(group, ROW * len(rows) + AROUND, draw))
        parts.append((rows, name))
    if not panels:
        suite = describe(score or "top1").suite
        todo = f"mixbench eval RUN --suite {suite} adds it" if suite else "check the name"
        what = f"no row has a finite mean of {score or 'its score'}"
        raise UserError(what, "plot leaderboard", todo)
    notes.insert(0, _explained(parts))
    return assemble("leaderboard", board, panels, width, title=title, notes=notes)


def _mean(row: Row, score: str) -> float:
    summary = row.summary(score)
    return math.nan if summary is None else summary.mean


def _explained(parts: list[tuple[list[Row], str]]) -> str:
    found = [row.summaries[name] for rows, name in parts for row in rows]
    if all(summary.low is None for summary in found):
        return "Dots are runs of one seed, which supports no interval."
    text = "Small dots are seeds, large ones their mean, lines its 95 % t interval."
    if any(summary.n == 1 for summary in found):
        text += " One seed supports no interval."
    if any(score_limits(rows, name)[1] for rows, name in parts):
        text += " Intervals with an arrow go on beyond the axis."
    return text


def _draw(part: "SubFigure", rows: list[Row], score: str, reference: str, width: float) -> None:
    axes = part.subplots()
    label_rows(axes, [row.label for row in rows], width)
    (low, high), _ = score_limits(rows, score)
    axes.set_xlim(low, high)
    title_below(axes, score_title(score), width)
    for place, row in enumerate(rows):
        summary = row.summaries[score]
        colour = INK if row.label == reference else BETTER
        if row.label == reference:
            axes.axvline(summary.mean, color=MUTED, linestyle=(0, (1, 1.5)), linewidth=0.8)
        ends = clipped(summary, score)
        if ends is not None:
            axes.plot(ends, (place, place), color=colour, linewidth=1.1, solid_capstyle="butt")
            draw_arrows(axes, ends, place, colour)
        values = seed_values(row, score)
        if len(values) > 1:
            axes.plot(values, [place + 0.27] * len(values), ".", color=PALE, markersize=3, zorder=3)
        axes.plot([summary.mean], [place], "o", color=colour, markersize=4, zorder=4)


def draw_arrows(axes: "Axes", ends: tuple[float, float], place: float, colour: str) -> None:
    """Heads of an interval that goes on beyond the axis.

    Args:
        axes: Of the panel, with its limits set.
        ends: Of the interval.
        place: Its height.
        colour: Of the heads.
    """
    low, high = axes.get_xlim()
    for beyond, edge, marker in ((ends[0] < low, low, "<"), (ends[1] > high, high, ">")):
        if beyond:
            axes.plot([edge], [place], marker, color=colour, markersize=3.5, clip_on=False)
