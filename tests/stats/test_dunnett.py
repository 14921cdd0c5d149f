import math

import numpy as np
import pytest
from scipy import stats

from mixbench.stats.dunnett import (
    compare_with,
    detectable,
    dunnett_cdf,
    dunnett_critical,
    dunnett_upper,
    equivalent,
    holm,
    inseparable_from_best,
    levene,
    pool,
)
from mixbench.stats.intervals import t_quantile

SD, GAIN, METHODS = 0.15, 0.5, 12


def table(rng, sizes, shifts=None):
    shifts = shifts or [0.0] * len(sizes)
    return {
        f"m{i}": list(rng.normal(90 + shift, SD, size))
        for i, (size, shift) in enumerate(zip(sizes, shifts, strict=True))
    }


@pytest.mark.parametrize("sizes", [[3, 3, 3], [3, 4, 5, 2, 6], [10, 3]])
def test_p_values_and_intervals_are_dunnetts(sizes):
    rng = np.random.default_rng(len(sizes))
    seeds = table(rng, sizes, [0.1 * i for i in range(len(sizes))])
    found = compare_with(seeds, "m0")
    others = [seeds[name] for name in list(seeds)[1:]]
    theirs = stats.dunnett(*others, control=seeds["m0"], rng=np.random.default_rng(0))
    assert [c.p for c in found.contrasts.values()] == pytest.approx(theirs.pvalue, abs=5e-4)
    interval = theirs.confidence_interval()
    assert [c.low for c in found.contrasts.values()] == pytest.approx(interval.low, abs=2e-3)
    assert [c.high for c in found.contrasts.values()] == pytest.approx(interval.high, abs=2e-3)
    assert found.pooled.levene == pytest.approx(stats.levene(*seeds.values()).pvalue, rel=1e-9)
    assert found.pooled.df == sum(sizes) - len(sizes)
    for name, contrast in found.contrasts.items():
        assert contrast.difference == pytest.approx(np.mean(seeds[name]) - np.mean(seeds["m0"]))
        assert contrast.separated == (not contrast.low <= 0 <= contrast.high)


def test_the_critical_values_are_those_of_dunnetts_tables():
    # Two-sided, 5 %, k comparisons of equal size (Dunnett, Biometrics 1964, table II).
    for k, df, expected in ((2, 10, 2.57), (3, 10, 2.76), (9, 20, 2.95), (2, 60, 2.27)):
        critical = dunnett_critical((math.sqrt(0.5),) * k, df)
        assert critical == pytest.approx(expected, abs=0.006)


def test_one_comparison_is_students_t():
    for df in (1, 2, 8, 200):
        assert dunnett_critical((0.5,), df) == pytest.approx(t_quantile(df), rel=1e-6)
        assert dunnett_cdf(1.7, (0.9,), df) == pytest.approx(2 * stats.t.cdf(1.7, df) - 1, abs=1e-8)
    assert dunnett_cdf(math.inf, (0.5, 0.5), 3) == 1
    assert dunnett_cdf(0, (0.5, 0.5), 3) == pytest.approx(0, abs=1e-9)


def test_holm_takes_the_raw_p_of_the_pooled_t_test():
    rng = np.random.default_rng(0)
    seeds = table(rng, [3, 4, 5], [0, 0.2, 0.6])
    found = compare_with(seeds, "m0", "holm")
    sd = math.sqrt(sum(np.var(v, ddof=0) * len(v) for v in seeds.values()) / (12 - 3))
    raw = []
    for name, n in (("m1", 4), ("m2", 5)):
        error = sd * math.sqrt(1 / n + 1 / 3)
        raw.append(2 * stats.t.sf(abs(found.contrasts[name].difference) / error, 9))
        half = stats.t.ppf(1 - 0.025 / 2, 9) * error
        high = found.contrasts[name].high - found.contrasts[name].difference
        assert high == pytest.approx(half, rel=1e-9)
    assert [c.p for c in found.contrasts.values()] == pytest.approx(holm(raw), rel=1e-9)
    assert holm([0.01, 0.04, 0.03, 0.9]) == pytest.approx([0.04, 0.09, 0.09, 0.9])
    assert holm([0.6, 0.7]) == [1, 1]
    assert holm([]) == []


