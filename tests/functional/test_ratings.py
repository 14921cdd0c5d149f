import pytest
import torch

import mixbench.functional as mf
from mixbench.functional.ratings import RATING_RULES, RELABEL_RULES

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


FIRST, SECOND = torch.eye(4, dtype=torch.float64)[:2], torch.eye(4, dtype=torch.float64)[2:]
RULES = [rule for rule in RELABEL_RULES if rule != "published_weighted"]


def label(rule, ratings=RATINGS, sure=SURE, first=FIRST, second=SECOND, **more):
    more = {"rater": torch.tensor([1, 2])} | more if rule == "per_annotator" else more
    return mf.relabel(first, second, ratings, sure, rule=rule, **more)


@pytest.mark.parametrize("rule", RELABEL_RULES)
def test_labels_are_shares_of_all_classes(rule):
    found = label(rule)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(2).double())
    assert (found >= 0).all()


@pytest.mark.parametrize("rule", RULES)
def test_swapping_the_pair_changes_no_label(rule):
    swapped = label(rule, 1 - RATINGS, first=SECOND, second=FIRST)
    torch.testing.assert_close(swapped, label(rule))


def test_the_published_rule_labels_swapped_pairs_otherwise():
    swapped = label("published_weighted", 1 - RATINGS, first=SECOND, second=FIRST)
    assert not torch.allclose(swapped, label("published_weighted"), atol=0.05)


def test_who_is_sure_smooths_nothing_and_who_is_not_all():
    sure, unsure = torch.ones_like(RATINGS), torch.zeros_like(RATINGS)
    torch.testing.assert_close(label("smooth_uniform", sure=sure), label("mean"))
    uniform = torch.full((2, 4), 0.25).double()
    torch.testing.assert_close(label("smooth_uniform", sure=unsure, omega=1.0), uniform)
    half = label("smooth_uniform", sure=unsure, omega=0.5)
    torch.testing.assert_close(half, (label("mean") + uniform) / 2)


def test_smoothing_reads_the_confidence_of_those_who_judged():
    wild = SURE.clone()
    wild[0, 2] = 0.9  # of a rating that is not there
    torch.testing.assert_close(label("smooth_uniform", sure=wild), label("smooth_uniform"))


def test_one_annotator_is_one_of_those_who_judged():
    ratings = torch.tensor([[NAN, 0.25, NAN, 0.75]]).expand(400, 4).double()
    first, second = FIRST[:1].expand(400, 4), SECOND[:1].expand(400, 4)
    drawn = mf.relabel(
        first, second, ratings, rule="per_annotator", generator=torch.Generator().manual_seed(3)
    )
    values, counts = drawn[:, 0].unique(return_counts=True)
    assert values.tolist() == [0.25, 0.75]
    assert counts.min() > 150
    chosen = mf.relabel(
        first[:2], second[:2], ratings[:2], rule="per_annotator", rater=torch.tensor([1, 0])
    )
    assert chosen[:, 0].tolist() == [0.75, 0.25]


def test_the_two_classes_of_a_person_leave_the_rest_to_what_is_possible():
    impossible = torch.zeros(4, 5, dtype=torch.bool)
    impossible[:, 4] = True
    first, second = torch.tensor([0, 0, 0, 0]), torch.tensor([1, -1, 1, 1])
    share, other = torch.tensor([0.5, 0.7, 0.7, 1.0]), torch.tensor([0.2, 0.9, 0.3, 1.0])
    found = mf.top2_clamp(first, share.double(), second, other.double(), impossible)
    expected = [
        [0.5, 0.2, 0.15, 0.15, 0],
        [0.7, 0.1, 0.1, 0.1, 0],
        [0.7 / 1.1, 0.3 / 1.1, 0.05 / 1.1, 0.05 / 1.1, 0],
        [0.5 / 1.1, 0.5 / 1.1, 0.05 / 1.1, 0.05 / 1.1, 0],
    ]
    torch.testing.assert_close(found, torch.tensor(expected).double())
    impossible[:, 2:] = True
    sure = mf.top2_clamp(first, share.double(), second, other.double(), impossible)
    torch.testing.assert_close(sure[0], torch.tensor([5 / 7, 2 / 7, 0, 0, 0]).double())
    torch.testing.assert_close(sure[2], torch.tensor([0.7, 0.3, 0, 0, 0]).double())


def test_a_map_of_labels_is_linear_between_its_knots():
    knots = torch.tensor([0.0, 0.25, 1.0])
    found = mf.LabelMap(knots, torch.tensor([0.0, 0.5, 1.0]), torch.tensor([1.0, 0.5, 0.8]))
    lam = torch.tensor([0.0, 0.125, 0.25, 0.625, 1.0], dtype=torch.float64)
    assert found.lam(lam).tolist() == pytest.approx([0.0, 0.25, 0.5, 0.75, 1.0])
    assert found.sureness(lam).tolist() == pytest.approx([1.0, 0.75, 0.5, 0.65, 0.8])


def test_bad_labels_are_refused_with_the_remedy():
    with pytest.raises(ValueError, match="smooth_uniform, per_annotator"):
        label("clamp")
    with pytest.raises(ValueError, match="choose mean or median"):
        label("smooth_uniform", sure=None)
    with pytest.raises(ValueError, match=r"image 1 .* leave it out"):
        label("mean", torch.tensor([[0.5, NAN], [NAN, NAN]]).double())
    with pytest.raises(ValueError, match=r"\(N, K\) of both"):
        label("mean", first=FIRST[:1])
    with pytest.raises(ValueError, match="omega must"):
        label("smooth_uniform", omega=1.5)
    with pytest.raises(ValueError, match="rater must"):
        label("per_annotator", rater=torch.tensor([2, 0]))
    one, none = torch.tensor([0]), torch.tensor([-1])
    with pytest.raises(ValueError, match="divide by 100"):
        mf.top2_clamp(one, torch.tensor([60.0]), none, torch.tensor([0.0]), torch.zeros(1, 3) > 0)
    with pytest.raises(ValueError, match="no class"):
        mf.top2_clamp(one, torch.tensor([0.0]), none, torch.tensor([0.0]), torch.ones(1, 3) > 0)
