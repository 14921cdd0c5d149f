"""Two methods side by side, from records and stored predictions alone."""

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any

import numpy as np

from mixbench.errors import UserError, counted, near_match
from mixbench.leaderboard.columns import column_names
from mixbench.leaderboard.costs import machine
from mixbench.leaderboard.rows import Group, Leaderboard, Row, gaps
from mixbench.leaderboard.verdict import decide_pair, p_text
from mixbench.records.marks import mark_notes
from mixbench.records.predictions import PREDICTIONS, read_outputs
from mixbench.records.record import Record
from mixbench.stats.bootstrap import (
    RESAMPLES,
    bootstrap_both,
    bootstrap_images,
    mcnemar,
    paired,
)
from mixbench.stats.class_changes import class_changes
from mixbench.stats.dunnett import Contrast, Pooled, detectable, equivalent, pool, t_p
from mixbench.stats.intervals import LEVEL, Summary, summarize, t_quantile

SCORES, COSTS = (column_names(kind, unlisted=True) for kind in ("score", "cost"))


@dataclass
class Line:
    """A score or a cost of two methods.

    Attributes:
        name: What it is.
        mine: Of the first method; None where a run lacks it.
        other: Of the second.
        difference: Mean of the first less that of the second; NaN where one lacks it.
        low: End of its 95 % interval, of one comparison with the variance of all rows of the table
            pooled; NaN without two seeds of any.
        high: Its other end.
        cost: Whether it is a cost, which is compared by its ratio.
    """

    name: str
    mine: Summary | None
    other: Summary | None
    difference: float = math.nan
    low: float = math.nan
    high: float = math.nan
    cost: bool = False

    @property
    def separated(self) -> bool:
        """Whether the interval of the difference has zero outside."""
        return self.low > 0 or self.high < 0

    @property
    def ratio(self) -> float:
        """The first mean over the second."""
        if self.mine is None or self.other is None or not self.other.mean:
            return math.nan
        return self.mine.mean / self.other.mean


@dataclass
class Comparison:
    """Two rows of a table.

    Attributes:
        title: What they have in common.
        mine: Label of the first method.
        other: Label of the second.
        score: What they are compared by.
        lines: All scores and costs that both might have.
        notes: What follows from them, in sentences.
        numbers: The same for programs.
    """

    title: str
    mine: str
    other: str
    score: str
    lines: list[Line]
    notes: list[str] = field(default_factory=list)
    numbers: dict[str, Any] = field(default_factory=dict)


def compare(
    board: Leaderboard,
    mine: str,
    other: str,
    *,
    margin: float | None = None,
    resamples: int = RESAMPLES,
) -> list[Comparison]:
    """Compare two methods wherever both were carried out alike.

    Args:
        board: The leaderboard.
        mine: A method, a row of the leaderboard, or the id of a run in it.
        other: What it is compared with.
        margin: Difference of the score that does not matter, to test for equivalence.
        resamples: Of each bootstrap.

    Returns:
        One comparison per table that holds both.

    Raises:
        UserError: If there is no such row, more than one, or no table with both.
    """
    if margin is not None and not margin > 0:
        raise UserError(f"the margin must be > 0, got {margin:g}", "--margin", "give points")
    found = []
    for group in board.groups:
        a, b = (_find(group, name) for name in (mine, other))
        if a is not None and b is not None:
            if a is b:
                others = ", ".join(row.label for row in group.rows if row is not a) or "none yet"
                raise UserError(
                    f"{mine} and {other} are one row: {a.label}",
                    "compare",
                    f"give a method, row or run of another row ({others}); mixbench leaderboard "
                    "shows how the seeds of a row spread",
                )
            found.append(_compared(group, a, b, margin, resamples))
            found[-1].notes[:0] = _whole_rows(((mine, a), (other, b)))
    if not found:
        for name in (mine, other):
            _check_known(board, name)
        raise UserError(
            f"no table holds both {mine} and {other}",
            "compare",
            "carry them out with the same data, net, recipe, epochs and selection",
        )
    return found


def _whole_rows(named: Iterable[tuple[str, Row]]) -> list[str]:
    """Sentences on names of runs, which stand for their whole rows."""
    return [
        f"{name} is a run of the row {row.label}, which is compared with all its "
        f"{len(row.seeds)} seeds."
        for name, row in named
        if len(row.seeds) > 1 and any(record.id == name for record in row.records)
    ]


