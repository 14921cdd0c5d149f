"""The frame of a figure: a panel for each table, a legend, and notes below."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from mixbench.errors import UserError, counted, printable
from mixbench.leaderboard.columns import describe
from mixbench.leaderboard.evidence import BASELINE
from mixbench.leaderboard.plots.export import rendered
from mixbench.leaderboard.plots.style import (
    LINE,
    MUTED,
    NORMAL,
    SMALL,
    Look,
    fitted,
    printed_width,
    wrapped,
)
from mixbench.leaderboard.rows import Group, Leaderboard, Row
from mixbench.stats.intervals import Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

MOST_PANELS = 6
MOST_ROWS = 60  # that a panel shows one below the other
LEAST_POINTS = 0.5  # that the axis of a percentage spans
MOST_LINES = 8  # that one diagram holds
NOTEBOOK_DPI = 160
MARGIN = 0.04  # inches
_HANDLE = 0.42  # inches of a legend's line and the room around it
_TICK = 0.65  # inches of the figure for a number at an axis
_LONG = 200  # letters that a title has at most
_GAP = 0.12  # inches between columns of a legend
_NAMED = 4  # rows that a note names, beyond which it counts them


@dataclass
class TablePanel:
    """The part of a figure that shows one table.

    Attributes:
        group: The table.
        height: Inches of its axes and their labels.
        draw: Draws into the part of the figure that it is given.
        title: Words behind the facts of the table.
    """

    group: Group
    height: float
    draw: "Callable[[SubFigure], None]"
    title: str = ""


def assemble(
    kind: str,
    board: Leaderboard,
    panels: Sequence[TablePanel],
    width: float,
    *,
    title: bool,
    notes: Sequence[str] = (),
    legend: Mapping[str, Look] | None = None,
) -> "Figure":
    """A figure of panels one below the other.

    Args:
        kind: Of the plot.
        board: The leaderboard.
        panels: From top to bottom.
        width: Inches.
        title: Whether the facts that rows have in common stand above them.
        notes: Sentences below all panels.
        legend: Looks by label, between panels and notes.

    Returns:
        The figure.

    Raises:
        UserError: If there are more panels than a figure holds.
    """
    if len(panels) > MOST_PANELS:
        raise UserError(
            f"the runs make {len(panels)} panels, and a figure holds {MOST_PANELS}",
            f"plot {kind}",
            "name only the folders of the runs that the figure should show",
        )
    titles = [_title(panel, board) if title else panel.title for panel in panels]
    below = [*notes, *_smoke_tests([panel.group for panel in panels])]
    figure, parts = stack(width, [panel.height for panel in panels], titles, below, legend or {})
    for panel, part in zip(panels, parts, strict=True):
        panel.draw(part)
    return figure


def stack(
    width: float,
    heights: Sequence[float],
    titles: Sequence[str],
    notes: Sequence[str],
    legend: Mapping[str, Look],
) -> "tuple[Figure, list[SubFigure]]":
    """An empty figure, and its parts from top to bottom.

    Args:
        width: Inches.
        heights: Inches of each part without its title.
        titles: Above each part; empty for none.
        notes: Sentences below all parts.
        legend: Looks by label, between parts and notes.

    Returns:
        The figure and its parts.
    """
    room = 0.97 * width - 2 * MARGIN  # letters of a picture are a little wider
    heads = [wrapped(title, room, NORMAL, most=2) for title in titles]
    whole = [high + LINE * 1.15 * len(head) for high, head in zip(heights, heads, strict=True)]
    entries = _entries(legend, room)
    lines = [line for note in notes for line in wrapped(note, room)]
    below = LINE * len(lines) + LINE * 1.1 * len(entries) + 2 * MARGIN
    height = sum(whole) + below
    figure = _figure_class()((width, height), layout="constrained")
    layout: Any = figure.get_layout_engine()
    layout.set(rect=(0, below / height, 1, 1 - below / height), w_pad=MARGIN, h_pad=MARGIN)
    parts = figure.subfigures(len(whole), 1, height_ratios=whole, squeeze=False)[:, 0].tolist()
    for part, head in zip(parts, heads, strict=True):
        if head:
            part.suptitle("\n".join(head), x=MARGIN / width, ha="left", fontsize=NORMAL)
    _write_below(figure, entries, lines)
    return figure, parts


@cache
def _figure_class() -> "type[Figure]":
    from matplotlib.figure import Figure

    class NotebookFigure(Figure):
        """A figure that a notebook shows without pyplot."""

        def _repr_png_(self) -> bytes:
            return rendered(self, ".png", NOTEBOOK_DPI)

    return NotebookFigure


def _entries(legend: Mapping[str, Look], room: float) -> list[list[tuple[str, Look, float]]]:
    """The legend in lines: label, look and place of each entry, in as few lines as have room."""
    labels = [fitted(label, room - _HANDLE) for label in legend]
    widths = [printed_width(text.replace(r"\$", "$"), SMALL) + _HANDLE + _GAP for text in labels]
    entries = list(zip(labels, legend.values(), widths, strict=True))
    for columns in range(len(entries), 0, -1):
        widest = [max(w for _, _, w in entries[start::columns]) for start in range(columns)]
        if sum(widest) <= room + _GAP or columns == 1:
            lefts = [sum(widest[:column]) for column in range(columns)]
            placed = [(t, look, lefts[i % columns]) for i, (t, look, _) in enumerate(entries)]
            return [placed[start : start + columns] for start in range(0, len(placed), columns)]
    return []


def _write_below(
    figure: "Figure", entries: list[list[tuple[str, Look, float]]], lines: list[str]
) -> None:
    from matplotlib.lines import Line2D

    width, height = figure.get_size_inches()
    top = LINE * len(lines) + LINE * 1.1 * len(entries) + MARGIN
    for line in entries:
        top -= LINE * 1.1
        for label, look, left in line:
            start, y = MARGIN + left, (top + LINE / 2) / height
            places = [(start + share * (_HANDLE - 0.1)) / width for share in (0, 0.5, 1)]
            sign = Line2D(places, [y] * 3, markevery=[1], **vars(look), markersize=3.5)
            figure.add_artist(sign)
            place = (start + _HANDLE) / width
            figure.text(place, y, label, va="center_baseline", fontsize=SMALL)
    for line in lines:
        top -= LINE
        figure.text(MARGIN / width, (top + LINE / 4) / height, line, fontsize=SMALL, color=MUTED)


def _title(panel: TablePanel, board: Leaderboard) -> str:
    """The facts of a table that a figure has room for, and which tell it from others."""
    group = panel.group
    words = [group.data, group.net, group.recipe, counted(group.epochs, "epoch")]
    others = [other for other in board.groups if other is not group]
    same = [o for o in others if [o.data, o.net, o.recipe] == words[:3]]
    if any(other.select != group.select for other in others):
        words.append(f"select {group.select}")
    if any(other.recipe_hash != group.recipe_hash for other in same):
        words.append(group.recipe_hash[:8])
    return " \N{MIDDLE DOT} ".join([*words, *filter(None, [panel.title])])


def score_title(score: str) -> str:
    """A score with its unit.

    Args:
        score: Its name.

    Returns:
        Such as ``top-1 accuracy (%)``.
    """
    column = describe(score)
    words = column.title or column.name
    return f"{words} ({column.unit})" if column.unit else words


def title_below(axes: "Axes", text: str, width: float) -> None:
    """Name the axis below a diagram.

    Args:
        axes: Of the diagram.
        text: Its title.
        width: Of the figure, in inches.
    """
    text = printable(text[:_LONG])
    title = fitted(text, 0.95 * width, NORMAL)
    wide = printed_width(text, NORMAL) > width / 2  # centred, it would leave the figure
    axes.set_xlabel(title, loc="right" if wide else "center")


def title_left(axes: "Axes", text: str, height: float) -> None:
    """Name the axis at the left of a diagram, in two lines where one has no room.

    Args:
        axes: Of the diagram.
        text: Its title.
        height: Of the diagram, in inches.
    """
    axes.set_ylabel("\n".join(wrapped(text, 0.85 * height, NORMAL, most=2)))


def _smoke_tests(groups: Sequence[Group]) -> list[str]:
    """A note that no method wins on data that is too easy."""
    names = list(dict.fromkeys(group.data for group in groups if group.smoke_test))
    return [f"{names[0]} is a smoke test, too small and easy to rank methods on."] if names else []


def note_left_out(labels: Sequence[str], why: str) -> list[str]:
    """A note on rows that are not shown.

    Args:
        labels: The rows.
        why: The reason, which follows the verb.

    Returns:
        A sentence, or nothing where there is no such row.
    """
    if not labels:
        return []
    named = list(labels)
    if len(named) > _NAMED:
        named = [*named[: _NAMED - 1], f"{len(named) - _NAMED + 1} others"]
    verb = "is" if len(labels) == 1 else "are"
    shown = ", ".join(name if len(name) <= 40 else f"{name[:37]}..." for name in named)
    return [f"Not shown: {shown}, which {verb} {why}."]


def best_rows(
    group: Group, rows: Sequence[Row], most: int, score: str = ""
) -> tuple[list[Row], list[str]]:
    """The best rows of a table and the one that others are compared with.

    Args:
        group: The table.
        rows: Those that can be shown.
        most: How many are.
        score: What the best ones are best in; empty for what the table is ranked by.

    Returns:
        The rows, the best mean first or in alphabetical order where no row is ranked, and the
        labels of the others.
    """
    score = score or group.score
    rank = describe(score).rank
    ranked = sorted(rows, key=lambda row: rank(row.summaries[score].mean))
    kept = ranked[:most]
    reference = reference_of(group)
    extra = [row for row in ranked[most:] if row.label == reference]
    if extra:
        kept = [*kept[:-1], *extra]
    if group.smoke_test:
        kept = sorted(kept, key=lambda row: row.label)
    names = {row.label for row in kept}
    return kept, [row.label for row in ranked if row.label not in names]


def reference_of(group: Group) -> str:
    """The row that others are compared with: that of the table's test, else plain training."""
    return group.evidence.reference or BASELINE


