"""``harm``: change of accuracy by class against the reference."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from mixbench.errors import UserError
from mixbench.leaderboard.compare import read_hits
from mixbench.leaderboard.plots.cells import MOST_CELLS, cell_axes, columns_of, lines_of, title_room
from mixbench.leaderboard.plots.panels import (
    TablePanel,
    assemble,
    best_rows,
    note_left_out,
    reference_of,
)
from mixbench.leaderboard.plots.style import BETTER, MUTED, SMALL, WORSE, fitted, signed
from mixbench.leaderboard.rows import Group, Leaderboard, Row
from mixbench.stats.class_changes import ClassChange, class_changes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

HEIGHT = 1.75  # inches of a diagram
_NAMED = 24  # classes up to which each has an interval with ends and a large dot


@dataclass
class Changes:
    """A row against the reference.

    Attributes:
        label: The row.
        classes: By change, the most harmed one first.
        worst: Name of the first one.
    """

    label: str
    classes: list[ClassChange]
    worst: str


def draw_harm(board: Leaderboard, width: float, title: bool = True) -> "Figure":
    """Change of accuracy by class, with intervals that hold for all classes of a row at once.

    Args:
        board: The leaderboard.
        width: Inches.
        title: Whether the facts that rows have in common stand above them.

    Returns:
        The figure.

    Raises:
        UserError: If no row and its reference have predictions for the same images, or there are
            too many tables.
    """
    panels: list[TablePanel] = []
    notes: list[str] = []
    reasons: list[str] = []
    single = False
    for group in board.groups:
        others = [row for row in group.rows if row.label != reference_of(group)]
        rows, more = best_rows(group, others, MOST_CELLS)
        found, told = _changes(group, rows)
        reasons += told
        if not found:
            continue
        notes += note_left_out(more, f"behind the best {MOST_CELLS}")
        single = single or all(len(row.seeds) == 1 for row in group.rows)
        height = HEIGHT * lines_of(width, len(found)) + 0.2
        words = f"against {reference_of(group)}"
        panels.append(TablePanel(group, height, partial(_draw, found=found, width=width), words))
    if not panels:
        what = "no two rows have predictions to compare by class"
        where = reasons[0] if reasons else "plot harm"
        raise UserError(what, where, "train erm and another method, or evaluate: mixbench eval RUN")
    notes.insert(0, _explained(single))
    notes += [f"Not shown: {reason}." for reason in reasons]
    return assemble("harm", board, panels, width, title=title, notes=notes)


def _explained(single: bool) -> str:
    text = (
        "Classes are sorted by their change; lines are 95 % intervals that hold for all classes of "
        "a diagram at once. Filled dots change beyond chance, and below is how many lose that way."
    )
    return f"{text} One seed of each says nothing of other seeds." if single else text


def _changes(group: Group, rows: Sequence[Row]) -> tuple[list[Changes], list[str]]:
    """Changes of the rows that can be compared, and why others cannot."""
    by_label = {row.label: row for row in group.rows}
    base = by_label.get(reference_of(group))
    if base is None:
        return [], [f"the table has no row {reference_of(group)}"]
    try:
        other, labels, ids, names = read_hits(base)
    except UserError as error:
        return [], [f"{base.label}: {error.what} ({error.where})"]
    found, reasons = [], []
    for row in rows:
        try:
            mine, own_labels, own_ids, own_names = read_hits(row)
        except UserError as error:
            reasons.append(f"{row.label}: {error.what} ({error.where})")
            continue
        if not (np.array_equal(labels, own_labels) and np.array_equal(ids, own_ids)):
            reasons.append(f"{row.label}: it was not tested on the images of {base.label}")
            continue
        changes = sorted(class_changes(mine, other, labels), key=lambda item: item.change)
        found.append(Changes(row.label, changes, _name(changes[0].label, names or own_names)))
    return found, reasons


def _name(label: int, names: Sequence[str]) -> str:
    name = names[label] if label < len(names) else ""
    return name if name.strip() and not name.strip().isdecimal() else f"class {name or label}"


def _draw(part: "SubFigure", found: Sequence[Changes], width: float) -> None:
    every = cell_axes(part, width, len(found))
    columns = columns_of(width, len(found))
    low = min(item.low for changes in found for item in changes.classes)
    high = max(item.high for changes in found for item in changes.classes)
    pad = 0.05 * (high - low) or 1.0
    for place, (changes, (axes,)) in enumerate(zip(found, every, strict=True)):
        _intervals(axes, changes.classes)
        worst = changes.classes[0]
        room = title_room(width, len(found))
        lost = sum(item.high < 0 for item in changes.classes)
        name = fitted(changes.label, room)
        said = fitted(f"worst: {changes.worst}, {signed(worst.change, 1)}", room)
        axes.set_title(f"{name}\n{said}", fontsize=SMALL)
        axes.set_ylim(low - pad, high + pad)
        axes.set_xticks([])
        if place % columns:
            axes.tick_params(labelleft=False)
        else:
            axes.set_ylabel("change (points)")
        words = f"{lost} of {len(changes.classes)} lose beyond chance"
        axes.set_xlabel(fitted(words, room), fontsize=SMALL)


def _intervals(axes: "Axes", classes: Sequence[ClassChange]) -> None:
    axes.axhline(0, color=MUTED, linewidth=0.7)
    small = len(classes) > _NAMED
    for place, item in enumerate(classes):
        surely = item.high < 0 or item.low > 0
        colour = (WORSE if item.change < 0 else BETTER) if surely else MUTED
        thin = 0.4 if small else 0.9
        axes.plot([place, place], [item.low, item.high], color=colour, linewidth=thin)
        face = colour if surely else "white"
        axes.plot(
            [place],
            [item.change],
            "o",
            color=colour,
            markerfacecolor=face,
            markersize=1.8 if small else 3,
            markeredgewidth=0.7,
        )
    axes.margins(x=0.04)
