import pytest
import torch
import torch.nn.functional as F
from torch import Generator

import mixbench.functional as mf

NEXT = torch.tensor([1, 2, 3, 0])


def seeded(seed: int) -> Generator:
    return Generator().manual_seed(seed)


@pytest.fixture
def batch():
    return torch.randn(4, 3, 12, 9, generator=seeded(0)), torch.eye(4)


@pytest.fixture
def maps():
    return torch.randn(4, 12, 9, generator=seeded(1))


def test_a_percent_map_is_the_map_in_the_size_of_the_image_from_zero_and_of_sum_one(maps):
    small = maps[:, ::4, ::3]
    found = mf.percent_map(small, (12, 9))
    large = F.interpolate(small[:, None], (12, 9), mode="bilinear")[:, 0]
    for each, expected in zip(found, large, strict=True):
        expected = expected - expected.min()
        torch.testing.assert_close(each, expected / expected.sum())
    assert not mf.percent_map(torch.full((1, 3, 3), -2.0), (12, 9)).any()


@pytest.mark.parametrize("per_sample", [False, True])
def test_the_part_is_resized_with_its_corners_on_those_of_the_box(batch, maps, per_sample):
    x, targets = batch
    pasted = 0
    for seed in range(20):
        mixed = mf.snapmix(
            x, targets, maps, perm=NEXT, alpha=1.0, per_sample=per_sample, generator=seeded(seed)
        )
        boxes = [part.expand(4, 4).tolist() for part in mixed.aux[:2]]
        for row, (box, source) in enumerate(zip(*boxes, strict=True)):
            (top, left, bottom, right), (above, before, below, behind) = box, source
            expected = x[row].clone()
            if bottom > top and right > left and below > above and behind > before:
                part = x[NEXT[row], :, above:below, before:behind][None]
                size = (bottom - top, right - left)
                resized = F.interpolate(part, size, mode="bilinear", align_corners=True)[0]
                expected[:, top:bottom, left:right] = resized
                pasted += 1
            torch.testing.assert_close(mixed.x[row], expected, rtol=0, atol=2e-6)
    assert pasted > 40


