"""Verdicts: the answer of a table in words, from its default test."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mixbench.errors import counted
from mixbench.leaderboard.columns import describe
from mixbench.leaderboard.evidence import BASELINE, Evidence
from mixbench.leaderboard.text import TOO_FEW, interval
from mixbench.stats.dunnett import MOST_SEEDS, Contrast, seeds_to_detect
from mixbench.stats.intervals import Summary

OUTCOMES = (
    "winner",
    "tie",
    "none better",
    "too few seeds",
    "no spread",
    "smoke test",
    "one method",
    "no score",
)
NAMED = 4  # methods that a sentence names, beyond which it counts them
LISTED = 8  # seeds that a command lists one by one


@dataclass(frozen=True)
class Verdict:
    """The answer of a table.

    Attributes:
        outcome: One of :data:`OUTCOMES`.
        text: The answer in one or two sentences.
        best: Label of the row that wins; empty where none does.
        seeds: Seeds of each method that would settle what is open; None where nothing is, or no
            number that can be carried out would.
    """

    outcome: str
    text: str
    best: str = ""
    seeds: int | None = None


def decide(
    evidence: Evidence, rows: Mapping[str, Summary], score: str, *, smoke_test: bool = False
) -> Verdict:
    """The verdict of a table.

    Args:
        evidence: Its default test.
        rows: Mean of the score by row, with the number of seeds.
        score: Name of the score that rows are ranked by.
        smoke_test: Whether the data is too easy to rank methods on.

    Returns:
        The verdict.
    """
    finite = {label: found for label, found in rows.items() if math.isfinite(found.mean)}
    if not finite:
        return Verdict("no score", f"No verdict: no run of this table has a finite {score}.")
    if smoke_test:
        text = "No verdict: this data is a smoke test, too small and easy to rank methods on."
        return Verdict("smoke test", text)
    top = max(finite, key=lambda label: finite[label].mean)
    if len(finite) == 1:
        only = "here" if len(rows) == 1 else f"with a finite mean of {score}"
        text = (
            f"No verdict: {plain(top)} is the only method {only}, and there is nothing to compare."
        )
        return Verdict("one method", text)
    if evidence.flat:
        text = f"No verdict: the seeds of no method differ in {score}, and without their spread "
        return Verdict("no spread", f"{text}no difference can be tested.")
    if not evidence.contrasts:
        return _untested(finite, score, top)
    tested = {evidence.reference, *evidence.contrasts}
    told = {BASELINE} if evidence.reference != BASELINE else set()
    lacking = sorted(rows.keys() - tested - told)
    found = _tested(evidence, finite, score, complete=rows.keys() == tested)
    if lacking:
        verb = "is" if len(lacking) == 1 else "are"
        text = (
            f"{found.text} {_names(lacking)} {verb} not tested, without two seeds that are finite."
        )
        found = replace(found, text=text)
    if lost := evidence.diverged.get(found.best):
        verb = "is" if lost == 1 else "are"
        text = f"{counted(lost, 'run')} of {found.best} diverged and {verb} in no mean."
        found = replace(found, text=f"{found.text} {text}")
    return found


def decide_pair(
    mine: str,
    other: str,
    contrast: Contrast,
    counts: tuple[int, int],
    sd: float,
    score: str,
) -> Verdict:
    """The verdict on two rows.

    Args:
        mine: Label of the first.
        other: Label of the second.
        contrast: The first against the second.
        counts: Seeds of both.
        sd: Deviation over seeds that all rows of their table share.
        score: What they are compared by.

    Returns:
        The verdict.
    """
    few, many = sorted(counts)
    seeds = counted(few, "seed") if few == many else f"{few} and {many} seeds"
    difference = _points(contrast.difference, score)
    if few == 1:  # the pooled deviation knows nothing of a row without one of its own
        text = f"{mine} against {other}: {difference}. One seed of a row supports no claim about it"
        return Verdict("too few seeds", f"{text}; train two or more of each.", seeds=2)
    told = f"{_interval(contrast, score)}, {p_text(contrast.p)}, {seeds}"
    if contrast.separated:
        word = "better" if contrast.difference > 0 else "worse"
        best = mine if contrast.difference > 0 else other
        return Verdict("winner", f"{mine} is {word} than {other}: {difference} ({told}).", best)
    text = f"{mine} and {other} are not distinguishable, but need not be equal: {difference} "
    wanted = seeds_to_detect(contrast.difference, sd, 2)
    settle = ""
    if wanted is not None:
        wanted = max(wanted, few + 1)
        settle = f" About {wanted} seeds would settle a difference of this size."
    return Verdict("tie", f"{text}({told}).{settle}", seeds=wanted)


def plain(label: str) -> str:
    """A label as a sentence names it: the baseline as plain training."""
    return f"plain training ({label})" if label == BASELINE else label


def seeds_text(seeds: int) -> str:
    """The override that asks for a number of seeds, such as ``seeds=0,1,2``.

    Args:
        seeds: How many.

    Returns:
        The override; from nine on as a range.
    """
    if seeds <= LISTED:
        return f"seeds={','.join(map(str, range(seeds)))}"
    return f"seeds=0..{seeds - 1}"


def p_text(p: float) -> str:
    """A p value as sentences show it."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def _tested(
    evidence: Evidence, finite: Mapping[str, Summary], score: str, complete: bool
) -> Verdict:
    """The verdict on rows that were tested, which are all of the table if it is complete."""
    if evidence.reference != BASELINE:
        return _without_baseline(evidence, finite, score)
    top = max(evidence.contrasts, key=lambda label: evidence.contrasts[label].difference)
    contrast = evidence.contrasts[top]
    if contrast.difference <= 0:
        return _none_better(evidence, complete)
    if not contrast.separated:
        return _tie(evidence, finite, score, top, contrast)
    equals = [label for label in _others(evidence.best, top, finite) if label != BASELINE]
    return Verdict(
        "winner",
        f"{top} is best: {_points(contrast.difference, score)} over plain training "
        f"({_evidence(contrast, finite[top], finite[BASELINE], score)}); "
        f"{_behind(equals, complete)}.",
        top,
    )