def rejected(rng, n, gain, adjustment, tables):
    """Share of tables in which the first method is separated, and any of the others is."""
    critical = (
        dunnett_critical((math.sqrt(0.5),) * (METHODS - 1), METHODS * (n - 1))
        if adjustment == "dunnett"
        else None
    )
    values = rng.normal(0, SD, (tables, METHODS, n))
    values[:, 1] += gain
    sd = np.sqrt(values.var(axis=2, ddof=1).mean(axis=1))
    means = values.mean(axis=2)
    scores = np.abs(means[:, 1:] - means[:, :1]) / (sd * math.sqrt(2 / n))[:, None]
    if critical is not None:
        hit = scores > critical
    else:
        p = 2 * stats.t.sf(scores, METHODS * (n - 1))
        hit = np.array([holm(row) for row in p.tolist()]) < 0.05
    # The package judges tables as this vectorised form does.
    for i in range(3):
        seeds = {f"m{j}": row.tolist() for j, row in enumerate(values[i])}
        contrasts = compare_with(seeds, "m0", adjustment).contrasts
        assert [c.separated for c in contrasts.values()] == hit[i].tolist()
    return hit[:, 0].mean(), hit[:, 1:].any(axis=1).mean()


@pytest.mark.slow
@pytest.mark.parametrize(("n", "power"), [(3, 0.80), (5, 0.99), (10, 1.00)])
def test_pooled_contrasts_find_a_gain_that_seeds_can_show(n, power):
    rng = np.random.default_rng(n)
    found, wrong = rejected(rng, n, GAIN, "holm", 1500)
    assert found == pytest.approx(power, abs=0.03)  # three deviations of 1,500 tables
    assert wrong < 0.065
    assert rejected(rng, n, GAIN, "dunnett", 1500)[0] > found - 0.005


@pytest.mark.slow
@pytest.mark.parametrize("adjustment", ["dunnett", "holm"])
def test_five_of_a_hundred_tables_separate_methods_that_are_equal(adjustment):
    rng = np.random.default_rng(1)
    first, others = rejected(rng, 3, 0.0, adjustment, 3000)
    assert 0.03 < first + others < 0.07


@pytest.mark.slow
def test_simultaneous_intervals_cover_95_percent():
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(250):
        found = compare_with(table(rng, [3, 5, 4, 3], [0, 0.1, 0.2, 0.3]), "m0").contrasts
        truth = zip(found.values(), (0.1, 0.2, 0.3), strict=True)
        covered += all(contrast.low <= shift <= contrast.high for contrast, shift in truth)
    assert 0.91 < covered / 250 < 0.99


@pytest.mark.slow
@pytest.mark.parametrize("adjustment", ["dunnett", "holm"])
def test_the_detectable_difference_is_found_in_80_percent(adjustment):
    rng = np.random.default_rng(2)
    df, n = METHODS * 4, 5
    critical = (
        dunnett_critical((math.sqrt(0.5),) * (METHODS - 1), df)
        if adjustment == "dunnett"
        else t_quantile(df, 1 - 0.05 / (METHODS - 1))
    )
    gain = detectable(critical, df) * SD * math.sqrt(2 / n)
    found, _ = rejected(rng, n, gain, adjustment, 2000)
    assert 0.77 < found < 0.86  # Holm may do more than its first step
    one = compare_with(table(rng, [5] * METHODS), "m0", adjustment)
    assert one.mdd == pytest.approx(gain * one.pooled.sd / SD, rel=1e-6)
    unequal = compare_with(table(rng, [5, 5, 2]), "m0")
    assert unequal.mdd == unequal.contrasts["m2"].mdd > unequal.contrasts["m1"].mdd


