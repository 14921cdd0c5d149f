"""A plot of any kind, of a leaderboard or of folders of runs."""

import inspect
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixbench.errors import UserError, near_match
from mixbench.leaderboard.plots.kinds import ALL_KINDS, KINDS
from mixbench.leaderboard.plots.panels import reference_of
from mixbench.leaderboard.plots.style import COLUMN, PAGE, style
from mixbench.leaderboard.rows import Group, Leaderboard, Row
from mixbench.leaderboard.sealed import shown_leaderboard
from mixbench.records.record import runs_folder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NARROWEST, WIDEST = 2.0, 20.0  # inches
WIDTHS = {"column": COLUMN, "page": PAGE}


def draw(
    kind: str,
    board: Leaderboard,
    *,
    width: float | str = COLUMN,
    rows: Iterable[str] = (),
    title: bool = True,
    **options: Any,
) -> "Figure":
    """Draw a plot of a leaderboard.

    Args:
        kind: One of :data:`KINDS`.
        board: The leaderboard.
        width: ``column`` of a paper, its ``page``, or inches.
        rows: Labels of rows, or methods, that are shown beside the reference; all of them if none
            is named.
        title: Whether the facts that rows have in common stand above them.
        options: Of the kind.

    Returns:
        The figure, in whose making no global state of Matplotlib has changed.

    Raises:
        UserError: If Matplotlib is missing, the kind, a row or an option is unknown, or the runs
            lack what is to be drawn.
    """
    KINDS.check(kind, f"plot {kind}")
    inches = check_width(width)
    with style():
        function = KINDS.get(kind)
        _check_options(kind, options)
        if not board.groups:
            todo = "train some: mixbench bench method=erm,mixup,cutmix seeds=0,1,2"
            raise UserError("there are no finished runs", f"plot {kind}", todo)
        named = [rows] if isinstance(rows, str) else list(rows)
        figure = function(_only(board, kind, named), width=inches, title=title, **options)
        figure.draw_without_rendering()  # ticks are made now, in this style
    return figure


def plot(
    kind: str,
    runs: str | Path | Iterable[str | Path] | None = None,
    output: str | Path | None = None,
    **options: Any,
) -> "Figure":
    """Draw a plot of finished runs, or of a race.

    Args:
        kind: One of :data:`ALL_KINDS`, such as ``leaderboard`` or ``forest``.
        runs: Folders of runs or races, or folders that hold such; None for the folder of all runs.
        output: File to write, whose name ends in .svg, .pdf or .png; None for no file.
        options: As of :func:`draw`.

    Returns:
        The figure.

    Raises:
        UserError: As :func:`draw`, or if the file cannot be written.
    """
    from mixbench.leaderboard.plots.export import check_target, save

    ALL_KINDS.check(kind, f"plot {kind}")
    if output is not None:
        check_target(Path(output))
    named = [runs_folder()] if runs is None else [runs] if isinstance(runs, str | Path) else runs
    places = [Path(place) for place in named]
    if kind in KINDS.table:
        figure = draw(kind, shown_leaderboard(places), **options)
    else:
        figure = draw_files(kind, places, **options)
    if output is not None:
        save(figure, Path(output))
    return figure


def draw_files(
    kind: str,
    places: Sequence[Path],
    *,
    width: float | str = COLUMN,
    title: bool = True,
    **options: Any,
) -> "Figure":
    """Draw a plot of other files than a table of runs.

    Args:
        kind: One of :data:`ALL_KINDS` that is none of :data:`KINDS`.
        places: Folders that hold the files, or folders of such.
        width: As for :func:`draw`.
        title: As for :func:`draw`.
        options: Of the kind.

    Returns:
        The figure.

    Raises:
        UserError: As for :func:`draw`.
    """
    inches = check_width(width)
    with style():  # which is what tells that Matplotlib is missing
        function = ALL_KINDS.get(kind)
        _check_options(kind, options, ("title",))
        return function(places, width=inches, title=title, **options)


def check_width(width: float | str) -> float:
    """The width of a figure in inches.

    Args:
        width: As for :func:`draw`.

    Returns:
        Inches.

    Raises:
        UserError: If it is none of those words, or no figure has such a width.
    """
    try:
        inches = WIDTHS[width] if width in WIDTHS else float(width)
    except (TypeError, ValueError):
        inches = math.nan
    if not NARROWEST <= inches <= WIDEST:
        what = f"a figure is {NARROWEST:g} to {WIDEST:g} inches wide, not {width!r}"
        todo = f"give {' or '.join(WIDTHS)}, or a number of inches"
        raise UserError(what, "width", todo)
    return inches


def options_of(kind: str) -> list[str]:
    """Names of the options that a kind of plot takes."""
    return [*inspect.signature(ALL_KINDS.get(kind)).parameters][1:]


def _check_options(
    kind: str, options: dict[str, Any], common: Sequence[str] = ("rows", "title")
) -> None:
    taken = options_of(kind)
    for name in options:
        if name not in taken:
            hint = near_match(name, taken)
            what = f"this plot has no option {name!r}" + (f"; {hint}" if hint else "")
            own = [word for word in taken if word not in ("width", "title")]
            raise UserError(what, f"plot {kind}", f"it takes {', '.join([*common, *own])}")


def _only(board: Leaderboard, kind: str, names: list[str]) -> Leaderboard:
    """The named rows of a leaderboard, and what they are compared with."""
    if not names:
        return board
    known = [name for group in board.groups for row in group.rows for name in _names(row)]
    for name in names:
        if name not in known:
            hint = near_match(name, known)
            what = f"there is no finished run of {name!r}" + (f"; {hint}" if hint else "")
            labels = dict.fromkeys(row.label for group in board.groups for row in group.rows)
            raise UserError(what, f"plot {kind}", f"choose one of: {', '.join(labels)}")
    kept: list[Group] = []
    for group in board.groups:
        named = [row.label for row in group.rows if set(names).intersection(_names(row))]
        if named:
            rows = [row for row in group.rows if row.label in (reference_of(group), *named)]
            kept.append(replace(group, rows=rows))
    return replace(board, groups=kept)


def _names(row: Row) -> tuple[str, ...]:
    return row.label, row.full_label, row.method
