"""Dunnett's test: one test for a whole table of the methods that differ from a reference.

The seeds of all methods share one residual variance, which gives M(n-1) degrees of freedom where a
test of two methods alone would have few: with three seeds and twelve methods a true difference of
0.5 at a deviation of 0.15 is found in most tables, and in few by paired tests.

Dunnett's probability is a quadrature of ours, not ``scipy.stats.dunnett``: that one draws random
numbers, so that a table would change from one call to the next, it gives no critical value without
data, and ``scipy.stats`` takes 0.7 s to load, which every leaderboard would wait for. For the same
reason the other quantiles and tests here call ``scipy.special``.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np

from mixbench.stats.intervals import t_quantile

LEVEL = 0.95
POWER = 0.8
ADJUSTMENTS = ("dunnett", "holm")
MOST_SEEDS = 1000  # beyond which a difference counts as one that no bench finds


@dataclass(frozen=True)
class Pooled:
    """Means over seeds, and the deviation that all methods share.

    Attributes:
        means: Mean of each method.
        counts: Seeds of each method that are finite.
        excluded: Seeds of each method that are not, where there are any.
        sd: Residual deviation over all methods; NaN without two seeds of any method.
        df: Its degrees of freedom.
        levene: p of the hypothesis that all methods have the same variance; NaN for one method.
    """

    means: dict[str, float]
    counts: dict[str, int]
    excluded: dict[str, int]
    sd: float
    df: int
    levene: float

    def error(self, a: str, b: str) -> float:
        """Standard error of the difference of two methods' means."""
        return self.sd * math.sqrt(1 / self.counts[a] + 1 / self.counts[b])


@dataclass(frozen=True)
class Contrast:
    """A method against the reference; positive where the method's mean is larger."""

    difference: float
    low: float  # simultaneous interval
    high: float
    p: float  # adjusted for all comparisons of the table
    mdd: float  # smallest true difference that would be found with 80 % power

    @property
    def separated(self) -> bool:
        """Whether the seeds support that the two differ."""
        return self.p < 1 - LEVEL


@dataclass(frozen=True)
class Table:
    """All contrasts with one reference.

    Attributes:
        reference: The method that all others are compared with.
        adjustment: ``dunnett`` or ``holm``.
        pooled: Means, counts and the common deviation.
        contrasts: By method, without the reference.
        mdd: The largest of their minimal detectable differences; NaN without a contrast.
    """

    reference: str
    adjustment: str
    pooled: Pooled
    contrasts: dict[str, Contrast] = field(default_factory=dict)
    mdd: float = math.nan


def pool(seeds: Mapping[str, Sequence[float]]) -> Pooled:
    """Means and residual deviation of a table.

    Args:
        seeds: Values of each method, one per seed; runs that diverged are not finite.

    Returns:
        The summary; a method without a finite value is in no field but ``excluded``.
    """
    kept = {name: [v for v in values if math.isfinite(v)] for name, values in seeds.items()}
    excluded = {n: len(seeds[n]) - len(v) for n, v in kept.items() if len(v) < len(seeds[n])}
    kept = {name: values for name, values in kept.items() if values}
    means = {name: math.fsum(values) / len(values) for name, values in kept.items()}
    counts = {name: len(values) for name, values in kept.items()}
    df = sum(counts.values()) - len(counts)
    squares = math.fsum((v - means[name]) ** 2 for name, values in kept.items() for v in values)
    sd = math.sqrt(squares / df) if df else math.nan
    return Pooled(means, counts, excluded, sd, df, levene(list(kept.values())))


def compare_with(
    seeds: Mapping[str, Sequence[float]], reference: str, adjustment: str = "dunnett"
) -> Table:
    """Compare every method of a table with a reference: the default test.

    Args:
        seeds: Values of each method, one per seed; those that are not finite are left out.
        reference: One of the methods.
        adjustment: For several comparisons: ``dunnett``, which knows that all of them share the
            reference, or ``holm``. Holm's intervals are Bonferroni's.

    Returns:
        The contrasts; none if no method has two seeds.

    Raises:
        ValueError: If the reference has no finite value, or the adjustment is unknown.
    """
    if adjustment not in ADJUSTMENTS:
        raise ValueError(f"adjustment must be one of {', '.join(ADJUSTMENTS)}, got {adjustment!r}")
    pooled = pool(seeds)
    if reference not in pooled.means:
        known = ", ".join(pooled.means) or "none"
        raise ValueError(f"reference {reference!r} has no finite result; methods with one: {known}")
    others = [name for name in pooled.means if name != reference]
    if not others or pooled.df < 1:
        return Table(reference, adjustment, pooled)
    sizes = tuple(pooled.counts[name] for name in others)
    if adjustment == "dunnett":
        loads = _loads(sizes, pooled.counts[reference])
        critical = dunnett_critical(loads, pooled.df)
    else:
        loads, critical = (), t_quantile(pooled.df, 1 - (1 - LEVEL) / len(others))
    differences = {name: pooled.means[name] - pooled.means[reference] for name in others}
    errors = {name: pooled.error(name, reference) for name in others}
    scores = {name: _ratio(abs(differences[name]), errors[name]) for name in others}
    if adjustment == "dunnett":
        adjusted = [max(0.0, 1 - dunnett_cdf(scores[name], loads, pooled.df)) for name in others]
    else:
        adjusted = holm([t_p(scores[name], pooled.df) for name in others])
    factor = detectable(critical, pooled.df)
    contrasts = {
        name: Contrast(
            difference=differences[name],
            low=differences[name] - critical * errors[name],
            high=differences[name] + critical * errors[name],
            p=p,
            mdd=factor * errors[name],
        )
        for name, p in zip(others, adjusted, strict=True)
    }
    mdd = max(contrast.mdd for contrast in contrasts.values())
    return Table(reference, adjustment, pooled, contrasts, mdd)


