"""``sweep``: the score over the settings of one method: lines for one, a heat map for two."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from mixbench.errors import UserError
from mixbench.leaderboard.columns import describe
from mixbench.leaderboard.pivot import configured
from mixbench.leaderboard.plots.panels import (
    MOST_LINES,
    TablePanel,
    assemble,
    clipped,
    note_left_out,
    reference_of,
    score_limits,
    score_title,
    title_below,
    title_left,
)
from mixbench.leaderboard.plots.style import MUTED, SMALL, Look, fitted, looks, printed_width
from mixbench.leaderboard.rows import Group, Leaderboard, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

HEIGHT = 2.2  # inches of lines
CELL = 0.42  # inches of a cell's height
LEAST_TEXT = 5.0  # points below which the numbers in cells are left out
_RATIO = 20  # of the largest setting to the smallest from which on the axis is logarithmic
DEFAULT = "default"  # of a setting whose default no run tells


@dataclass
class MethodSweep:
    """Rows of a method that differ in some settings.

    Attributes:
        method: Its name.
        group: The table.
        keys: One or two settings; what else differs makes lines.
        rows: The rows.
        values: For each row the value of every setting that differs.
    """

    method: str
    group: Group
    keys: list[str]
    rows: list[Row]
    values: list[dict[str, Any]]


def draw_sweep(
    board: Leaderboard, width: float, title: bool = True, keys: Iterable[str] = ()
) -> "Figure":
    """Scores over settings of a method: lines for one, a heat map for two.

    Args:
        board: The leaderboard.
        width: Inches.
        title: Whether the facts that rows have in common stand above them.
        keys: One or two settings, with or without ``method.`` in front; those that differ between
            the rows of a method if none is named.

    Returns:
        The figure.

    Raises:
        UserError: If no method has rows that differ in such settings, they differ in more, or
            there are too many tables.
    """
    named = [key.removeprefix("method.") for key in ([keys] if isinstance(keys, str) else keys)]
    if len(set(named)) != len(named) or len(named) > 2:
        raise UserError(
            "the plot shows one setting or two, each named once",
            "plot sweep",
            "name one or two by --key",
        )
    sweeps = [sweep for group in board.groups for sweep in _sweeps(group, named)]
    if not sweeps:
        what = "no method has two finished rows that differ in "
        what += f"{' or '.join(named)}" if named else "their settings"
        todo = "train some: mixbench sweep PLAN, or mixbench bench ... method.alpha=0.5"
        raise UserError(what, "plot sweep", todo)
    panels: list[TablePanel] = []
    notes: list[str] = []
    known: dict[str, Look] = {}
    for sweep in sweeps:
        group = sweep.group
        own = [row for row in group.rows if row.method == sweep.method]
        lacking = [row.label for row in own if not _finite(row, group)]
        notes += note_left_out(lacking, f"without a finite mean of {group.score}")
        if len(sweep.keys) == 2:
            across, down = (_ordered(sweep, key) for key in reversed(sweep.keys))
            _check_cells(sweep)
            draw = partial(_draw_map, sweep=sweep, across=across, down=down, width=width)
            panels.append(TablePanel(group, CELL * len(down) + 0.6, draw, sweep.method))
            continue
        lines = _lines(sweep)
        if len(lines) > MOST_LINES:
            raise UserError(
                f"the rows of {sweep.method} differ in more than {sweep.keys[0]}, and would make "
                f"{len(lines)} lines",
                "plot sweep",
                "name two settings by --key, or choose rows by --row",
            )
        known = looks(lines, "", known)
        draw = partial(_draw_lines, sweep=sweep, lines=lines, looks=known, width=width)
        panels.append(TablePanel(group, HEIGHT, draw, sweep.method))
    notes = [*_explained(sweeps), *notes]
    legend = {rest: look for rest, look in known.items() if rest}
    return assemble("sweep", board, panels, width, title=title, notes=notes, legend=legend)


def _sweeps(group: Group, named: Sequence[str]) -> list[MethodSweep]:
    methods: dict[str, list[Row]] = {}
    for row in group.rows:
        if _finite(row, group):
            methods.setdefault(row.method, []).append(row)
    found: list[MethodSweep] = []
    for method, rows in methods.items():
        values = _values(rows)
        differing = [key for key in values[0] if len({_text(v[key]) for v in values}) > 1]
        keys = [key for key in named if key in differing] if named else differing
        if not keys or len(keys) < len(named):
            continue
        if len(keys) > 2:
            raise UserError(
                f"the rows of {method} differ in {len(keys)} settings: {', '.join(keys)}",
                "plot sweep",
                "name one or two of them by --key, and rows by --row",
            )
        own = [{key: v[key] for key in differing} for v in values]
        found.append(MethodSweep(method, group, keys, rows, own))
    return found


def _values(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Every setting that some row has away from its default, for each row."""
    keys = sorted({key for row in rows for key in row.settings})
    return [{key: _setting(row, key) for key in keys} for row in rows]


def _setting(row: Row, key: str) -> Any:
    if key in row.settings:
        return row.settings[key]
    found = configured(row, f"method.{key}")
    return DEFAULT if found is None else found


def _finite(row: Row, group: Group) -> bool:
    return math.isfinite(row.summaries[group.score].mean)


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _ordered(sweep: MethodSweep, key: str) -> list[Any]:
    """Values of a setting: numbers by size, others by their text."""
    values = {_text(own[key]): own[key] for own in sweep.values}
    return sorted(values.values(), key=_rank)


def _rank(value: Any) -> tuple[bool, float, str]:
    return (False, value, "") if _number(value) else (True, 0.0, _text(value).strip("[]"))


