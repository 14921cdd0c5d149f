import math

import pytest
import torch

import mixbench.functional as mf

ROWS, HEIGHT, WIDTH = 4, 12, 8
NEXT = torch.tensor([1, 2, 3, 0])
LAM = torch.tensor([0.2, 0.4, 0.6, 0.8])


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, 3, HEIGHT, WIDTH, generator=generator)
    maps = torch.rand(ROWS, HEIGHT, WIDTH, generator=generator)
    return x, torch.eye(ROWS), maps


def still(rows=ROWS):
    return torch.eye(2, 3).expand(2 * rows, 2, 3)


def shifted(right, down=0.0, rows=ROWS):
    matrices = still(rows).clone()
    matrices[:, 0, 2], matrices[:, 1, 2] = right, down
    return matrices


def mixed_by(batch, matrices, mask, label="area", lam=LAM):
    x, targets, maps = batch
    warped = mf.warp_pairs(x, maps, NEXT, matrices)
    mask = mf.valid_mask(mask, warped.own_valid, warped.partner_valid)
    given = {"mask": mask, "lam": lam, "perm": NEXT, "label": label}
    return mf.transformmix(x, targets, warped=warped, **given), warped, mask


def assert_near(found, expected):
    """Sampling the identity is exact to a few millionths of the values."""
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def full(value):
    return torch.full((ROWS, 1, HEIGHT, WIDTH), value)


def test_images_that_stay_under_a_full_mask_stay_themselves(batch):
    mixed, _, _ = mixed_by(batch, still(), full(1.0))
    assert_near(mixed.x, batch[0])
    assert_near(mixed.targets, batch[1])


def test_an_even_mask_of_images_that_stay_is_input_mixup(batch):
    x, targets, _ = batch
    mixed, _, _ = mixed_by(batch, still(), full(0.5))
    assert_near(mixed.x, 0.5 * x + 0.5 * x[NEXT])
    assert_near(mixed.lam, torch.full((ROWS,), 0.5))
    assert torch.equal(mixed.perm, NEXT)
    torch.testing.assert_close(mixed.targets, mf.mix_targets(targets, NEXT, mixed.lam))


def test_image_map_and_frame_of_each_image_go_the_same_way(batch):
    x, _, maps = batch
    # Half a side of the frame to the right: the result shows what lies WIDTH / 4 further right.
    matrices = torch.cat([shifted(0.5)[:ROWS], shifted(0.0, -0.5)[:ROWS]])
    warped = mf.warp_pairs(x, maps, NEXT, matrices)
    cut, low = WIDTH // 4, HEIGHT // 4
    assert_near(warped.own[..., :-cut], x[..., cut:])
    assert_near(warped.own_saliency[:, 0, :, :-cut], maps[..., cut:])
    assert torch.equal(warped.own_valid[..., -cut:], torch.zeros(ROWS, 1, HEIGHT, cut))
    torch.testing.assert_close(
        warped.own_valid[..., :-cut], torch.ones(ROWS, 1, HEIGHT, WIDTH - cut)
    )
    partner = x[NEXT]
    assert_near(warped.partner[:, :, low:], partner[:, :, :-low])
    assert_near(warped.partner_saliency[:, 0, low:], maps[NEXT][:, :-low])
    assert warped.partner_valid[:, :, :low].max() < 1e-5


def test_what_lies_outside_of_a_frame_is_never_shown_where_the_other_image_is(batch):
    x, _, _ = batch
    matrices = torch.cat([shifted(0.5)[:ROWS], still()[:ROWS]])
    mixed, _, mask = mixed_by(batch, matrices, full(0.9))
    cut = WIDTH // 4
    assert_near(mixed.x[..., -cut:], x[NEXT][..., -cut:])
    torch.testing.assert_close(mask[..., -cut:], torch.zeros(ROWS, 1, HEIGHT, cut))
    torch.testing.assert_close(
        mixed.lam, torch.full((ROWS,), 0.9 * (1 - cut / WIDTH)), atol=1e-4, rtol=0
    )


def test_where_nothing_of_either_is_the_pair_before_is_mixed_half_and_half(batch):
    x, _, _ = batch
    mixed, _, mask = mixed_by(batch, shifted(4.0), full(0.9))
    assert mask.isfinite().all()
    assert_near(mixed.x, 0.5 * x + 0.5 * x[NEXT])
    torch.testing.assert_close(mixed.lam, torch.full((ROWS,), 0.5))


@pytest.mark.parametrize("label", ["area", "half", "saliency", "prior"])
@pytest.mark.parametrize("right", [0.0, 0.7, 4.0])
def test_labels_sum_to_one_and_weights_are_shares(batch, label, right):
    mask = torch.rand(ROWS, 1, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1))
    mixed, _, _ = mixed_by(batch, shifted(right), mask, label)
    torch.testing.assert_close(mixed.targets.sum(1), torch.ones(ROWS))
    assert mixed.lam.min() >= 0
    assert mixed.lam.max() <= 1
    assert mixed.lam.shape == (ROWS,)
    assert mixed.targets.isfinite().all()


def test_each_rule_of_the_label_says_what_it_is_named_after(batch):
    mask = torch.rand(ROWS, 1, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1))
    found = {
        rule: mixed_by(batch, still(), mask, rule)[0].lam for rule in ("half", "prior", "area")
    }
    assert torch.equal(found["half"], torch.full((ROWS,), 0.5))
    assert torch.equal(found["prior"], LAM)
    assert_near(found["area"], mask.mean((1, 2, 3)))
    maps = batch[2]
    own, other = (mask[:, 0] * maps).sum((1, 2)), ((1 - mask[:, 0]) * maps[NEXT]).sum((1, 2))
    lam = mixed_by(batch, still(), mask, "saliency")[0].lam
    torch.testing.assert_close(lam, own / (own + other), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="label must be one of area, half, saliency, prior"):
        mixed_by(batch, still(), mask, "mean")