def seeds_to_detect(
    difference: float, sd: float, methods: int, most: int = MOST_SEEDS
) -> int | None:
    """Seeds of each method from which on the default test finds a true difference.

    Args:
        difference: The true difference of a method from the reference.
        sd: Deviation over seeds that all methods share.
        methods: Number of methods, the reference included.
        most: Largest number to try.

    Returns:
        The smallest number of seeds of which the power is 80 %; None if there is none up to
        ``most``, or the difference is 0 or not finite.
    """
    ratio = abs(difference) / sd if sd > 0 else math.nan
    if not math.isfinite(ratio) or ratio == 0:
        return None

    def found(n: int) -> bool:
        df = methods * (n - 1)
        critical = dunnett_critical(_loads((n,) * (methods - 1), n), df)
        return detectable(critical, df) * math.sqrt(2 / n) <= ratio

    low, high = 1, most
    if not found(most):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if found(middle) else (middle, high)
    return high


def inseparable_from_best(seeds: Mapping[str, Sequence[float]]) -> set[str]:
    """The best row of a table and all rows that the default test does not separate from it.

    Args:
        seeds: Values of each row, one per seed, larger is better.

    Returns:
        Labels; empty where no row has two values, all finite, as one seed supports no claim.
    """
    usable = {name: v for name, v in seeds.items() if len(v) > 1 and all(map(math.isfinite, v))}
    if not usable:
        return set()
    pooled = pool(usable)
    means = pooled.means
    best = max(means, key=lambda name: means[name])
    others = [name for name in means if name != best]
    if not others:
        return {best}
    # The critical value decides as p would, for one quadrature of the table and not one of a row.
    loads = _loads([pooled.counts[name] for name in others], pooled.counts[best])
    critical = dunnett_critical(loads, pooled.df)
    distance = {n: _ratio(means[best] - means[n], pooled.error(n, best)) for n in others}
    return {best} | {name for name in others if distance[name] <= critical}


