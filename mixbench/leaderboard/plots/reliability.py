"""``reliability``: accuracy by confidence, from stored predictions and without torch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mixbench.errors import UserError
from mixbench.leaderboard.columns import describe
from mixbench.leaderboard.plots.cells import MOST_CELLS, cell_axes, columns_of, lines_of, title_room
from mixbench.leaderboard.plots.panels import TablePanel, assemble, best_rows, note_left_out
from mixbench.leaderboard.plots.style import BETTER, MUTED, SMALL, WORSE, fitted
from mixbench.leaderboard.rows import Leaderboard, Row
from mixbench.records.predictions import PREDICTIONS, read_outputs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

BINS = 15  # of equal width, as for the score
HEIGHT = 2.1  # inches of a diagram


@dataclass
class Diagram:
    """Bins of one row or run.

    Attributes:
        label: What it is of.
        counts: (bins,) predictions.
        confidence: (bins,) their mean confidence; NaN in an empty bin.
        accuracy: (bins,) share of them that is right; NaN in an empty bin.
        ece: Expected calibration error, the mean over the runs in it.
        runs: How many these are.
    """

    label: str
    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    ece: float
    runs: int


def draw_reliability(
    board: Leaderboard, width: float, title: bool = True, per_seed: bool = False
) -> "Figure":
    """Reliability diagrams, with the number of predictions in each bin.

    Args:
        board: The leaderboard.
        width: Inches.
        title: Whether the facts that rows have in common stand above them.
        per_seed: Whether each run has a diagram, and not each row.

    Returns:
        The figure.

    Raises:
        UserError: If no run has stored predictions of one class per image, or there are too many
            tables.
    """
    panels: list[TablePanel] = []
    notes = [f"Bars are the accuracy in {BINS} bins of confidence, diamonds its mean confidence."]
    reasons: list[str] = []
    several = False
    for group in board.groups:
        rows, more = best_rows(group, group.rows, MOST_CELLS)
        found: list[Diagram] = []
        for row in rows:
            try:
                found += _diagrams(row, per_seed)
            except UserError as error:
                reasons.append(f"{row.label}: {error.what} ({error.where})")
        if not found:
            continue
        more += [diagram.label for diagram in found[MOST_CELLS:]]
        notes += note_left_out(more, f"behind the first {MOST_CELLS}")
        found = found[:MOST_CELLS]
        several = several or any(diagram.runs > 1 for diagram in found)
        height = HEIGHT * lines_of(width, len(found)) + 0.2
        panels.append(TablePanel(group, height, partial(_draw, found=found, width=width)))
    if not panels:
        what = "no run has predictions to draw from"
        where = reasons[0] if reasons else "plot reliability"
        raise UserError(what, where, "evaluate the runs of one class per image: mixbench eval RUN")
    if several:
        notes.append("Bars pool the seeds; the ECE is the mean over them.")
    notes += [f"Not shown: {reason}." for reason in reasons]
    return assemble("reliability", board, panels, width, title=title, notes=notes)


def _diagrams(row: Row, per_seed: bool) -> list[Diagram]:
    runs = []
    for folders in row.runs:
        found = [_confidence(folder / PREDICTIONS) for folder in folders]
        confidence, hits = map(np.concatenate, zip(*found, strict=True))
        runs.append(binned(confidence, hits))
    eces = [_ece(*run) for run in runs]
    if per_seed:
        labels = [f"{row.label} s{seed}" for seed in row.seeds]
        one_each = zip(labels, runs, eces, strict=True)
        return [_diagram(label, [run], [ece]) for label, run, ece in one_each]
    return [_diagram(row.label, runs, eces)]


def _diagram(
    label: str, runs: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], eces: Sequence[float]
) -> Diagram:
    counts, confidence, hits = (sum(parts) for parts in zip(*runs, strict=True))
    some = np.where(counts, counts, np.nan)
    mean = math.fsum(eces) / len(eces)
    return Diagram(label, np.asarray(counts), confidence / some, hits / some, mean, len(runs))


def _confidence(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Confidence of each prediction, and whether it is right."""
    outputs, _ = read_outputs(path)
    logits, labels = outputs["logits"], outputs["labels"]
    if labels.ndim != 1:
        raise UserError("the images have several labels each", str(path))
    if not np.isfinite(logits).all():
        raise UserError("the stored outputs are not all finite", str(path))
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (powers.max(axis=1) / powers.sum(axis=1)).astype(float), logits.argmax(axis=1) == labels


def binned(
    confidence: np.ndarray, hit: np.ndarray, bins: int = BINS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sums over bins of equal width, closed on the right.

    Args:
        confidence: (N,) in (0, 1].
        hit: (N,) whether the prediction is right.
        bins: Number of bins.

    Returns:
        Three of (bins,): predictions, sum of their confidence, and how many of them are right.
    """
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    parts = (None, confidence, hit)
    counts, sums, hits = (np.bincount(place, part, minlength=bins) for part in parts)
    return counts, sums, hits


def _ece(counts: np.ndarray, confidence: np.ndarray, hits: np.ndarray) -> float:
    return float(np.abs(confidence - hits).sum() / counts.sum())


def _draw(part: "SubFigure", found: Sequence[Diagram], width: float) -> None:
    every = cell_axes(part, width, len(found), heights=(3.2, 1))
    columns = columns_of(width, len(found))
    most = max(int(diagram.counts.max()) for diagram in found)
    for place, (diagram, (above, below)) in enumerate(zip(found, every, strict=True)):
        _bars(above, diagram)
        name = fitted(diagram.label, title_room(width, len(found)))
        facts = f"ECE {describe('ece').text(diagram.ece)}, n = {int(diagram.counts.sum()):,}"
        above.set_title(f"{name}\n{facts}", fontsize=SMALL)
        left = (np.arange(BINS)) / BINS
        below.bar(left, diagram.counts, 1 / BINS, align="edge", color=MUTED, linewidth=0)
        below.set(xlim=(0, 1), yscale="log", ylim=(0.7, 1.6 * most))
        below.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        below.set_yticks(*_count_ticks(most))
        below.minorticks_off()
        if place % columns:
            above.tick_params(labelleft=False)
            below.tick_params(labelleft=False)
        else:
            above.set_ylabel("accuracy")
            below.set_ylabel("count")
        if place + columns >= len(found):
            below.tick_params(labelbottom=True)
            below.set_xlabel("confidence")


def _count_ticks(most: int) -> tuple[list[int], list[str]]:
    """At most three powers of ten, from 1 on."""
    powers = range(0, int(math.log10(most)) + 1, 1 + int(math.log10(most)) // 3)
    return [10**power for power in powers], [f"{10**power:,}" for power in powers]


def _bars(axes: "Axes", diagram: Diagram) -> None:
    left = np.arange(BINS) / BINS
    axes.bar(
        left,
        diagram.accuracy,
        1 / BINS,
        align="edge",
        color=BETTER,
        alpha=0.45,
        edgecolor="white",
        linewidth=0.4,
    )
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.7, linestyle="--")
    axes.plot(left + 0.5 / BINS, diagram.confidence, "D", color=WORSE, markersize=2)
    axes.set(ylim=(0, 1.02))
    axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
