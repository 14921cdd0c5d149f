"""Seeds to intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

LEVEL = 0.95  # coverage of every interval


@dataclass
class Summary:
    """Mean of a metric over seeds with its sample deviation and 95 % t interval."""

    mean: float
    sd: float | None  # None for one seed
    low: float | None
    high: float | None
    n: int


def t_quantile(df: int, level: float = LEVEL) -> float:
    """Two-sided quantile of Student's t.

    Args:
        df: Degrees of freedom.
        level: Coverage.

    Returns:
        The factor on the standard error.
    """
    from scipy.special import stdtrit

    return float(stdtrit(df, 0.5 + level / 2))


def summarize(values: list[float]) -> Summary:
    """Mean, deviation and interval over seeds.

    Args:
        values: One value per seed.

    Returns:
        The summary; one seed has no deviation and no interval, and a value that is not finite, or
        no value, makes the mean not finite.
    """
    n = len(values)
    mean = math.fsum(values) / n if n and all(map(math.isfinite, values)) else math.nan
    if n < 2 or not math.isfinite(mean):
        return Summary(mean, None, None, None, n)
    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = t_quantile(n - 1) * sd / math.sqrt(n)
    return Summary(mean, sd, mean - half, mean + half, n)


def prediction_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Interval that holds one more run with 95 % probability, to compare a published figure with.

    A published figure is one run, so that it varies more than a mean over seeds does.

    Args:
        values: One value per seed, of the same statistic as the figure.

    Returns:
        ``mean -+ t * sd * sqrt(1 + 1/n)``, or None with fewer than two finite values.
    """
    found = summarize([value for value in values if math.isfinite(value)])
    if found.sd is None:
        return None
    half = t_quantile(found.n - 1) * found.sd * math.sqrt(1 + 1 / found.n)
    return found.mean - half, found.mean + half