def _lines(sweep: MethodSweep) -> dict[str, list[tuple[Any, Row]]]:
    """Rows in lines over the setting, by the text of what else differs."""
    (key,) = sweep.keys
    found: dict[str, list[tuple[Any, Row]]] = {}
    for value in _ordered(sweep, key):
        for row, own in zip(sweep.rows, sweep.values, strict=True):
            if _text(own[key]) == _text(value):
                rest = " ".join(f"{k}={_text(v)}" for k, v in own.items() if k != key)
                found.setdefault(rest, []).append((value, row))
    return found


def _check_cells(sweep: MethodSweep) -> None:
    cells: dict[tuple[str, ...], str] = {}
    for row, own in zip(sweep.rows, sweep.values, strict=True):
        cell = tuple(_text(own[key]) for key in sweep.keys)
        if cell in cells:
            raise UserError(
                f"{cells[cell]} and {row.label} have one {' and one '.join(sweep.keys)}",
                "plot sweep",
                "name the rows that belong together by --row",
            )
        cells[cell] = row.label


def _explained(sweeps: Sequence[MethodSweep]) -> list[str]:
    several = any(row.summaries[s.group.score].n > 1 for s in sweeps for row in s.rows)
    notes: list[str] = []
    if any(len(sweep.keys) == 1 for sweep in sweeps):
        reference = "The dotted line is the reference."
        notes.append(f"Bars are 95 % t intervals over seeds. {reference}" if several else reference)
    if several and any(len(sweep.keys) == 2 for sweep in sweeps):
        notes.append("Cells are the mean and half of its 95 % t interval over seeds.")
    return notes


def _draw_lines(
    part: "SubFigure",
    sweep: MethodSweep,
    lines: Mapping[str, Sequence[tuple[Any, Row]]],
    looks: Mapping[str, Look],
    width: float,
) -> None:
    axes = part.subplots()
    (key,), score = sweep.keys, sweep.group.score
    values = _ordered(sweep, key)
    numbers = all(map(_number, values))
    for rest, points in lines.items():
        places = [value if numbers else values.index(value) for value, _ in points]
        summaries = [row.summaries[score] for _, row in points]
        look = looks[rest]
        axes.plot(places, [summary.mean for summary in summaries], **vars(look))
        for place, summary in zip(places, summaries, strict=True):
            if ends := clipped(summary, score):
                axes.plot([place, place], ends, color=look.color, linewidth=0.8)
    _draw_reference(axes, sweep.group)
    drawn = [row for points in lines.values() for _, row in points]
    axes.set_ylim(*score_limits([*drawn, *_reference(sweep.group)], score)[0])
    _scale_settings(axes, values, numbers)
    title_below(axes, f"{sweep.method}, {key}", width)
    title_left(axes, score_title(score), HEIGHT)
    axes.grid(axis="y")


def _reference(group: Group) -> list[Row]:
    name = reference_of(group)
    return [row for row in group.rows if row.label == name and _finite(row, group)]


def _draw_reference(axes: "Axes", group: Group) -> None:
    for row in _reference(group):
        mean = row.summaries[group.score].mean
        axes.axhline(mean, color=MUTED, linestyle=(0, (1, 1.5)), linewidth=0.8)


def _scale_settings(axes: "Axes", values: Sequence[Any], numbers: bool) -> None:
    texts = [fitted(_text(value), 0.8) for value in values]
    if not numbers:
        axes.set_xticks(range(len(values)), texts)
        axes.set_xlim(-0.4, len(values) - 0.6)
        return
    if min(values) > 0 and max(values) >= _RATIO * min(values):
        axes.set_xscale("log")
    axes.set_xticks(values, texts)
    axes.minorticks_off()


def _draw_map(
    part: "SubFigure", sweep: MethodSweep, across: Sequence[Any], down: Sequence[Any], width: float
) -> None:
    axes = part.subplots()
    score = sweep.group.score
    column = describe(score)
    means = np.full((len(down), len(across)), math.nan)
    texts: dict[tuple[int, int], str] = {}
    rows, columns = ([_text(value) for value in values] for values in (down, across))
    for row, own in zip(sweep.rows, sweep.values, strict=True):
        place = rows.index(_text(own[sweep.keys[0]])), columns.index(_text(own[sweep.keys[1]]))
        summary = row.summaries[score]
        means[place] = summary.mean
        texts[place] = column.text(summary.mean)
        if summary.low is not None and summary.high is not None:
            half = column.text((summary.high - summary.low) / 2)
            texts[place] += f"\n\N{PLUS-MINUS SIGN} {half}"
    image = axes.imshow(means, cmap="cividis", aspect="auto")
    _write_cells(part, axes, image, texts, 0.78 * width / len(across))
    axes.set_xticks(range(len(across)), [fitted(text, 0.8) for text in columns])
    axes.set_yticks(range(len(down)), [fitted(text, 0.2 * width) for text in rows])
    title_below(axes, sweep.keys[1], width)
    title_left(axes, sweep.keys[0], CELL * len(down))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _write_cells(
    part: "SubFigure", axes: "Axes", image: Any, texts: Mapping[tuple[int, int], str], side: float
) -> None:
    """Write the numbers into a map, or a scale beside it where they have no room."""
    widest = max(
        (printed_width(line, SMALL) for t in texts.values() for line in t.split("\n")), default=1
    )
    size = min(SMALL, 0.9 * SMALL * side / widest)
    if size < LEAST_TEXT:
        part.colorbar(image, ax=axes)
        return
    for (y, x), text in texts.items():
        shade = image.norm(image.get_array()[y, x])
        colour = "white" if shade < 0.55 else "black"
        axes.text(
            x, y, text, ha="center", va="center", fontsize=size, color=colour, linespacing=1.1
        )