def _compared(group: Group, a: Row, b: Row, margin: float | None, resamples: int) -> Comparison:
    lines = []
    for name in SCORES:
        # Scores of other images do not compare.
        rows = [row for row in group.rows if row.images_of(name) == a.images_of(name)]
        values = {row.label: _scores(row, name) for row in (*rows, a)}
        values.setdefault(b.label, [])
        if all(values[row.label] for row in (a, b)):
            values = {label: known for label, known in values.items() if known}
            lines.append(_line(name, values, pool(values), a.label, b.label))
    same = {machine(record) for row in (a, b) for record in row.records}
    for name in COSTS if len(same) == 1 else ():
        spent = [_costs(row, name) for row in (a, b)]
        if all(spent):
            lines.append(Line(name, summarize(spent[0]), summarize(spent[1]), cost=True))
    comparison = Comparison(group.title, a.label, b.label, group.score, lines)
    _test(comparison, group, a, b, margin)
    _resample(comparison, a, b, resamples)
    if len(same) > 1:
        comparison.notes.append("Costs are left out, as they were measured on different machines.")
    elif any(record.shared_cores for row in (a, b) for record in row.records):
        comparison.notes.append("Costs were measured while other runs shared the machine.")
    other = [
        name
        for name in SCORES
        if a.images_of(name) != b.images_of(name) and _scores(a, name) and _scores(b, name)
    ]
    if other:
        comparison.notes.append(
            "Scores that were measured on different numbers or sets of images are left out: "
            f"{', '.join(other)}."
        )
    comparison.notes += [note for row in (a, b) for note in gaps(row, SCORES)]
    _count_failures(comparison, a, b)
    comparison.notes += mark_notes((row.label, row.marks, len(row.seeds)) for row in (a, b))
    return comparison


def pairwise(group: Group, labels: Collection[str]) -> dict[tuple[str, str], Line]:
    """Each of some rows against each other one, as :func:`compare` compares two.

    Args:
        group: The table, whose rows share one variance.
        labels: The rows.

    Returns:
        A line for the score of the table by the labels of both rows, of which the first one is
        ``mine``; none of rows that lack the score.
    """
    name = group.score
    values = {row.label: known for row in group.rows if (known := _scores(row, name))}
    pooled = pool(values)
    known = [label for label in labels if label in values]
    return {(a, b): _line(name, values, pooled, a, b) for a, b in permutations(known, 2)}


def _line(name: str, values: dict[str, list[float]], pooled: Pooled, a: str, b: str) -> Line:
    mine, other = summarize(values[a]), summarize(values[b])
    line = Line(name, mine, other, mine.mean - other.mean)
    several = min(pooled.counts.get(a, 0), pooled.counts.get(b, 0)) > 1
    if pooled.sd > 0 and several and math.isfinite(line.difference):
        half = t_quantile(pooled.df) * pooled.error(a, b)
        line.low, line.high = line.difference - half, line.difference + half
    return line


def _test(comparison: Comparison, group: Group, a: Row, b: Row, margin: float | None) -> None:
    """The default test of the score, the detectable difference, pairs and equivalence."""
    seeds = {row.label: _scores(row, group.score) for row in group.rows}
    seeds = {label: values for label, values in seeds.items() if values}
    pooled, say = pool(seeds), comparison.notes.append
    if not {a.label, b.label} <= pooled.means.keys() or not pooled.df:
        say("One seed of each supports no claim about the methods, only about these two networks.")
        return
    if not pooled.sd or group.evidence.flat:
        say(f"The seeds of no method differ in {group.score}, so that nothing can be tested.")
        return
    difference = pooled.means[a.label] - pooled.means[b.label]
    error = pooled.error(a.label, b.label)
    critical = t_quantile(pooled.df)
    p = t_p(difference / error, pooled.df) if error else float(difference == 0)
    mdd = detectable(critical, pooled.df) * error
    comparison.numbers |= {
        "difference": difference,
        "low": difference - critical * error,
        "high": difference + critical * error,
        "p": p,
        "df": pooled.df,
        "detectable_difference": mdd,
        "separated": p < 1 - LEVEL,
    }
    contrast = Contrast(
        difference, difference - critical * error, difference + critical * error, p, mdd
    )
    counts = (pooled.counts[a.label], pooled.counts[b.label])
    if group.smoke_test:
        comparison.numbers["separated"] = False
        say(f"No verdict: {group.data} is a smoke test, too small and easy to rank methods on.")
        return
    verdict = decide_pair(a.label, b.label, contrast, counts, pooled.sd, group.score)
    comparison.numbers["separated"] = verdict.outcome == "winner"
    say(verdict.text)
    if contrast.separated and (told := _level_in_table(group, a.label, b.label)) is not None:
        say(
            f"Among all rows of the table the two are not separated{told}, so that this supports "
            "a claim only if just these two were chosen before any result was seen."
        )
    say(
        f"This is a t test of the two alone, not corrected for other pairs, with the variance of "
        f"{group.score} pooled over {counted(len(pooled.means), 'row')} "
        f"({counted(pooled.df, 'degree')} of freedom)."
    )
    say(f"The detectable difference is {mdd:.2f} (80 % power).")
    shared = sorted(set(a.seeds) & set(b.seeds))
    if len(shared) > 2:
        x, y = (dict(zip(row.seeds, _scores(row, group.score), strict=True)) for row in (b, a))
        pairs = [(x[seed], y[seed]) for seed in shared]
        if all(math.isfinite(value) for pair in pairs for value in pair):
            _pairs(comparison, *map(list, zip(*pairs, strict=True)))
    if margin is not None:
        tost, equal = equivalent(seeds, a.label, b.label, margin)
        comparison.numbers |= {"margin": margin, "tost_p": tost, "equivalent": equal}
        words = "are equivalent" if equal else "are not shown to be equivalent"
        say(f"The two {words} within {margin:g} (TOST p = {tost:.3g}).")


