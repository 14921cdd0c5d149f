"""Two-way grids: the score of runs by two of their settings."""

import math
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from mixbench.config.overrides import flatten
from mixbench.config.yaml_files import read
from mixbench.errors import MixbenchError, UserError, counted, near_match
from mixbench.leaderboard.columns import NONE, describe
from mixbench.leaderboard.rows import Group, Leaderboard, Row, shown_value
from mixbench.leaderboard.text import escaped, text_table

CONFIG = "config.yaml"
NULL = "null"  # shown where a setting is None, which is a value
GROUPED = ("data", "net", "recipe", "epochs", "select")  # what a table of rows has in common


def configured(row: Row, key: str) -> Any:
    """A value of the configuration of a row's runs.

    Args:
        row: The row.
        key: Dotted key.

    Returns:
        The value of its first run; None where the run has no configuration or no such key.
    """
    return _keys(row.folders[0]).get(key) if row.folders else None


def pivot_text(board: Leaderboard, down: str, across: str, style: str) -> str:
    """Grids of the mean score, one key down and another across.

    Args:
        board: The tables.
        down: Key of the lines: ``method``, ``data``, ``net``, ``recipe``, ``epochs``, or any key of
            a configuration such as ``method.layers``.
        across: Key of the columns.
        style: ``table``, ``markdown`` or ``latex``.

    Returns:
        Text that ends with a line break: one grid for runs that are alike in all else.

    Raises:
        UserError: If no run has a key, both are one, or the runs do not vary in them.
    """
    if down == across:
        raise UserError(f"both keys are {down}", "--pivot", "name two different keys")
    if "seed" in (down, across):
        what = "a cell is the mean over seeds, so seed cannot be a key of the grid"
        raise UserError(
            what,
            "--pivot",
            "name another key; mixbench leaderboard --columns seeds lists the seeds",
        )
    cells = [(group, row) for group in board.groups for row in group.rows]
    for key in (down, across):
        if cells and not any(_value(group, row, key) is not None for group, row in cells):
            known = sorted({name for _, row in cells for name in _names(row)})
            hint = near_match(key, known) or "name a key of the configuration of the runs"
            raise UserError(f"no run has the key {key!r}", "--pivot", hint)
    grids: dict[tuple[str, ...], list[tuple[Group, Row]]] = {}
    without: dict[str, list[str]] = {}
    for group, row in cells:
        lacking = [key for key in (down, across) if _value(group, row, key) is None]
        if lacking:
            without.setdefault(" and ".join(lacking), []).append(row.label)
        else:
            grids.setdefault(_rest(group, row, (down, across)), []).append((group, row))
    blocks = [_grid(title, members, down, across, style) for title, members in grids.items()]
    if not cells:
        blocks = ["No finished runs.\n"]
    for keys, labels in without.items():
        shown = ", ".join(dict.fromkeys(labels))
        note = f"Not in a grid, as the configuration of their runs has no {keys}: {shown}."
        blocks.append(f"{'% ' * (style == 'latex')}{escaped(note, style)}\n")
    return "\n".join(blocks)


def _grid(
    title: tuple[str, ...], members: list[tuple[Group, Row]], down: str, across: str, style: str
) -> str:
    table: dict[tuple[str, str], str] = {}
    for group, row in members:
        column, found = describe(group.score), row.summaries[group.score]
        text = column.text(found.mean)
        if found.sd is not None:
            text += f" \N{PLUS-MINUS SIGN} {column.text(found.sd)}"
        place = (shown_value(_value(group, row, down)), shown_value(_value(group, row, across)))
        table[place] = f"{table[place]} | {text}" if place in table else text
    lines = _ordered([first for first, _ in table])
    columns = _ordered([second for _, second in table])
    header = [f"{_short(down)} / {_short(across)}", *columns]
    body = [[line, *(table.get((line, column), NONE) for column in columns)] for line in lines]
    score = members[0][0].score
    seeds = sorted({len(row.seeds) for _, row in members})
    over = f"{seeds[0]} to " if len(seeds) > 1 else ""
    notes = [
        f"Cells are the mean {score} and its sample deviation over {over}"
        f"{counted(seeds[-1], 'seed')}."
    ]
    if any(" | " in cell for cell in table.values()):
        notes.append("Cells with several values hold rows that differ in other settings.")
    cells = [[escaped(cell, style) for cell in line] for line in body]
    return text_table(" \N{MIDDLE DOT} ".join(title), header, cells, notes, style)


def _value(group: Group, row: Row, key: str) -> Any:
    if key in GROUPED:
        return getattr(group, key)
    if key == "method":
        return row.method
    own = key.removeprefix("method.")
    if key != own and own in row.settings:
        return NULL if row.settings[own] is None else row.settings[own]
    return configured(row, key)


def _rest(group: Group, row: Row, keys: Sequence[str]) -> tuple[str, ...]:
    """What a grid has in common: the facts of its rows beside its two keys."""
    facts = {name: str(getattr(group, name)) for name in GROUPED if name not in keys}
    facts |= {"epochs": counted(group.epochs, "epoch")} if "epochs" in facts else {}
    facts |= {"select": f"select {group.select}"} if "select" in facts else {}
    if not {"data", "net", "recipe", "epochs"} & set(keys):
        facts["recipe"] += f" ({group.recipe_hash[:8]})"
    own = {f"method.{key}": value for key, value in sorted(row.settings.items())}
    told = [f"{key}={value}" for key, value in own.items() if key not in keys]
    name = [] if "method" in keys else [row.method]
    return (*name, *facts.values(), *(told if "method" not in keys else []))


def _ordered(values: Sequence[str]) -> list[str]:
    """Values once each."""
    return sorted(dict.fromkeys(values), key=natural_order)


def natural_order(text: str) -> tuple[bool, float, str]:
    """A key that sorts numbers by size, and words behind them by alphabet."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    return math.isnan(number), 0.0 if math.isnan(number) else number, text


def _short(key: str) -> str:
    return key.removeprefix("method.")


def _names(row: Row) -> Iterator[str]:
    yield from ("method", *GROUPED)
    yield from (f"method.{key}" for key in row.settings)
    yield from (_keys(row.folders[0]) if row.folders else ())


@cache
def _keys(folder: Path) -> dict[str, Any]:
    """Dotted keys of a run's configuration; none where it cannot be read."""
    try:
        content, _ = read(folder / CONFIG)
    except (MixbenchError, OSError):
        return {}
    return dict(flatten(content))