def equivalent(
    seeds: Mapping[str, Sequence[float]], a: str, b: str, margin: float
) -> tuple[float, bool]:
    """Two one-sided tests (TOST): whether two methods differ by less than a margin.

    A difference that is not found is no equality; this is what supports one.

    Args:
        seeds: Values of all methods of the table, as their deviation is pooled.
        a: A method.
        b: Another.
        margin: Largest difference that does not matter, > 0, stated before looking.

    Returns:
        The larger of the two p values, and whether it is below 5 %.

    Raises:
        ValueError: If the margin is not > 0 or a method has no finite value.
    """
    if not margin > 0:
        raise ValueError(f"the margin of equivalence must be > 0, got {margin}")
    pooled = pool(seeds)
    for name in (a, b):
        if name not in pooled.means:
            raise ValueError(f"{name!r} has no finite result")
    if pooled.df < 1:
        return math.nan, False
    difference, error = pooled.means[a] - pooled.means[b], pooled.error(a, b)
    score = _ratio(margin - abs(difference), error)
    p = t_p(abs(score), pooled.df) / 2
    p = p if score >= 0 else 1 - p
    return p, p < 1 - LEVEL


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjustment of several p values.

    Args:
        p: Raw p values.

    Returns:
        Adjusted ones, in the same order.
    """
    order = sorted(range(len(p)), key=lambda index: p[index])
    adjusted, largest = [0.0] * len(p), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p) - rank) * p[index]))
        adjusted[index] = largest
    return adjusted


def levene(groups: Sequence[Sequence[float]]) -> float:
    """Test of equal variances on distances from the median (Brown and Forsythe, 1974).

    Args:
        groups: Values of each method; groups of one value are left out.

    Returns:
        p; NaN with fewer than two groups, or where nothing varies.
    """
    from scipy.special import fdtrc

    rows = [np.asarray(group, dtype=float) for group in groups if len(group) > 1]
    if len(rows) < 2:
        return math.nan
    distances = [abs(row - np.median(row)) for row in rows]
    total = sum(len(row) for row in rows)
    grand = sum(row.sum() for row in distances) / total
    between = sum(len(row) * (row.mean() - grand) ** 2 for row in distances)
    within = sum(((row - row.mean()) ** 2).sum() for row in distances)
    if within == 0:
        return math.nan
    between_df, within_df = len(rows) - 1, total - len(rows)
    return float(fdtrc(between_df, within_df, between / between_df / (within / within_df)))


def t_p(score: float, df: int) -> float:
    """Two-sided p of Student's t.

    Args:
        score: The statistic.
        df: Degrees of freedom.

    Returns:
        The probability.
    """
    from scipy.special import stdtr

    return float(2 * stdtr(df, -abs(score)))


def detectable(critical: float, df: int) -> float:
    """True difference, in standard errors, that a test finds with 80 % power.

    Args:
        critical: Critical value of the two-sided t test.
        df: Degrees of freedom.

    Returns:
        The non-centrality.
    """
    from scipy.special import nctdtr

    def power(shift: float) -> float:
        return float(1 - nctdtr(df, shift, critical) + nctdtr(df, shift, -critical))

    return _root(lambda shift: power(shift) - POWER, 0.0, 10 * critical + 10)


@cache
def dunnett_critical(loads: tuple[float, ...], df: int, level: float = LEVEL) -> float:
    """Critical value of Dunnett's two-sided test.

    Args:
        loads: For each comparison the load of :func:`dunnett_cdf`.
        df: Degrees of freedom of the pooled variance.
        level: Simultaneous coverage.

    Returns:
        The value that the largest of the statistics stays below with that probability.
    """
    low = t_quantile(df, level)  # that of one comparison
    high = t_quantile(df, 1 - (1 - level) / len(loads))  # that of independent ones, and more
    return _root(lambda score: dunnett_cdf(score, loads, df) - level, low - 1e-6, high + 1e-6)


@cache
def dunnett_upper(comparisons: int, df: int, level: float = LEVEL) -> float:
    """Critical value of Dunnett's one-sided test with as many runs of each method.

    Args:
        comparisons: Methods that are compared with the reference.
        df: Degrees of freedom of the pooled variance.
        level: Simultaneous coverage.

    Returns:
        The value that the largest of the statistics, of correlation 1/2, stays below with that
        probability.
    """
    from scipy.special import ndtr

    common, weight = _normal_nodes()
    spread, spread_weight = _deviation_nodes(df)

    def below(score: float) -> float:
        upper = common + math.sqrt(2) * score * spread[:, None]  # load and rest are sqrt(1/2)
        return float(spread_weight @ ndtr(upper) ** comparisons @ weight)

    low = t_quantile(df, 2 * level - 1)  # that of one comparison
    high = t_quantile(df, 1 - 2 * (1 - level) / comparisons)  # that of independent ones, and more
    return _root(lambda score: below(score) - level, low - 1e-6, high + 1e-6)


def dunnett_cdf(score: float, loads: Sequence[float], df: int) -> float:
    """Probability that no statistic of several comparisons with one reference exceeds a score.

    The statistics are multivariate t with correlations ``loads[i] * loads[j]`` (Dunnett, JASA
    1955), so that two nested quadratures give what a library estimates by random draws.

    Args:
        score: The score, >= 0.
        loads: For each comparison ``sqrt(n / (n + n_reference))``.
        df: Degrees of freedom of the pooled variance.

    Returns:
        The probability, to about 1e-9.
    """
    from scipy.special import ndtr

    if math.isinf(score):
        return 1.0
    common, weight = _normal_nodes()
    spread, spread_weight = _deviation_nodes(df)
    inside = np.ones((len(spread), len(common)))
    values, repeats = np.unique(np.asarray(loads), return_counts=True)
    for load, repeat in zip(values, repeats, strict=True):
        rest = math.sqrt(1 - load * load)
        reach = score * spread[:, None]
        upper, lower = (load * common + reach) / rest, (load * common - reach) / rest
        inside *= (ndtr(upper) - ndtr(lower)) ** repeat
    return float(spread_weight @ inside @ weight)


def _loads(sizes: Sequence[int], reference: int) -> tuple[float, ...]:
    return tuple(math.sqrt(size / (size + reference)) for size in sizes)


@cache
def _normal_nodes() -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = np.polynomial.legendre.leggauss(128)
    places = 9 * nodes
    return places, 9 * weights * np.exp(-places * places / 2) / math.sqrt(2 * math.pi)


@cache
def _deviation_nodes(df: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of an estimated over the true deviation, a chi over sqrt(df)."""
    from scipy.special import chdtri

    low, high = (math.sqrt(float(chdtri(df, tail)) / df) for tail in (1 - 1e-14, 1e-14))
    nodes, weights = np.polynomial.legendre.leggauss(128)
    places = (low + high) / 2 + (high - low) / 2 * nodes
    logs = (df - 1) * np.log(places) - df * places * places / 2
    weights = weights * np.exp(logs - logs.max())
    return places, weights / weights.sum()  # what the density lacks is the same for all places


def _ratio(difference: float, error: float) -> float:
    if error:
        return difference / error
    return math.copysign(math.inf, difference) if difference else 0.0


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    """Zero of an increasing function."""
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) < 0 else (low, middle)
    return (low + high) / 2
