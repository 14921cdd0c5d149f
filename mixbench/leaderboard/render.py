"""Leaderboards as text: for a terminal, as Markdown, LaTeX, CSV and JSON."""

import csv
import io
import json
import math
import re
import unicodedata
from collections.abc import Collection, Sequence
from typing import Any

from mixbench.errors import UserError, printable
from mixbench.leaderboard.columns import NONE, column_names, describe, sampled
from mixbench.leaderboard.compare import Comparison, Line
from mixbench.leaderboard.costs import CostTable
from mixbench.leaderboard.evidence import sentences, verdict
from mixbench.leaderboard.literature import Figure
from mixbench.leaderboard.rows import Group, Leaderboard, Row, gaps
from mixbench.records.marks import mark_explanations, mark_notes, marks_text
from mixbench.records.selection import CHOICES
from mixbench.stats.intervals import Summary

FORMATS = ("table", "markdown", "csv", "json", "latex")
WARNING = "\N{WARNING SIGN}"
FLOOR = "\N{DAGGER}"
_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_LATEX |= {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", NONE: "--"}
_LATEX |= {sign: f"\\{sign}" for sign in "&%$#_{}"} | {"\N{MIDDLE DOT}": r"\textperiodcentered{}"}
_LATEX |= {WARNING: "(!)", FLOOR: r"\dag{}"}
_LATEX |= {"\N{PLUS-MINUS SIGN}": r"$\pm$", "\N{MULTIPLICATION SIGN}": r"$\times$"}


_MARKDOWN = str.maketrans({"<": "&lt;"} | {sign: f"\\{sign}" for sign in "\\`*|~$"})
# A link or picture, a bare address, and an underscore at the edge of a word.
_LINKS = re.compile(r"\](?=[(\[:])|:(?=//)|(?<=www)\.|(?<![^\W_])_|_(?![^\W_])", re.IGNORECASE)


def render(board: Leaderboard, style: str = "table") -> str:
    """A leaderboard as text.

    Args:
        board: The leaderboard.
        style: ``table``, ``markdown``, ``csv``, ``json`` or ``latex``.

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
    blocks = [_text(group, style) for group in board.groups]
    blocks += [_cost_text(table, style) for table in board.costs]
    if not blocks:
        blocks = [f"{'% ' * (style == 'latex')}No finished runs.\n"]
    if board.others:
        bullet = {"markdown": "- ", "latex": "%   "}.get(style, "  ")
        shown = (escaped(line, "table" if style == "latex" else style) for line in board.others)
        lines = "\n".join(f"{bullet}{line}" for line in shown)
        gap = {"markdown": "\n\n", "latex": "\n"}.get(style, "\n")
        blocks.append(f"{'% ' * (style == 'latex')}Not in the tables:{gap}{lines}\n")
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
        lines = [[escaped(cell, style) for cell in line] for line in lines]
        if markdown:
            blocks.append(f"### {_escape(paper)}\n\n{markdown_table(header, lines)}\n")
        else:
            blocks.append(
                f"{_one_line(paper)}\n{_aligned(header, lines, texts=(0, 1, 2, 5, 6, 8))}\n"
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


def text_table(
    title: str, header: list[str], lines: list[list[str]], notes: list[str], style: str
) -> str:
    """A table with its title above and its notes below.

    Args:
        title: One line.
        header: Names of the columns, as they are.
        lines: Cells, which are escaped and marked for the style already.
        notes: Sentences.
        style: ``table``, ``markdown`` or ``latex``.

    Returns:
        Text that ends with a line break.
    """
    title, *header = (escaped(text, style) for text in (title, *header))
    notes = [escaped(note, style) for note in notes]
    if style == "latex":
        return _latex_table(title, header, lines, notes)
    if style == "markdown":
        table = markdown_table(header, lines) + "\n"
        return "\n".join([f"### {title}\n", table, *(f"{note}  " for note in notes), ""])
    return "\n".join([title, _aligned(header, lines), *notes, ""])


def escaped(text: str, style: str) -> str:
    """Text without any sign that the format would interpret.

    Args:
        text: From a record.
        style: ``table``, ``markdown`` or ``latex``.

    Returns:
        One line.
    """
    if style == "latex":
        shown = "".join(_LATEX.get(sign, sign) for sign in _one_line(text))
        return f"{{}}{shown}" if shown[:1] in ("[", "*") else shown  # no argument of a line break
    return _escape(text) if style == "markdown" else _one_line(text)


def _latex_table(title: str, header: list[str], lines: list[list[str]], notes: list[str]) -> str:
    """A table of the package booktabs, of text that is escaped already."""
    head = " & ".join(header)
    body = "\n".join("  " + " & ".join(line) + r" \\" for line in lines)
    below = " ".join(notes)
    columns = "l" + "r" * (len(header) - 1)
    return (
        "\\begin{table}\n\\centering\n"
        f"\\caption{{{title}}}\n"
        f"\\begin{{tabular}}{{{columns}}}\n  \\toprule\n  {head} \\\\\n  \\midrule\n"
        f"{body}\n  \\bottomrule\n\\end{{tabular}}\n"
        + (f"\\par\\footnotesize {below}\n" if below else "")
        + "\\end{table}\n"
    )


def _text(group: Group, style: str) -> str:
    score = group.score
    known = {name for row in group.rows for name in row.summaries} - {score}
    shown = [name for name in column_names() if name in known]
    if score != "top1":  # of several labels per image
        shown = [name for name in shown if name != "top1"]
    tested = [f"vs {group.evidence.reference}"] if _ranked(group) else []
    marked = ["marks"] if any(row.marks for row in group.rows) else []
    header = ["method", "n", score, "sd", "95 % interval", *tested, *shown, *marked]
    lines = [[_cell(group, row, name, style) for name in header] for row in group.rows]
    peeked = [name for name in header if describe(name).kind == "peek"]
    header = [f"{name} {WARNING}" if name in peeked else name for name in header]
    notes = []
    if group.smoke_test:
        notes.append("This is a smoke test: its rows are in alphabetical order, not ranked.")
    elif any(row.marked for row in group.rows):
        mark = "with *" if style == "table" else "in bold"
        notes.append(
            f"The rows {mark} are the one with the best mean and those that the test over seeds "
            "does not separate from it."
        )
    notes += sentences(group.evidence, score)
    if any(len(row.seeds) == 1 for row in group.rows):
        notes.append("Where n is 1, there is one seed, which supports no interval and no claim.")
    if peeked:
        notes.append(
            f"{WARNING} marks scores of an epoch that was chosen on the test set; compare them "
            "with published figures only."
        )
    if any(row.calibrated for row in group.rows):
        notes.append(
            f"{FLOOR} marks an ece no larger than a perfectly calibrated network of the same "
            "confidence shows by chance (95 %), in every seed."
        )
    notes += _image_notes(group, shown)
    scores = [name for name in shown if describe(name).kind != "cost"]
    notes += [note for row in group.rows for note in gaps(row, scores)]
    if any(row.shared_cores for row in group.rows):
        notes.append("img_per_s was measured while other runs shared the machine.")
    notes += mark_explanations(mark for row in group.rows for mark in row.marks)
    if group.devices:
        notes.append(f"The runs used this hardware: {', '.join(group.devices)}.")
    return text_table(group.title, header, lines, notes, style)


def _ranked(group: Group) -> bool:
    return bool(group.evidence.contrasts) and not group.smoke_test


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
            cells += [interval(line.low, line.high, line.name)]
        lines.append([escaped(cell, style) for cell in cells])
    title = f"{comparison.mine} against {comparison.other}: {comparison.title}"
    return text_table(title, header, lines, comparison.notes, style)


def comparisons_json(comparisons: list[Comparison]) -> str:
    """Comparisons for programs.

    Args:
        comparisons: The comparisons.

    Returns:
        JSON without numbers that are not finite.
    """
    content = [
        {
            "title": comparison.title,
            "mine": comparison.mine,
            "with": comparison.other,
            "score": comparison.score,
            "test": _plain(comparison.numbers),
            "lines": {
                line.name: {
                    "mine": _plain(vars(line.mine)) if line.mine else None,
                    "with": _plain(vars(line.other)) if line.other else None,
                    "ratio" if line.cost else "difference": _finite(
                        line.ratio if line.cost else line.difference
                    ),
                    "low": _finite(line.low),
                    "high": _finite(line.high),
                }
                for line in comparison.lines
            },
            "notes": comparison.notes,
        }
        for comparison in comparisons
    ]
    return json.dumps(content, indent=2) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return _finite(value) if isinstance(value, float) else value


def _mean(found: Summary | None, line: Line) -> str:
    if found is None:
        return NONE
    if line.cost:
        return f"{found.mean:,.4g}" if found.mean < 1e4 else f"{found.mean:,.0f}"
    column = describe(line.name)
    spread = "" if found.sd is None else f" \N{PLUS-MINUS SIGN} {column.text(found.sd)}"
    return f"{column.text(found.mean)}{spread} ({found.n})"


def _image_notes(group: Group, shown: list[str]) -> list[str]:
    """Sentences on the number of images behind the scores of suites that sample them."""
    notes = []
    for suite, scores in sampled(shown).items():
        sizes = sorted({size for row in group.rows for size in row.images.get(suite, ())})
        told = " or ".join(map(str, sizes)) or "an unknown number"
        better, unit = (getattr(describe(scores[0]), key) for key in ("better", "unit"))
        verb = "is" if len(scores) == 1 else "are"
        note = (
            f"{', '.join(scores)} ({unit}, {better} is better) {verb} measured on {told} of the "
            "test images."
        )
        if len(sizes) > 1:
            note += " Scores on different numbers of images do not compare."
        notes.append(note)
    return notes


def _cost_text(table: CostTable, style: str) -> str:
    header = ["method", "epochs", "n", table.score, "sd", "95 % interval"]
    header += [table.unit, "step cost"]
    lines = []
    for row in table.rows:
        found = row.summary
        lines.append(
            [
                _label(row.label, row.label in table.evidence.best, style),
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
    notes = [table.note] * bool(table.note) + sentences(table.evidence, table.score)
    notes += mark_notes((row.label, row.marks, len(row.seeds)) for row in table.rows)
    return text_table(f"equal cost: {table.title}", header, lines, notes, style)


def _label(label: str, marked: bool, style: str) -> str:
    text = escaped(label, style)
    if not marked:
        return text
    return {"markdown": f"**{text}**", "latex": rf"\textbf{{{text}}}"}.get(style, f"{text} *")


def interval(low: float | None, high: float | None, name: str) -> str:
    """An interval of a score in words; a dash where there is none."""
    if low is None or high is None or not math.isfinite(low + high):
        return NONE
    column = describe(name)
    return f"{column.text(low)} to {column.text(high)}"


def _cell(group: Group, row: Row, name: str, style: str) -> str:
    score = row.summaries[group.score]
    if name == "method":
        return _label(row.label, row.marked, style)
    if name == "n":
        failed = f" of {len(row.seeds) + row.failed}" if row.failed else ""
        return f"{len(row.seeds)}{failed}"
    if name == "sd":
        shown = describe(group.score).text(score.sd)
    elif name == "95 % interval":
        shown = interval(score.low, score.high, group.score)
    elif name == "marks":
        shown = marks_text(row.marks, len(row.seeds))
    elif name.startswith("vs "):
        shown = verdict(group.evidence, row.label, group.score) or NONE
    else:
        summary = row.summaries.get(name)
        shown = describe(name).text(summary.mean if summary else None)
        if name == "ece" and row.calibrated:
            shown += FLOOR
    return escaped(shown, style)


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
                "diverged": row.diverged,
                "marked": row.marked,
                "images": row.images,
                "calibrated": row.calibrated,
                "marks": row.marks,
                "verified": row.verified,
                "contrast": _contrast(group, row),
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
                "score": group.score,
                "reference": group.evidence.reference or None,
                "detectable_difference": _finite(group.evidence.mdd),
                "levene_p": _finite(group.evidence.levene),
                "rows": rows,
            }
        )
    costs = [
        {
            "title": table.title,
            "unit": table.unit,
            "note": table.note,
            "detectable_difference": _finite(table.evidence.mdd),
            "rows": [
                {
                    "method": row.label,
                    "epochs": row.epochs,
                    "seeds": row.seeds,
                    "hours": row.hours,
                    "step_cost": row.step,
                    "marks": row.marks,
                    table.score: {k: _finite(v) for k, v in vars(row.summary).items()},
                }
                for row in table.rows
            ],
        }
        for table in board.costs
    ]
    return {"groups": groups, "equal_cost": costs, "others": board.others}


def _contrast(group: Group, row: Row) -> dict[str, float | bool | None] | None:
    """A row against the reference; None where nothing was tested."""
    contrast = group.evidence.contrasts.get(row.label)
    if contrast is None or group.smoke_test:
        return None
    return {k: _finite(v) for k, v in vars(contrast).items()} | {"separated": contrast.separated}


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
            line: dict[str, Any] = {key: safe_cell(text) for key, text in words.items()}
            line |= {"epochs": group.epochs, "n": len(row.seeds), "failed": row.failed}
            line["marks"] = safe_cell(marks_text(row.marks, len(row.seeds)))
            line["verified"] = row.verified
            line |= {"diverged": row.diverged, "reference": safe_cell(group.evidence.reference)}
            contrast = _contrast(group, row) or {}
            for key in ("difference", "p", "mdd", "separated"):
                value = contrast.get(key)
                line[key] = "" if value is None else f"{value:.6g}" if key != "separated" else value
            for name, summary in row.summaries.items():
                for part in ("mean", "sd", "low", "high"):
                    value = _finite(getattr(summary, part))
                    line[safe_cell(f"{name}_{part}")] = "" if value is None else f"{value:.6g}"
            lines.append(line)
    columns = list(dict.fromkeys(key for line in lines for key in line))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def safe_cell(text: str) -> str:
    """Keep spreadsheets from running a cell as a formula.

    Args:
        text: Text of a cell.

    Returns:
        The same on one line, behind an apostrophe where it would be read as a formula.
    """
    text = _one_line(text)  # a carriage return would end the row for some readers
    return f"'{text}" if unicodedata.normalize("NFKC", text[:1]) in tuple("=+-@") else text


def _one_line(text: str) -> str:
    return printable(" ".join(text.split()))


def _escape(text: str) -> str:
    """Text in which Markdown sees no link, picture, HTML or emphasis."""
    return _LINKS.sub(r"\\\g<0>", _one_line(text).translate(_MARKDOWN))
