"""Agreement of people who judge the same things, and bands over people."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from mixbench.stats.intervals import LEVEL


@dataclass(frozen=True)
class Agreement:
    """Intraclass correlation of judgements, one-way random effects.

    Attributes:
        single: Of one judgement, ICC(1): the share of the variance that is due to what is judged.
        mean: Of the mean of as many judgements as there are on average.
        items: Things with two judgements or more, which alone count.
        judgements: Judgements of these.
    """

    single: float
    mean: float
    items: int
    judgements: int


def one_way_icc(item: ArrayLike, value: ArrayLike) -> Agreement:
    """Agreement where each thing may have been judged by other people and by another number.

    Shrout and Fleiss, "Intraclass correlations", Psychological Bulletin 1979, case 1; the mean
    number of judgements for unequal numbers as in Donner, International Statistical Review 1986.

    Args:
        item: (N,) which thing each judgement is of.
        value: (N,) the judgements.

    Returns:
        The agreement; NaN with fewer than two things that have two judgements.

    Raises:
        ValueError: If the lengths differ.
    """
    things, values = np.asarray(item), np.asarray(value, dtype=float)
    if things.shape != values.shape or things.ndim != 1:
        raise ValueError(f"each judgement needs its thing, got {things.shape} and {values.shape}")
    _, place = np.unique(things, return_inverse=True)
    several = np.bincount(place)[place] > 1
    _, place = np.unique(place[several], return_inverse=True)
    values = values[several]
    counts = np.bincount(place)
    total, items = int(counts.sum()), len(counts)
    if items < 2:
        return Agreement(np.nan, np.nan, items, total)
    means = np.bincount(place, values) / counts
    between = float((counts * (means - values.mean()) ** 2).sum()) / (items - 1)
    within = float(((values - means[place]) ** 2).sum()) / (total - items)
    usual = (total - float((counts**2).sum()) / total) / (items - 1)
    spread = between + (usual - 1) * within
    if spread <= 0:
        return Agreement(np.nan, np.nan, items, total)
    single = (between - within) / spread
    mean = (between - within) / between if between > 0 else np.nan
    return Agreement(float(single), float(mean), items, total)


def band_over_people(
    person: ArrayLike, group: ArrayLike, value: ArrayLike, *, resamples: int = 2000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean of each group with a percentile bootstrap interval over people.

    A person's judgements depend on each other, so that people are drawn and not judgements.

    Args:
        person: (N,) int who judged, counted from 0.
        group: (N,) int group of each judgement, counted from 0.
        value: (N,) the judgements.
        resamples: Number of resamples.
        seed: Seed of the draws.

    Returns:
        Means, lower and upper ends (G,); NaN ends where the group has fewer than two people.

    Raises:
        ValueError: If the lengths differ.
    """
    who, which = np.asarray(person, dtype=np.int64), np.asarray(group, dtype=np.int64)
    values = np.asarray(value, dtype=float)
    if not who.shape == which.shape == values.shape or who.ndim != 1:
        shapes = f"{who.shape}, {which.shape} and {values.shape}"
        raise ValueError(f"each judgement needs its person and its group, got {shapes}")
    people, groups = int(who.max(initial=-1)) + 1, int(which.max(initial=-1)) + 1
    sums, counts = np.zeros((people, groups)), np.zeros((people, groups))
    np.add.at(sums, (who, which), values)
    np.add.at(counts, (who, which), 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = sums.sum(axis=0) / counts.sum(axis=0)
        if people < 2:
            return means, np.full(groups, np.nan), np.full(groups, np.nan)
        rng = np.random.default_rng(seed)
        drawn = rng.multinomial(people, np.full(people, 1 / people), size=resamples)
        found = (drawn @ sums) / (drawn @ counts)
    tail = 50 * (1 - LEVEL)
    low, high = np.nanpercentile(found, [tail, 100 - tail], axis=0)
    few = (counts > 0).sum(axis=0) < 2
    return means, np.where(few, np.nan, low), np.where(few, np.nan, high)
