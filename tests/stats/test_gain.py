import math

import numpy as np
import pytest

from mixbench.stats.gain import (
    combined,
    detectable_gain,
    expected_gain,
    gain_interval,
    image_groups,
    images_for,
    jackknife_values,
    least_gain,
    run_deviation,
)

WINNER = np.array([list("1110110111"), list("1110111011"), list("1111110111")]).astype(float)
PLAIN = np.array([list("1010110110"), list("1110010110"), list("1010110011")]).astype(float)


def predictions(rng, n, images, gain=0.0):
    """Right or wrong, by the difficulty of an image, a method's taste, and a run's luck."""
    hard = rng.normal(3, 3, images)
    tables = []
    for arm in range(2):
        logit = hard + rng.normal(0, 1.0, images) + gain * arm
        chance = 1 / (1 + np.exp(-logit - rng.normal(0, 0.06, (n, 1))))
        tables.append((rng.random((n, images)) < chance).astype(float))
    return tables[1], tables[0]


def test_an_interval_by_hand_in_which_the_images_add_nothing():
    found = gain_interval(WINNER, PLAIN)
    assert (found.gain, found.low, found.high) == pytest.approx(
        (23.333333, 14.078516, 32.588150), abs=5e-7
    )
    assert (found.seeds, found.images, found.both) == pytest.approx(
        (11.111111, 75.308642, 85.185185), abs=5e-7
    )
    assert found.df == pytest.approx(4)
    assert found.image_part == 0


def test_an_interval_of_seeds_and_images_together():
    found = gain_interval(*predictions(np.random.default_rng(7), 5, 1000, gain=0.2))
    assert (found.gain, found.low, found.high) == pytest.approx(
        (0.6, -1.440360, 2.640360), abs=5e-7
    )
    assert (found.seeds, found.images, found.both) == pytest.approx(
        (0.645200, 0.617858, 0.330485), abs=5e-7
    )
    assert found.df == pytest.approx(16.686957, abs=5e-7)


def test_a_smaller_level_gives_a_wider_interval_around_the_same_gain():
    first, second = (gain_interval(WINNER, PLAIN, alpha) for alpha in (0.025, 0.0125))
    assert second.gain == first.gain
    assert second.low < first.low < first.high < second.high


@pytest.mark.parametrize("shape", [(1, 10), (3, 1), (2, 10)])
def test_tables_without_two_seeds_and_images_or_of_unequal_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"two tables of equal shape.*got \(\d, \d+\)"):
        gain_interval(np.zeros(shape), np.zeros((3, 10)) if shape == (2, 10) else np.zeros(shape))


def test_a_method_that_never_differs_has_a_gain_of_nothing():
    found = gain_interval(np.ones((3, 10)), np.ones((3, 10)))
    assert found.gain == 0
    assert found.low < 0 < found.high
    assert math.isfinite(found.df)


def test_the_detectable_gain_before_anything_ran():
    assert expected_gain(11, 2000) == pytest.approx(1.2177, abs=1e-4)
    assert expected_gain(1, 2000) == math.inf
    assert least_gain(0.025, 500) == pytest.approx(1.98, abs=1e-3)
    assert images_for(0.5, 0.025) == 7840


def test_more_seeds_lower_the_detectable_gain_down_to_that_of_the_images():
    limit = least_gain(0.025, 2000)
    found = [expected_gain(n, 2000, 0.5) for n in (4, 8, 100_000)]
    assert found[0] > found[1] > found[2] == pytest.approx(limit, rel=2e-3)


def test_degrees_of_freedom_are_those_of_the_part_that_dominates():
    assert combined(1.0, 0.0, 5, 1000)[1] == pytest.approx(8)
    assert combined(0.0, 1.0, 5, 1000)[1] == pytest.approx(999)


def test_the_deviation_of_runs_is_what_methods_and_blocks_do_not_explain():
    arms, blocks = np.repeat(np.arange(3), 4), np.tile(np.arange(4), 3)
    scores = 5.0 * arms + 2.0 * blocks
    assert run_deviation(arms, blocks, scores) == (pytest.approx(0, abs=1e-9), 6)
    scores[0] += 1  # a residual of 1 * (1 - 1/3) * (1 - 1/4) = 1/2 in its own cell
    assert run_deviation(arms, blocks, scores)[0] == pytest.approx(math.sqrt(0.5 / 6))
    sd, df = run_deviation(np.arange(3), np.zeros(3, int), scores[:3])
    assert (math.isnan(sd), df) == (True, 0)


def test_the_jackknife_of_a_mean_gives_back_the_means_of_groups():
    values = np.arange(40.0)
    groups = image_groups(np.zeros(40, int), 20)
    found = jackknife_values(lambda rows: float(values[rows].mean()), groups)
    expected = [values[groups == group].mean() for group in range(20)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_groups_of_images_hold_every_class_alike():
    key = np.repeat([0, 1, 2], [60, 30, 11])
    groups = image_groups(key)
    sizes = np.bincount(groups)
    assert len(sizes) == 20
    assert sizes.max() - sizes.min() <= 1
    for name in range(3):
        held = np.bincount(groups[key == name], minlength=20)
        assert held.max() - held.min() <= 1


def simulate(n, images, gain, reps=10_000):
    rng = np.random.default_rng(11)
    true = 0.0
    if gain:
        draws = np.random.default_rng(99)
        logit = draws.normal(3, 3, 2_000_000) + draws.normal(0, 1, 2_000_000)
        true = 100 * (1 / (1 + np.exp(-logit - gain)) - 1 / (1 + np.exp(-logit))).mean()
    found = [gain_interval(*predictions(rng, n, images, gain)) for _ in range(reps)]
    covers = np.mean([each.low <= true <= each.high for each in found])
    return covers, np.mean([each.low > 0 for each in found])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "images", "false", "cover", "power"),
    [
        (3, 200, 0.0296, 0.944, 0.110),
        (3, 1000, 0.0274, 0.944, 0.310),
        (5, 1000, 0.0254, 0.948, 0.445),
        (10, 1000, 0.0231, 0.953, 0.632),
    ],
)
def test_intervals_cover_and_claim_as_often_as_the_specification_says(
    n, images, false, cover, power
):
    """Both figures are of 10,000 tables, so that their difference has the deviation of both."""
    covered, claims = simulate(n, images, 0.0)
    assert abs(claims - false) < 4 * 2**0.5 * 0.0016
    assert abs(covered - cover) < 4 * 2**0.5 * 0.0022
    assert abs(simulate(n, images, 0.2)[1] - power) < 4 * 2**0.5 * 0.005


def test_the_detectable_gain_is_seen_four_times_out_of_five():
    rng = np.random.default_rng(5)
    true = detectable_gain(*combined(0.05, 0.1, 8, 2000))
    seen = rng.normal(true, math.sqrt(0.15), 20_000) > 1.98 * math.sqrt(0.15)
    assert seen.mean() == pytest.approx(0.8, abs=0.015)
