import numpy as np
import pytest

from mixbench.stats.agreement import band_over_people, one_way_icc

# Shrout and Fleiss 1979, table 2: six targets and four judges.
RATINGS = np.array(
    [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
)


def test_agreement_is_that_of_the_published_example():
    found = one_way_icc(np.repeat(np.arange(6), 4), RATINGS.ravel())
    assert found.single == pytest.approx(0.17, abs=0.005)
    assert found.mean == pytest.approx(0.44, abs=0.005)
    assert (found.items, found.judgements) == (6, 24)


def test_unequal_numbers_recover_the_share_of_the_variance():
    rng = np.random.default_rng(0)
    item = rng.integers(0, 3000, 12_000)
    value = rng.normal(0, 2, 3000)[item] + rng.normal(0, 1, 12_000)
    assert one_way_icc(item, value).single == pytest.approx(0.8, abs=0.02)


def test_things_that_one_person_judged_say_nothing_of_agreement():
    found = one_way_icc([0, 0, 1, 1, 2], [1.0, 2.0, 5.0, 6.0, 1e9])
    assert found == one_way_icc([0, 0, 1, 1], [1.0, 2.0, 5.0, 6.0])
    assert found.items == 2


@pytest.mark.parametrize(("item", "value"), [([], []), ([0, 0], [1, 2]), ([0, 0, 1, 1], [1] * 4)])
def test_agreement_is_undefined_without_several_things_that_differ(item, value):
    assert np.isnan(one_way_icc(item, value).single)


def test_a_band_over_people_covers_the_mean_of_all_people():
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(200):
        own = rng.normal(0, 1, 30)  # what a person adds to all judgements
        person = np.repeat(np.arange(30), 20)
        value = own[person] + rng.normal(0, 0.1, 600)
        _, low, high = band_over_people(person, np.zeros(600, int), value, resamples=400, seed=seed)
        hits += low[0] <= 0 <= high[0]
    assert 0.88 <= hits / 200 <= 0.99


def test_a_band_needs_two_people_in_its_group():
    means, low, high = band_over_people([0, 0, 1], [0, 1, 0], [1.0, 5.0, 3.0])
    assert means.tolist() == [2, 5]
    assert np.isnan(low[1])
    assert np.isnan(high[1])
    assert low[0] <= 2 <= high[0]
    assert np.isnan(band_over_people([0], [0], [1.0])[1]).all()


def test_lists_of_other_lengths_are_refused():
    with pytest.raises(ValueError, match="its thing"):
        one_way_icc([0, 1], [1.0])
    with pytest.raises(ValueError, match="its person"):
        band_over_people([0], [0, 1], [1.0, 2.0])