def _level_in_table(group: Group, a: str, b: str) -> str | None:
    """The p value in brackets if the test of the whole table does not separate two rows.

    That test compares all rows with the reference and with the best one; of other pairs it says
    nothing, and the answer is None.
    """
    evidence = group.evidence
    for one, other in ((a, b), (b, a)):
        if other == evidence.reference and one in evidence.contrasts:
            found = evidence.contrasts[one]
            return None if found.separated else f" ({p_text(found.p)})"
    if not evidence.best:
        return None
    best = max(group.rows, key=lambda row: (row.label in evidence.best, _mean(row, group.score)))
    return "" if best.label in (a, b) and {a, b} <= evidence.best else None


def _mean(row: Row, score: str) -> float:
    return row.summaries[score].mean


def _pairs(comparison: Comparison, x: list[float], y: list[float]) -> None:
    test, say = paired(x, y), comparison.notes.append
    comparison.numbers["seed_correlation"] = test.correlation
    shown = "unknown" if math.isnan(test.correlation) else f"{test.correlation:.2f}"
    if not test.used:
        say(f"The correlation of the seeds is {shown}, so that there is no paired test.")
        return
    if math.isclose(test.low, test.high, abs_tol=1e-9):
        say(
            f"The correlation of the seeds is {shown}; all pairs differ by the same amount, which "
            "leaves no spread for a paired test."
        )
        return
    comparison.numbers["paired_p"] = test.p
    flips = "" if math.isnan(test.sign_flip) else f" ({test.sign_flip:.3g} by sign flips)"
    say(
        f"The correlation of the seeds is {shown}; the paired t test gives "
        f"[{test.low:+.2f}, {test.high:+.2f}] with p = {test.p:.3g}{flips}."
    )


def _resample(comparison: Comparison, a: Row, b: Row, resamples: int) -> None:
    """Bootstraps over the stored predictions, in points of top1."""
    say = comparison.notes.append
    if comparison.score != "top1":
        say(f"There is no bootstrap over images of {comparison.score}, only one of top1.")
        return
    try:
        mine, other = read_hits(a), read_hits(b)
    except UserError as error:
        say(f"There is no bootstrap: {error.what} ({error.where}).")
        return
    if mine[0].shape[1] != other[0].shape[1] or not all(
        np.array_equal(x, y) for x, y in zip(mine[1:3], other[1:3], strict=True)
    ):
        say("There is no bootstrap, as the two were not tested on the same images.")
        return
    _by_class(comparison, mine[0], other[0], mine[1], dict(enumerate(mine[3] or other[3])))
    x, y = 100.0 * other[0], 100.0 * mine[0]
    if len(x) == len(y) == 1:
        images = bootstrap_images(x[0], y[0], resamples=resamples)
        p = mcnemar(x[0], y[0])
        comparison.numbers |= {"images": vars(images), "mcnemar_p": p}
        say(
            "On new images, the bootstrap gives these two networks a difference of "
            f"{images.difference:+.2f} [{images.low:+.2f}, {images.high:+.2f}], McNemar's test "
            f"p = {p:.3g}; that says nothing of other seeds."
        )
        return
    both = bootstrap_both(x, y, resamples=resamples)
    comparison.numbers["images_and_seeds"] = vars(both)
    say(
        f"On new images and new seeds, the two-level bootstrap gives {both.difference:+.2f} "
        f"[{both.low:+.2f}, {both.high:+.2f}]; with few seeds that is too narrow."
    )


