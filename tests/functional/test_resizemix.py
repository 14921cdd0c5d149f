import pytest
import torch
import torch.nn.functional as F
from torch import Generator

import mixbench.functional as mf
from mixbench.functional.resizemix import RESIZE_MODES

NEXT = torch.tensor([1, 2, 3, 0])


def seeded(seed: int) -> Generator:
    return Generator().manual_seed(seed)


@pytest.fixture
def batch():
    return torch.randn(4, 3, 12, 9, generator=seeded(0)), torch.eye(4)


def test_boxes_reach_half_their_side_both_ways_and_are_clipped():
    for height, width in ((32, 32), (9, 14)):
        tau, center = torch.rand(200, generator=seeded(0)), torch.rand(200, 2, generator=seeded(1))
        boxes = mf.resize_box(tau, center, height, width)
        for share, spot, box in zip(tau.tolist(), center.tolist(), boxes.tolist(), strict=True):
            expected = [0] * 4
            for axis, size in enumerate((height, width)):
                middle, half = int(spot[axis] * size), int(share * size) // 2
                expected[axis] = max(middle - half, 0)
                expected[axis + 2] = min(middle + half, size)
            assert box == expected


@pytest.mark.parametrize("mode", RESIZE_MODES)
def test_the_whole_partner_is_resized_to_the_clipped_box(batch, mode):
    x, targets = batch
    for seed in range(20):
        mixed = mf.resizemix(x, targets, perm=NEXT, mode=mode, generator=seeded(seed))
        top, left, bottom, right = mixed.aux[0].tolist()
        expected = x.clone()
        if bottom > top and right > left:
            small = F.interpolate(x[NEXT], (bottom - top, right - left), mode=mode)
            expected[:, :, top:bottom, left:right] = small
        assert torch.equal(mixed.x, expected)
        area = (bottom - top) * (right - left)
        torch.testing.assert_close(mixed.lam, torch.full((4,), 1 - area / 108))
        torch.testing.assert_close(mixed.targets.diagonal(), mixed.lam)


@pytest.mark.parametrize("mode", RESIZE_MODES)
def test_boxes_of_each_image_are_pasted_as_one_by_one(mode):
    x = torch.rand(2, 2, 32, 23, generator=seeded(0))
    # F.interpolate has its places between pixels in float32, with two units of 32 pixels.
    perm, distance = torch.tensor([1, 0]), 0.0 if mode == "nearest" else 8e-6
    for size in range(1, 24):  # nearest pixels of every ratio, rounding errors included
        boxes = torch.tensor([[0, 0, size, size], [32 - size, 3, 32, 23]])
        together = mf.paste_resized(x, perm, boxes, mode=mode)
        for row, box in enumerate(boxes):
            alone = mf.paste_resized(x, perm, box[None], mode=mode)[row]
            torch.testing.assert_close(together[row], alone, rtol=0, atol=distance)


def test_an_empty_box_leaves_the_image_as_it_is(batch):
    x, targets = batch
    corner = {"tau": torch.tensor([0.1]), "center": torch.zeros(1, 2), "perm": NEXT}
    for mixed in (
        mf.resizemix(x, targets, **corner),
        mf.resizemix(x, targets, box=torch.tensor([[3, 4, 3, 8]]).expand(4, 4), perm=NEXT),
    ):
        assert torch.equal(mixed.x, x)
        assert mixed.lam.tolist() == [1] * 4
        assert torch.equal(mixed.targets, targets)


def sides(**settings):
    """Sides of boxes that the border does not clip, as shares of the image's."""
    x, middle = torch.zeros(1, 1, 100, 100).expand(800, -1, -1, -1), torch.full((800, 2), 0.5)
    made = {"per_sample": True, "center": middle, "generator": seeded(0)}
    box = mf.resizemix(x, torch.ones(800, 1), **made, **settings).aux
    return (box[:, 2] - box[:, 0]) / 100


def test_a_side_is_uniform_in_its_scope_or_a_beta_draw_that_lies_there():
    for drawn in (sides(), sides(alpha=1.0)):
        assert 0.08 <= drawn.min() < 0.12
        assert 0.77 < drawn.max() <= 0.8
        assert drawn.mean() == pytest.approx(0.445, abs=0.02)
        assert drawn.std() == pytest.approx(0.7 / 12**0.5, abs=0.015)
    peaked = sides(alpha=20.0)
    assert peaked.mean() == pytest.approx(0.495, abs=0.02)
    assert peaked.std() < 0.1
    narrow = sides(alpha=20.0, scope=(0.7, 0.75))
    assert 0.68 <= narrow.min() < narrow.max() <= 0.75


def test_an_unknown_mode_and_a_side_that_is_no_share_are_refused(batch):
    with pytest.raises(ValueError, match="nearest, bilinear, got 'cubic'"):
        mf.resizemix(*batch, mode="cubic")
    with pytest.raises(ValueError, match=r"lam must lie in \[0, 1\]"):
        mf.resizemix(*batch, tau=torch.tensor([1.5]))
