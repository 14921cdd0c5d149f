import math
import re

import pytest
import torch

import mixbench.functional as mf
from mixbench.functional.maskmix import MASK_LOSSES

NEXT = torch.tensor([1, 2, 3, 0])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def batch():
    return torch.randn(4, 3, 6, 8, generator=seeded()), torch.eye(4)


@pytest.fixture
def mask():
    return torch.rand(4, 1, 6, 8, generator=seeded(1))


# Mixing.


def test_a_mask_of_one_keeps_the_image_and_a_mask_of_zero_its_partner(batch):
    x, targets = batch
    lam = torch.tensor([0.3])
    for value, expected in ((1.0, x), (0.0, x[NEXT])):
        whole = torch.full((1, 1, 6, 8), value)
        mixed = mf.maskmix(x, targets, mask=whole, lam=lam, perm=NEXT)
        assert torch.equal(mixed.x, expected)
        torch.testing.assert_close(mixed.targets, 0.3 * targets + 0.7 * targets[NEXT])
    assert torch.equal(mixed.lam, lam.expand(4))
    assert torch.equal(mixed.perm, NEXT)


def test_a_mixed_pixel_lies_between_those_of_its_pair(batch, mask):
    x, targets = batch
    mixed = mf.maskmix(x, targets, mask=mask, lam=torch.rand(4), perm=NEXT).x
    low, high = torch.minimum(x, x[NEXT]), torch.maximum(x, x[NEXT])
    assert ((mixed >= low) & (mixed <= high)).all()
    torch.testing.assert_close(mixed, mask * x + (1 - mask) * x[NEXT])


def test_equal_images_stay_exactly_what_they_are(batch, mask):
    x, targets = batch
    same = x[:1].expand_as(x)
    mixed = mf.maskmix(same, targets, mask=mask, lam=torch.tensor([0.3]), perm=NEXT)
    assert torch.equal(mixed.x, same)


def test_a_constant_mask_is_input_mixup(batch):
    x, targets = batch
    lam = torch.rand(4, generator=seeded(3))
    mask = lam[:, None, None, None].expand(4, 1, 6, 8)
    mixed = mf.maskmix(x, targets, mask=mask, lam=lam, perm=NEXT)
    expected = mf.mixup(x, targets, lam=lam, perm=NEXT)
    torch.testing.assert_close(mixed.x, expected.x)
    assert torch.equal(mixed.targets, expected.targets)


def test_reduced_precision_is_mixed_in_that_of_the_mask(batch, mask):
    x, targets = batch
    options = {"mask": mask, "lam": torch.tensor([0.3]), "perm": NEXT}
    mixed = mf.maskmix(x.bfloat16(), targets, **options).x
    assert mixed.dtype == torch.bfloat16
    wide = mf.maskmix(x.bfloat16().float(), targets, **options).x
    assert torch.equal(mixed, wide.bfloat16())


def test_gradients_reach_the_mask(batch, mask):
    x, targets = batch
    mask.requires_grad_()
    mf.maskmix(x, targets, mask=mask, lam=torch.ones(1), perm=NEXT).x.sum().backward()
    torch.testing.assert_close(mask.grad, (x - x[NEXT]).sum(dim=1, keepdim=True))


@pytest.mark.parametrize("shape", [(3, 1, 6, 8), (4, 2, 6, 8), (4, 1, 8, 6), (4, 6, 8)])
def test_a_mask_of_another_shape_is_refused(batch, shape):
    x, targets = batch
    with pytest.raises(ValueError, match=r"mask .* does not fit images \(4, 3, 6, 8\)"):
        mf.maskmix(x, targets, mask=torch.zeros(shape), lam=torch.ones(1), perm=NEXT)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"lam": torch.tensor([1.2])}, "lam must lie in"),
        ({"lam": torch.ones(3)}, "lam must hold 1 or 4"),
        ({"perm": NEXT[:3]}, "perm must hold 4 partners"),
    ],
)
def test_decisions_that_do_not_fit_are_refused(batch, mask, change, match):
    options = {"mask": mask, "lam": torch.ones(1), "perm": NEXT} | change
    with pytest.raises(ValueError, match=match):
        mf.maskmix(*batch, **options)


# The weight that the mixer sees.


