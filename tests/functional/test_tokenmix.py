import math

import pytest
import torch
import torch.nn.functional as F
from torch import Generator

import mixbench.functional as mf
from mixbench.functional.tokenmix import DRAWN

NEXT = torch.tensor([1, 2, 3, 0])
GRID = (4, 6)


def seeded(seed: int) -> Generator:
    return Generator().manual_seed(seed)


@pytest.fixture
def batch():
    return torch.randn(4, 3, 12, 18, generator=seeded(0)), torch.eye(4)


@pytest.fixture
def maps():
    return torch.rand(4, *GRID, generator=seeded(1))


def test_blocks_that_do_not_fit_are_left_out_and_the_others_cover_their_place():
    attempts = torch.tensor(
        [
            [4.0, 0.0, 0, 0],  # 2 x 2
            [4.0, 0.0, 0, 0],  # covers nothing anew
            [25.0, 0.0, -1, -1],  # as high as the grid
            [4.0, math.log(1 / 4), 3, 2],  # 1 x 4
            [4.0, 0.0, 1, 1],  # 3 anew where 1 is left
            [1.0, 0.0, 2, 5],
            [1.0, 0.0, 0, 5],  # all are covered by now
        ]
    )
    mask = mf.block_mask(9, (5, 7), attempts=attempts)
    expected = torch.ones(5, 7)
    expected[:2, :2] = expected[3, 2:6] = expected[2, 5] = 0
    assert torch.equal(mask, expected)


def test_ten_attempts_that_fail_in_a_row_end_a_mask():
    first, fails, last = [[1.0, 0.0, 0, 0]], [[1.0, 0.0, 0, 0]], [[1.0, 0.0, 1, 1]]
    for count, covered in ((9, 2), (10, 1)):
        attempts = torch.tensor(first + count * fails + last)
        assert (mf.block_mask(5, (3, 3), attempts=attempts) == 0).sum() == covered


def test_drawn_masks_cover_the_patches_asked_for_with_blocks_of_all_forms():
    masks = torch.stack([mf.block_mask(112, (14, 14), generator=seeded(n)) for n in range(200)])
    covered = (masks == 0).sum((1, 2))
    assert (covered <= 112).all()
    assert (covered == 112).float().mean() > 0.95
    share = 1 - masks.mean(0)
    assert share.min() > 0.02  # corners are pasted, too
    for turned in (share.flip(0), share.flip(1), share.T):  # no side is preferred
        assert (share - turned).abs().max() < 0.2
    # Neighbours are pasted together, which single patches are not.
    together = ((masks[:, :, 1:] == masks[:, :, :-1]).float().mean() - 0.51) / 0.49
    assert together > 0.5


def test_a_mask_needs_far_fewer_attempts_than_are_drawn():
    for seed in range(50):
        draws = torch.rand(DRAWN, 4, generator=seeded(seed))
        few = mf.block_mask(112, (14, 14), generator=seeded(seed))
        generator = seeded(seed)
        assert torch.equal(torch.rand(DRAWN, 4, generator=generator), draws)
        assert (few == 0).sum() > 100


def test_patches_come_from_the_partner_where_the_mask_is_zero(batch, maps):
    x, targets = batch
    masks = (torch.rand(4, *GRID, generator=seeded(2)) < 0.6).float()
    for mask in (masks[:1], masks):
        mixed = mf.tokenmix(x, targets, maps, grid=GRID, mask=mask, perm=NEXT)
        kept = mask.repeat_interleave(3, 1).repeat_interleave(3, 2)[:, None]
        torch.testing.assert_close(mixed.x, kept * x + (1 - kept) * x[NEXT])
        shares = maps / maps.sum((1, 2), keepdim=True)
        own, other = (shares * mask).sum((1, 2)), (shares[NEXT] * (1 - mask)).sum((1, 2))
        torch.testing.assert_close(mixed.aux.weight, own + other)
        labels = own[:, None] * targets + other[:, None] * targets[NEXT]
        torch.testing.assert_close(mixed.targets * mixed.aux.weight[:, None], labels)
        torch.testing.assert_close(mixed.lam, own / (own + other))
    assert (mixed.aux.weight - 1).abs().max() > 0.02


@pytest.mark.parametrize("kind", ["block", "random"])
def test_the_official_number_of_patches_is_pasted_whatever_is_drawn(kind):
    x, targets = torch.rand(2, 1, 14, 14), torch.eye(2)
    for seed in range(10):
        mixed = mf.tokenmix(x, targets, kind=kind, generator=seeded(seed))
        pasted = int((mixed.aux.mask == 0).sum())
        assert pasted == 112 if kind == "random" else 100 < pasted <= 112


def test_a_drawn_share_decides_where_alpha_is_given():
    x, targets = torch.rand(64, 1, 8, 8), torch.eye(64)
    given = {"grid": (8, 8), "kind": "random", "per_sample": True, "extra": 3}
    kept = mf.tokenmix(x, targets, alpha=1.0, generator=seeded(0), **given).aux.mask.sum((1, 2))
    assert kept.min() == 0
    assert kept.max() > 55
    assert kept.std() > 12
    lam = torch.tensor([0.25])
    mixed = mf.tokenmix(x, targets, lam=lam, **given | {"per_sample": False})
    assert (mixed.aux.mask == 0).sum() == 48 + 3


