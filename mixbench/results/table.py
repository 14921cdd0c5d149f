"""Records to leaderboards: rows over seeds, ranked only among runs that can be compared."""

import csv
import io
import json
import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mixbench.errors import UserError
from mixbench.results.record import RECORD, Record, read_record
from mixbench.results.stats import Summary, inseparable_from_best, summarize

FORMATS = ("table", "markdown", "csv", "json")
METRICS = ("top1", "top5", "nll", "ece", "brier", "bias")
SMOKE_TESTS = ("digits",)
NONE = "\N{EN DASH}"  # no value, or one that is not finite
_DIGITS = {"top1": 2, "top5": 2, "img_per_s": 0, "wall_s": 0}


@dataclass
class Row:
    """A method with its settings, over its seeds."""

    label: str
    fidelity: str
    seeds: list[int]
    summaries: dict[str, Summary]
    failed: int = 0
    marked: bool = False  # best, or not separated from the best
    shared_cores: bool = False


@dataclass
class Group:
    """Rows that may be compared: same data, network, recipe and selection."""

    data: str
    net: str
    recipe: str
    recipe_hash: str
    select: str
    epochs: int
    sizes: tuple[int, int]
    devices: list[str]
    rows: list[Row] = field(default_factory=list)

    @property
    def smoke_test(self) -> bool:
        """Whether the data is too easy to rank methods on."""
        return self.data in SMOKE_TESTS

    @property
    def title(self) -> str:
        """What the rows have in common, in one line."""
        return (
            f"{self.data} · {self.net} · recipe {self.recipe} ({self.recipe_hash[:8]}) · "
            f"{self.epochs} epochs · select {self.select} · "
            f"{self.sizes[0]:,} training and {self.sizes[1]:,} test images"
        )


@dataclass
class Leaderboard:
    """Groups of rows, and the runs that are in none."""

    groups: list[Group]
    others: list[str] = field(default_factory=list)  # one line per run that is not averaged

    def only(self, recipe_hashes: set[str]) -> "Leaderboard":
        """The groups of some recipes; the runs in no group stay listed."""
        kept = [group for group in self.groups if group.recipe_hash in recipe_hashes]
        return Leaderboard(kept, self.others)


def find_runs(paths: Iterable[Path]) -> list[Path]:
    """Folders of runs at or directly below the given paths.

    Args:
        paths: Folders of runs, or of collections of runs.

    Returns:
        Sorted folders that hold a record.

    Raises:
        UserError: If a path does not exist.
    """
    found: set[Path] = set()
    for path in paths:
        if not path.is_dir():
            raise UserError("no such folder of runs", str(path), "run `mixbench bench` first")
        here = [path] if (path / RECORD).exists() else []
        found |= {*here, *(record.parent for record in path.glob(f"*/{RECORD}"))}
    return sorted(found)