def test_a_pair_without_any_saliency_is_labelled_by_area(batch):
    x, targets, maps = batch
    mask = full(0.25)
    mixed, _, _ = mixed_by((x, targets, torch.zeros_like(maps)), still(), mask, "saliency")
    assert_near(mixed.lam, torch.full((ROWS,), 0.25))


@pytest.mark.parametrize("numbers", [4, 6])
def test_zeros_are_the_identity_and_all_numbers_are_bounded(numbers):
    torch.testing.assert_close(mf.affine_matrices(torch.zeros(3, numbers), (5, 7)), still(2)[:3])
    wild = 1e6 * torch.randn(50, numbers, generator=torch.Generator().manual_seed(0))
    found = mf.affine_matrices(wild, (8, 8))
    assert found.isfinite().all()
    assert (found - torch.eye(2, 3)).abs().max() <= math.exp(0.4)
    with pytest.raises(ValueError, match=r"\(N, 4\) or \(N, 6\) numbers, got \(2, 5\)"):
        mf.affine_matrices(torch.zeros(2, 5), (8, 8))


@pytest.mark.parametrize("size", [(8, 8), (12, 6), (5, 20)])
def test_a_similarity_keeps_angles_of_pixels_and_its_limits(size):
    numbers = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    matrices = mf.affine_matrices(numbers, size)
    sides = torch.tensor([size[1], size[0]]) / 2  # halves of a side in pixels, across and down
    linear = sides[:, None] * matrices[:, :, :2] / sides
    bounded = numbers.tanh()
    scale, turn = (0.4 * bounded[:, 0]).exp(), math.pi / 6 * bounded[:, 1]
    first = torch.stack([scale * turn.cos(), -scale * turn.sin()], dim=1)
    second = torch.stack([scale * turn.sin(), scale * turn.cos()], dim=1)
    torch.testing.assert_close(linear, torch.stack([first, second], dim=1))
    torch.testing.assert_close(matrices[:, :, 2], 0.5 * bounded[:, 2:])


def test_a_constant_map_becomes_one_half_and_others_reach_both_ends():
    maps = torch.stack([torch.full((3, 4), 7.0), torch.arange(12.0).view(3, 4), torch.zeros(3, 4)])
    found = mf.scaled_saliency(maps)
    assert torch.equal(found[0], torch.full((3, 4), 0.5))
    assert torch.equal(found[2], torch.full((3, 4), 0.5))
    torch.testing.assert_close(found[1], maps[1] / 11)


def test_what_is_kept_of_the_saliency_is_a_share_of_each_image(batch):
    x, _, maps = batch
    warped = mf.warp_pairs(x, maps, NEXT, still())
    mask = (torch.arange(WIDTH) < WIDTH // 2).float().expand(ROWS, 1, HEIGHT, WIDTH)
    left = maps[..., : WIDTH // 2].sum((1, 2)) / maps.sum((1, 2))
    kept = mf.kept_saliency(mask, warped, maps, NEXT)
    torch.testing.assert_close(kept, torch.stack([left, 1 - left[NEXT]]), rtol=1e-4, atol=1e-5)
    larger = still().clone()
    larger[:, :, :2] *= 0.5  # enlarged, so that more than all would be seen
    warped = mf.warp_pairs(x, torch.ones_like(maps), NEXT, larger)
    kept = mf.kept_saliency(torch.ones_like(mask), warped, 0.1 * torch.ones_like(maps), NEXT)
    assert torch.equal(kept[0], torch.ones(ROWS))
    assert not kept[1].any()


def test_a_rectangle_has_the_area_of_the_partner_and_lies_inside():
    lam = torch.linspace(0, 1, 41)
    origin = torch.rand(41, 2, generator=torch.Generator().manual_seed(0))
    mask = mf.rectangle_mask(lam, origin, (40, 60))
    torch.testing.assert_close(mask.mean((1, 2, 3)), lam, rtol=0, atol=0.02)
    rows, cols = (mask == 0).any(3).float(), (mask == 0).any(2).float()
    assert torch.equal((rows[:, 0, :, None] * cols[:, 0, None, :]), 1 - mask[:, 0])


def test_gradients_reach_mask_and_transformations(batch):
    numbers = torch.zeros(2 * ROWS, 4, requires_grad=True)
    mask = full(0.5).requires_grad_()
    mixed, _, _ = mixed_by(batch, mf.affine_matrices(numbers, (HEIGHT, WIDTH)), mask)
    mixed.x.square().sum().backward()
    assert (numbers.grad.abs().sum(1) > 0).all()
    assert (mask.grad != 0).any()
    assert not mixed.targets.requires_grad


def test_shapes_that_do_not_fit_are_refused_with_what_came(batch):
    x, _, maps = batch
    with pytest.raises(ValueError, match=r"8 matrices \(2, 3\) are needed, got \(4, 2, 3\)"):
        mf.warp_pairs(x, maps, NEXT, still(2))
    with pytest.raises(ValueError, match=r"maps \(4, 8, 12\) do not fit images"):
        mf.warp_pairs(x, maps.mT, NEXT, still())
    with pytest.raises(ValueError, match="perm must hold 4 partners"):
        mf.warp_pairs(x, maps, NEXT[:3], still())