@pytest.mark.parametrize("k", [0.0, 0.25, 1.0, 10.0])
def test_rescaling_keeps_ends_and_middle_and_is_even_handed(k):
    lam = torch.linspace(0, 1, 21, dtype=torch.float64)
    moved = mf.rescale_lam(lam, k)
    torch.testing.assert_close(moved + mf.rescale_lam(1 - lam, k), torch.ones_like(lam))
    assert moved[[0, 10, 20]].tolist() == pytest.approx([0.0, 0.5, 1.0])
    assert (moved.diff() > 0).all()
    assert (moved[1:10] > lam[1:10]).all()


@pytest.mark.parametrize("k", [-1.0, 10.5, math.nan])
def test_rescaling_out_of_range_is_refused(k):
    with pytest.raises(ValueError, match=r"k must lie in \[0, 10\]"):
        mf.rescale_lam(torch.zeros(1), k)


# What a mask costs.


def test_area_within_the_margin_costs_nothing_and_beyond_it_the_rest(mask):
    mean = mask.mean()
    for gap, cost in ((0.05, 0.0), (-0.05, 0.0), (0.25, 0.15), (-0.25, 0.15)):
        lam = (mean + gap)[None]
        assert mf.mask_loss(mask, lam, mode="L1").item() == pytest.approx(cost, abs=1e-6)
        squared = max(gap**2 - 0.01, 0)
        spread = 2 * mask.var(correction=0).item()
        found = mf.mask_loss(mask, lam, mode="L2+Variance").item()
        assert found == pytest.approx(squared - spread, abs=1e-6)
        assert mf.mask_loss(mask, lam).item() == pytest.approx(cost - spread, abs=1e-6)


def test_mean_and_variance_are_those_of_the_whole_batch():
    """Two masks that are constant have no variance each, and the mean asked for together."""
    mask = torch.tensor([0.1, 0.9]).reshape(2, 1, 1, 1).expand(2, 1, 4, 4)
    loss = mf.mask_loss(mask, torch.tensor([0.5]))
    torch.testing.assert_close(loss, torch.tensor(-2 * 0.4**2))


def test_sparsity_wants_masks_near_0_or_1(mask):
    lam = torch.tensor([0.5])
    assert mf.mask_loss(mask.round(), lam, mode="Sparsity") == 0
    half = torch.full_like(mask, 0.5)
    torch.testing.assert_close(
        mf.mask_loss(half, lam, mode="Sparsity", margin=0.05), torch.tensor(0.2)
    )


@pytest.mark.parametrize("mode", MASK_LOSSES)
def test_a_mask_of_reduced_precision_is_judged_in_float32(mask, mode):
    loss = mf.mask_loss(mask.bfloat16(), torch.tensor([0.1]), mode=mode)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, mf.mask_loss(mask.bfloat16().float(), torch.tensor([0.1]), mode=mode))


def test_an_unknown_mask_loss_is_refused(mask):
    with pytest.raises(ValueError, match=re.escape("L1, L1+Variance, L2+Variance, Sparsity")):
        mf.mask_loss(mask, torch.ones(1), mode="l1")


# Adjusting.


def test_adjusted_masks_have_the_mean_asked_for_image_by_image(mask):
    lam = torch.tensor([0.1, 0.4, 0.6, 0.95])
    adjusted = mf.adjust_mask(mask, lam)
    torch.testing.assert_close(adjusted.mean(dim=(1, 2, 3)), lam)
    assert ((adjusted >= 0) & (adjusted <= 1)).all()
    one = mf.adjust_mask(mask, torch.tensor([0.3])).mean(dim=(1, 2, 3))
    torch.testing.assert_close(one, torch.full((4,), 0.3))


def test_a_mask_is_only_shrunk_on_the_side_that_has_too_much(mask):
    small, large = (mf.adjust_mask(mask, torch.tensor([lam])) for lam in (0.1, 0.9))
    ratio = small / mask
    torch.testing.assert_close(ratio, ratio.mean(dim=(1, 2, 3), keepdim=True).expand_as(ratio))
    ratio = (1 - large) / (1 - mask)
    torch.testing.assert_close(ratio, ratio.mean(dim=(1, 2, 3), keepdim=True).expand_as(ratio))


