"""Scores after each epoch, over seeds: longer training does not always help a mixing method."""

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mixbench.errors import UserError
from mixbench.leaderboard.columns import NONE, describe
from mixbench.leaderboard.rows import Group, Leaderboard, Row
from mixbench.leaderboard.text import escaped, safe_cell, text_table
from mixbench.records.curves import read_curves
from mixbench.records.marks import mark_notes
from mixbench.stats.intervals import Summary, summarize

CURVES = "metrics.csv"
SHOWN = 20  # epochs that a table for reading has at most
SPLITS = {"val": "hold-out", "peek": "test set, to look at and not to choose by"}


@dataclass
class Course:
    """A row of a leaderboard over its epochs.

    Attributes:
        label: The row.
        split: ``val``, or ``peek`` where there is no hold-out; ``train`` of what training shows.
        epochs: Numbers from 1.
        values: For each score one summary per epoch; None where a seed lacks it.
    """

    label: str
    split: str
    epochs: list[int]
    values: dict[str, list[Summary | None]]


def courses(
    group: Group, splits: Sequence[str] = tuple(SPLITS), scores: Sequence[str] = ()
) -> tuple[list[Course], list[str]]:
    """Curves of a table's rows.

    Args:
        group: The table.
        splits: Parts of the data, of which the first one that a row has counts.
        scores: What is followed; none for the score of the table and ``nll``.

    Returns:
        The curves, those without any left out, and warnings about damaged files.
    """
    found, warnings = [], []
    for row in group.rows:
        course, told = _course(row, splits, scores or (group.score, "nll"))
        warnings += told
        if course is not None:
            found.append(course)
    return found, warnings


def curves_text(board: Leaderboard, style: str) -> str:
    """Curves of all tables.

    Args:
        board: The leaderboard.
        style: A format of :mod:`mixbench.leaderboard.text`.

    Returns:
        Text that ends with a line break.
    """
    if style in ("csv", "json"):
        return _for_programs(board, style)
    blocks = []
    for group in board.groups:
        found, warnings = courses(group)
        if not found:
            told = "".join(f"{escaped(line, style)}.\n" for line in warnings)
            title = escaped(group.title, style)
            blocks.append(f"{title}\nThere is no curve; train with select=val.\n{told}")
            continue
        blocks.append(_text(group, found, warnings, style))
    return "\n".join(blocks) or "No finished runs.\n"


def _course(
    row: Row, splits: Sequence[str], scores: Sequence[str]
) -> tuple[Course | None, list[str]]:
    seeds, warnings = [], []
    for folder in row.folders:
        path: Path = folder / CURVES
        if not path.exists():
            return None, [f"{path} is missing"]
        try:
            rows, told = read_curves(path)
        except UserError as error:
            return None, [f"{path}: {error.what}"]
        warnings += told
        seeds.append(rows)
    for split in splits:
        names = [f"{split}/{name}" for name in scores]
        by_seed = [_by_epoch(rows, names) for rows in seeds]
        epochs = sorted({epoch for known in by_seed for epoch in known})
        if not epochs:
            continue
        values = {
            name.partition("/")[2]: [_over_seeds(by_seed, epoch, name) for epoch in epochs]
            for name in names
        }
        kept = {name: column for name, column in values.items() if any(column)}
        return Course(row.label, split, [int(epoch) + 1 for epoch in epochs], kept), warnings
    return None, warnings


def _by_epoch(rows: list[dict[str, float]], names: list[str]) -> dict[float, dict[str, float]]:
    found: dict[float, dict[str, float]] = {}
    for row in rows:
        scores = {name: row[name] for name in names if name in row}
        if scores and "epoch" in row:
            found.setdefault(row["epoch"], {}).update(scores)
    return found


def _over_seeds(
    by_seed: list[dict[float, dict[str, float]]], epoch: float, name: str
) -> Summary | None:
    values = [known.get(epoch, {}).get(name) for known in by_seed]
    whole = [value for value in values if value is not None]
    return summarize(whole) if len(whole) == len(values) else None


def _text(group: Group, found: list[Course], warnings: list[str], style: str) -> str:
    epochs = sorted({epoch for course in found for epoch in course.epochs})
    shown = _thinned(epochs)
    columns = [(course, name) for course in found for name in course.values]
    header = ["epoch", *(f"{c.label} {name}" for c, name in columns)]
    lines = []
    for epoch in shown:
        cells = [_value(course, name, epoch) for course, name in columns]
        lines.append([str(epoch), *(escaped(cell, style) for cell in cells)])
    notes = []
    for split, words in SPLITS.items():
        labels = [course.label for course in found if course.split == split]
        if labels:
            notes.append(f"The curves of {', '.join(labels)} are scores of the {words}.")
    if len(shown) < len(epochs):
        notes.append(f"{len(shown)} of {len(epochs)} epochs are shown; --format csv writes all.")
    lacking = [row.label for row in group.rows if row.label not in {c.label for c in found}]
    if lacking:
        notes.append(f"There is no curve of {', '.join(lacking)}; train with select=val.")
    notes += mark_notes((row.label, row.marks, len(row.seeds)) for row in group.rows)
    notes += [f"{warning}." for warning in warnings]
    return text_table(f"curves: {group.title}", header, lines, notes, style)


def _value(course: Course, name: str, epoch: int) -> str:
    if epoch not in course.epochs:
        return NONE
    found = course.values[name][course.epochs.index(epoch)]
    if found is None or not math.isfinite(found.mean):
        return NONE
    column = describe(name)
    spread = "" if found.sd is None else f" \N{PLUS-MINUS SIGN} {column.text(found.sd)}"
    return f"{column.text(found.mean)}{spread}"


def _thinned(epochs: list[int]) -> list[int]:
    """At most ``SHOWN`` evenly spread epochs, the last one among them."""
    if len(epochs) <= SHOWN:
        return epochs
    places = {round((number + 1) * len(epochs) / SHOWN) - 1 for number in range(SHOWN)}
    return [epochs[place] for place in sorted(places)]


def _for_programs(board: Leaderboard, style: str) -> str:
    lines = []
    for group in board.groups:
        for course in courses(group)[0]:
            for name, column in course.values.items():
                for epoch, found in zip(course.epochs, column, strict=True):
                    if found is None or not math.isfinite(found.mean):
                        continue
                    lines.append(
                        {
                            "data": group.data,
                            "net": group.net,
                            "recipe_hash": group.recipe_hash,
                            "select": group.select,
                            "method": course.label,
                            "split": course.split,
                            "score": name,
                            "epoch": epoch,
                            "mean": found.mean,
                            "sd": found.sd,
                            "n": found.n,
                        }
                    )
    if style == "json":
        return json.dumps(lines, indent=2) + "\n"
    text = io.StringIO()
    names = ["data", "net", "recipe_hash", "select", "method", "split", "score", "epoch", "mean"]
    writer = csv.DictWriter(text, [*names, "sd", "n"], lineterminator="\n")
    writer.writeheader()
    for line in lines:
        writer.writerow({k: safe_cell(v) if isinstance(v, str) else v for k, v in line.items()})
    return text.getvalue()
