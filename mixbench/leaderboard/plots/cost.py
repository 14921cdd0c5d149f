"""``cost``: the score of each row against its hours of training, and the Pareto front."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from mixbench.errors import UserError
from mixbench.leaderboard.columns import describe
from mixbench.leaderboard.costs import machine, mean_hours
from mixbench.leaderboard.plots.panels import (
    TablePanel,
    assemble,
    clipped,
    note_left_out,
    reference_of,
    score_limits,
    score_title,
    title_left,
)
from mixbench.leaderboard.plots.style import MUTED, PALE, Look, looks, plain_ticks
from mixbench.leaderboard.rows import Group, Leaderboard, Row
from mixbench.stats.intervals import Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

HEIGHT = 2.3  # inches of a panel
NAMED = 14  # rows that a legend names; of more, those that no other one beats
UNITS = (("hours", 1.0), ("minutes", 60.0), ("seconds", 3600.0))
_RATIO = 5  # of the largest cost to the smallest from which on the axis is logarithmic


@dataclass(frozen=True)
class Point:
    """A row, its cost in hours and its score."""

    row: Row
    hours: float
    score: Summary


def draw_cost(
    board: Leaderboard, width: float, title: bool = True, score: str | None = None
) -> "Figure":
    """Scores against hours of training, of rows that were trained on one kind of machine.

    Args:
        board: The leaderboard.
        width: Inches.
        title: Whether the facts that rows have in common stand above them.
        score: What is shown; None for what the tables are ranked by.

    Returns:
        The figure.

    Raises:
        UserError: If no row has a score and a cost, or there are too many tables.
    """
    panels: list[TablePanel] = []
    notes: list[str] = []
    legend: dict[str, Look] = {}
    for group in board.groups:
        name = score or group.score
        points, left_out = _points(group, name)
        if not points:
            continue
        for why, labels in left_out.items():
            notes += note_left_out(labels, why)
        best = front(points, name)
        named = [point.row.label for point in points]
        if len(points) > NAMED:
            kept = {*(point.row.label for point in best), reference_of(group)}
            named = [label for label in named if label in kept][:NAMED]
            notes.append(f"The other {len(points) - len(named)} rows are grey.")
        legend = looks(named, reference_of(group), legend)
        own = {label: legend[label] for label in named}
        notes += _explained(points, name)
        draw = partial(_draw, points=points, best=best, score=name, looks=own)
        panels.append(TablePanel(group, HEIGHT, draw))
    if not panels:
        what = f"no row has both {score or 'its score'} and the cost of its training"
        todo = "train for several steps, so that the speed is measured"
        raise UserError(what, "plot cost", todo)
    notes.insert(0, "The line joins rows that no other one beats at the same cost or a lower one.")
    signs = {label: Look(look.color, look.marker, "none") for label, look in legend.items()}
    notes = list(dict.fromkeys(notes))
    return assemble("cost", board, panels, width, title=title, notes=notes, legend=signs)


def _explained(points: Sequence[Point], score: str) -> list[str]:
    if all(point.score.low is None for point in points):
        return []
    cut = score_limits([point.row for point in points], score)[1]
    more = "; some go on beyond the diagram" if cut else ""
    return [f"Bars are 95 % t intervals over seeds{more}."]


def _points(group: Group, score: str) -> tuple[list[Point], dict[str, list[str]]]:
    """Rows with a cost on the machine that most have, and by reason those without."""
    left_out: dict[str, list[str]] = {}
    points: list[Point] = []
    machines: list[tuple[Any, ...]] = []
    for row in group.rows:
        cost, summary = mean_hours(row.records), row.summary(score)
        if summary is None or not math.isfinite(summary.mean):
            left_out.setdefault(f"without a finite mean of {score}", []).append(row.label)
        elif cost is None:
            left_out.setdefault("without a measured cost", []).append(row.label)
        elif len({machine(record) for record in row.records}) > 1:
            left_out.setdefault("trained on several kinds of machine", []).append(row.label)
        else:
            points.append(Point(row, cost, summary))
            machines.append(machine(row.records[0]))
    most = Counter(machines).most_common(1)
    elsewhere = [p for p, used in zip(points, machines, strict=True) if used != most[0][0]]
    if elsewhere:
        why = "trained on another machine or beside other runs"
        left_out[why] = [point.row.label for point in elsewhere]
    return [point for point in points if point not in elsewhere], left_out


def front(points: Sequence[Point], score: str) -> list[Point]:
    """Rows that no other one beats at the same cost or a lower one.

    Args:
        points: The rows.
        score: Its name, which says whether more is better.

    Returns:
        Those rows, the cheapest first.
    """
    rank = describe(score).rank
    found: list[Point] = []
    for point in sorted(points, key=lambda point: (point.hours, rank(point.score.mean))):
        if not found or rank(point.score.mean) < rank(found[-1].score.mean):
            found.append(point)
    return found


def _draw(
    part: "SubFigure",
    points: Sequence[Point],
    best: Sequence[Point],
    score: str,
    looks: Mapping[str, Look],
) -> None:
    axes = part.subplots()
    longest = max(point.hours for point in points)
    unit, scale = next((pair for pair in UNITS if longest * pair[1] >= 1), UNITS[-1])
    places = [scale * point.hours for point in best]
    means = [point.score.mean for point in best]
    axes.step(places, means, where="post", color=MUTED, linewidth=0.8)
    for point in points:
        look, x = looks.get(point.row.label), scale * point.hours
        colour, marker = (look.color, look.marker) if look else (PALE, "o")
        ends = clipped(point.score, score)
        if look and ends:
            axes.plot([x, x], ends, color=colour, linewidth=0.9)
        axes.plot([x], [point.score.mean], marker, color=colour, zorder=3 if look else 1)
    _scale_costs(axes, [scale * point.hours for point in points])
    axes.set_ylim(*score_limits([point.row for point in points], score)[0])
    gpu = points[0].row.records[0].gpu_hours is not None
    axes.set_xlabel(f"training time ({'GPU' if gpu else 'CPU'} {unit} per run)")
    title_left(axes, score_title(score), HEIGHT)
    axes.grid()


def _scale_costs(axes: "Axes", costs: Sequence[float]) -> None:
    if max(costs) > _RATIO * min(costs):
        axes.set_xscale("log")
        axes.set_xlim(min(costs) / 1.3, max(costs) * 1.3)
        plain_ticks(axes.xaxis)
    else:
        axes.set_xlim(0, 1.1 * max(costs))
        axes.locator_params(axis="x", nbins=6)
