"""``curves``: training loss and score after each epoch, with the seeds as a band."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from mixbench.errors import UserError
from mixbench.leaderboard.epochs import SPLITS, Course, courses
from mixbench.leaderboard.plots.panels import (
    MOST_LINES,
    TablePanel,
    assemble,
    best_rows,
    finite,
    note_left_out,
    reference_of,
    score_title,
    title_left,
)
from mixbench.leaderboard.plots.style import Look, looks, plain_ticks
from mixbench.leaderboard.rows import Leaderboard

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

HEIGHT = 1.75  # inches of one diagram
WIDE = 5.0  # inches from which on diagrams stand side by side
LOSS = "loss_epoch"
_RATIO = 30  # of the largest loss to the smallest from which on the axis is logarithmic
_SIGNS = 6  # markers on a line
MOST_WARNINGS = 3  # of damaged files that notes name


def draw_curves(board: Leaderboard, width: float, title: bool = True) -> "Figure":
    """Training loss and score after each epoch, as means over seeds with bands.

    Args:
        board: The leaderboard.
        width: Inches.
        title: Whether the facts that rows have in common stand above them.

    Returns:
        The figure.

    Raises:
        UserError: If no run has left curves, or there are too many tables.
    """
    panels: list[TablePanel] = []
    notes: list[str] = []
    legend: dict[str, Look] = {}
    for group in board.groups:
        rows, more = best_rows(group, group.rows, MOST_LINES)
        shown = replace(group, rows=rows)
        losses, warnings = courses(shown, ("train",), (LOSS,))
        scores, _ = courses(shown, scores=(group.score,))
        losses, scores = _drawable(losses, LOSS), _drawable(scores, group.score)
        if not losses and not scores:
            continue
        drawn = [row.label for row in rows if row.label in {c.label for c in [*losses, *scores]}]
        legend = looks(drawn, reference_of(group), legend)
        notes += note_left_out([r.label for r in rows if r.label not in drawn], "without curves")
        notes += note_left_out(more, f"behind the best {MOST_LINES}")
        notes += [f"{warning}." for warning in warnings[:MOST_WARNINGS]]
        notes += _explained(scores, len(drawn))
        diagrams = [(losses, LOSS, "training loss")] * bool(losses)
        diagrams += [(scores, group.score, score_title(group.score))] * bool(scores)
        across = len(diagrams) if width >= WIDE else 1
        height = HEIGHT * math.ceil(len(diagrams) / across) + 0.25
        draw = partial(_draw, diagrams=diagrams, across=across, looks=legend)
        panels.append(TablePanel(group, height, draw))
    if not panels:
        what = "no run has left a curve"
        raise UserError(what, "plot curves", "train with select=val, and keep metrics.csv")
    notes += _band(board)
    notes = list(dict.fromkeys(notes))
    return assemble("curves", board, panels, width, title=title, notes=notes, legend=legend)


def _drawable(found: list[Course], name: str) -> list[Course]:
    """Courses with a finite value."""
    return [
        course
        for course in found
        if finite([summary.mean for summary in course.values.get(name, []) if summary])
    ]


def _explained(scores: Sequence[Course], rows: int) -> list[str]:
    if not scores:
        todo = "train with select=val to have one"
        notes = [f"No score was taken after each epoch; {todo}."]
    else:
        used = [SPLITS[split] for split in dict.fromkeys(course.split for course in scores)]
        notes = [f"The scores are those of the {' or the '.join(used)}."]
    if rows > 1:
        notes.append("Losses of methods with other targets do not compare.")
    return notes


def _band(board: Leaderboard) -> list[str]:
    several = any(len(row.seeds) > 1 for group in board.groups for row in group.rows)
    return ["Lines are means over seeds, bands one standard deviation."] if several else []


def _draw(
    part: "SubFigure",
    diagrams: Sequence[tuple[list[Course], str, str]],
    across: int,
    looks: Mapping[str, Look],
) -> None:
    down = math.ceil(len(diagrams) / across)
    every = part.subplots(down, across, squeeze=False, sharex=True).ravel().tolist()
    for axes, (found, name, words) in zip(every, diagrams, strict=True):
        for course in found:
            _line(axes, course, name, looks[course.label])
        title_left(axes, words, HEIGHT)
        axes.grid(axis="y")
        if name == LOSS and _wide(found):
            axes.set_yscale("log")
            plain_ticks(axes.yaxis)
    for axes in every[-across:]:
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)


def _line(axes: "Axes", course: Course, name: str, look: Look) -> None:
    summaries = course.values[name]
    means = [math.nan if found is None else found.mean for found in summaries]
    epochs = list(map(float, course.epochs))
    step = max(1, len(means) // _SIGNS)
    axes.plot(epochs, means, **vars(look), markevery=step, markersize=3)
    if any(found is not None and found.sd is not None for found in summaries):
        spread = [math.nan if f is None or f.sd is None else f.sd for f in summaries]
        low = [mean - sd for mean, sd in zip(means, spread, strict=True)]
        high = [mean + sd for mean, sd in zip(means, spread, strict=True)]
        axes.fill_between(epochs, low, high, color=look.color, alpha=0.18, linewidth=0)


def _wide(found: Sequence[Course]) -> bool:
    """Whether losses are of several orders of magnitude, as where one run almost diverged."""
    means = finite([s.mean for course in found for s in course.values[LOSS] if s is not None])
    return min(means) > 0 and max(means) / min(means) > _RATIO
