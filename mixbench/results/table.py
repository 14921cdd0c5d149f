"""Leaderboards as text: for a terminal, as Markdown, CSV and JSON."""

import csv
import io
import json
import math
from collections.abc import Collection, Sequence
from typing import Any

from mixbench.errors import UserError
from mixbench.results.leaderboard import PEEKED, Group, Leaderboard, Row
from mixbench.results.literature import Figure
from mixbench.results.selection import CHOICES

FORMATS = ("table", "markdown", "csv", "json")
NONE = "\N{EN DASH}"  # no value, or one that is not finite
WARNING = "\N{WARNING SIGN}"
_DIGITS = {"top1": 2, "top1_knn": 2, "top5": 2, "img_per_s": 0, "wall_s": 0}
_DIGITS |= dict.fromkeys(PEEKED, 2)


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


def literature_table(found: Sequence[Figure], style: str = "table") -> str:
    """Published figures, apart from our own rows, as they were published.

    Args:
        found: The figures.
        style: ``table`` or ``markdown``.

    Returns:
        Text that ends with a line break: a table for each paper, and what its words mean.
    """
    markdown = style == "markdown"
    title = "Literature: published figures, never ranked with our runs"
    blocks = [f"## {title}\n" if markdown else f"{title}\n"]
    header = ["method", "data", "net", "epochs", "value", "metric", "epoch", "n", "source"]
    for paper in dict.fromkeys(figure.title for figure in found):
        lines = [_published(figure) for figure in found if figure.title == paper]
        if markdown:
            lines = [[_escape(cell) for cell in line] for line in lines]
            blocks.append(f"### {_escape(paper)}\n\n{markdown_table(header, lines)}\n")
        else:
            blocks.append(f"{paper}\n{_aligned(header, lines, texts=(0, 1, 2, 5, 6, 8))}\n")
    used = [name for name in CHOICES if any(figure.select == name for figure in found)]
    words = "; ".join(f"{name}: {CHOICES[name][0]}" for name in used)
    blocks.append(f"epoch: {words + '; ' if words else ''}{NONE}: not said\n")
    return "\n".join(blocks) if found else f"{blocks[0]}none for this data\n"


def _published(figure: Figure) -> list[str]:
    source = figure.source + (f" ({figure.setting})" if figure.setting else "")
    epochs, n = (NONE if number is None else str(number) for number in (figure.epochs, figure.n))
    select = figure.select if figure.select in CHOICES else NONE
    value = f"{figure.value:g}"
    words = [figure.method, figure.data, figure.net, epochs, value, figure.metric, select, n]
    return [*words, source]


def markdown_table(header: list[str], lines: list[list[str]]) -> str:
    """A Markdown table, its first column to the left and the others to the right.

    Args:
        header: Names of the columns.
        lines: Cells of each row.

    Returns:
        Text without a line break at its end.
    """
    align = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, align, *lines])


def _text(group: Group, *, markdown: bool) -> str:
    names = list(dict.fromkeys(name for row in group.rows for name in row.summaries))
    header = ["method", "n", "top1", "sd", "95 % interval", *names[1:]]
    lines = [[_cell(row, name, markdown) for name in header] for row in group.rows]
    peeked = [name for name in header if name in PEEKED]
    header = [f"{name} {WARNING}" if name in peeked else name for name in header]
    table = markdown_table(header, lines) if markdown else _aligned(header, lines)
    notes = []
    if group.smoke_test:
        notes.append("smoke test: listed alphabetically, not a ranking")
    elif any(row.marked for row in group.rows):
        mark = "bold" if markdown else "*"
        notes.append(f"{mark}: best mean, and rows that its seeds do not separate from it")
    if any(len(row.seeds) == 1 for row in group.rows):
        notes.append("n=1: one seed supports no interval and no claim")
    if peeked:
        notes.append(f"{WARNING}: chosen on the test set, to compare with published figures only")
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


def _aligned(header: list[str], lines: list[list[str]], texts: Collection[int] = (0,)) -> str:
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    rows = [header, ["-" * width for width in widths], *lines]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if index in texts else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


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
        for row in group.rows:
            words = {
                "data": group.data,
                "net": group.net,
                "recipe": group.recipe,
                "recipe_hash": group.recipe_hash,
                "select": group.select,
                "method": row.label,
                "fidelity": row.fidelity,
            }
            line: dict[str, Any] = {key: _safe_cell(text) for key, text in words.items()}
            line |= {"epochs": group.epochs, "n": len(row.seeds), "failed": row.failed}
            for name, summary in row.summaries.items():
                for part in ("mean", "sd", "low", "high"):
                    value = _finite(getattr(summary, part))
                    line[f"{name}_{part}"] = "" if value is None else f"{value:.6g}"
            lines.append(line)
    columns = list(dict.fromkeys(key for line in lines for key in line))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _safe_cell(text: str) -> str:
    """Keep spreadsheets from running a cell as a formula."""
    return f"'{text}" if text[:1] in tuple("=+-@\t\r") else text


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _escape(text: str) -> str:
    return _one_line(text).replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")