def test_runs_that_diverged_are_left_out_and_counted():
    seeds = {"a": [1.0, 1.1, math.nan], "b": [2.0, 2.1, 2.2], "c": [math.inf]}
    found = compare_with(seeds, "a")
    assert found.pooled.excluded == {"a": 1, "c": 1}
    assert found.pooled.counts == {"a": 2, "b": 3}
    assert list(found.contrasts) == ["b"]
    with pytest.raises(ValueError, match="'c' has no finite result; methods with one: a, b"):
        compare_with(seeds, "c")
    with pytest.raises(ValueError, match="dunnett, holm"):
        compare_with(seeds, "a", "tukey")


def test_one_seed_each_supports_no_contrast():
    found = compare_with({"a": [1.0], "b": [2.0]}, "a")
    assert found.contrasts == {}
    assert math.isnan(found.mdd)
    assert math.isnan(found.pooled.sd)
    # One method of several seeds lends its deviation to those of one.
    lent = compare_with({"a": [1.0, 1.1, 0.9], "b": [2.0]}, "a")
    assert lent.contrasts["b"].separated


def test_seeds_without_any_spread_separate_whatever_differs():
    found = compare_with({"a": [1.0, 1.0], "b": [2.0, 2.0], "c": [1.0, 1.0]}, "a").contrasts
    assert (found["b"].p, found["c"].p) == (0, 1)
    assert math.isnan(levene([[1.0, 1.0], [2.0, 2.0]]))
    assert math.isnan(levene([[1.0, 2.0], [2.0]]))


def test_equality_takes_evidence_of_its_own():
    rng = np.random.default_rng(0)
    seeds = table(rng, [5, 5, 5])
    p, equal = equivalent(seeds, "m0", "m1", 1.0)
    assert equal
    pooled = pool(seeds)
    difference = pooled.means["m0"] - pooled.means["m1"]
    error = pooled.sd * math.sqrt(2 / 5)
    expected = max(
        stats.t.sf((difference + 1) / error, 12), stats.t.cdf((difference - 1) / error, 12)
    )
    assert p == pytest.approx(expected, rel=1e-6)
    assert not equivalent(seeds, "m0", "m1", 0.1)[1]  # not separated, and not shown to be equal
    far = equivalent({"a": [1.0, 1.1], "b": [3.0, 3.1]}, "a", "b", 0.5)
    assert far[0] > 0.5
    assert equivalent({"a": [1.0], "b": [1.0]}, "a", "b", 0.5)[1] is False
    with pytest.raises(ValueError, match="margin"):
        equivalent(seeds, "m0", "m1", 0)
    with pytest.raises(ValueError, match="'x' has no finite"):
        equivalent(seeds, "m0", "x", 1)


@pytest.mark.slow
def test_differences_outside_the_margin_are_hardly_ever_called_equal():
    rng = np.random.default_rng(4)
    wrong = 0
    for _ in range(500):
        wrong += equivalent(table(rng, [4, 4, 4], [0, 0.5, 0]), "m0", "m1", 0.5)[1]
    assert 0.02 < wrong / 500 < 0.08


@pytest.mark.slow
def test_many_rows_share_the_best_place_more_often_than_two():
    # With many equal rows, an unadjusted test would separate some of them from the best.
    rng = np.random.default_rng(6)
    kept = sum(len(inseparable_from_best(table(rng, [3] * METHODS))) for _ in range(60))
    assert kept / (60 * METHODS) > 0.95


@pytest.mark.parametrize(
    ("comparisons", "df", "value"),
    [
        (1, 10, 1.8125),
        (5, 8, 2.6568),
        (5, 17, 2.4180),
        (9, 10, 2.8069),
        (9, 30, 2.5372),
        (15, 20, 2.7740),
    ],
)
def test_one_sided_critical_values_are_the_exact_ones(comparisons, df, value):
    assert dunnett_upper(comparisons, df) == pytest.approx(value, abs=6e-5)


def test_one_comparison_is_students_one_sided_test():
    assert dunnett_upper(1, 7, 0.9) == pytest.approx(stats.t.ppf(0.9, 7), abs=1e-9)
