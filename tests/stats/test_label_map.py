import numpy as np
import pytest

from mixbench.stats.label_map import fit_label_map

WEIGHTS = np.array([0.1, 0.25, 0.5, 0.75, 0.9])


def judgements(seed, count=400, bias=0.0, noise=0.2):
    """People who see the weight of the stronger image as larger or smaller than it is."""
    random = np.random.default_rng(seed)
    true = random.choice(WEIGHTS, count)
    seen = true + bias * np.sin(2 * np.pi * true) / 4 + noise * random.standard_normal(count)
    sure = 0.5 + np.abs(true - 0.5) * 0.6 + 0.1 * random.random(count)
    return true, seen.clip(0, 1), sure.clip(0, 1)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("count", [1, 3, 400])
def test_a_map_is_symmetric_and_never_falls(seed, count):
    knots, rated, sure = fit_label_map(*judgements(seed, count, bias=1.0))
    assert (knots[0], knots[-1], rated[0], rated[-1]) == (0, 1, 0, 1)
    assert (np.diff(knots) > 0).all()
    assert (np.diff(rated) >= 0).all()
    np.testing.assert_allclose(rated + rated[::-1], 1, atol=1e-12)
    np.testing.assert_allclose(sure, sure[::-1], atol=1e-12)
    assert (np.diff(sure[knots >= 0.5]) >= 0).all()


def test_means_that_rise_are_kept():
    true = np.array([0.1, 0.1, 0.25, 0.5, 0.9])
    rated = np.array([0.1, 0.3, 0.35, 0.6, 0.8])
    sure = np.array([0.9, 0.7, 0.6, 0.4, 0.8])
    knots, found, confidence = fit_label_map(true, rated, sure)
    assert knots.tolist() == [0, 0.1, 0.25, 0.5, 0.75, 0.9, 1]
    # 0.1 has 0.1, 0.3 and the mirrored 0.8; 1/2 has 0.6 and 0.4.
    np.testing.assert_allclose(found[1:4], [0.2, 0.35, 0.5])
    np.testing.assert_allclose(confidence, [0.8, 0.8, 0.6, 0.4, 0.6, 0.8, 0.8])


def test_means_that_fall_are_pooled():
    true = np.array([0.1, 0.25])
    _, found, _ = fit_label_map(true, np.array([0.4, 0.2]), np.array([0.5, 0.5]))
    np.testing.assert_allclose(found, [0, 0.3, 0.3, 0.7, 0.7, 1])


@pytest.mark.parametrize("bias", [-0.4, 0.0, 0.4])
def test_a_bias_of_people_is_found_again(bias):
    knots, rated, _ = fit_label_map(*judgements(0, 20_000, bias, noise=0.02))
    known = knots[1:-1] + bias * np.sin(2 * np.pi * knots[1:-1]) / 4
    np.testing.assert_allclose(rated[1:-1], known, atol=0.01)


@pytest.mark.parametrize("wrong", [np.array([50.0]), np.array([np.nan]), np.array([0.5, 0.5])])
def test_what_is_no_judgement_is_refused(wrong):
    one = np.array([0.5])
    for place in range(3):
        arrays = [one, one, one]
        arrays[place] = wrong
        with pytest.raises(ValueError, match=r"\[0, 1\]|needs judgements"):
            fit_label_map(*arrays)
    with pytest.raises(ValueError, match="needs judgements"):
        fit_label_map(one[:0], one[:0], one[:0])
