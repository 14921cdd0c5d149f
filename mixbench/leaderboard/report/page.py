"""The report page: one HTML file that opens from disk and asks nobody for anything."""

import base64
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from mixbench import __version__
from mixbench.errors import UserError, counted, printable
from mixbench.files import write_text
from mixbench.leaderboard.columns import NONE, describe
from mixbench.leaderboard.costs import SLOW, CostTable
from mixbench.leaderboard.plots.draw import draw
from mixbench.leaderboard.plots.export import svg
from mixbench.leaderboard.plots.kinds import SHOWN
from mixbench.leaderboard.plots.style import style
from mixbench.leaderboard.report.data import Report, gather
from mixbench.leaderboard.rows import Group, Leaderboard
from mixbench.leaderboard.text import interval

HERE = Path(__file__).parent
MOST_MESSAGE = 2000  # characters of a run's message
PLOT_WIDTH = 5.0  # inches
# Plots of a table in the order of the page.
TITLES = {
    "forest": "Differences from the reference",
    "leaderboard": "Scores over seeds",
    "cost": "Score against cost",
    "winmatrix": "Each row against each other",
    "curves": "Course of training",
    "reliability": "Reliability",
    "severity": "Strength of attacks and corruptions",
    "harm": "Change by class",
    "sweep": "Settings",
}


@dataclass(frozen=True)
class PagePlot:
    """A plot of a table, or why there is none.

    Attributes:
        title: Above it.
        caption: What it shows, for those who cannot see it.
        svg: The drawing; empty where there is none.
        gap: Why there is none.
    """

    title: str
    caption: str
    svg: Markup
    gap: str = ""


@dataclass(frozen=True)
class PageTable:
    """A table of plain text; without lines it is not shown.

    Attributes:
        title: Above it.
        header: Names of its columns.
        lines: Cells by row; the first names the row.
        note: A few sentences below it; may be empty.
    """

    title: str
    header: list[str]
    lines: list[list[str]]
    note: str


@dataclass(frozen=True)
class PageSection:
    """A part of the page that is no table of runs.

    Attributes:
        heading: Above it.
        facts: What it is about, in one line.
        verdict: Its answer.
        notes: Sentences that stand beside it.
        plots: Drawings.
        tables: What the answer rests on.
        details: Where it comes from, by name.
    """

    heading: str
    facts: str
    verdict: str
    notes: list[str]
    plots: list[PagePlot]
    tables: list[PageTable]
    details: list[tuple[str, str]]


def write_report(
    board: Leaderboard,
    folders: Iterable[Path],
    output: Path,
    parts: Sequence[PageSection] = (),
) -> list[str]:
    """Write the report of runs as one HTML file; a file of that name is replaced.

    Args:
        board: Their leaderboard.
        folders: Folders of all runs that it is about, the unfinished ones among them.
        output: The file; its folder must exist.
        parts: What stands in front of the tables of runs.

    Returns:
        Sentences on what the page lacks as a whole.
    """
    gap = _plots_gap()
    write_text(output, page(gather(board, folders), gap, parts))
    return [gap] if gap else []


def _plots_gap() -> str:
    """Why there can be no plots; empty where there can."""
    try:
        with style():
            return ""
    except UserError as error:
        return f"The page has no plots, as {error.what}: {error.todo}."


def page(report: Report, plots_gap: str = "", parts: Sequence[PageSection] = ()) -> str:
    """The page of a report.

    Args:
        report: What it shows.
        plots_gap: Why it has no plots, in a sentence; with plots if empty.
        parts: What stands in front of the tables of runs.

    Returns:
        HTML.
    """
    script, sheet = (_part(name) for name in ("script.js", "style.css"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    groups = [section.group for section in report.sections]
    made = datetime.now(UTC).strftime("%d %B %Y, %H:%M UTC")
    return (
        _environment()
        .get_template("template.html")
        .render(
            report=report,
            parts=parts,
            title=_title(groups, parts),
            headings=_headings(groups),
            told=_told(report, parts),
            made=f"Made with mixbench {__version__} on {made}.",
            plots=[[] if plots_gap else list(_plots(group)) for group in groups],
            plots_gap=plots_gap,
            slow=SLOW,
            records=Markup(report.records),
            script=Markup(script),
            script_hash=f"sha256-{digest}",
            style=Markup(sheet),
        )
    )


def _environment() -> Environment:
    found = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    found.filters |= {"code": _code, "lines": _lines, "cost_lines": _cost_lines}
    return found


def _shown(value: Any) -> Any:
    """Every text of the page on one line, without signs that hide or turn others."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _code(text: str) -> Markup:
    """Text with what stands between backticks set as code."""
    parts = [escape(printable(part)) for part in text.split("`")]
    if len(parts) % 2 == 0:
        return escape(printable(text))
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if place % 2 else part
        for place, part in enumerate(parts)
    )


def _lines(text: str) -> Markup:
    """Text of several lines, cut where it is long."""
    shown = text if len(text) <= MOST_MESSAGE else f"{text[:MOST_MESSAGE]} ..."
    return Markup("\n").join(printable(line) for line in shown.splitlines())


def _cost_lines(table: CostTable) -> Iterator[list[str]]:
    column = describe(table.score)
    for row in table.rows:
        found = row.summary
        spread = "" if found.sd is None else f" \N{PLUS-MINUS SIGN} {column.text(found.sd)}"
        ends = interval(found.low, found.high, table.score)
        step = NONE if row.step is None else f"{row.step:.2f}"
        texts = [str(row.epochs), str(len(row.seeds)), column.text(found.mean) + spread, ends]
        yield [row.label, *texts, f"{row.hours:.3g}", step]


def _plots(group: Group) -> Iterator[PagePlot]:
    board = Leaderboard([group])
    for kind, title in TITLES.items():
        caption = f"{SHOWN[kind][:1].upper()}{SHOWN[kind][1:]}."
        try:
            drawing = svg(draw(kind, board, width=PLOT_WIDTH, title=False))
        except UserError as error:
            yield PagePlot(title, caption, Markup(""), error.what)
        else:
            yield PagePlot(title, caption, Markup(drawing))


def _title(groups: list[Group], parts: Sequence[PageSection]) -> str:
    names = list(dict.fromkeys(group.data for group in groups))
    if not names and len(parts) == 1:
        return parts[0].heading
    if not names:
        return "Report of runs"
    few = names if len(names) <= 3 else [*names[:2], f"{len(names) - 2} other data sets"]
    return f"Mixup methods on {', '.join(few)}"


def _told(report: Report, parts: Sequence[PageSection]) -> str:
    """How many runs the page is about."""
    if parts and not report.count:
        return ""
    text = f"{counted(report.averaged, 'run')} in {counted(len(report.sections), 'table')}"
    others = report.count - report.averaged
    return f"{text}, {counted(others, 'run')} in none" if others else text


def _headings(groups: list[Group]) -> list[str]:
    """The data, network and recipe of each table, with what else tells two of them apart."""
    short = [" \N{MIDDLE DOT} ".join((group.data, group.net, group.recipe)) for group in groups]
    return [
        text
        if short.count(text) == 1
        else f"{text} \N{MIDDLE DOT} {counted(group.epochs, 'epoch')} \N{MIDDLE DOT} "
        f"select {group.select} \N{MIDDLE DOT} {group.recipe_hash[:8]}"
        for text, group in zip(short, groups, strict=True)
    ]


def _part(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8").strip()