def _untested(finite: Mapping[str, Summary], score: str, top: str) -> Verdict:
    """Nothing was tested, as fewer than two rows have two seeds."""
    others = [label for label in finite if label != top]
    other = BASELINE if BASELINE in others else max(others, key=lambda label: finite[label].mean)
    lead = finite[top].mean - finite[other].mean
    ahead = f"{plain(top)} is ahead of {plain(other)} by {_points(lead, score, sign=False)}"
    if not lead:
        ahead = f"{plain(top)} and {plain(other)} have the same {score}"
    text = f"No winner at one seed: {ahead}, and one seed cannot tell that from chance"
    return Verdict("too few seeds", f"{text}; {_command(3)} gives a first answer.", seeds=3)


def _without_baseline(evidence: Evidence, finite: Mapping[str, Summary], score: str) -> Verdict:
    """The reference is the best row itself, as plain training is not there or has one seed."""
    top = evidence.reference
    equals = _others(evidence.best, top, finite)
    lacking = f"Plain training ({BASELINE}) is not among the rows with two seeds or more."
    if equals:
        second = max(equals, key=lambda label: finite[label].mean)
        contrast = evidence.contrasts[second]
        return _tie(evidence, finite, score, top, contrast, second, lacking)
    second = max(evidence.contrasts, key=lambda label: evidence.contrasts[label].difference)
    contrast = evidence.contrasts[second]
    ahead = Contrast(-contrast.difference, -contrast.high, -contrast.low, contrast.p, contrast.mdd)
    return Verdict(
        "winner",
        f"{top} is best: {_points(ahead.difference, score)} over {second}, the next "
        f"({_evidence(ahead, finite[top], finite[second], score)}). {lacking}",
        top,
    )


def _none_better(evidence: Evidence, complete: bool) -> Verdict:
    worse = [
        label
        for label, contrast in evidence.contrasts.items()
        if contrast.separated and contrast.difference < 0
    ]
    same = [label for label in evidence.contrasts if label not in worse]
    parts = []
    if same:
        verb = "is" if len(same) == 1 else "are"
        parts.append(f"{_names(same)} {verb} not distinguishable from it")
    if worse:
        parts.append(f"{_names(worse)} {'is' if len(worse) == 1 else 'are'} worse")
    methods = "method" if complete else "method that was tested"
    return Verdict("none better", f"No {methods} beats plain training here: {'; '.join(parts)}.")


def _tie(
    evidence: Evidence,
    finite: Mapping[str, Summary],
    score: str,
    top: str,
    contrast: Contrast,
    other: str = BASELINE,
    more: str = "",
) -> Verdict:
    """The best mean is ahead, and the test does not separate it."""
    lead = abs(contrast.difference)
    n = min(finite[label].n for label in (top, other))
    ahead = f"{top} is ahead of {plain(other)} by {_points(lead, score, sign=False)}"
    if not lead:
        ahead = f"{top} and {plain(other)} have the same {score}"
    text = f"No winner at {counted(n, 'seed')}: {ahead}, {p_text(contrast.p)}"
    wanted = seeds_to_detect(lead, evidence.sd, 1 + len(evidence.contrasts))
    if wanted is None:
        settle = f"even {MOST_SEEDS:,} seeds would not settle a difference of this size"
    elif wanted <= n:  # found with 80 % power at most, and was not
        wanted = n + 1
        settle = f"one more seed may settle a difference of this size: {_command(wanted)}"
    else:
        settle = f"about {wanted} seeds would settle a difference of this size: {_command(wanted)}"
    return Verdict("tie", f"{text}; {settle}. {more}".strip(), seeds=wanted)


def _evidence(contrast: Contrast, one: Summary, other: Summary, score: str) -> str:
    few, many = sorted((one.n, other.n))
    seeds = counted(few, "seed") if few == many else f"{few} and {many} seeds"
    return f"{_interval(contrast, score)}, {p_text(contrast.p)}, {seeds}"


def _interval(contrast: Contrast, score: str) -> str:
    """The interval of a difference, on the scale of the score as in tables."""
    shown = interval(contrast.low, contrast.high, score, sign=True)
    if shown == TOO_FEW:
        return "too few seeds for a 95 % interval"
    return f"95 % interval {shown.replace('+', '')}"


def _behind(equals: Sequence[str], complete: bool) -> str:
    if not equals:
        return f"all other methods {'' if complete else 'that were tested '}are behind it"
    verb = "is" if len(equals) == 1 else "are"
    return f"{_names(equals)} {verb} not distinguishable from it"


def _others(labels: set[str], top: str, finite: Mapping[str, Summary]) -> list[str]:
    """Other labels, the best mean first."""
    return sorted(labels & finite.keys() - {top}, key=lambda label: -finite[label].mean)


def _names(labels: Sequence[str]) -> str:
    shown = [plain(label) for label in labels]
    if len(shown) > NAMED:
        shown = [*shown[: NAMED - 1], f"{len(shown) - NAMED + 1} others"]
    *first, last = shown
    return f"{', '.join(first)} and {last}" if first else last


def _points(value: float, score: str, sign: bool = True) -> str:
    column = describe(score)
    unit = "points" if column.unit == "%" else column.unit or score
    return f"{column.text(value, sign=sign)} {unit}"


def _command(seeds: int) -> str:
    return f"`mixbench bench ... {seeds_text(seeds)}`"
