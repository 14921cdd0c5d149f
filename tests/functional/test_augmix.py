import math

import pytest
import torch
from torch import Generator

import mixbench.functional as mf
from mixbench.functional.image_ops import DEFAULT_OPS

ALL = range(len(mf.OPERATIONS))


def pictures(count=4, channels=3, height=12, width=10, seed=0):
    generator = Generator().manual_seed(seed)
    shape = (count, channels, height, width)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def drawn(count, seed=0, **options):
    return mf.draw_chains(count, generator=Generator().manual_seed(seed), **options)


def operated(x, ops, value=0.0):
    ops = torch.as_tensor(ops).expand(len(x))[:, None]
    return mf.apply_ops(x, ops, torch.full(ops.shape, value, dtype=torch.float64))


def test_without_any_share_of_the_chains_a_view_is_its_image():
    x = pictures()
    chains = drawn(8)._replace(m=torch.zeros(8))
    torch.testing.assert_close(mf.augmix(x, chains=chains), x.repeat(2, 1, 1, 1) / 255)


def test_a_view_is_the_weighted_sum_of_its_image_and_its_chains():
    x, chains = pictures(), drawn(4)
    made = mf.chain_images(x, chains) / 255
    weights = (chains.weights * chains.m[:, None])[..., None, None, None]
    expected = (weights * made).sum(1) + (1 - chains.m)[:, None, None, None] * x / 255
    torch.testing.assert_close(mf.augmix(x, chains=chains), expected)


def test_views_of_floats_are_those_of_their_bytes_and_are_not_rounded():
    x, chains = pictures(), drawn(4)
    views = mf.augmix(x, chains=chains)
    assert torch.equal(mf.augmix(x / 255, chains=chains), views)
    assert ((255 * views - (255 * views).round()).abs() > 0.01).float().mean() > 0.5


@pytest.mark.parametrize("channels", [1, 3])
def test_each_row_has_its_own_operations_whatever_the_rest_of_the_batch_has(channels):
    x, chains = pictures(6, channels), drawn(12, all_ops=True, severity=8.0)
    whole = mf.augmix(x, chains=chains)
    for row in range(12):
        one = mf.Chains(*(part[row : row + 1] for part in chains))
        torch.testing.assert_close(mf.augmix(x[row % 6 : row % 6 + 1], chains=one)[0], whole[row])


def test_operations_of_a_chain_follow_each_other_and_a_gap_changes_nothing():
    x = pictures()
    ops = torch.tensor([[3, 0, 7]]).expand(4, 3)
    values = torch.tensor([[11.0, 0.0, 2.0]]).double().expand(4, 3)
    one_by_one = x
    for step in range(3):
        one_by_one = mf.apply_ops(one_by_one, ops[:, step : step + 1], values[:, step : step + 1])
    assert torch.equal(mf.apply_ops(x, ops, values), one_by_one)
    gaps = torch.tensor([[-1, 3, -1, 0, 7]]).expand(4, 5)
    values = torch.tensor([[9.0, 11.0, 9.0, 0.0, 2.0]]).double().expand(4, 5)
    assert torch.equal(mf.apply_ops(x, gaps, values), one_by_one)
    assert torch.equal(mf.apply_ops(x, torch.full((4, 2), -1), torch.zeros(4, 2).double()), x)


def test_a_constant_image_is_a_fixed_point_of_contrast_and_histogram():
    x = torch.full((2, 3, 8, 8), 77, dtype=torch.uint8)
    for name in ("autocontrast", "equalize"):
        assert torch.equal(operated(x, mf.OPERATIONS.index(name)), x)


def test_moves_are_in_pixels_of_their_own_side_and_uncover_black():
    x = pictures(height=20, width=40)
    values = mf.op_values(torch.tensor([7, 8]), torch.full((2,), 3.0), torch.ones(2), 20, 40)
    assert values.tolist() == [4, 2]
    across, down = operated(x, 7, 4.0), operated(x, 8, -2.0)
    assert torch.equal(across[..., :-4], x[..., 4:])
    assert torch.equal(down[:, :, 2:], x[:, :, :-2])
    assert not across[..., -4:].any()
    assert not down[:, :, :2].any()


def test_the_weakest_posterization_keeps_four_bits_and_the_strongest_none():
    x = pictures()
    levels = torch.tensor([0.1, 9.9, 10.0])
    bits = mf.op_values(torch.full((3,), 2), levels, torch.ones(3), 8, 8)
    assert bits.tolist() == [4, 1, 0]
    assert torch.equal(operated(x, 2, 4.0), x & 0xF0)
    assert not operated(x, 2, 0.0).any()


def test_solarization_inverts_from_its_threshold_on_whole_images_included():
    x = pictures()
    for first in (0, 1, 128, 255, 256):
        expected = torch.where(x.int() >= first, 255 - x.int(), x.int()).to(torch.uint8)
        assert torch.equal(operated(x, 4, float(first)), expected)


@pytest.mark.parametrize("op", ALL)
def test_no_operation_writes_into_its_images_or_changes_their_form(op):
    x = pictures(3, 3, 9, 14)
    kept = x.clone()
    chains = drawn(3, depth=1, width=1, severity=10.0)
    chains = chains._replace(ops=torch.full_like(chains.ops, op))
    made = mf.chain_images(x, chains)
    assert made.shape == (3, 1, 3, 9, 14)
    assert made.dtype == torch.uint8
    assert torch.equal(x, kept)


