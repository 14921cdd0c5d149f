from itertools import permutations

import pytest
import torch
from scipy import stats
from torch import Generator

import mixbench.functional as mf
from mixbench.functional.draws import PARTNER_RULES, Switch

LARGE = 100_000


def seeded(seed: int) -> Generator:
    return Generator().manual_seed(seed)


@pytest.mark.parametrize("alpha", [1e-3, 0.05, 0.2, 1.0, 2.0, 8.0, 240.0])
def test_weights_have_the_moments_of_the_beta_distribution(alpha):
    lam = mf.draw_lam(LARGE, alpha, seeded(0)).double()
    assert ((lam >= 0) & (lam <= 1)).all()
    square = (lam - 0.5).square()
    # Four standard errors of the two sample means.
    mean_error, variance_error = (4 * values.std() / LARGE**0.5 for values in (lam, square))
    assert abs(lam.mean() - 0.5) < mean_error
    assert abs(square.mean() - 1 / (4 * (2 * alpha + 1))) < max(variance_error, 1e-6)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_weights_follow_the_beta_distribution(alpha):
    lam = mf.draw_lam(LARGE, alpha, seeded(1)).double()
    # The lower half alone: float32 is coarse near 1, where small alphas put much of the mass.
    low, law = lam[lam < 0.5].numpy(), stats.beta(alpha, alpha)
    assert stats.kstest(low, lambda share: 2 * law.cdf(share)).pvalue > 1e-3


@pytest.mark.parametrize("alpha", [1e-308, 1e-30, 1e-6, 1e6, 1e300])
def test_no_extreme_alpha_gives_a_weight_that_is_not_a_number(alpha):
    lam = mf.draw_lam(LARGE, alpha, seeded(0))
    assert not lam.isnan().any()
    assert abs(lam.mean() - 0.5) < 0.01


def test_alpha_zero_gives_plain_training():
    torch.testing.assert_close(mf.draw_lam(3, 0, seeded(0)), torch.ones(3), rtol=0, atol=0)


@pytest.mark.parametrize("alpha", [-1.0, -1e-9, float("nan"), float("inf")])
def test_a_bad_alpha_is_refused(alpha):
    with pytest.raises(ValueError, match=r"alpha must be >= 0 and finite, got"):
        mf.draw_lam(1, alpha)


@pytest.mark.parametrize("rule", PARTNER_RULES)
@pytest.mark.parametrize("batch", [1, 2, 3, 8])
def test_partners_of_every_rule_are_a_permutation(rule, batch):
    perm = mf.draw_perm(batch, seeded(batch), rule=rule)
    assert perm.dtype == torch.int64
    assert sorted(perm.tolist()) == list(range(batch))


def test_flip_pairs_the_ends_and_roll_the_one_before():
    assert mf.draw_perm(5, rule="flip").tolist() == [4, 3, 2, 1, 0]
    assert mf.draw_perm(5, rule="roll").tolist() == [4, 0, 1, 2, 3]


@pytest.mark.parametrize("batch", [2, 3, 4, 129])
def test_derange_never_pairs_a_row_with_itself(batch):
    rows = torch.arange(batch)
    for seed in range(200):
        assert (mf.draw_perm(batch, seeded(seed), rule="derange") != rows).all()


def test_random_partners_are_uniform_over_all_permutations():
    generator = seeded(0)
    draws = [tuple(mf.draw_perm(4, generator).tolist()) for _ in range(4800)]
    counts = [draws.count(order) for order in permutations(range(4))]
    assert sum(counts) == len(draws)
    assert stats.chisquare(counts).pvalue > 1e-3


def test_derange_is_uniform_over_all_cycles():
    generator = seeded(0)
    draws = [tuple(mf.draw_perm(4, generator, rule="derange").tolist()) for _ in range(3000)]
    counts = [draws.count(order) for order in set(draws)]
    assert len(counts) == 6  # cycles through four rows: 3!
    assert stats.chisquare(counts).pvalue > 1e-3


def test_an_unknown_partner_rule_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"random, flip, roll, derange, got 'shuffle'"):
        mf.draw_perm(4, rule="shuffle")


# Decisions about whole batches.


def test_a_switch_is_on_as_often_as_its_probability_says():
    switch = Switch(seeded(0))
    assert not any(switch.on(0.0) for _ in range(100))
    assert all(switch.on(1.0) for _ in range(100))
    share = sum(switch.on(0.3) for _ in range(10_000)) / 10_000
    assert abs(share - 0.3) < 4 * (0.3 * 0.7 / 10_000) ** 0.5


def test_a_switch_picks_by_shares_of_any_sum():
    switch = Switch(seeded(1))
    picks = [switch.pick([1.0, 0.0, 3.0]) for _ in range(4_000)]
    assert set(picks) == {0, 2}
    assert abs(picks.count(2) / 4_000 - 0.75) < 4 * (0.75 * 0.25 / 4_000) ** 0.5


def test_switches_of_equal_generators_decide_alike_in_one_draw_each():
    first, second = Switch(seeded(2)), Switch(seeded(2))
    assert [first.on(0.5) for _ in range(50)] == [second.on(0.5) for _ in range(50)]
    expected = seeded(2)
    torch.rand(50, generator=expected)
    assert torch.equal(first.generator.get_state(), expected.get_state())