def test_without_maps_the_label_is_by_area_of_weight_one(batch):
    mixed = mf.tokenmix(*batch, grid=GRID, perm=NEXT, per_sample=True, generator=seeded(0))
    torch.testing.assert_close(mixed.lam, mixed.aux.mask.mean((1, 2)))
    torch.testing.assert_close(mixed.aux.weight, torch.ones(4))


def test_maps_of_another_size_are_averaged_over_patches(batch):
    fine = torch.rand(4, 12, 18, generator=seeded(3))
    coarse = fine.unflatten(1, (4, 3)).unflatten(3, (6, 3)).mean((2, 4))
    mask = torch.zeros(1, *GRID)
    mask[:, :2] = 1
    given = {"grid": GRID, "mask": mask, "perm": NEXT}
    first, second = (mf.tokenmix(*batch, each, **given) for each in (fine, coarse))
    torch.testing.assert_close(first.aux, second.aux)


def test_an_empty_map_is_weighed_by_area_and_not_at_all_in_the_authors_code(batch, maps):
    x, _ = batch
    targets = mf.one_hot(torch.arange(4), 5, smoothing=0.1)
    maps[1] = 0  # the label is not among the best of any cell
    mask = (torch.rand(1, *GRID, generator=seeded(2)) < 0.7).float()
    given = {"grid": GRID, "mask": mask, "perm": NEXT}
    ours = mf.tokenmix(x, targets, maps, **given)
    theirs = mf.tokenmix(x, targets, maps, official=True, smoothing=0.1, **given)
    area = mask.mean()
    own, official = (each.lam * each.aux.weight for each in (ours, theirs))
    torch.testing.assert_close(own[1], area)
    assert official[1] == 0
    target = (theirs.targets * theirs.aux.weight[:, None])[1]
    torch.testing.assert_close(target[1], torch.tensor(-0.1 / 2 + 0.1 / 5))
    assert ours.targets.min() > 0
    for each in (ours, theirs):
        torch.testing.assert_close(each.targets.sum(1), torch.ones(4))
    # With weights that sum to 1 and are equal, both smooth alike.
    even = {"maps": torch.ones(4, *GRID), "mask": torch.ones(1, *GRID)}
    even["mask"][:, :2] = 0
    pair = [
        mf.tokenmix(x, targets, **even, grid=GRID, perm=NEXT, official=each, smoothing=0.1)
        for each in (False, True)
    ]
    torch.testing.assert_close(pair[0].targets, pair[1].targets)


def test_the_map_of_a_label_is_read_in_the_middle_of_each_cell_of_the_crop():
    score = torch.rand(3, 2, 5, 5, generator=seeded(4))
    classes = torch.stack([torch.zeros(3, 5, 5), torch.ones(3, 5, 5)], dim=1).long()
    y, crop = torch.tensor([0, 1, 2]), torch.tensor([[0.0, 0, 1, 1]]).expand(3, -1)
    found = mf.label_map(score, classes, y, crop, (5, 5))
    for row in (0, 1):
        expected = score[row, row] / score[row, row].sum()
        torch.testing.assert_close(found[row], expected)
    assert not found[2].any()  # never among the best
    part = torch.tensor([[0.3, 0.2, 0.6, 0.5]])  # left, top, width, height
    found = mf.label_map(score[:1], classes[:1], y[:1], part, (6, 6))[0]
    at = torch.arange(6)
    rows, columns = 0.2 + 0.5 * (at + 0.5) / 6, 0.3 + 0.6 * (at + 0.5) / 6
    places = torch.stack(torch.meshgrid(2 * columns - 1, 2 * rows - 1, indexing="xy"), dim=-1)
    read = F.grid_sample(score[:1, :1], places[None], padding_mode="border", align_corners=False)[
        0, 0
    ]
    torch.testing.assert_close(found, read / read.sum(), rtol=1e-4, atol=1e-6)


def test_the_map_of_a_label_is_that_of_roi_align():
    ops = pytest.importorskip("torchvision.ops")
    score = torch.rand(4, 1, 9, 9, generator=seeded(5))
    crop = torch.rand(4, 4, generator=seeded(6)) / 2
    crop[0] = torch.tensor([0.0, 0.0, 0.05, 0.05])  # less than a cell
    for grid in ((14, 14), (4, 3)):  # fewer cells than the map has: several places in each
        ends = torch.cat([crop[:, :2], crop[:, :2] + crop[:, 2:]], dim=1) * 9 - 0.5
        boxes = torch.cat([torch.arange(4.0)[:, None], ends], dim=1)
        read = ops.roi_align(score, boxes, grid)[:, 0]
        expected = read / (read.sum((1, 2), keepdim=True) + 1e-8)
        zeros = torch.zeros(4, dtype=torch.long)
        found = mf.label_map(score, torch.zeros(4, 1, 9, 9), zeros, crop, grid)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_what_does_not_fit_is_refused(batch, maps):
    with pytest.raises(ValueError, match="at least 14x14 pixels"):
        mf.tokenmix(*batch)
    with pytest.raises(ValueError, match="block, random, got 'row'"):
        mf.tokenmix(*batch, grid=GRID, kind="row")
    with pytest.raises(ValueError, match=r"mask must be 1 or 4 of \(4, 6\), got \(2, 4, 6\)"):
        mf.tokenmix(*batch, grid=GRID, mask=torch.ones(2, *GRID))
    with pytest.raises(ValueError, match=r"maps must be \(4, R, C\), got \(3, 4, 6\)"):
        mf.tokenmix(*batch, maps[:3], grid=GRID)
