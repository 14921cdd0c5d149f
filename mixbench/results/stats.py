"""Seeds to intervals, and which differences the seeds support."""

import math
from dataclasses import dataclass


@dataclass
class Summary:
    """Mean of a metric over seeds with its sample deviation and 95 % t interval."""

    mean: float
    sd: float | None  # None for one seed
    low: float | None
    high: float | None
    n: int


def t_quantile(df: int, level: float = 0.95) -> float:
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
        The summary; one seed has no deviation and no interval, and a value that is not finite
        makes the mean not finite.
    """
    n = len(values)
    mean = math.fsum(values) / n if all(map(math.isfinite, values)) else math.nan
    if n < 2 or not math.isfinite(mean):
        return Summary(mean, None, None, None, n)
    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = t_quantile(n - 1) * sd / math.sqrt(n)
    return Summary(mean, sd, mean - half, mean + half, n)


def inseparable_from_best(seeds: dict[str, list[float]]) -> set[str]:
    """The best row of a table and all rows that its seeds do not separate from it.

    Two rows differ when the 95 % t interval of their difference excludes 0, with the variance
    pooled over all rows of the table.

    Args:
        seeds: Values of each row, one per seed, larger is better.

    Returns:
        Labels; empty where no row has two finite values, as one seed supports no claim.
    """
    usable = {label: v for label, v in seeds.items() if len(v) > 1 and all(map(math.isfinite, v))}
    if not usable:
        return set()
    means = {label: math.fsum(values) / len(values) for label, values in usable.items()}
    freedom = sum(len(values) - 1 for values in usable.values())
    squares = math.fsum((x - means[label]) ** 2 for label, v in usable.items() for x in v)
    deviation = math.sqrt(squares / freedom)
    best = max(means, key=lambda label: means[label])
    factor = t_quantile(freedom)
    return {
        label
        for label, values in usable.items()
        if means[best] - means[label]
        <= factor * deviation * math.sqrt(1 / len(values) + 1 / len(usable[best]))
    }
