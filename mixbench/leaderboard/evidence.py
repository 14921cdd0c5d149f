"""Evidence that the seeds of a table give: differences, the least visible one, and the best."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mixbench.errors import counted
from mixbench.leaderboard.columns import describe
from mixbench.stats.dunnett import Contrast, compare_with, inseparable_from_best

BASELINE = "erm"
ROUNDING = 1e-12  # share of a value below which two of them are the same
DOUBTFUL = 0.05  # p of equal variances below which their pool is questionable


@dataclass
class Evidence:
    """The default test of a table.

    Attributes:
        reference: The row that all others are compared with: plain training, else the best one.
        contrasts: Difference of each other row from it.
        best: The best row and all rows that the test does not separate from it.
        mdd: Largest of the smallest true differences that would be found with 80 % power.
        df: Degrees of freedom of the common deviation.
        sd: Deviation over seeds that all rows share; NaN where it cannot be said.
        levene: p of equal variances; NaN where it cannot be said.
        diverged: Runs that diverged, by row; they are in no mean and no test.
    """

    reference: str = ""
    contrasts: dict[str, Contrast] = field(default_factory=dict)
    best: set[str] = field(default_factory=set)
    mdd: float = math.nan
    df: int = 0
    sd: float = math.nan
    levene: float = math.nan
    diverged: dict[str, int] = field(default_factory=dict)
    flat: bool = False  # every row has one value in all its seeds, so that nothing is tested


def weigh(seeds: Mapping[str, Sequence[float]], diverged: Mapping[str, int]) -> Evidence:
    """Test a table.

    Args:
        seeds: Values of each row, one per seed, larger is better.
        diverged: Runs of each row that diverged.

    Returns:
        The evidence; no contrast where fewer than two rows have two seeds, all finite, or where
        the seeds of no row differ.
    """
    counted = {name: count for name, count in diverged.items() if count}
    usable = {name: v for name, v in seeds.items() if len(v) > 1 and all(map(math.isfinite, v))}
    if len(usable) < 2:
        return Evidence(best=inseparable_from_best(usable), diverged=counted)
    if all(max(values) - min(values) <= ROUNDING * abs(values[0]) for values in usable.values()):
        return Evidence(diverged=counted, flat=True)
    means = {name: math.fsum(values) / len(values) for name, values in usable.items()}
    reference = BASELINE if BASELINE in usable else max(means, key=lambda name: means[name])
    table = compare_with(usable, reference)
    return Evidence(
        reference=reference,
        contrasts=table.contrasts,
        best=inseparable_from_best(usable),
        mdd=table.mdd,
        df=table.pooled.df,
        sd=table.pooled.sd,
        levene=table.pooled.levene,
        diverged=counted,
    )


def sentences(evidence: Evidence, score: str) -> list[str]:
    """Sentences about the test that stand under a table.

    Args:
        evidence: Of the table.
        score: What its rows were tested by.

    Returns:
        Lines.
    """
    lines = []
    if evidence.contrasts:
        lines.append(
            f"The detectable difference of {score} from {evidence.reference} is "
            f"{describe(score).text(evidence.mdd)} (80 % power): rows that are not "
            "distinguishable need not be equal."
        )
        lines.append(
            "The test is Dunnett's, with the variance pooled over the rows "
            f"({counted(evidence.df, 'degree')} of freedom)." + _variances(evidence.levene)
        )
    if evidence.diverged:
        named = ", ".join(f"{count} of {name}" for name, count in evidence.diverged.items())
        lines.append(f"Runs that diverged are left out of all means and tests: {named}.")
    return lines


def _variances(p: float) -> str:
    if math.isnan(p):
        return ""
    doubt = ", which makes a common variance doubtful" if p < DOUBTFUL else ""
    return f" Levene's test of equal variances gives p = {p:.2f}{doubt}."
