"""A published figure beside what our runs of the same recipe give, and whether they agree."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mixbench.errors import UserError, counted
from mixbench.leaderboard.literature import UNKNOWN, Figure
from mixbench.records.curves import read_curves
from mixbench.records.record import Record
from mixbench.records.selection import CHOICES, choose_score, peek_curve
from mixbench.stats.intervals import prediction_interval, summarize

INSIDE, OUTSIDE, ONE_SEED = "inside", "outside", "one seed: no verdict"
NOT_COMPARABLE = "not comparable"


@dataclass
class Reproduction:
    """A figure, our values of the same statistic by seed, and what keeps them from comparing."""

    figure: Figure
    values: dict[int, float]
    reasons: list[str] = field(default_factory=list)

    @property
    def interval(self) -> tuple[float, float] | None:
        """Prediction interval of one more run of ours; None for one seed."""
        return prediction_interval(list(self.values.values()))

    @property
    def verdict(self) -> str:
        """Whether the published value lies where one more run of ours is expected."""
        if self.reasons:
            return f"{NOT_COMPARABLE}: {'; '.join(self.reasons)}"
        if self.interval is None:
            return ONE_SEED if self.values else f"{NOT_COMPARABLE}: no run has a value"
        low, high = self.interval
        return INSIDE if low <= self.figure.comparable <= high else OUTSIDE


def needs_peek(figure: Figure) -> bool:
    """Whether its statistic takes the test score of every epoch."""
    return figure.select not in ("last", UNKNOWN)


def value_of(figure: Figure, record: Record, folder: Path) -> float | None:
    """The statistic of a figure for a run of ours; the last epoch if the paper names none.

    Args:
        figure: The published figure.
        record: A finished run.
        folder: Its folder.

    Returns:
        The value in percent, or None where the run did not leave it.
    """
    if not needs_peek(figure):
        value = record.metrics.get(figure.score)
        return value if value is not None and math.isfinite(value) else None
    path = folder / "metrics.csv"
    rows = read_curves(path)[0] if path.exists() else []
    curve = peek_curve(rows, figure.score, record.epochs)
    return None if curve is None else choose_score(curve, figure.select)


def compare(
    figure: Figure, runs: Sequence[tuple[Record, Path]], changes: dict[str, list[object]]
) -> Reproduction:
    """Set a figure beside finished runs.

    Args:
        figure: The published figure.
        runs: Records with their folders, one per seed.
        changes: Keys in which the runs differ from the official recipe, with both values.

    Returns:
        The comparison, with every reason why it is none.
    """
    pairs = {key: [_shown(value) for value in both] for key, both in changes.items()}
    reasons = [f"{key} {old} -> {new}" for key, (old, new) in sorted(pairs.items())]
    if figure.select == UNKNOWN:
        reasons.append("the source does not say how the published epoch was chosen")
    if any(record.official is False for record, _ in runs):
        reasons.append("the data files are not the authors'")
    if any(record.label_noise is not None for record, _ in runs):
        reasons.append("the runs were trained on other labels")
    if any(record.config_changes for record, _ in runs):
        reasons.append("the configuration was changed during the run")
    epochs = {record.epochs for record, _ in runs}
    if figure.epochs is not None and epochs - {figure.epochs} and "epochs" not in changes:
        reasons.append(f"epochs {figure.epochs} -> {', '.join(map(str, sorted(epochs)))}")
    values: dict[int, float] = {}
    for record, folder in runs:
        try:
            value = value_of(figure, record, folder)
        except UserError as error:
            reasons.append(f"seed {record.seed}: {error.what}")
            continue
        if value is not None:
            values[record.seed] = value
            continue
        if not needs_peek(figure):
            reasons.append(f"seed {record.seed}: its record has no finite {figure.score}")
            continue
        window = CHOICES[figure.select][1] if figure.select in CHOICES else None
        if window is not None and record.epochs < window:
            reasons.append(
                f"seed {record.seed}: {figure.select} needs {window} epochs, not {record.epochs}"
            )
        else:
            reasons.append(
                f"seed {record.seed}: {figure.select} needs a test score of each epoch (peek=true)"
            )
    return Reproduction(figure, values, reasons)


def _shown(value: object) -> str:
    return "none" if value in (None, "") else str(value)


def report(found: Reproduction) -> list[str]:
    """A comparison as lines of text.

    Args:
        found: The comparison.

    Returns:
        Published value, ours, prediction interval and verdict.
    """
    figure = found.figure
    score = figure.score
    lines = [f"published            {published(figure)}"]
    if found.values:
        each = ", ".join(f"{value:.2f}" for value in found.values.values())
        summary = summarize(list(found.values.values()))
        sd = "" if summary.sd is None else f", sd {summary.sd:.2f}"
        rule = "last epoch" if figure.select == UNKNOWN else figure.choice
        lines.append(
            f"ours                 {summary.mean:.2f} {score}, {rule}, n={summary.n}{sd}: {each}"
        )
    if found.interval is not None:
        low, high = found.interval
        lines.append(f"prediction interval  {low:.2f} to {high:.2f} (95 %, of one more run)")
        if figure.n is not None and figure.n > 1:
            lines.append(
                f"                     The published value is a mean of {figure.n} runs, which "
                "varies less."
            )
    lines.append(f"verdict              {found.verdict}")
    return lines


def published(figure: Figure) -> str:
    """A figure in one line."""
    value = f"{figure.value:g} {figure.metric}"
    if figure.comparable != figure.value:
        value += f" = {figure.comparable:g} {figure.score}"
    facts = [value, figure.choice]
    facts += [counted(figure.epochs, "epoch")] if figure.epochs else []
    facts += [f"n={figure.n}"] if figure.n else []
    facts += [figure.setting] if figure.setting else []
    return f"{', '.join(facts)}: {figure.source}; {figure.title}"
