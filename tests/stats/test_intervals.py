import math

import numpy as np
import pytest
from scipy import stats

from mixbench.stats.dunnett import inseparable_from_best
from mixbench.stats.intervals import prediction_interval, summarize, t_quantile


def test_the_interval_is_the_t_interval():
    values = [94.1, 95.0, 94.6, 94.9, 95.3]
    found = summarize(values)
    low, high = stats.t.interval(0.95, 4, np.mean(values), stats.sem(values))
    assert found.mean == pytest.approx(np.mean(values), rel=1e-12)
    assert found.sd == pytest.approx(np.std(values, ddof=1), rel=1e-12)
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-9)


@pytest.mark.parametrize(("n", "factor"), [(3, 2.48), (5, 1.24), (10, 0.72)])
def test_half_widths_are_the_known_multiples_of_the_deviation(n, factor):
    assert t_quantile(n - 1) / math.sqrt(n) == pytest.approx(factor, abs=0.005)


def test_one_seed_has_no_interval():
    found = summarize([94.0])
    assert (found.mean, found.sd, found.low, found.n) == (94.0, None, None, 1)


def test_a_value_that_is_not_finite_leaves_no_mean():
    assert math.isnan(summarize([94.0, math.nan]).mean)


def test_rows_inside_the_noise_of_the_best_are_not_separated():
    seeds = {
        "best": [95.0, 95.2, 95.4],
        "near": [94.9, 95.1, 95.3],
        "far": [90.0, 90.2, 90.4],
    }
    assert inseparable_from_best(seeds) == {"best", "near"}


@pytest.mark.slow
def test_the_pooled_difference_test_has_its_nominal_error():
    rng = np.random.default_rng(3)
    wrong = 0
    for _ in range(600):  # two rows of equal truth: the worse is separated in 5 % of tables
        seeds = {name: list(rng.normal(90, 0.2, 5)) for name in "ab"}
        wrong += len(inseparable_from_best(seeds)) == 1
    assert 0.025 < wrong / 600 < 0.08


def test_single_seeds_support_no_mark():
    assert inseparable_from_best({"a": [99.0], "b": [10.0]}) == set()
    assert inseparable_from_best({"a": [99.0], "b": [10.0, 11.0]}) == {"b"}


@pytest.mark.slow
def test_t_intervals_cover_95_percent():
    rng = np.random.default_rng(1)
    for n in (3, 5, 10):
        found = [summarize(list(row)) for row in rng.normal(0, 0.2, (2000, n))]
        assert 0.935 < np.mean([one.low <= 0 <= one.high for one in found]) < 0.965


def test_one_more_run_falls_into_the_prediction_interval():
    rng = np.random.default_rng(2)
    inside = 0
    for *values, published in rng.normal(90, 0.3, (3000, 5)):
        low, high = prediction_interval(values)
        inside += low <= published <= high
    assert 0.935 < inside / 3000 < 0.965
    values = [94.1, 95.0, 94.6]
    half = stats.t.ppf(0.975, 2) * np.std(values, ddof=1) * math.sqrt(4 / 3)
    expected = np.mean(values) - half, np.mean(values) + half
    assert prediction_interval([*values, math.nan]) == pytest.approx(expected)
    assert prediction_interval([94.0]) is None
    assert prediction_interval([]) is None