def _by_class(
    comparison: Comparison,
    mine: np.ndarray,
    other: np.ndarray,
    labels: np.ndarray,
    names: dict[int, str],
) -> None:
    """Note the classes that lose accuracy, and whether the worst does beyond chance."""
    changes = class_changes(mine, other, labels)
    lost = [item for item in changes if item.change < 0]
    surely = [item for item in changes if item.high < 0]
    worst = min(changes, key=lambda item: item.change)
    name = " ".join(names.get(worst.label, "").split()) or str(worst.label)
    name = f"class {name}" if name.isdecimal() else name
    comparison.numbers["classes"] = {
        "n": len(changes),
        "lose": len(lost),
        "lose_beyond_chance": len(surely),
        "worst": vars(worst) | {"name": name},
        "changes": [vars(item) | {"name": names.get(item.label, "")} for item in changes],
    }
    single = len(mine) == len(other) == 1
    comparison.notes.append(
        f"Of {counted(len(changes), 'class')}, {len(lost)} "
        f"{'loses' if len(lost) == 1 else 'lose'} accuracy, {len(surely)} beyond chance; {name} "
        f"{'loses the most' if lost else 'gains the least'}, {worst.change:+.2f} "
        f"[{worst.low:+.2f}, {worst.high:+.2f}] on {counted(worst.images, 'image')} "
        "(95 % intervals for all classes at once)."
        + (" That says nothing of other seeds." if single else "")
    )


def _count_failures(comparison: Comparison, a: Row, b: Row) -> None:
    for row in (a, b):
        if row.failed:
            verb = "is" if row.failed == 1 else "are"
            kinds = f", {row.diverged} of them diverged" if row.diverged else ""
            comparison.notes.append(
                f"{counted(row.failed, 'run')} of {row.label} {verb} in no mean{kinds}."
            )


def read_hits(row: Row) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Whether each run of a row is right on each image, from its stored predictions.

    Args:
        row: The row.

    Returns:
        (runs, images) bool; (images,) labels and ids of the images; names of the classes, none
        where they have none.

    Raises:
        UserError: If a run has no predictions of one class per image, or of other images.
    """
    hits, known, names = [], None, []
    for folders in row.runs:
        right, found, places = [], [], []
        for folder in folders:
            outputs, stored = read_outputs(folder / PREDICTIONS)
            logits, labels, ids = (outputs[name] for name in ("logits", "labels", "ids"))
            if labels.ndim != 1:
                what = "predictions with several labels per image"
                raise UserError(what, str(folder / PREDICTIONS))
            names = names or list(stored)
            # Of equal logits the lower class; what is not a number is no hit.
            own = np.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
            right.append((logits.argmax(axis=1) == labels) & ~np.isnan(own))
            found.append(labels)
            places.append(ids)
        images = np.concatenate(found), np.concatenate(places)
        if known is not None and not all(map(np.array_equal, known, images)):
            raise UserError(
                "the runs of a row were not tested on the same images",
                str(folders[0]),
                "evaluate them again on the same data: mixbench eval RUN",
            )
        known = images
        hits.append(np.concatenate(right))
    if known is None:
        raise UserError(
            f"the row {row.label} has no run with a record",
            "compare",
            "check the folders that are given",
        )
    return np.array(hits), *known, names


def _find(group: Group, name: str) -> Row | None:
    for row in group.rows:
        if row.label == name or any(record.id == name for record in row.records):
            return row
    for row in group.rows:
        if row.full_label == name:
            return row
    found = [row for row in group.rows if row.records and row.records[0].method == name]
    if len(found) > 1:
        labels = "; ".join(row.label for row in found)
        raise UserError(f"{name} has several rows: {labels}", "compare", "name one of them")
    return found[0] if found else None


def _check_known(board: Leaderboard, name: str) -> None:
    labels = [row.label for group in board.groups for row in group.rows]
    methods = [row.records[0].method for group in board.groups for row in group.rows]
    ids = [record.id for group in board.groups for row in group.rows for record in row.records]
    if name in (*labels, *methods, *ids):
        return
    hint = near_match(name, labels)
    known = ", ".join(dict.fromkeys(labels)) or "none"
    raise UserError(
        f"there is no finished run of {name!r}" + (f"; {hint}" if hint else ""),
        "compare",
        f"choose one of: {known}",
    )


def _scores(row: Row, name: str) -> list[float]:
    """Values by seed; nothing where a run lacks them, or rates are of several sets of images."""
    if len(row.images_of(name)) > 1:
        return []
    if any(name not in record.metrics for record in row.records):
        return []
    return [float(record.metrics[name]) for record in row.records]


def _costs(row: Row, name: str) -> list[float]:
    values = [_cost(record, name) for record in row.records]
    return [] if any(value is None for value in values) else [v for v in values if v is not None]


def _cost(record: Record, name: str) -> float | None:
    value = getattr(record, name)
    return float(value) if value else None