def test_labels_weigh_what_the_maps_have_outside_of_the_one_box_and_inside_of_the_other(
    batch, maps
):
    x, targets = batch
    box = torch.tensor([[0, 0, 5, 4], [3, 3, 9, 9], [1, 2, 3, 4], [0, 0, 12, 9]])
    source = torch.tensor([[6, 2, 12, 8], [0, 0, 1, 1], [0, 0, 12, 9], [4, 4, 8, 8]])
    mixed = mf.snapmix(x, targets, maps, box=box, source=source, perm=NEXT)
    shares = [(each - each.min()) / (each - each.min()).sum() for each in maps]
    for row in range(4):
        top, left, bottom, right = box[row].tolist()
        above, before, below, behind = source[row].tolist()
        own = 1 - shares[row][top:bottom, left:right].sum()
        other = shares[NEXT[row]][above:below, before:behind].sum()
        torch.testing.assert_close(mixed.aux.weight[row], own + other)
        labels = (own * targets[row] + other * targets[NEXT[row]]) / (own + other)
        torch.testing.assert_close(mixed.targets[row], labels, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(mixed.lam[row], own / (own + other), rtol=1e-5, atol=1e-6)
    assert (mixed.aux.weight - 1).abs().max() > 0.2


def test_a_label_of_both_images_counts_once_and_twice_in_the_authors_code(batch, maps):
    x, _ = batch
    targets = mf.one_hot(torch.tensor([0, 0, 1, 2]), 4, smoothing=0.1)
    given = {"box": torch.tensor([[0, 0, 6, 6]]), "source": torch.tensor([[3, 3, 9, 9]])}
    once = mf.snapmix(x, targets, maps, perm=NEXT, **given)
    twice = mf.snapmix(x, targets, maps, perm=NEXT, same_label="sum", **given)
    factor = torch.tensor([2.0, 1, 1, 1])
    torch.testing.assert_close(twice.aux.weight, factor * once.aux.weight)
    torch.testing.assert_close(twice.targets, once.targets)
    torch.testing.assert_close(once.targets[0], targets[0])


@pytest.mark.parametrize("empty", ["box", "source"])
def test_an_empty_box_leaves_image_and_label(batch, maps, empty):
    x, _ = batch
    targets = torch.eye(2)[[0, 0, 1, 0]]
    given = {"box": torch.tensor([[0, 0, 6, 6]]), "source": torch.tensor([[3, 3, 9, 9]])}
    given[empty] = torch.tensor([[3, 4, 3, 9]])
    for boxes in (given, {key: box.expand(4, 4) for key, box in given.items()}):
        mixed = mf.snapmix(x, targets, maps, perm=NEXT, same_label="sum", **boxes)
        assert torch.equal(mixed.x, x)
        assert torch.equal(mixed.targets, targets)
        assert mixed.aux.weight.tolist() == mixed.lam.tolist() == [1] * 4
        own, partner = mf.snapmix_shares(boxes["box"], boxes["source"], (12, 9))
        assert own.all()
        assert not partner.any()


@pytest.mark.parametrize("same_label", ["once", "sum"])
def test_of_a_map_without_contrast_the_area_of_the_covered_box_counts(batch, maps, same_label):
    x, _ = batch
    maps[1] = 0.3
    targets = torch.eye(3)[[0, 0, 1, 2]]  # the first two share a label
    given = {"box": torch.tensor([[0, 0, 6, 6]]), "source": torch.tensor([[3, 3, 6, 6]])}
    mixed = mf.snapmix(x, targets, maps, perm=NEXT, same_label=same_label, **given)
    own = mixed.lam * mixed.aux.weight
    area = torch.tensor(36 / 108)
    torch.testing.assert_close(own[1], 1 - area)
    torch.testing.assert_close((mixed.aux.weight - own)[0], area)
    if same_label == "sum":  # the sum of both cannot be told, and the authors take the area
        torch.testing.assert_close(own[0], 1 - area)
    assert mixed.x.isfinite().all()
    assert mixed.targets.isfinite().all()


def test_without_weight_at_all_the_label_is_by_area(batch):
    x, targets = batch
    maps = torch.zeros(4, 12, 9)
    maps[:, 0, 0] = 1  # all that is there is covered, and nothing of it is given
    given = {"box": torch.tensor([[0, 0, 6, 6]]), "source": torch.tensor([[6, 6, 9, 9]])}
    mixed = mf.snapmix(x, targets, maps, perm=NEXT, **given)
    assert not mixed.aux.weight.any()
    torch.testing.assert_close(mixed.lam, torch.full((4,), 2 / 3))


def test_no_gradient_passes_through_the_maps(batch, maps):
    maps.requires_grad_()
    mixed = mf.snapmix(*batch, maps, perm=NEXT, generator=seeded(0))
    assert not mixed.targets.requires_grad
    assert not mixed.aux.weight.requires_grad


def test_shares_show_each_pixel_of_a_part_as_small_as_it_is():
    box, source = torch.tensor([[0, 0, 2, 2]]), torch.tensor([[0, 0, 4, 4]])
    own, partner = mf.snapmix_shares(box, source, (4, 4))
    assert own.sum() == 12
    assert (partner == 0.25).all()
    own, partner = mf.snapmix_shares(source, box, (4, 4))  # enlarged
    assert not own.any()
    assert partner.sum() == 4


def test_what_does_not_fit_is_refused(batch, maps):
    with pytest.raises(ValueError, match=r"maps \(B, h, w\) .* got \(3, 12, 9\)"):
        mf.snapmix(*batch, maps[:3])
    with pytest.raises(ValueError, match="once, sum, got 'twice'"):
        mf.snapmix(*batch, maps, same_label="twice")
    with pytest.raises(ValueError, match=r"lam must lie in \[0, 1\]"):
        mf.snapmix(*batch, maps, source_lam=torch.tensor([1.5]))