def build_leaderboard(folders: Iterable[Path]) -> Leaderboard:
    """Read records and average them over seeds.

    Runs that are not done are counted and listed, never averaged. Of two records with one id the
    later attempt counts.

    Args:
        folders: Folders of runs.

    Returns:
        The leaderboard.
    """
    others: list[str] = []
    records: dict[str, tuple[Record, Path]] = {}
    for folder in folders:
        try:
            record = read_record(folder)
        except UserError as error:
            others.append(f"{folder.name}: unreadable ({error.what})")
            continue
        known = records.get(record.id)
        if known is not None:
            older, newer = sorted([known, (record, folder)], key=lambda pair: _age(pair[0]))
            others.append(f"{older[1]}: another record of {record.id}, the later attempt counts")
            records[record.id] = newer
        else:
            records[record.id] = (record, folder)

    groups: dict[tuple[Any, ...], dict[tuple[str, str], list[Record]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for record, _ in records.values():
        key = (record.data, record.net, record.recipe_hash, record.select, record.epochs)
        groups[key][record.method, record.config_hash].append(record)
        if record.status != "done":
            reason = f" ({record.message.splitlines()[0]})" if record.message else ""
            others.append(f"{record.id}: {record.status}{reason}")
    built = [_group(methods) for _, methods in sorted(groups.items(), key=lambda item: item[0])]
    return Leaderboard([group for group in built if group.rows], sorted(others))


def _age(record: Record) -> tuple[bool, int, str]:
    started = record.attempts[-1].get("started", "") if record.attempts else ""
    return record.status == "done", len(record.attempts), str(started)


def _group(methods: dict[tuple[str, str], list[Record]]) -> Group:
    every = [record for records in methods.values() for record in records]
    first = every[0]
    recipes = sorted({record.recipe for record in every})
    group = Group(
        data=first.data,
        net=first.net,
        recipe="/".join(recipes),
        recipe_hash=first.recipe_hash,
        select=first.select,
        epochs=first.epochs,
        sizes=(first.train_size, first.test_size),
        devices=sorted({record.device for record in every if record.device}),
    )
    top1: dict[str, list[float]] = {}
    for records in methods.values():
        done = sorted((r for r in records if r.status == "done"), key=lambda r: r.seed)
        if not done:
            continue
        row = _row(done, failed=len(records) - len(done))
        while row.label in top1:  # same method and settings under another version's hash
            row.label += "'"
        top1[row.label] = [record.metrics.get("top1", math.nan) for record in done]
        group.rows.append(row)
    if group.smoke_test:
        group.rows.sort(key=lambda row: row.label)
        return group
    group.rows.sort(key=lambda row: (-_rankable(row.summaries["top1"].mean), row.label))
    marked = inseparable_from_best(top1)
    for row in group.rows:
        row.marked = row.label in marked
    return group


def _row(done: list[Record], failed: int) -> Row:
    first = done[0]
    settings = " ".join(f"{key}={value}" for key, value in sorted(first.settings.items()))
    summaries = {
        name: summarize([record.metrics.get(name, math.nan) for record in done])
        for name in METRICS
        if name == "top1" or any(name in record.metrics for record in done)
    }
    for name in ("img_per_s", "wall_s"):
        values = [value for record in done if (value := getattr(record, name)) is not None]
        if values:
            summaries[name] = summarize(values)
    return Row(
        label=f"{first.method} {settings}".strip(),
        fidelity=first.fidelity,
        seeds=[record.seed for record in done],
        summaries=summaries,
        failed=failed,
        shared_cores=any(record.shared_cores for record in done),
    )


def _rankable(value: float) -> float:
    return value if math.isfinite(value) else -math.inf


def render(board: Leaderboard, style: str = "table") -> str:
    """A leaderboard as text.

    Args:
        board: The leaderboard.
        style: ``table``, ``markdown``, ``csv`` or ``json``.

    Returns:
        Text that ends with a line break.

    Raises:
        UserError: If the style is unknown.
    """
    if style not in FORMATS:
        raise UserError(
            f"unknown format {style!r}", "--format", f"choose one of: {', '.join(FORMATS)}"
        )
    if style == "csv":
        return _csv(board)
    if style == "json":
        return json.dumps(_json(board), indent=2) + "\n"
    blocks = [_text(group, markdown=style == "markdown") for group in board.groups]
    if not blocks:
        blocks = ["No finished runs.\n"]
    if board.others:
        bullet = "- " if style == "markdown" else "  "
        lines = "\n".join(f"{bullet}{_one_line(line)}" for line in board.others)
        gap = "\n\n" if style == "markdown" else "\n"
        blocks.append(f"Not in the tables:{gap}{lines}\n")
    return "\n".join(blocks)


def _text(group: Group, *, markdown: bool) -> str:
    names = list(dict.fromkeys(name for row in group.rows for name in row.summaries))
    header = ["method", "n", "top1", "sd", "95 % interval", *names[1:]]
    lines = [[_cell(row, name, markdown) for name in header] for row in group.rows]
    table = _markdown(header, lines) if markdown else _aligned(header, lines)
    notes = []
    if group.smoke_test:
        notes.append("smoke test: listed alphabetically, not a ranking")
    elif any(row.marked for row in group.rows):
        mark = "bold" if markdown else "*"
        notes.append(f"{mark}: best mean, and rows that its seeds do not separate from it")
    if any(len(row.seeds) == 1 for row in group.rows):
        notes.append("n=1: one seed supports no interval and no claim")
    if any(row.shared_cores for row in group.rows):
        notes.append("img_per_s: measured while other runs shared the machine")
    if group.devices:
        notes.append(f"hardware: {', '.join(group.devices)}")
    title = f"### {_escape(group.title)}\n" if markdown else group.title
    gap = "\n" if markdown else ""
    return "\n".join(
        [title, table + gap, *(f"{note}  " if markdown else note for note in notes), ""]
    )


def _cell(row: Row, name: str, markdown: bool) -> str:
    top1 = row.summaries["top1"]
    if name == "method":
        label = _escape(row.label) if markdown else _one_line(row.label)
        if not row.marked:
            return label
        return f"**{label}**" if markdown else f"{label} *"
    if name == "n":
        failed = f" of {len(row.seeds) + row.failed}" if row.failed else ""
        return f"{len(row.seeds)}{failed}"
    if name == "sd":
        return _number(top1.sd, "top1")
    if name == "95 % interval":
        if top1.low is None:
            return NONE
        return f"{_number(top1.low, 'top1')} to {_number(top1.high, 'top1')}"
    summary = row.summaries.get(name)
    return _number(summary.mean if summary else None, name)


def _number(value: float | None, name: str) -> str:
    if value is None or not math.isfinite(value):
        return NONE
    return f"{value:.{_DIGITS.get(name, 4)}f}"


def _aligned(header: list[str], lines: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    rows = [header, ["-" * width for width in widths], *lines]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _markdown(header: list[str], lines: list[list[str]]) -> str:
    align = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, align, *lines])


def _json(board: Leaderboard) -> dict[str, Any]:
    groups = []
    for group in board.groups:
        rows = [
            {
                "method": row.label,
                "fidelity": row.fidelity,
                "n": len(row.seeds),
                "seeds": row.seeds,
                "failed": row.failed,
                "marked": row.marked,
                "metrics": {
                    name: {k: _finite(v) for k, v in vars(summary).items()}
                    for name, summary in row.summaries.items()
                },
            }
            for row in group.rows
        ]
        groups.append(
            {
                "data": group.data,
                "net": group.net,
                "recipe": group.recipe,
                "recipe_hash": group.recipe_hash,
                "select": group.select,
                "epochs": group.epochs,
                "smoke_test": group.smoke_test,
                "devices": group.devices,
                "rows": rows,
            }
        )
    return {"groups": groups, "others": board.others}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _csv(board: Leaderboard) -> str:
    lines: list[dict[str, Any]] = []
    for group in board.groups:
        shared = {
            "data": group.data,
            "net": group.net,
            "recipe": group.recipe,
            "recipe_hash": group.recipe_hash,
            "select": group.select,
            "epochs": group.epochs,
        }
        for row in group.rows:
            line = shared | {"method": row.label, "fidelity": row.fidelity}
            line |= {"n": len(row.seeds), "failed": row.failed}
            for name, summary in row.summaries.items():
                for part in ("mean", "sd", "low", "high"):
                    value = _finite(getattr(summary, part))
                    line[f"{name}_{part}"] = "" if value is None else f"{value:.6g}"
            lines.append({key: _safe_cell(value) for key, value in line.items()})
    columns = list(dict.fromkeys(key for line in lines for key in line))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _safe_cell(value: Any) -> Any:
    """Keep spreadsheets from running a cell as a formula."""
    return (
        f"'{value}"
        if isinstance(value, str)
        and value[:1] in tuple("=+-@\t\r")
        and not (value[:1] in "+-" and value[1:].replace(".", "").replace("e-", "").isdigit())
        else value
    )


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _escape(text: str) -> str:
    return _one_line(text).replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")
