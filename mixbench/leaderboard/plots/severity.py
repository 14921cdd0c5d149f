"""``severity``: error rates by the strength of attacks, one diagram an attack."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

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


@dataclass
class AttackDiagram:
    """An attack on the rows of a table.

    Attributes:
        title: Its name in words.
        lines: For each row its error rates by radius.
    """

    title: str
    lines: dict[str, dict[int, Summary]]


def draw_severity(board: Leaderboard, width: float, title: bool = True) -> "Figure":
    """Error rates by the radius of attacks, in a diagram for each attack.

    Args:
        board: The leaderboard.
        width: Inches.
        title: Whether the facts that rows have in common stand above them.

    Returns:
        The figure.

    Raises:
        UserError: If no run was attacked, or there are too many tables.
    """
    panels: list[TablePanel] = []
    notes: list[str] = []
    legend: dict[str, Look] = {}
    for group in board.groups:
        attacked = [row for row in group.rows if any(map(_ATTACK.fullmatch, row.summaries))]
        rows, more = best_rows(group, attacked, MOST_LINES)
        attacks = _attacks(rows)
        if not attacks:
            continue
        drawn = [row.label for row in rows if any(row.label in a.lines for a in attacks)]
        lacking = [row.label for row in group.rows if row.label not in {*drawn, *more}]
        notes += note_left_out(lacking, "without a finite mean under any attack")
        notes += note_left_out(more, f"behind the best {MOST_LINES}")
        notes += _images(group, rows)
        legend = looks(drawn, reference_of(group), legend)
        across = min(len(attacks), max(1, int(width / (WIDE / 2))))
        height = HEIGHT * math.ceil(len(attacks) / across) + 0.25
        draw = partial(_draw, attacks=attacks, across=across, looks=legend)
        panels.append(TablePanel(group, height, draw))
    if not panels:
        what = "no run was attacked"
        raise UserError(what, "plot severity", "mixbench eval RUN --suite adversarial adds it")
    notes.insert(0, "Radius 0 is the error on all test images.")
    if any(len(row.seeds) > 1 for panel in panels for row in panel.group.rows):
        notes[0] += " Lines are means over seeds, bands one standard deviation."
    notes = list(dict.fromkeys(notes))
    return assemble("severity", board, panels, width, title=title, notes=notes, legend=legend)


def _attacks(rows: Sequence[Row]) -> list[AttackDiagram]:
    """Attacks that some row has a finite error rate under."""
    found: dict[str, AttackDiagram] = {}
    for name in column_names("score", unlisted=True):
        match = _ATTACK.fullmatch(name)
        if match is None:
            continue
        family, radius = match[1], int(match[2])
        for row in rows:
            summary = row.summaries.get(name)
            if summary is None or not math.isfinite(summary.mean):
                continue
            attack = found.setdefault(family, AttackDiagram(_attack_title(family), {}))
            attack.lines.setdefault(row.label, _clean_error(row))[radius] = summary
    return list(found.values())


def _attack_title(family: str) -> str:
    steps = family.removeprefix("pgd")
    return _TITLES.get(family) or f"PGD, {steps} steps"


def _clean_error(row: Row) -> dict[int, Summary]:
    values = [100 - record.metrics[_CLEAN] for record in row.records if _CLEAN in record.metrics]
    summary = summarize(values)
    return {0: summary} if math.isfinite(summary.mean) else {}


def _images(group: Group, rows: Sequence[Row]) -> list[str]:
    """A note on how many images the attacks saw."""
    suite = describe("fgsm_8").suite
    sizes = sorted({size for row in rows for size in row.images.get(suite, [])})
    if not sizes:
        return []
    note = f"The attacks saw {' or '.join(map(str, sizes))} of {group.sizes[1]:,} test images."
    if len(sizes) > 1:
        note += " Rates on different numbers of images do not compare."
    return [note]


def _draw(
    part: "SubFigure", attacks: Sequence[AttackDiagram], across: int, looks: Mapping[str, Look]
) -> None:
    down = math.ceil(len(attacks) / across)
    every = part.subplots(down, across, squeeze=False, sharey=True).ravel().tolist()
    for axes in every[len(attacks) :]:
        axes.remove()
    for place, (axes, attack) in enumerate(zip(every, attacks, strict=False)):
        for label, line in attack.lines.items():
            _line(axes, line, looks[label])
        radii = sorted({radius for line in attack.lines.values() for radius in line})
        axes.set_xticks(radii)
        axes.set_ylim(*_limits(attacks))
        axes.set_title(attack.title, fontsize=SMALL)
        axes.grid(axis="y")
        if place % across == 0:
            axes.set_ylabel("error rate (%)")
        if place + across >= len(attacks):
            axes.set_xlabel("radius (1/255)")


def _limits(attacks: Sequence[AttackDiagram]) -> tuple[float, float]:
    """Ends of the axis of rates, which all diagrams share."""
    found = [summary for a in attacks for line in a.lines.values() for summary in line.values()]
    low = min(max(0.0, summary.mean - (summary.sd or 0.0)) for summary in found)
    high = max(min(100.0, summary.mean + (summary.sd or 0.0)) for summary in found)
    pad = 0.05 * (high - low) or 1.0
    return max(-2.0, low - pad), min(102.0, high + pad)


def _line(axes: "Axes", line: Mapping[int, Summary], look: Look) -> None:
    radii = sorted(line)
    means = [line[radius].mean for radius in radii]
    axes.plot(radii, means, **vars(look), markersize=3)
    spread = [line[radius].sd for radius in radii]
    if all(sd is not None for sd in spread):
        sds = [sd or 0.0 for sd in spread]
        low = [max(0.0, mean - sd) for mean, sd in zip(means, sds, strict=True)]
        high = [min(100.0, mean + sd) for mean, sd in zip(means, sds, strict=True)]
        axes.fill_between(radii, low, high, color=look.color, alpha=0.18, linewidth=0)
