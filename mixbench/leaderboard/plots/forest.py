"""``forest``: the difference of each row from the reference, with the interval of the test."""

from functools import partial
from typing import TYPE_CHECKING

from mixbench.errors import UserError
from mixbench.leaderboard.columns import describe
from mixbench.leaderboard.plots.panels import (
    MOST_ROWS,
    TablePanel,
    assemble,
    best_rows,
    label_rows,
    note_left_out,
    title_below,
)
from mixbench.leaderboard.plots.scores import AROUND, ROW, draw_arrows
from mixbench.leaderboard.plots.style import BETTER, MUTED, WORSE
from mixbench.leaderboard.rows import Group, Leaderboard, Row
from mixbench.stats.dunnett import Contrast

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure


def draw_forest(board: Leaderboard, width: float, title: bool = True) -> "Figure":
    """Differences from the reference, with the simultaneous intervals of Dunnett's test.

    Args:
        board: The leaderboard.
        width: Inches.
        title: Whether the facts that rows have in common stand above them.

    Returns:
        The figure.

    Raises:
        UserError: If nothing was tested, or there are too many tables.
    """
    panels: list[TablePanel] = []
    notes: list[str] = []
    found: list[Contrast] = []
    for group in board.groups:
        rows = [row for row in group.rows if row.label in group.evidence.contrasts]
        if not rows:
            continue
        tested = {*group.evidence.contrasts, group.evidence.reference}
        lacking = [row.label for row in group.rows if row.label not in tested]
        rows, more = best_rows(group, rows, MOST_ROWS)
        notes += note_left_out(lacking, "not tested, without two seeds that are finite")
        notes += note_left_out(more, f"behind the best {MOST_ROWS}")
        draw = partial(_draw, group=group, rows=rows, width=width)
        panels.append(TablePanel(group, ROW * len(rows) + AROUND, draw))
        found += _contrasts(group, rows)
    if not panels:
        todo = "train more seeds: mixbench bench ... seeds=0,1,2"
        what = "no difference was tested, as no table has two rows of two seeds with a spread"
        raise UserError(what, "plot forest", todo)
    notes.insert(0, _explained(found))
    return assemble("forest", board, panels, width, title=title, notes=notes)


def _contrasts(group: Group, rows: list[Row]) -> list[Contrast]:
    return [group.evidence.contrasts[row.label] for row in rows]


def _explained(contrasts: list[Contrast]) -> str:
    text = "Lines are 95 % intervals of Dunnett's test that hold for all rows of a table at once; "
    if not any(contrast.separated for contrast in contrasts):
        return f"{text}the test separates no row from the reference."
    return f"{text}filled squares are rows that the test separates from the reference."


def _draw(part: "SubFigure", group: Group, rows: list[Row], width: float) -> None:
    axes = part.subplots()
    label_rows(axes, [row.label for row in rows], width)
    contrasts = _contrasts(group, rows)
    axes.set_xlim(*_limits(contrasts))
    axes.axvline(0, color=MUTED, linewidth=0.8)
    column = describe(group.score)
    unit = "points" if column.percent else column.unit
    words = f"{group.score} minus that of {group.evidence.reference} ({unit or group.score})"
    title_below(axes, words, width)
    for place, contrast in enumerate(contrasts):
        colour = MUTED
        if contrast.separated:
            better = (contrast.difference > 0) == (column.better != "lower")
            colour = BETTER if better else WORSE
        ends = (contrast.low, contrast.high)
        axes.plot(ends, (place, place), color=colour, linewidth=1.1, solid_capstyle="butt")
        draw_arrows(axes, ends, place, colour)
        face = colour if contrast.separated else "white"
        axes.plot(
            [contrast.difference], [place], "s", color=colour, markerfacecolor=face, markersize=4
        )


def _limits(contrasts: list[Contrast]) -> tuple[float, float]:
    """Ends of the axis, on which zero always lies; no interval is cut."""
    low = min(0.0, *(contrast.low for contrast in contrasts))
    high = max(0.0, *(contrast.high for contrast in contrasts))
    pad = 0.05 * (high - low) or 1e-6
    return low - pad, high + pad
