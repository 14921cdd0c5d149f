"""``severity``: error rates by the strength of attacks and of corruptions."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from mixbench.config.names import CORRUPTION_GROUPS
from mixbench.errors import UserError
from mixbench.leaderboard.columns import column_names, describe
from mixbench.leaderboard.plots.panels import (
    MOST_LINES,
    TablePanel,
    assemble,
    best_rows,
    note_left_out,
    reference_of,
)
from mixbench.leaderboard.plots.style import SMALL, Look, looks
from mixbench.leaderboard.rows import Group, Leaderboard, Row
from mixbench.stats.intervals import Summary, summarize

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

HEIGHT = 1.75  # inches of a diagram
WIDE = 5.0  # inches from which on diagrams stand side by side
# Scores of one attack, told apart by its radius in steps of 1/255.
_ATTACK = re.compile(r"(fgsm|pgd\d+|apgd_ce|autoattack|square)_(\d+)")
_TITLES = {"fgsm": "FGSM", "apgd_ce": "APGD", "autoattack": "AutoAttack", "square": "Square"}
_CLEAN = "top1"


# Ends of the names of scores under corruptions, and their source.
_SOURCES = {"_c": "published", "_c_gen": "made here"}
_SEVERITIES = range(1, 6)
_GROUPS = tuple(CORRUPTION_GROUPS)
_SPREAD = 0.6  # of the distance of two groups, over which rows lie side by side


@dataclass
class StrengthDiagram:
    """Error rates of the rows of a table by the strength of something.

    Attributes:
        title: What it is, in words.
        lines: For each row its error rates by strength, or by the place of a group.
        axis: What strengths are counted in.
        groups: Names of the groups at places 0, 1, ...; empty where there are strengths.
    """

    title: str
    lines: dict[str, dict[int, Summary]]
    axis: str = "radius (1/255)"
    groups: tuple[str, ...] = ()


def draw_severity(board: Leaderboard, width: float, title: bool = True) -> "Figure":
    """Error rates by the radius of attacks and the severity of corruptions.

    Each attack has a diagram; corruptions have one of their mean by severity and one of the means
    of their groups.

    Args:
        board: The leaderboard.
        width: Inches.
        title: Whether the facts that rows have in common stand above them.

    Returns:
        The figure.

    Raises:
        UserError: If no run was attacked or saw corruptions, or there are too many tables.
    """
    panels: list[TablePanel] = []
    notes: list[str] = []
    legend: dict[str, Look] = {}
    for group in board.groups:
        judged = [row for row in group.rows if _was_judged(row)]
        rows, more = best_rows(group, judged, MOST_LINES)
        attacks, (corruptions, others) = _attacks(rows), _corruptions(rows)
        diagrams = [*attacks, *corruptions]
        if not diagrams:
            continue
        drawn = [row.label for row in rows if any(row.label in d.lines for d in diagrams)]
        notes += note_left_out(others, "judged on other corruptions or other images")
        lacking = [row.label for row in group.rows if row.label not in {*drawn, *more, *others}]
        notes += note_left_out(lacking, "without a finite mean under any attack or corruption")
        notes += note_left_out(more, f"behind the best {MOST_LINES}")
        if attacks:
            notes.append("Radius 0 is the error on all test images.")
            notes += _images(group, rows, describe("fgsm_8").suite, "attacks")
        if corruptions:
            notes.append("Severity 0 is the error on the same images without corruption.")
            notes += _images(group, rows, describe("mean_ce").suite, "corruptions")
        legend = looks(drawn, reference_of(group), legend)
        across = min(len(diagrams), max(1, int(width / (WIDE / 2))))
        height = HEIGHT * math.ceil(len(diagrams) / across) + 0.25
        draw = partial(_draw, diagrams=diagrams, across=across, looks=legend)
        panels.append(TablePanel(group, height, draw))
    if not panels:
        what = "no run was attacked or saw corruptions"
        todo = "add one: mixbench eval RUN --suite adversarial, or --suite corruption"
        raise UserError(what, "plot severity", todo)
    if any(len(row.seeds) > 1 for panel in panels for row in panel.group.rows):
        notes.append("Points are means over seeds, bands and bars one standard deviation.")
    notes = list(dict.fromkeys(notes))
    return assemble("severity", board, panels, width, title=title, notes=notes, legend=legend)


def _was_judged(row: Row) -> bool:
    """Whether a row was attacked, or saw corruptions."""
    return any(map(_ATTACK.fullmatch, row.summaries)) or any(
        row.summary(f"severity_1{end}") for end in _SOURCES
    )


def _corruptions(rows: Sequence[Row]) -> tuple[list[StrengthDiagram], list[str]]:
    """Means by severity and by group, of each source of corrupted images that some row has.

    Returns:
        The diagrams, and the rows that saw other corruptions than those that are drawn.
    """
    found: list[StrengthDiagram] = []
    others: list[str] = []
    for end, source in _SOURCES.items():
        seen = {
            row.label: row.images_of(_GROUPS[0] + end) for row in rows if row.summary(f"clean{end}")
        }
        counts = Counter(corruptions for sets in seen.values() for corruptions in sets)
        same = max(counts, key=counts.__getitem__, default=None)  # which most rows saw
        whole = [row for row in rows if seen.get(row.label) == {same}]
        others += [label for label, sets in seen.items() if sets != {same}]
        names = {0: f"clean{end}"} | {s: f"severity_{s}{end}" for s in _SEVERITIES}
        groups = {place: f"{group}{end}" for place, group in enumerate(CORRUPTION_GROUPS)}
        curves, means = _lines(whole, names), _lines(whole, groups)
        if curves:
            found.append(StrengthDiagram(f"Corruptions, {source}", curves, "severity"))
        if means:
            title = f"Groups of corruptions, {source}"
            found.append(StrengthDiagram(title, means, "", _GROUPS))
    return found, others


def _lines(rows: Sequence[Row], names: Mapping[int, str]) -> dict[str, dict[int, Summary]]:
    """Finite means of each row by the places of scores."""
    found: dict[str, dict[int, Summary]] = {}
    for row in rows:
        for place, name in names.items():
            summary = row.summary(name)
            if summary is not None and math.isfinite(summary.mean):
                found.setdefault(row.label, {})[place] = summary
    return found


def _attacks(rows: Sequence[Row]) -> list[StrengthDiagram]:
    """Attacks that some row has a finite error rate under."""
    found: dict[str, StrengthDiagram] = {}
    for name in column_names("score", unlisted=True):
        match = _ATTACK.fullmatch(name)
        if match is None:
            continue
        family, radius = match[1], int(match[2])
        for row in rows:
            summary = row.summaries.get(name)
            if summary is None or not math.isfinite(summary.mean):
                continue
            attack = found.setdefault(family, StrengthDiagram(_attack_title(family), {}))
            attack.lines.setdefault(row.label, _clean_error(row))[radius] = summary
    return list(found.values())


def _attack_title(family: str) -> str:
    steps = family.removeprefix("pgd")
    return _TITLES.get(family) or f"PGD, {steps} steps"


def _clean_error(row: Row) -> dict[int, Summary]:
    values = [100 - record.metrics[_CLEAN] for record in row.records if _CLEAN in record.metrics]
    summary = summarize(values)
    return {0: summary} if math.isfinite(summary.mean) else {}


def _images(group: Group, rows: Sequence[Row], suite: str, judges: str) -> list[str]:
    """A note on how many images were attacked or corrupted."""
    sizes = sorted({size for row in rows for size in row.images.get(suite, [])})
    if not sizes:
        return []
    seen = " or ".join(f"{size:,}" for size in sizes)
    note = f"The {judges} saw {seen} of {group.sizes[1]:,} test images."
    if len(sizes) > 1:
        note += " Rates on different numbers of images do not compare."
    return [note]


def _draw(
    part: "SubFigure", diagrams: Sequence[StrengthDiagram], across: int, looks: Mapping[str, Look]
) -> None:
    down = math.ceil(len(diagrams) / across)
    every = part.subplots(down, across, squeeze=False, sharey=True).ravel().tolist()
    for axes in every[len(diagrams) :]:
        axes.remove()
    last = {diagram.axis: place for place, diagram in enumerate(diagrams)}
    for place, (axes, diagram) in enumerate(zip(every, diagrams, strict=False)):
        for row, (label, line) in enumerate(diagram.lines.items()):
            if diagram.groups:
                shift = _SPREAD * ((row + 0.5) / len(diagram.lines) - 0.5)
                _points(axes, line, looks[label], shift)
            else:
                _line(axes, line, looks[label])
        places = sorted({place for line in diagram.lines.values() for place in line})
        axes.set_xticks(places, [diagram.groups[p] for p in places] if diagram.groups else None)
        axes.set_ylim(*_limits(diagrams))
        axes.set_title(diagram.title, fontsize=SMALL)
        axes.grid(axis="y")
        if place % across == 0:
            axes.set_ylabel("error rate (%)")
        if place + across >= len(diagrams) or place == last[diagram.axis]:
            axes.set_xlabel(diagram.axis)


def _limits(diagrams: Sequence[StrengthDiagram]) -> tuple[float, float]:
    """Ends of the axis of rates, which all diagrams share."""
    found = [summary for d in diagrams for line in d.lines.values() for summary in line.values()]
    low = min(max(0.0, summary.mean - (summary.sd or 0.0)) for summary in found)
    high = max(min(100.0, summary.mean + (summary.sd or 0.0)) for summary in found)
    pad = 0.05 * (high - low) or 1.0
    return max(-2.0, low - pad), min(102.0, high + pad)


def _line(axes: "Axes", line: Mapping[int, Summary], look: Look) -> None:
    radii = sorted(line)
    means = [line[radius].mean for radius in radii]
    style = {"color": look.color, "marker": look.marker, "markersize": 3}
    axes.plot(radii, means, linestyle=look.linestyle, **style)
    low, high = _deviations(line)
    if low:
        axes.fill_between(radii, low, high, color=look.color, alpha=0.18, linewidth=0)


def _points(axes: "Axes", line: Mapping[int, Summary], look: Look, shift: float) -> None:
    """Means of groups, which no line joins, beside those of other rows."""
    places = [place + shift for place in sorted(line)]
    means = [line[place].mean for place in sorted(line)]
    low, high = _deviations(line)
    axes.plot(places, means, color=look.color, marker=look.marker, linestyle="", markersize=3)
    axes.vlines(places[: len(low)], low, high, color=look.color, linewidth=1)


def _deviations(line: Mapping[int, Summary]) -> tuple[list[float], list[float]]:
    """One standard deviation below and above each mean; empty where some mean has none."""
    spread = [(line[place].mean, line[place].sd) for place in sorted(line)]
    if any(sd is None for _, sd in spread):
        return [], []
    low = [max(0.0, mean - (sd or 0.0)) for mean, sd in spread]
    return low, [min(100.0, mean + (sd or 0.0)) for mean, sd in spread]
