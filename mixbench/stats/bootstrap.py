"""Tests of two methods by seeds in pairs, by test images, and by both.

Intervals over seeds alone use Student's t (:func:`mixbench.stats.intervals.summarize`): a
percentile bootstrap of three seeds covers 76 % instead of 95 %.

``scipy.stats`` takes 0.7 s to load, so that it is loaded only where its function is called. Of its
tests two are not used. ``ttest_rel`` gives NaN for equal pairs and warns where pairs differ by a
constant, and both are answers here. ``permutation_test`` takes 9 s for the sign flips of 20 seeds,
which :func:`sign_flip` counts in 20 ms, and draws other flips for more of them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from mixbench.stats.dunnett import t_p
from mixbench.stats.intervals import LEVEL, t_quantile

RESAMPLES = 10_000
CORRELATED = 0.3  # least correlation of seeds that makes pairs worth their lost freedom
MIN_SIGN_FLIP = 9  # with fewer seeds no p is small enough to survive an adjustment
_EXACT = 20  # seeds up to which all sign flips are counted
_CHUNK = 1 << 21  # numbers drawn at a time


@dataclass(frozen=True)
class Paired:
    """Two methods on the same seeds.

    Attributes:
        correlation: Of the seeds; NaN with fewer than three, or where nothing varies.
        difference: Mean of b - a.
        sd: Sample deviation of the differences.
        low: End of the 95 % t interval of the difference; NaN unless ``used``.
        high: Its other end.
        p: Of the paired t test; NaN unless ``used``.
        sign_flip: p of the exact sign-flip test; NaN unless ``used`` and nine or more seeds.
        used: Whether the seeds correlate enough for a paired test.
    """

    correlation: float
    difference: float
    sd: float
    low: float
    high: float
    p: float
    sign_flip: float
    used: bool


@dataclass(frozen=True)
class Interval:
    """A difference b - a with its 95 % bootstrap interval."""

    difference: float
    low: float
    high: float


def seed_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Correlation of two methods over the same seeds.

    Args:
        a: Values of one method, by seed.
        b: Values of the other, in the same order.

    Returns:
        Pearson's r; NaN with fewer than three seeds or where a method does not vary.
    """
    x, y = _pair(a, b)
    x, y = x - x.mean(), y - y.mean()
    scale = math.sqrt(float((x * x).sum() * (y * y).sum()))
    return float((x * y).sum()) / scale if len(x) > 2 and scale > 0 else math.nan


def paired_t(a: Sequence[float], b: Sequence[float]) -> Paired:
    """Paired t test whatever the correlation; see :func:`paired` for what a table should show.

    Args:
        a: Values of one method, by seed.
        b: Values of the other, in the same order.

    Returns:
        The test, with ``used`` set.

    Raises:
        ValueError: If there are fewer than two pairs, or the lengths differ.
    """
    x, y = _pair(a, b)
    n, differences = len(x), y - x
    mean, sd = float(differences.mean()), float(differences.std(ddof=1))
    half = t_quantile(n - 1) * sd / math.sqrt(n)
    score = mean / (sd / math.sqrt(n)) if sd else math.copysign(math.inf, mean) if mean else 0.0
    return Paired(
        correlation=seed_correlation(a, b),
        difference=mean,
        sd=sd,
        low=mean - half,
        high=mean + half,
        p=t_p(score, n - 1),
        sign_flip=sign_flip(list(differences)) if n >= MIN_SIGN_FLIP else math.nan,
        used=True,
    )


def paired(a: Sequence[float], b: Sequence[float]) -> Paired:
    """Paired test where the seeds of two methods correlate above 0.3, else only the correlation.

    Args:
        a: Values of one method, by seed.
        b: Values of the other, in the same order.

    Returns:
        The test, or NaN in its place.

    Raises:
        ValueError: As :func:`paired_t`.
    """
    test = paired_t(a, b)
    if test.correlation > CORRELATED:
        return test
    nothing = math.nan
    return Paired(
        test.correlation, test.difference, test.sd, nothing, nothing, nothing, nothing, False
    )