def test_levels_depths_and_weights_are_drawn_as_asked_for():
    chains = drawn(4000, severity=2.0)
    depths = (chains.ops >= 0).sum(2)
    for depth in (1, 2, 3):
        assert (depths == depth).float().mean() == pytest.approx(1 / 3, abs=0.03)
    assert ((chains.ops[..., 1:] >= 0) <= (chains.ops[..., :-1] >= 0)).all()
    assert set(chains.ops.unique().tolist()) == set(range(-1, DEFAULT_OPS))
    assert chains.levels.min() >= 0.1
    assert chains.levels.max() <= 2.0
    assert chains.levels.mean() == pytest.approx(1.05, abs=0.02)
    assert chains.signs.unique().tolist() == [-1, 1]
    torch.testing.assert_close(chains.weights.sum(1), torch.ones(4000))
    # Of a flat Dirichlet distribution of three weights; Beta(1, 1) is uniform.
    assert chains.weights.var(0).tolist() == pytest.approx([1 / 18] * 3, rel=0.1)
    assert chains.m.var() == pytest.approx(1 / 12, rel=0.1)
    assert (drawn(50, depth=2, width=5).ops >= 0).all()
    assert drawn(50, depth=2, width=5).ops.shape == (50, 5, 2)
    assert set(drawn(500, all_ops=True).ops.unique().tolist()) == {-1, *ALL}


def test_the_parameter_of_the_weights_spreads_or_gathers_them():
    for alpha in (0.02, 0.3, 5.0):
        weights = mf.draw_weights(4000, 4, alpha, Generator().manual_seed(1))
        assert weights.isfinite().all()
        expected = (1 / 4) * (3 / 4) / (4 * alpha + 1)
        assert weights.var(0).mean() == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"severity": 0.09}, r"severity must lie in \[0.1, 10.0\], got 0.09"),
        ({"severity": 11}, "severity must lie"),
        ({"severity": math.nan}, "severity must lie"),
        ({"width": 0}, "width and depth must be >= 1, got 0"),
        ({"depth": 0}, "width and depth must be >= 1"),
        ({"alpha": 0.0}, "alpha must be > 0"),
    ],
)
def test_settings_out_of_range_are_refused(options, text):
    with pytest.raises(ValueError, match=text):
        mf.augmix(pictures(), **options)


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (torch.randn(2, 3, 8, 8), "normalise last"),
        (torch.full((2, 3, 8, 8), 1.5), r"\[0, 1\], got 1.5 to 1.5"),
        (torch.full((2, 3, 8, 8), math.nan), "pixels in"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.int64), "uint8, or floats"),
        (torch.zeros(2, 4, 8, 8), "1 or 3"),
        (torch.zeros(3, 8, 8), "1 or 3"),
        (torch.zeros(0, 3, 8, 8), "1 or 3"),
    ],
)
def test_what_are_no_pixels_is_refused_with_the_order_of_the_steps(x, text):
    with pytest.raises(ValueError, match=text):
        mf.augmix(x)


def test_decisions_that_do_not_fit_are_refused():
    x, chains = pictures(4), drawn(6)
    with pytest.raises(ValueError, match="multiple of 4 images"):
        mf.augmix(x, chains=chains)
    with pytest.raises(ValueError, match=r"\(6, 2\)"):
        mf.augmix(x[:3], chains=chains._replace(weights=chains.weights[:, :2]))
    with pytest.raises(ValueError, match=r"levels must lie in \[0, 10\]"):
        mf.augmix(x[:3], chains=chains._replace(levels=chains.levels + 10))


def logits_of(views, seed=0):
    return 3 * torch.randn(views, 5, 7, generator=Generator().manual_seed(seed))


def test_the_divergence_is_0_of_equal_predictions_and_at_most_the_log_of_their_number():
    same = logits_of(1).expand(3, -1, -1)
    torch.testing.assert_close(mf.jsd_loss(same), torch.zeros(()), atol=1e-6, rtol=0)
    shifted = same + torch.tensor([0.0, 5.0, -40.0])[:, None, None]
    torch.testing.assert_close(mf.jsd_loss(shifted), torch.zeros(()), atol=1e-6, rtol=0)
    apart = 1e4 * torch.eye(3)[:, None]
    torch.testing.assert_close(mf.jsd_loss(apart), torch.tensor(math.log(3)))
    for seed in range(5):
        assert 0 < mf.jsd_loss(logits_of(3, seed)) < math.log(3)


def test_the_divergence_is_the_mean_of_those_from_the_mean_and_does_not_know_an_order():
    logits = logits_of(3)
    probs = logits.softmax(2)
    expected = (probs * (probs / probs.mean(0)).log()).sum(2).mean()
    torch.testing.assert_close(mf.jsd_loss(logits), expected)
    torch.testing.assert_close(mf.jsd_loss(logits[[2, 0, 1]]), expected)


def test_the_divergence_and_its_gradients_are_finite_in_float32_for_any_logits():
    logits = logits_of(3).bfloat16()
    assert mf.jsd_loss(logits).dtype == torch.float32
    for scale in (1e3, 1e30):
        large = (scale * logits_of(3)).requires_grad_()
        mf.jsd_loss(large).backward()
        assert large.grad is not None
        assert large.grad.isfinite().all()
    masked = logits_of(3)
    masked[..., 0] = -math.inf
    torch.testing.assert_close(mf.jsd_loss(masked), mf.jsd_loss(masked[..., 1:]))


def test_gradients_are_those_of_the_definition_in_float64():
    logits = logits_of(3).double().requires_grad_()

    def exact(given):  # the same in float64
        probs = given.softmax(2)
        return (probs * (probs.log() - probs.mean(0).log())).sum(2).mean()

    expected = torch.autograd.grad(exact(logits), logits)[0]
    found = torch.autograd.grad(mf.jsd_loss(logits), logits)[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
