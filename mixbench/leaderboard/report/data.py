"""What a report shows, gathered from a leaderboard and the folders of its runs."""

import json
import math
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixbench.errors import UserError
from mixbench.leaderboard.columns import NONE, describe
from mixbench.leaderboard.costs import CostTable, hours
from mixbench.leaderboard.literature import Figure, figures
from mixbench.leaderboard.render import lacking_baseline
from mixbench.leaderboard.report.descriptions import Description, describe_method
from mixbench.leaderboard.report.provenance import Provenance, provenance
from mixbench.leaderboard.report.samples import EmbeddedPicture, embed_samples
from mixbench.leaderboard.rows import Group, Leaderboard, Row
from mixbench.leaderboard.table import (
    OWN,
    SETTING,
    all_columns,
    default_columns,
    plain_table,
)
from mixbench.records.record import Record, read_record

PICTURE_BYTES = 900_000  # of all pictures of mixed images together
LARGEST_PICTURE = 60_000  # bytes of one of them
MOST_PICTURES = 40  # in a page
TEXTS = ("method", "fidelity", "verified", "seeds", "marks")  # columns of words
OWN_TITLES = {
    "method": "name of the method, with the settings that tell its rows apart",
    "n": "finished seeds, of all that were started",
    "interval": "95 % interval of the mean over seeds",
    "difference": "mean minus that of the reference, with a simultaneous 95 % interval",
    "p": "p value of the difference, by the default test",
    "cost": "time of training, relative to plain training or else to the cheapest row",
    "fidelity": "how the implementation relates to the paper",
    "verified": "whether mixbench verify has computed the scores again",
    "seeds": "seeds of the row",
    "marks": "words of caution",
}


@dataclass(frozen=True)
class ShownColumn:
    """A column of a table of the page.

    Attributes:
        heading: Above it.
        title: What it is, in words.
        shown: Whether it is there before anybody chooses columns.
        lower: Whether lower values are better, so that they are sorted to the front first.
        numeric: Whether it stands to the right.
    """

    heading: str
    title: str
    shown: bool
    lower: bool
    numeric: bool


@dataclass(frozen=True)
class ShownCell:
    """A cell: its text, and what it is sorted by where the text does not begin with that number."""

    text: str
    order: str = ""


@dataclass(frozen=True)
class MethodEntry:
    """A method of a table in words and with a picture.

    Attributes:
        name: Of the method.
        description: In words.
        cost: What its rows cost here, in words; empty where that is not known.
        label: The row whose first run has left the picture.
        picture: Mixed images.
        gap: Why there is no picture.
    """

    name: str
    description: Description
    cost: str
    label: str
    picture: EmbeddedPicture | None
    gap: str


@dataclass(frozen=True)
class Section:
    """A table of the page and all that belongs to it.

    Attributes:
        group: The rows that may be compared.
        verdict: The answer in words.
        columns: Of its table.
        lines: Cells by row.
        notes: Sentences below the table.
        methods: What was compared.
        origins: Provenance of each row.
    """

    group: Group
    verdict: str
    columns: list[ShownColumn]
    lines: list[tuple[Row, list[ShownCell]]]
    notes: list[str]
    methods: list[MethodEntry]
    origins: list[Provenance]


@dataclass(frozen=True)
class Report:
    """Everything that a page shows beside its plots.

    Attributes:
        sections: One for each table.
        costs: Tables at equal cost.
        costs_note: What these tables lack, in a sentence.
        unfinished: Records of runs that are not done.
        others: Sentences on other runs that are in no table.
        literature: Published figures on the same data, by paper.
        records: Records of all runs as JSON that can stand in a page.
        count: How many records these are.
        averaged: How many of them are in the tables.
    """

    sections: list[Section]
    costs: list[CostTable]
    costs_note: str
    unfinished: list[Record]
    others: list[str]
    literature: dict[str, list[Figure]]
    records: str
    count: int
    averaged: int