def sign_flip(differences: Sequence[float], *, draws: int = 100_000, seed: int = 0) -> float:
    """Permutation test that flips the signs of paired differences.

    Args:
        differences: One per seed.
        draws: Random flips where there are more than 20 differences; all of them otherwise.
        seed: Seed of the flips.

    Returns:
        Two-sided p; with n differences it is at least 2 ** (1 - n).
    """
    values = np.asarray(differences, dtype=float)
    n = len(values)
    # A sum that differs by rounding only must count as equal.
    limit = abs(values.sum()) - 1e-12 * abs(values).sum()
    if n <= _EXACT:
        sums = np.zeros(1)
        for value in values:
            sums = np.concatenate([sums - value, sums + value])
        return float((abs(sums) >= limit).mean())
    rng = np.random.default_rng(seed)
    hits, done = 0, 0
    while done < draws:
        count = min(draws - done, max(1, _CHUNK // n))
        signs = rng.integers(0, 2, (count, n)) * 2 - 1
        hits += int((abs(signs @ values) >= limit).sum())
        done += count
    return (hits + 1) / (draws + 1)


def mcnemar(correct_a: ArrayLike, correct_b: ArrayLike) -> float:
    """Exact McNemar test of two single models on the same images.

    It covers the noise of the test set, not that of training.

    Args:
        correct_a: (N,) whether one model is right on each image.
        correct_b: (N,) the same of the other.

    Returns:
        Two-sided p; 1 where the models never disagree.

    Raises:
        ValueError: If the lengths differ.
    """
    from scipy.stats import binomtest

    a, b = _pair(correct_a, correct_b)
    only_a, only_b = int(((a > 0) & (b == 0)).sum()), int(((b > 0) & (a == 0)).sum())
    discordant = only_a + only_b
    return float(binomtest(only_a, discordant).pvalue) if discordant else 1.0


def bootstrap_images(
    a: ArrayLike,
    b: ArrayLike,
    *,
    rows: ArrayLike | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Percentile interval of the mean difference over test images, both models on the same ones.

    It covers the noise of the test set, not that of training.

    Args:
        a: (N,) score of one model on each image, such as whether it is right.
        b: (N,) the same of the other.
        rows: (R, N) images of each resample; drawn if None.
        resamples: Number of resamples that are drawn.
        seed: Seed of the draws.

    Returns:
        Mean of b - a and its interval.

    Raises:
        ValueError: If the lengths differ or there are fewer than two images.
    """
    x, y = _pair(a, b)
    difference = y - x
    if rows is not None:
        return _percentiles(difference.mean(), difference[np.asarray(rows)].mean(axis=1))
    # Only how often each value comes matters, and whether two models are right takes three.
    values, counts = np.unique(difference, return_counts=True)
    rng, n = np.random.default_rng(seed), len(difference)
    if len(values) <= 64:
        drawn = rng.multinomial(n, counts / n, size=resamples)
        return _percentiles(difference.mean(), drawn @ values / n)
    means = [
        difference[rng.integers(0, n, (count, n))].mean(axis=1) for count in _chunks(resamples, n)
    ]
    return _percentiles(difference.mean(), np.concatenate(means))


def bootstrap_both(
    a: ArrayLike, b: ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Percentile interval of the mean difference on new images and new seeds.

    Seeds are drawn for each method by itself, images for both together. With few seeds the
    interval is too narrow, as every bootstrap of few values; it stands beside the default test and
    does not replace it.

    Args:
        a: (S, N) score of each seed's model on each image.
        b: (T, N) the same of the other method.
        resamples: Number of resamples.
        seed: Seed of the draws.

    Returns:
        Mean of b - a and its interval.

    Raises:
        ValueError: If the arrays are not two-dimensional over the same images.
    """
    x, y = (np.atleast_2d(np.asarray(value, dtype=float)) for value in (a, b))
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or not x.size or not y.size:
        raise ValueError(
            f"scores must be (seeds, images) on the same images, got {x.shape} and {y.shape}"
        )
    rng, n = np.random.default_rng(seed), x.shape[1]
    both, found = np.concatenate([x, y]), []
    for count in _chunks(resamples, n):
        drawn = rng.integers(0, n, (count, n))
        drawn += n * np.arange(count)[:, None]
        images = np.bincount(drawn.ravel(), minlength=count * n).reshape(count, n) / n
        means = images @ both.T
        seeds_x, seeds_y = (
            rng.multinomial(len(z), np.full(len(z), 1 / len(z)), size=count) / len(z)
            for z in (x, y)
        )
        of_x, of_y = means[:, : len(x)], means[:, len(x) :]
        found.append((seeds_y * of_y).sum(axis=1) - (seeds_x * of_x).sum(axis=1))
    return _percentiles(y.mean() - x.mean(), np.concatenate(found))


def _pair(a: ArrayLike, b: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if x.shape != y.shape or x.ndim != 1 or len(x) < 2:
        raise ValueError(
            f"pairs need two lists of one length, 2 or more, got {x.shape} and {y.shape}"
        )
    return x, y


def _chunks(resamples: int, n: int) -> list[int]:
    size = max(1, _CHUNK // n)
    return [min(size, resamples - start) for start in range(0, resamples, size)]


def _percentiles(difference: float, drawn: np.ndarray) -> Interval:
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(drawn, [tail, 100 - tail])
    return Interval(float(difference), float(low), float(high))
