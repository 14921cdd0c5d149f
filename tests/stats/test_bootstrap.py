import math
from itertools import product

import numpy as np
import pytest
from scipy import stats

from mixbench.stats.bootstrap import (
    bootstrap_both,
    bootstrap_images,
    mcnemar,
    paired,
    paired_t,
    seed_correlation,
    sign_flip,
)


def correlated(n, r, shift=0.3, seed=0):
    rng = np.random.default_rng(seed)
    common, own = rng.normal(size=(2, n))
    a = rng.normal(size=n) * 0.01 + common
    return a.tolist(), (shift + r * common + math.sqrt(1 - r * r) * own).tolist()


def test_seeds_in_pairs_are_tested_only_where_they_correlate():
    a, b = correlated(10, 0.95)
    found = paired(a, b)
    assert found.used
    assert found.correlation == pytest.approx(stats.pearsonr(a, b).statistic)
    assert found.p == pytest.approx(stats.ttest_rel(b, a).pvalue)
    low, high = stats.ttest_rel(b, a).confidence_interval()
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.sign_flip == sign_flip(list(np.subtract(b, a)))

    a, b = correlated(10, 0.0, seed=3)
    apart = paired(a, b)
    assert apart.correlation <= 0.3
    assert not apart.used
    assert math.isnan(apart.p)
    assert math.isnan(apart.low)
    assert math.isnan(apart.sign_flip)
    assert apart.difference == pytest.approx(np.mean(b) - np.mean(a))


def test_few_seeds_have_no_sign_flip():
    a, b = correlated(8, 0.99)
    assert math.isnan(paired(a, b).sign_flip)
    assert not math.isnan(paired(*correlated(9, 0.99)).sign_flip)


def test_pairs_that_do_not_vary_or_are_too_few_have_no_correlation():
    assert math.isnan(seed_correlation([1.0, 2.0], [1.0, 2.0]))
    assert math.isnan(seed_correlation([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]))
    assert paired_t([1.0, 2.0], [1.5, 2.5]).p == 0
    assert paired_t([1.0, 2.0], [1.0, 2.0]).p == 1
    with pytest.raises(ValueError, match="2 or more"):
        paired_t([1.0], [2.0])
    with pytest.raises(ValueError, match="one length"):
        paired([1.0, 2.0], [1.0, 2.0, 3.0])


@pytest.mark.parametrize("n", [5, 9, 12])
def test_all_sign_flips_are_counted(n):
    d = np.random.default_rng(n).normal(0.3, 1, n)
    signs = np.array(list(product([-1, 1], repeat=n)))
    expected = (abs(signs @ d) >= abs(d.sum()) - 1e-9).mean()
    assert sign_flip(list(d)) == pytest.approx(expected)
    assert sign_flip([0.1] * n) == 2 ** (1 - n)


def test_many_differences_are_flipped_at_random():
    d = list(np.random.default_rng(0).normal(0.35, 1, 40))
    assert sign_flip(d) == sign_flip(d)
    assert sign_flip(d) == pytest.approx(stats.ttest_1samp(d, 0).pvalue, rel=0.1)
    assert sign_flip([1.0] * 40) == pytest.approx(1 / 100_001)


def test_mcnemar_is_a_sign_test_on_disagreements():
    rng = np.random.default_rng(0)
    a, b = rng.random(500) < 0.8, rng.random(500) < 0.84
    only = int((a & ~b).sum()), int((~a & b).sum())
    expected = stats.binomtest(only[0], sum(only)).pvalue
    assert mcnemar(a, b) == pytest.approx(expected, rel=1e-9)
    assert mcnemar(a.astype(int), b.astype(int)) == mcnemar(b, a)
    assert mcnemar(a, a) == 1
    with pytest.raises(ValueError, match="one length"):
        mcnemar(a, b[1:])


def test_both_forms_of_the_image_bootstrap_agree():
    rng = np.random.default_rng(1)
    a, b = rng.random(400) < 0.7, rng.random(400) < 0.8
    counted = bootstrap_images(a, b)
    # Values that all differ a little are drawn one by one.
    noisy = a + 1e-9 * rng.random(400)
    drawn = bootstrap_images(noisy, b)
    assert counted.difference == pytest.approx(b.mean() - a.mean())
    assert (drawn.low, drawn.high) == pytest.approx((counted.low, counted.high), abs=0.006)
    assert bootstrap_images(a, b) == counted
    assert bootstrap_images(noisy, b) == drawn != bootstrap_images(noisy, b, seed=1)
    deviation = (b.astype(float) - a).std() / 20
    assert counted.high - counted.low == pytest.approx(2 * 1.96 * deviation, rel=0.05)


def test_every_image_is_drawn():
    rng = np.random.default_rng(2)
    for place in (0, 150, 299):
        a, b = rng.normal(0, 1e-3, (2, 300))  # all differences differ
        b[place] = 300.0
        for found in (bootstrap_images(a, b), bootstrap_both([a], [b])):
            # It comes once in the mean, and at most 4 times in 97.5 % of the draws (Poisson).
            assert 2 < found.high < 4.5
            assert found.low < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["images", "both"])
def test_intervals_cover_95_percent(kind):
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(200):
        if kind == "images":
            found = bootstrap_images(rng.random(300) < 0.7, rng.random(300) < 0.75, resamples=500)
        else:
            # An image is easy or hard for all; seeds differ in skill and a little by image.
            ease = rng.normal(0, 1, 200) + 0.2 * rng.normal(size=(2, 10, 200))
            skill = rng.normal(0, 0.1, (2, 10, 1)) + np.array([0.524, 0.674])[:, None, None]
            found = bootstrap_both(*(ease + skill * math.sqrt(1.04) > 0), resamples=200)
        covered += found.low <= 0.05 <= found.high
    assert 0.90 < covered / 200 < 0.985


def test_new_seeds_add_to_the_noise_of_new_images():
    rng = np.random.default_rng(0)
    skill = rng.normal(0, 0.1, (2, 5, 1))
    a, b = rng.random((2, 5, 400)) < 0.7 + skill
    both = bootstrap_both(a, b)
    images = bootstrap_images(a.mean(axis=0), b.mean(axis=0))
    assert both.difference == pytest.approx(images.difference)
    assert both.high - both.low > 1.3 * (images.high - images.low)
    alone = bootstrap_both(a[:1], b[:1])
    single = bootstrap_images(a[0], b[0])
    assert (alone.low, alone.high) == pytest.approx((single.low, single.high), abs=0.006)
    with pytest.raises(ValueError, match="same images"):
        bootstrap_both(a, b[:, 1:])
