import math

import pytest
import torch
from torch import Generator

import mixbench.functional as mf

NEXT = torch.tensor([1, 2, 3, 0])


def seeded(seed: int) -> Generator:
    return Generator().manual_seed(seed)


@pytest.fixture
def batch():
    return torch.randn(4, 3, 12, 9, generator=seeded(0)), torch.eye(4)


def test_the_first_cells_of_each_order_stay_and_the_others_are_the_partner_s(batch):
    x, targets = batch
    order = torch.stack([torch.randperm(12, generator=seeded(n)) for n in range(4)])
    for lam in (torch.tensor([0.3]), torch.tensor([0.0, 0.26, 0.5, 1.0])):
        mixed = mf.mixpro(x, targets, cell=3, lam=lam, order=order, perm=NEXT)
        for row, share in enumerate(lam.expand(4).tolist()):
            kept = order[row, : math.ceil(12 * share)].tolist()
            expected = x[NEXT[row]].clone()
            for cell in kept:
                top, left = 3 * (cell // 3), 3 * (cell % 3)
                place = (slice(None), slice(top, top + 3), slice(left, left + 3))
                expected[place] = x[row][place]
            assert torch.equal(mixed.x[row], expected)
            assert mixed.lam[row] == pytest.approx(len(kept) / 12)
            assert torch.equal(mixed.targets[row, [row, NEXT[row]]].sum(), torch.tensor(1.0))


def test_cells_that_the_image_cuts_count_by_their_pixels_and_whole_in_the_authors_code():
    x, targets = torch.rand(2, 1, 4, 6), torch.eye(2)
    mask = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])  # of 4 and of 2 columns
    given = {"cell": 4, "mask": mask, "perm": torch.tensor([1, 0])}
    assert mf.mixpro(x, targets, **given).lam.tolist() == pytest.approx([2 / 3, 1 / 3])
    assert mf.mixpro(x, targets, area="cells", **given).lam.tolist() == [0.5, 0.5]


def test_one_share_is_drawn_for_a_batch_and_other_cells_for_each_image(batch):
    x, targets = batch[0].repeat(16, 1, 1, 1), torch.eye(64)
    for seed in range(5):
        one = mf.mixpro(x, targets, cell=3, generator=seeded(seed))
        assert one.lam.unique().numel() == 1
    half = mf.mixpro(x, targets, cell=3, lam=torch.tensor([0.5]), generator=seeded(1))
    assert half.aux.unique(dim=0).shape[0] > 50
    each = mf.mixpro(x, targets, cell=3, per_sample=True, generator=seeded(1))
    assert each.lam.unique().numel() > 8
    mean = torch.stack(
        [mf.mixpro(x, targets, cell=3, generator=seeded(n)).aux.mean(0) for n in range(60)]
    ).mean(0)
    assert (mean - mean.mean()).abs().max() < 0.05  # no cell is preferred


def test_the_default_cells_are_whole_patches():
    for height, width, patch in ((224, 224, 16), (224, 160, 4), (30, 64, 5), (16, 24, 4)):
        cell = mf.default_cell(height, width, patch)
        assert cell % patch == 0
        assert 0 <= cell - min(height, width) / 4 < patch


@pytest.fixture
def seen():
    attn = torch.rand(4, 12, generator=seeded(2))
    kept = (torch.rand(4, 4, 3, generator=seeded(3)) < 0.5).float()
    labels = torch.rand(4, 5, generator=seeded(4)).softmax(1)
    logits = 3 * torch.randn(4, 5, generator=seeded(5))
    return attn, kept, kept.mean((1, 2)), labels, logits


def test_the_weight_goes_from_area_to_attention_as_the_prediction_comes_true(seen):
    attn, kept, area, labels, logits = seen
    found = mf.progressive_lam(*seen)
    share = (attn * kept.flatten(1)).sum(1) / attn.sum(1)
    p = logits.softmax(1)
    trust = (labels * p).sum(1) / (labels.norm(dim=1) * p.norm(dim=1))
    torch.testing.assert_close(found, trust * share + (1 - trust) * area)
    certain = mf.progressive_lam(attn, kept, area, labels, labels.log())
    torch.testing.assert_close(certain, share)
    wrong, far = torch.eye(5)[:4], 99 * torch.eye(5)[1:]
    torch.testing.assert_close(mf.progressive_lam(attn, kept, area, wrong, far), area)


def test_no_gradient_passes_through_the_weight_unless_asked_for(seen):
    attn, kept, area, labels, logits = seen
    logits.requires_grad_()
    attn.requires_grad_()
    given = (attn, kept, area, labels, logits)
    assert not mf.progressive_lam(*given).requires_grad
    lam = mf.progressive_lam(*given, detach=False)
    grad, none = torch.autograd.grad(lam.sum(), (logits, attn), allow_unused=True)
    assert grad.abs().max() > 1e-4
    assert none is None  # the authors detach the attention


def test_an_image_without_attention_keeps_its_area(seen):
    attn, kept, area, labels, logits = seen
    attn[1] = 0
    found = mf.progressive_lam(attn, kept, area, labels, logits)
    torch.testing.assert_close(found[1], area[1])
    assert found.isfinite().all()


def test_what_does_not_fit_is_refused(batch, seen):
    with pytest.raises(ValueError, match="pixels, cells, got 'rows'"):
        mf.mixpro(*batch, cell=3, area="rows")
    with pytest.raises(ValueError, match="cells of 1 pixel or more"):
        mf.mixpro(*batch, cell=0)
    with pytest.raises(ValueError, match=r"mask must be \(4, 4, 3\), got \(1, 4, 3\)"):
        mf.mixpro(*batch, cell=3, mask=torch.ones(1, 4, 3))
    with pytest.raises(ValueError, match="must have equal tokens; leave out the columns of class"):
        mf.progressive_lam(torch.rand(4, 13), *seen[1:])
