import pytest
import torch

import mixbench.functional as mf
from mixbench.functional.ratings import RATING_RULES

NAN = float("nan")
RATINGS = torch.tensor([[0.2, 0.6, NAN], [1.0, 0.0, 0.5]], dtype=torch.float64)
SURE = torch.tensor([[1.0, 0.5, NAN], [0.25, 0.75, 0.5]], dtype=torch.float64)


@pytest.mark.parametrize("rule", [rule for rule in RATING_RULES if rule != "published_weighted"])
def test_swapping_the_pair_swaps_the_weight(rule):
    found = mf.rated_lam(RATINGS, SURE, rule=rule)
    torch.testing.assert_close(mf.rated_lam(1 - RATINGS, SURE, rule=rule), 1 - found)


def test_the_published_rule_draws_towards_the_second_image():
    found = mf.rated_lam(RATINGS, SURE, rule="published_weighted")
    torch.testing.assert_close(found, torch.tensor([0.25, (0.25 + 0.25) / 3]).double())
    swapped = mf.rated_lam(1 - RATINGS, SURE, rule="published_weighted")
    assert (swapped < 1 - found - 0.1).all()


def test_weights_worked_out_by_hand():
    expected = {
        "mean": [0.4, 0.5],
        "median": [0.4, 0.5],
        "conf_weighted": [(0.2 + 0.3) / 1.5, (0.25 + 0.25) / 1.5],
        "shrink_half": [(0.2 + 0.55) / 2, (0.625 + 0.125 + 0.5) / 3],
    }
    for rule, values in expected.items():
        found = mf.rated_lam(RATINGS, SURE, rule=rule)
        torch.testing.assert_close(found, torch.tensor(values).double(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("rule", ["conf_weighted", "shrink_half", "published_weighted"])
def test_full_confidence_is_the_mean(rule):
    torch.testing.assert_close(
        mf.rated_lam(RATINGS, torch.ones_like(RATINGS), rule=rule), mf.rated_lam(RATINGS)
    )


def test_an_image_that_nobody_judged_has_no_weight():
    nobody = torch.full((1, 3), NAN)
    for rule in RATING_RULES:
        assert mf.rated_lam(nobody, torch.ones(1, 3), rule=rule).isnan().all()
    assert mf.rated_lam(torch.rand(1, 3), torch.zeros(1, 3), rule="conf_weighted").isnan().all()


def test_bad_ratings_are_refused_with_the_remedy():
    with pytest.raises(ValueError, match="mean, median"):
        mf.rated_lam(RATINGS, rule="average")
    with pytest.raises(ValueError, match="choose mean or median"):
        mf.rated_lam(RATINGS, rule="shrink_half")
    with pytest.raises(ValueError, match=r"ratings must lie .* divide by 100"):
        mf.rated_lam(100 * RATINGS)
    with pytest.raises(ValueError, match=r"confidence must lie .* divide by 100"):
        mf.rated_lam(RATINGS, 100 * SURE, rule="shrink_half")
    with pytest.raises(ValueError, match="one shape"):
        mf.rated_lam(RATINGS, SURE[:, :2], rule="shrink_half")
    with pytest.raises(ValueError, match=r"\(N, R\)"):
        mf.rated_lam(RATINGS[0])
