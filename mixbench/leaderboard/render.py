"""Leaderboards as text: for a terminal, as Markdown, LaTeX, CSV and JSON."""

from collections.abc import Sequence

from mixbench.errors import UserError
from mixbench.leaderboard.columns import NONE, describe
from mixbench.leaderboard.compare import Comparison, Line
from mixbench.leaderboard.costs import SLOW, CostTable
from mixbench.leaderboard.evidence import BASELINE, sentences
from mixbench.leaderboard.export import board_csv, board_json
from mixbench.leaderboard.literature import Figure
from mixbench.leaderboard.rows import Leaderboard
from mixbench.leaderboard.table import (
    all_columns,
    check_columns,
    group_text,
    marked_label,
    sort_rows,
)
from mixbench.leaderboard.text import (
    FORMATS,
    aligned,
    escaped,
    interval,
    markdown_table,
    one_line,
    text_table,
)
from mixbench.records.marks import mark_notes
from mixbench.records.selection import CHOICES
from mixbench.stats.intervals import Summary

ALL = "all"  # columns


def render(
    board: Leaderboard,
    style: str = "table",
    *,
    columns: Sequence[str] | None = None,
    sort: str | None = None,
    width: int | None = None,
) -> str:
    """A leaderboard as text.

    Args:
        board: The leaderboard.
        style: ``table``, ``markdown``, ``csv``, ``json`` or ``latex``.
        columns: Names of the columns, or ``all`` alone; the default ones if None. CSV and JSON
            always hold all that is known.
        sort: Column by which rows are sorted, the best first; their rank if None.
        width: Signs of a line of the terminal, if a table must fit into it.

    Returns:
        Text that ends with a line break.

    Raises:
        UserError: If the style or a column is unknown.
    """
    if style not in FORMATS:
        raise UserError(
            f"unknown format {style!r}", "--format", f"choose one of: {', '.join(FORMATS)}"
        )
    if columns is not None and style in ("csv", "json"):
        raise UserError(f"{style} always holds all columns", "--columns", "leave --columns out")
    every = columns is not None and list(columns) == [ALL]
    if columns is not None and not every:
        check_columns(board, columns, "--columns")
    if sort is not None:
        board = sort_rows(board, sort)
    if style == "csv":
        return board_csv(board)
    if style == "json":
        return board_json(board)
    blocks = [
        group_text(group, style, all_columns(group) if every else columns, width)
        for group in board.groups
    ]
    blocks += [_cost_text(table, style) for table in board.costs if table.lacking is None]
    if not blocks:
        blocks = [f"{'% ' * (style == 'latex')}No finished runs.\n"]
    if lacking := lacking_baseline(board):
        told = escaped(lacking, style)
        blocks.append(f"% {told}\n" if style == "latex" else f"{told}\n")
    if board.others:
        bullet = {"markdown": "- ", "latex": "%   "}.get(style, "  ")
        shown = (escaped(line, "table" if style == "latex" else style) for line in board.others)
        lines = "\n".join(f"{bullet}{line}" for line in shown)
        gap = {"markdown": "\n\n", "latex": "\n"}.get(style, "\n")
        blocks.append(f"{'% ' * (style == 'latex')}Not in the tables:{gap}{lines}\n")
    return "\n".join(blocks)


def lacking_baseline(board: Leaderboard) -> str:
    """A sentence on the slow methods that nothing is compared with at equal cost.

    Args:
        board: The leaderboard.

    Returns:
        The sentence; nothing where there are none.
    """
    tables = [table for table in board.costs if table.lacking is not None]
    several = len({table.place for table in tables}) > 1
    needed = [
        f"{table.slow} ({f'{table.place[0]}, ' * several}epochs={table.lacking})"
        for table in tables
    ]
    if not needed:
        return ""
    return (
        f"A step of these methods costs more than {SLOW} times that of {BASELINE}, and no run of "
        f"{BASELINE} has their cost: {', '.join(needed)}. Train {BASELINE} for the number of "
        "epochs in brackets to compare at equal cost."
    )


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
        lines = [[escaped(cell, style) for cell in line] for line in lines]
        if markdown:
            blocks.append(f"### {escaped(paper, style)}\n\n{markdown_table(header, lines)}\n")
        else:
            blocks.append(
                f"{one_line(paper)}\n{aligned(header, lines, texts=(0, 1, 2, 5, 6, 8))}\n"
            )
    used = [name for name in CHOICES if any(figure.select == name for figure in found)]
    words = "".join(f"{name} means the {CHOICES[name][0]}; " for name in used)
    blocks.append(f"In the column epoch, {words}{NONE} means that the paper does not say.\n")
    return "\n".join(blocks) if found else f"{blocks[0]}There are none for this data.\n"


def _published(figure: Figure) -> list[str]:
    source = figure.source + (f" ({figure.setting})" if figure.setting else "")
    epochs, n = (NONE if number is None else str(number) for number in (figure.epochs, figure.n))
    select = figure.select if figure.select in CHOICES else NONE
    value = f"{figure.value:g}"
    words = [figure.method, figure.data, figure.net, epochs, value, figure.metric, select, n]
    return [*words, source]


def comparison_text(comparison: Comparison, style: str) -> str:
    """Two methods side by side.

    Args:
        comparison: The comparison.
        style: ``table``, ``markdown`` or ``latex``.

    Returns:
        Text that ends with a line break.
    """
    header = ["", comparison.mine, comparison.other, "difference", "95 % interval"]
    lines = []
    for line in comparison.lines:
        cells = [line.name, _mean(line.mine, line), _mean(line.other, line)]
        if line.cost:
            ratio = line.ratio
            cells += [f"\N{MULTIPLICATION SIGN} {ratio:.2f}" if ratio == ratio else NONE, ""]
        else:
            cells += [describe(line.name).text(line.difference, sign=line.difference > 0)]
            cells += [interval(line.low, line.high, line.name, sign=True)]
        lines.append([escaped(cell, style) for cell in cells])
    title = f"{comparison.mine} against {comparison.other}: {comparison.title}"
    return text_table(title, header, lines, comparison.notes, style)


def _mean(found: Summary | None, line: Line) -> str:
    if found is None:
        return NONE
    if line.cost:
        return f"{found.mean:,.4g}" if found.mean < 1e4 else f"{found.mean:,.0f}"
    column = describe(line.name)
    spread = "" if found.sd is None else f" \N{PLUS-MINUS SIGN} {column.text(found.sd)}"
    return f"{column.text(found.mean)}{spread} ({found.n})"


def _cost_text(table: CostTable, style: str) -> str:
    header = ["method", "epochs", "n", table.score, "sd", "95 % interval"]
    header += [table.unit, "step cost"]
    lines = []
    for row in table.rows:
        found = row.summary
        lines.append(
            [
                marked_label(row.label, row.label in table.evidence.best, style),
                str(row.epochs),
                str(len(row.seeds)),
                describe(table.score).text(found.mean),
                describe(table.score).text(found.sd),
                interval(found.low, found.high, table.score),
                f"{row.hours:.3g}",
                NONE if row.step is None else f"{row.step:.2f}",
            ]
        )
    if style == "latex":
        lines = [[cell.replace(NONE, "--") for cell in line] for line in lines]
    notes = [table.verdict.text]
    notes += sentences(table.evidence, table.score)
    notes += mark_notes((row.label, row.marks, len(row.seeds)) for row in table.rows)
    return text_table(f"equal cost: {table.title}", header, lines, notes, style)
