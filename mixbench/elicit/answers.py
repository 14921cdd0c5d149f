"""Answers as a browser sends them, checked before they count as judgements."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mixbench.elicit.settings import WEIGHT_STEPS, StudySettings

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[1-8][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
MOST_MOVES = 10_000
MOST_MS = 24 * 3600 * 1000


class RefusedError(Exception):
    """A request that is not carried out; ``status`` is that of HTTP."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


class Judgement(NamedTuple):
    """What a person has said of one stimulus; None where the task does not ask for it.

    ``lam_human``, ``lam_low`` and ``lam_high`` are weights of the first image and ``confidence`` a
    share, all in [0, 1]; ``label`` is the answer of the categorical task.
    """

    lam_human: float | None = None
    confidence: float | None = None
    lam_low: float | None = None
    lam_high: float | None = None
    n_moves: int | None = None
    label: dict[str, Any] | None = None


def checked_uuid(value: Any) -> str:
    """The UUID that a browser has given an answer.

    Args:
        value: What it sent.

    Returns:
        The UUID.

    Raises:
        RefusedError: If it is none.
    """
    if not isinstance(value, str) or not _UUID.fullmatch(value):
        raise RefusedError(400, "The answer has no proper id.")
    return value


def judged(
    settings: StudySettings,
    classes: int,
    given: Mapping[str, Any],
    start: float | None = None,
    order: Sequence[int] = (),
) -> Judgement:
    """The judgement that an answer gives.

    Args:
        settings: Of the study.
        classes: Number of its classes.
        given: What a browser sent.
        start: Weight at which the trial began, in the task ``construct``.
        order: Steps of the tiles in the order in which they were shown, in the task ``select``.

    Returns:
        The judgement.

    Raises:
        RefusedError: If a part is missing, unknown, or impossible.
    """
    keys = _KEYS[settings.task] | ({"low", "high"} if settings.interval else set())
    if given.keys() != keys:
        raise RefusedError(400, "The answer is not one of this task.")
    if settings.task == "infer":
        return _inferred(given)
    if settings.task == "construct":
        assert start is not None
        return _constructed(given, start)
    if settings.task == "select":
        place = _whole(given["tile"], len(order) - 1)
        return Judgement(lam_human=order[place] / (WEIGHT_STEPS - 1))
    return _categorical(given, classes)


_KEYS = {
    "infer": {"slider", "confidence"},
    "construct": {"step", "moves"},
    "select": {"tile"},
    "categorical": {"first", "first_share", "second", "second_share", "impossible"},
}


def _inferred(given: Mapping[str, Any]) -> Judgement:
    # The slider runs from all of the first image at 0 to all of the second at 100.
    weight, sure = 1 - _percent(given["slider"]), _percent(given["confidence"])
    if "low" not in given:
        return Judgement(_share(weight), sure)
    low, high = sorted(_share(1 - _percent(given[key])) for key in ("low", "high"))
    if not low <= _share(weight) <= high:
        raise RefusedError(400, "The weight lies outside of its own interval.")
    return Judgement(_share(weight), sure, low, high)


def _constructed(given: Mapping[str, Any], start: float) -> Judgement:
    step, moves = _whole(given["step"], WEIGHT_STEPS - 1), _whole(given["moves"], MOST_MOVES)
    way = abs(step - round(start * (WEIGHT_STEPS - 1)))
    if moves < max(1, way) or (moves - way) % 2:
        raise RefusedError(400, "The number of moves does not fit the chosen image.")
    return Judgement(lam_human=step / (WEIGHT_STEPS - 1), n_moves=moves)


def _categorical(given: Mapping[str, Any], classes: int) -> Judgement:
    first, share = _whole(given["first"], classes - 1), _percent(given["first_share"])
    second, second_share = given["second"], given["second_share"]
    if (second is None) != (second_share is None):
        raise RefusedError(400, "A second class needs its probability, and no class none.")
    named = {first}
    if second is not None:
        second, second_share = _whole(second, classes - 1), _percent(second_share)
        if second == first:
            raise RefusedError(400, "Both classes are the same.")
        named.add(second)
    ruled_out = given["impossible"]
    if not isinstance(ruled_out, list) or len(ruled_out) > classes:
        raise RefusedError(400, "The impossible classes are not a list.")
    ruled_out = sorted({_whole(each, classes - 1) for each in ruled_out})
    if named & set(ruled_out):
        raise RefusedError(400, "A class is both named and impossible.")
    if share + (second_share or 0) == 0:
        raise RefusedError(400, "A class that is named needs a probability above 0.")
    return Judgement(
        label={
            "first": first,
            "first_share": share,
            "second": second,
            "second_share": second_share,
            "impossible": ruled_out,
        }
    )


def checked_time(value: Any) -> int:
    """Milliseconds that a browser says a trial took.

    Args:
        value: What it sent.

    Returns:
        The time.

    Raises:
        RefusedError: If it is no time, or more than a day.
    """
    return _whole(value, MOST_MS)


def _percent(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RefusedError(400, "A percentage is not a number.")
    if not math.isfinite(value) or not 0 <= value <= 100:
        raise RefusedError(400, "A percentage is not between 0 and 100.")
    return value / 100


def _share(value: float) -> float:
    """A share without the last digits, as 1 - 0.9 is not 0.1 in binary."""
    return round(value, 9)


def _whole(value: Any, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise RefusedError(400, "A number is not one of the possible ones.")
    return value