def test_masks_that_are_near_enough_are_left(mask):
    lam = mask.mean(dim=(1, 2, 3)) + torch.tensor([0.05, -0.05, 0.2, -0.2])
    adjusted = mf.adjust_mask(mask, lam, within=0.1)
    assert torch.equal(adjusted[:2], mask[:2])
    torch.testing.assert_close(adjusted[2:].mean(dim=(1, 2, 3)), lam[2:])


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_masks_that_are_all_one_image_stay_numbers(value):
    mask = torch.full((2, 1, 4, 4), value)
    for lam in (0.0, value, 0.5, 1.0):
        adjusted = mf.adjust_mask(mask, torch.tensor([lam]))
        torch.testing.assert_close(adjusted.mean(dim=(1, 2, 3)), torch.full((2,), lam))


# Losses with eta.


def test_eta_weighs_the_classes_that_a_label_does_not_hold():
    logits = torch.randn(3, 5, generator=seeded())
    targets = mf.mix_targets(torch.eye(5)[:3], torch.tensor([1, 2, 0]), torch.tensor([0.3]))
    terms = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    held = targets > 0
    for eta in (0.0, 0.5, 1.0):
        expected = (terms * torch.where(held, 1.0, eta)).sum(dim=1).mean()
        torch.testing.assert_close(mf.eta_binary_cross_entropy(logits, targets, eta), expected)


def test_smoothed_labels_hold_no_more_classes_than_sharp_ones():
    y, perm, lam = torch.tensor([0, 1, 2]), torch.tensor([1, 2, 0]), torch.tensor([0.3])
    targets = mf.mix_targets(mf.one_hot(y, 5, smoothing=0.1), perm, lam)
    logits = torch.full((3, 5), -50.0)  # a class that is absent adds its share of the label alone
    logits[:, 3:] = 50.0
    low = mf.eta_binary_cross_entropy(logits, targets, 0.0, floor=0.1 / 5)
    high = mf.eta_binary_cross_entropy(logits, targets, 1.0, floor=0.1 / 5)
    torch.testing.assert_close(high - low, torch.tensor(50 * (0.98 + 0.98 + 0.02)))


def test_the_pair_is_told_apart_and_eta_adds_the_loss_over_all_classes():
    logits, own = torch.randn(3, 5, generator=seeded()), torch.eye(5)[[0, 1, 1]]
    perm, lam = torch.tensor([1, 0, 0]), torch.tensor([0.3, 0.6, 0.9])
    targets = mf.mix_targets(own, perm, lam)
    found = [
        mf.pair_cross_entropy(logits, targets, own, perm=perm, lam=lam, eta=eta)
        for eta in (0.0, 0.5)
    ]
    local = 0.0
    for row, (a, b) in enumerate([(0, 1), (1, 0), (1, 0)]):
        two = logits[row, [a, b]].log_softmax(dim=0)
        local -= (lam[row] * two[0] + (1 - lam[row]) * two[1]) / 3
    torch.testing.assert_close(found[0], local)
    torch.testing.assert_close(found[1], local + 0.5 * mf.soft_cross_entropy(logits, targets))


def test_a_pair_of_one_class_has_the_loss_over_all_classes_alone():
    logits, own = torch.randn(2, 5, generator=seeded()), torch.eye(5)[[3, 3]]
    perm, lam = torch.tensor([1, 0]), torch.tensor([0.3])
    expected = mf.soft_cross_entropy(logits, own)
    for eta in (0.0, 0.5):
        loss = mf.pair_cross_entropy(logits, own, own, perm=perm, lam=lam, eta=eta)
        torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("eta", [-0.1, 1.1, math.nan])
def test_eta_out_of_range_is_refused(eta):
    x, perm, lam = torch.eye(2), torch.tensor([1, 0]), torch.ones(1)
    with pytest.raises(ValueError, match=r"eta must lie in \[0, 1\]"):
        mf.eta_binary_cross_entropy(x, x, eta)
    with pytest.raises(ValueError, match=r"eta must lie in \[0, 1\]"):
        mf.pair_cross_entropy(x, x, x, perm=perm, lam=lam, eta=eta)


def test_two_batches_are_blended_and_must_fit():
    x, other = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
    mask = torch.rand(2, 1, 4, 4)
    torch.testing.assert_close(mf.blend(x, other, mask), mask * x + (1 - mask) * other)
    assert torch.equal(mf.blend(x, x, mask), x)
    assert mf.blend(x.bfloat16(), other.bfloat16(), mask).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="differ in shape"):
        mf.blend(x, other[:1], mask)
    with pytest.raises(ValueError, match="does not fit images"):
        mf.blend(x, other, mask[:, :, 1:])