def gather(board: Leaderboard, folders: Iterable[Path]) -> Report:
    """Gather what a report shows.

    Args:
        board: The leaderboard.
        folders: Folders of all runs that the report is about, the unfinished ones among them.

    Returns:
        The report.
    """
    records = _readable(folders)
    unfinished = [record for record in records if record.status != "done"]
    methods = sum(len({row.method for row in group.rows}) for group in board.groups)
    limit = min(LARGEST_PICTURE, PICTURE_BYTES // max(1, min(methods, MOST_PICTURES)))
    pictures = MOST_PICTURES
    sections = []
    for group in board.groups:
        sections.append(_section(group, limit, pictures))
        pictures -= len(sections[-1].methods)
    return Report(
        sections=sections,
        costs=[table for table in board.costs if table.lacking is None],
        costs_note=lacking_baseline(board),
        unfinished=unfinished,
        others=_others(board.others, unfinished),
        literature=_literature({group.data for group in board.groups}),
        records=embedded_json([record.to_json() for record in records]),
        count=len(records),
        averaged=sum(len(row.records) for group in board.groups for row in group.rows),
    )


def _section(group: Group, limit: int, pictures: int) -> Section:
    shown, names = default_columns(group), all_columns(group)
    names += [name for name in shown if name not in names]
    table = plain_table(group, names)
    lines = [
        [_cell(group, row, *pair) for pair in zip(names, texts, strict=True)]
        for row, texts in zip(group.rows, table.lines, strict=True)
    ]
    return Section(
        group=group,
        verdict=group.verdict.text,
        columns=[
            _column(name, heading, texts, name in shown)
            for name, heading, *texts in zip(names, table.header, *table.lines, strict=True)
        ],
        lines=list(zip(group.rows, lines, strict=True)),
        notes=table.notes,
        methods=_methods(group, limit, pictures),
        origins=[provenance(row) for row in group.rows],
    )


def _column(name: str, heading: str, texts: Sequence[str], shown: bool) -> ShownColumn:
    column, numeric = describe(name), name not in TEXTS
    title = OWN_TITLES.get(name) or (OWN[name].title if name in OWN else column.title)
    if name.startswith(SETTING):
        title, numeric = f"setting {name}", all(map(_is_number, texts))
    if column.unit:
        title += f", in {'percent' if column.percent else column.unit}"
    if column.better:
        title += f"; {column.better} is better"
    lower = column.better == "lower" or name in ("cost", "p")
    return ShownColumn(heading, title, shown, lower, numeric)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return text == NONE
    return True


def _cell(group: Group, row: Row, name: str, text: str) -> ShownCell:
    contrast = group.evidence.contrasts.get(row.label)
    if name == "p" and contrast is not None:
        return ShownCell(text, f"{contrast.p:.3g}")
    return ShownCell(text, "0" if text == "reference" else "")


def _methods(group: Group, limit: int, pictures: int) -> list[MethodEntry]:
    rows: dict[str, list[Row]] = {}
    for row in group.rows:
        rows.setdefault(row.method, []).append(row)
    return [
        _method(name, members, limit if place < pictures else 0)
        for place, (name, members) in enumerate(rows.items())
    ]


def _method(name: str, rows: Sequence[Row], limit: int) -> MethodEntry:
    picture, label, gap = None, rows[0].label, ""
    for row in rows:
        if not limit:
            gap = f"Its picture is left out, as a page holds {MOST_PICTURES} of them."
            break
        try:
            picture, label, gap = embed_samples(row.folders[0], limit), row.label, ""
            break
        except UserError as error:
            gap = gap or f"There is no picture: {error.what}."
    return MethodEntry(name, describe_method(name), _cost(rows), label, picture, gap)


def _cost(rows: Sequence[Row]) -> str:
    """Measured time of training in words."""
    records = [record for row in rows for record in row.records]
    spent = [(record, hours(record)) for record in records]
    known = [(record, hour) for record, hour in spent if hour and math.isfinite(hour)]
    if not known:
        return ""
    unit = "CPU" if known[0][0].gpu_hours is None else "GPU"
    times = [hour for _, hour in known]
    factor, word = _scale(max(times))
    low, high = (f"{factor * end:.3g}" for end in (min(times), max(times)))
    return f"Measured here: {low if low == high else f'{low} to {high}'} {unit} {word} for a run."


def _scale(hours: float) -> tuple[float, str]:
    """What a time in hours is multiplied with to read well, and its unit then."""
    if hours < 0.025:
        return 3600.0, "seconds"
    return (60.0, "minutes") if hours < 1.5 else (1.0, "hours")


def _literature(data: Collection[str]) -> dict[str, list[Figure]]:
    """Published figures on some data sets, by paper."""
    found: dict[str, list[Figure]] = {}
    for figure in figures():
        if figure.data in data:
            found.setdefault(figure.title, []).append(figure)
    return found


def _readable(folders: Iterable[Path]) -> list[Record]:
    """Records of runs, without those that cannot be read, which the leaderboard names."""
    found = []
    for folder in folders:
        with suppress(UserError):
            found.append(read_record(folder))
    return found


def _others(lines: Iterable[str], unfinished: Iterable[Record]) -> list[str]:
    """What the leaderboard says of runs in no table, those left out that have a table here."""
    told = tuple(f"{record.id} has the status " for record in unfinished)
    return [line for line in lines if not told or not line.startswith(told)]


def embedded_json(value: Any) -> str:
    """JSON that ends no script element and starts no comment of HTML.

    Args:
        value: Plain values; numbers that are not finite become null, as JSON has none.

    Returns:
        JSON in ASCII.
    """
    text = json.dumps(_plain(value), allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
