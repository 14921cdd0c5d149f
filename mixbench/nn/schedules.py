"""Values by step of a run: the decay of averages, and the weight of mask losses."""

import itertools
import math
import operator
from functools import lru_cache

ANNEALING = ("constant", "cosine", "official")


def warm_decay(decay: float, updates: int) -> float:
    """Decay of an average that starts from random weights: short memory first.

    Args:
        decay: Decay in the long run.
        updates: Updates done so far.

    Returns:
        ``min(decay, (1 + updates) / (10 + updates))``, the rule of TensorFlow's
        ExponentialMovingAverage.
    """
    return min(decay, (1 + updates) / (10 + updates))


def cosine_decay(step: int, total_steps: int, start: float, end: float, hold: float) -> float:
    """Decay of the teacher of AutoMix and SAMix: constant at first, then on a cosine.

    The cosine counts from step 0 in the official code, not from where it begins to apply, hence a
    small jump.

    Args:
        step: Steps done before this one.
        total_steps: Steps of the whole run.
        start: Decay of the first steps.
        end: Decay at the end.
        hold: Share of the run with the first decay.

    Returns:
        Share of the old average that an update keeps.

    Note:
        In float32 an average stands still near 1: with 0.999999 a weight near 1 never moves, and
        with 0.99999 hardly. It is kept for parity.
    """
    if step < hold * total_steps:
        return start
    return end - (end - start) * (1 + math.cos(math.pi * step / total_steps)) / 2


def anneal(step: int, total_steps: int, rule: str) -> float:
    """Factor on the weight of a loss.

    Args:
        step: Steps done before this one.
        total_steps: Steps of the whole run.
        rule: ``constant``; ``cosine`` from 1 to 0; or ``official``, where that cosine multiplies
            the value of the step before, so that 100 epochs of ImageNet have lost half after one
            and everything after three.

    Returns:
        The factor, in [0, 1].

    Raises:
        ValueError: If the rule is unknown.
    """
    if rule not in ANNEALING:
        raise ValueError(f"annealing must be one of {', '.join(ANNEALING)}, got {rule!r}")
    if rule == "constant":
        return 1.0
    step = min(step, total_steps)
    return _cosine(step, total_steps) if rule == "cosine" else _product(total_steps)[step]


def _cosine(step: int, total_steps: int) -> float:
    return (1 + math.cos(math.pi * step / total_steps)) / 2


@lru_cache(maxsize=4)
def _product(total_steps: int) -> list[float]:
    factors = (_cosine(step, total_steps) for step in range(total_steps + 1))
    return list(itertools.accumulate(factors, operator.mul))