def label_rows(axes: "Axes", labels: Sequence[str], width: float) -> None:
    """Name the lines of a panel, the first one at the top.

    Args:
        axes: Of the panel, on which line k has the height k.
        labels: Of the lines.
        width: Of the figure, in inches.
    """
    room = 0.42 * width
    axes.set_yticks(range(len(labels)), [fitted(label, room) for label in labels])
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.locator_params(axis="x", nbins=max(2, int(width / _TICK)))
    axes.grid(axis="x")


def finite(values: Sequence[float | None]) -> list[float]:
    """The numbers among values."""
    return [value for value in values if value is not None and math.isfinite(value)]


def score_limits(rows: list[Row], score: str) -> tuple[tuple[float, float], bool]:
    """Ends of an axis of scores.

    The interval of two seeds is 13 standard errors long each way; an axis that held it would show
    nothing else.

    Args:
        rows: What is shown.
        score: Name of the score.

    Returns:
        The ends, and whether an interval goes on beyond them.
    """
    summaries = [row.summaries[score] for row in rows]
    intervals = [clipped(summary, score) or () for summary in summaries]
    values = [value for row in rows for value in seed_values(row, score)]
    values += [summary.mean for summary in summaries]
    percent, span = describe(score).percent, max(values) - min(values)
    ends = [*(end for interval in intervals for end in interval), *values]
    left = max(min(ends), min(values) - 0.6 * span)
    right = min(max(ends), max(values) + 0.6 * span)
    # A finer axis would show a difference of rounding as large as one that matters.
    least = LEAST_POINTS if percent else 0.05 * max(map(abs, values)) or 1e-6
    lacking = max(0.0, least - (right - left))
    pad = 0.05 * (right - left + lacking) + lacking / 2
    low, high = left - pad, right + pad
    if percent:
        low, high = max(low, -2.0), min(high, 102.0)
    return (low, high), min(ends) < low or max(ends) > high


def seed_values(row: Row, score: str) -> list[float]:
    """Values of a score over a row's seeds.

    Args:
        row: The row.
        score: Name of the score.

    Returns:
        Those that are finite.
    """
    return finite([record.metrics.get(score) for record in row.records])


def clipped(summary: Summary, score: str) -> tuple[float, float] | None:
    """The interval of a score without shares that cannot be.

    Args:
        summary: Of the score.
        score: Its name.

    Returns:
        The ends, or None where there is no interval.
    """
    if summary.low is None or summary.high is None:
        return None
    if not describe(score).percent:
        return summary.low, summary.high
    return max(0.0, summary.low), min(100.0, summary.high)
