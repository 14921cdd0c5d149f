"""What the judgements of a study say, and what they are worth, as numbers."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mixbench.elicit.exclusions import doubtful
from mixbench.elicit.settings import MIDPOINT_TASKS, STARTS
from mixbench.stats.agreement import Agreement, band_over_people, one_way_icc
from mixbench.stats.intervals import summarize
from mixbench.stats.label_map import FittedMap, fit_label_map

SHRINKAGE = 20  # judgements at which half of the bias of a pair of classes is believed
_SURE = (0.2, 0.4, 0.6, 0.8)  # between the bins of confidence


@dataclass(frozen=True)
class Level:
    """Judgements of one weight, or of one level of confidence, with a 95 % band over people."""

    level: float
    count: int
    mean: float
    low: float
    high: float
    confidence: float = float("nan")


@dataclass(frozen=True)
class PairBias:
    """How much more of the one class people see beside the other than was mixed.

    In the task infer it is compared with the fitted map of all pairs, and not with the mixture.
    ``bias`` is the mean difference, with the ends of its 95 % t interval, None for one judgement;
    ``shrunk`` is drawn towards 0 the more, the fewer judgements there are.
    """

    first: str
    second: str
    count: int
    bias: float
    low: float | None
    high: float | None
    shrunk: float


@dataclass(frozen=True)
class Repeats:
    """Differences between a person's first and second judgement of the same thing.

    ``correlation`` is NaN where it is not defined.
    """

    count: int
    mean: float
    median: float
    correlation: float


@dataclass(frozen=True)
class StudyFindings:
    """All of it; what a task does not ask for is empty or None.

    Attributes:
        people: Sessions with a judgement.
        judgements: Judgements, repeats and checks among them.
        doubtful: Reasons by person; their judgements count for nothing below.
        used: Judgements that count, without repeats and checks.
        levels: By true weight: the weight that was seen, or in the task categorical the
            probability of the first class.
        label_map: Fitted to the judgements of the task infer.
        starts: Chosen weights by the weight at which a trial began, in the task construct.
        chosen: (N,) weights that were chosen as midpoints.
        repeats: None where nobody judged anything twice.
        agreement: Of people about the same stimulus.
        calibration: Mean distance from the true weight by level of confidence.
        sure_of_error: Correlation of confidence with that distance.
        sure_of_distance: Correlation of confidence with the distance of the weight from 1/2.
        covered: Share of the intervals that hold the true weight, and their mean width.
        endpoints: Mean probability of both classes that were mixed, in the task categorical.
        named: Share of judgements whose most probable class is one of them.
        pairs: Bias of each pair of classes.
        seconds: Median time of a judgement.
    """

    people: int
    judgements: int
    doubtful: dict[str, list[str]]
    used: int
    levels: list[Level]
    label_map: FittedMap | None
    starts: list[Level]
    chosen: np.ndarray
    repeats: Repeats | None
    agreement: Agreement
    calibration: list[Level]
    sure_of_error: float
    sure_of_distance: float
    covered: tuple[float, float] | None
    endpoints: float
    named: float
    pairs: list[PairBias]
    seconds: float


def findings(
    rows: Sequence[Mapping[str, Any]],
    stimuli: Mapping[str, Mapping[str, Any]],
    names: Sequence[str],
    task: str,
) -> StudyFindings:
    """What judgements say.

    Args:
        rows: As :meth:`mixbench.elicit.study.Study.judgements` returns them.
        stimuli: Facts of all stimuli.
        names: Names of the classes.
        task: Task of the study.

    Returns:
        The findings.
    """
    reasons = doubtful(rows, stimuli)
    kept = [row for row in rows if row["rater_id"] not in reasons and not row["is_check"]]
    once = [row for row in kept if not row["is_repeat"]]
    facts = [stimuli[row["stimulus_id"]] for row in once]
    person = _numbered(row["rater_id"] for row in once)
    seen = np.array([_weight(row, stimuli[row["stimulus_id"]]) for row in once])
    true = np.array([row["lam_true"] for row in once])
    sure = np.array([np.nan if row["confidence"] is None else row["confidence"] for row in once])
    error = np.abs(seen - true)
    infer, midpoints = task == "infer", task in MIDPOINT_TASKS
    bins = np.array([each["bin"] for each in facts])
    starts = np.array([row["start_value"] for row in once], dtype=float)
    fitted = fit_label_map(true, seen, sure) if infer and once else None
    return StudyFindings(
        people=len({row["rater_id"] for row in rows}),
        judgements=len(rows),
        doubtful=reasons,
        used=len(once),
        levels=[] if midpoints else _levels(person, bins, seen, sure),
        label_map=fitted,
        starts=_levels(person, starts, seen, sure) if task == "construct" else [],
        chosen=seen if midpoints else np.empty(0),
        repeats=_repeats(kept, stimuli),
        agreement=one_way_icc(_numbered(row["stimulus_id"] for row in once), seen),
        calibration=_calibration(person, sure, error) if infer else [],
        sure_of_error=_correlation(sure, error) if infer else np.nan,
        sure_of_distance=_correlation(sure, np.abs(true - 0.5)) if infer else np.nan,
        covered=_covered(once),
        **_endpoints(once, facts if task == "categorical" else []),
        pairs=_pair_biases(facts, _beyond(task, true, seen, fitted), names),
        seconds=float(np.median([row["rt_ms"] for row in once])) / 1000 if once else np.nan,
    )


def _weight(row: Mapping[str, Any], facts: Mapping[str, Any]) -> float:
    """The weight of the first image that a judgement says or implies."""
    if row["label_json"] is None:
        return row["lam_human"]
    shares = _shares(json.loads(row["label_json"]))
    both = [shares.get(facts[key], 0.0) for key in ("y1", "y2")]
    return both[0] / sum(both) if sum(both) else 0.5


def _shares(answer: Mapping[str, Any]) -> dict[int, float]:
    """Probabilities of the classes that a person named, with a sum of 1 at most."""
    found = {answer["first"]: answer["first_share"]}
    if answer["second"] is not None:
        found[answer["second"]] = answer["second_share"]
    total = max(1.0, sum(found.values()))
    return {name: share / total for name, share in found.items()}


def _numbered(names: Iterable[str]) -> np.ndarray:
    places: dict[str, int] = {}
    return np.array([places.setdefault(name, len(places)) for name in names], dtype=np.int64)


def _levels(
    person: np.ndarray, level: np.ndarray, value: np.ndarray, sure: np.ndarray
) -> list[Level]:
    if not len(value):
        return []
    known, place = np.unique(level, return_inverse=True)
    bands = zip(*band_over_people(person, place, value), strict=True)
    return [
        Level(
            float(weight),
            int((place == number).sum()),
            *(float(each) for each in band),
            confidence=float(sure[place == number].mean()),
        )
        for number, (weight, band) in enumerate(zip(known, bands, strict=True))
    ]


def _calibration(person: np.ndarray, sure: np.ndarray, error: np.ndarray) -> list[Level]:
    """Mean distance by fifths of confidence, at the mean confidence of each."""
    if not len(sure):
        return []
    place = np.searchsorted(_SURE, sure, side="right")
    found = _levels(person, place.astype(float), error, sure)
    return [Level(each.confidence, each.count, each.mean, each.low, each.high) for each in found]


def _repeats(
    rows: Iterable[Mapping[str, Any]], stimuli: Mapping[str, Mapping[str, Any]]
) -> Repeats | None:
    both: dict[tuple[str, str], list[float]] = {}
    for row in sorted(rows, key=lambda row: row["repeat_index"]):
        weight = _weight(row, stimuli[row["stimulus_id"]])
        both.setdefault((row["rater_id"], row["stimulus_id"]), []).append(weight)
    pairs = np.array([values[:2] for values in both.values() if len(values) > 1])
    if not len(pairs):
        return None
    gaps = np.abs(pairs[:, 0] - pairs[:, 1])
    linked = _correlation(pairs[:, 0], pairs[:, 1])
    return Repeats(len(pairs), float(gaps.mean()), float(np.median(gaps)), linked)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    if len(a) < 3 or a.std() == 0 or b.std() == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def _covered(rows: Iterable[Mapping[str, Any]]) -> tuple[float, float] | None:
    ends = np.array(
        [
            (row["lam_low"], row["lam_high"], row["lam_true"])
            for row in rows
            if row["lam_low"] is not None
        ]
    )
    if not len(ends):
        return None
    low, high, true = ends.T
    return float(((low <= true) & (true <= high)).mean()), float((high - low).mean())


def _endpoints(
    rows: Sequence[Mapping[str, Any]], facts: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    if not facts:
        return {"endpoints": float("nan"), "named": float("nan")}
    answers = [json.loads(row["label_json"]) for row in rows]
    pairs = list(zip(answers, facts, strict=True))
    inside = [sum(_shares(a).get(f[key], 0.0) for key in ("y1", "y2")) for a, f in pairs]
    named = [a["first"] in (f["y1"], f["y2"]) for a, f in pairs]
    return {"endpoints": float(np.mean(inside)), "named": float(np.mean(named))}


def _beyond(task: str, true: np.ndarray, seen: np.ndarray, fitted: FittedMap | None) -> np.ndarray:
    """How much more of the first image people see than others see of any image of its weight."""
    if fitted is not None:  # pairs were shown at different weights, which must not count as a bias
        return seen - np.interp(true, fitted.knots, fitted.rated)
    # Whoever needs more of a class to see half of it sees less of it.
    return true - seen if task in MIDPOINT_TASKS else seen - true


def _pair_biases(
    facts: Sequence[Mapping[str, Any]], difference: np.ndarray, names: Sequence[str]
) -> list[PairBias]:
    found: dict[tuple[int, int], list[float]] = {}
    for each, value in zip(facts, difference.tolist(), strict=True):
        swapped = each["y1"] > each["y2"]
        pair = (each["y2"], each["y1"]) if swapped else (each["y1"], each["y2"])
        found.setdefault(pair, []).append(-value if swapped else value)
    biases = []
    for (one, other), values in found.items():
        summary = summarize(values)
        shrunk = summary.mean * summary.n / (summary.n + SHRINKAGE)
        ends = (summary.low, summary.high)
        biases.append(PairBias(names[one], names[other], len(values), summary.mean, *ends, shrunk))
    return sorted(biases, key=lambda pair: -abs(pair.shrunk))


def start_gap(found: StudyFindings) -> float:
    """How much further from the first start people end who began at the second one.

    Args:
        found: StudyFindings of the task construct.

    Returns:
        The difference of the mean chosen weights; NaN where one start has no judgement.
    """
    means = {each.level: each.mean for each in found.starts}
    return means.get(STARTS[1], np.nan) - means.get(STARTS[0], np.nan)
