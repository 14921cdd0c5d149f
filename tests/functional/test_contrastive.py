import pytest
import torch
import torch.nn.functional as F

import mixbench.functional as mf


@pytest.fixture
def unit():
    generator = torch.Generator().manual_seed(0)
    return [F.normalize(torch.randn(n, 8, generator=generator), dim=1) for n in (4, 4, 4, 16)]


def test_the_own_key_is_the_right_answer_among_those_of_the_queue(unit):
    z, key, _, queue = unit
    scores = torch.cat([(z * key).sum(dim=1, keepdim=True), z @ queue.T], dim=1) / 0.2
    expected = -scores.softmax(dim=1)[:, 0].log()
    torch.testing.assert_close(mf.info_nce(z, key, queue.T, 0.2), expected)


@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
def test_a_mixed_view_has_the_loss_of_both_keys_by_their_shares(unit, lam):
    z, first, second, queue = unit
    one, other = (mf.info_nce(z, keys, queue.T, 0.2).mean() for keys in (first, second))
    found = mf.mixed_info_nce(z, first, second, queue.T, torch.tensor([lam]), 0.2)
    torch.testing.assert_close(found, lam * one + (1 - lam) * other)


def test_two_keys_are_told_apart_without_others(unit):
    z, first, second, _ = unit
    lam = torch.tensor([0.1, 0.4, 0.8, 1.0])
    scores = torch.stack([(z * first).sum(dim=1), (z * second).sum(dim=1)], dim=1) / 0.2
    expected = mf.soft_cross_entropy(scores, torch.stack([lam, 1 - lam], dim=1))
    torch.testing.assert_close(mf.two_way_nce(z, first, second, lam, 0.2), expected)


def test_keys_and_queue_get_no_gradient_and_reduced_precision_counts_in_float32(unit):
    z, first, second, queue = (part.bfloat16().requires_grad_() for part in unit)
    lam = torch.tensor([0.3])
    loss = mf.mixed_info_nce(z, first, second, queue.T, lam, 0.2)
    loss = loss + mf.two_way_nce(z, first, second, lam, 0.2)
    assert loss.dtype == torch.float32
    loss.backward()
    assert z.grad.norm() > 0
    assert first.grad is second.grad is queue.grad is None


def test_weights_that_are_no_shares_are_refused(unit):
    z, first, second, queue = unit
    for lam, match in ((torch.tensor([1.5]), "lie in"), (torch.ones(3), "hold 1 or 4")):
        with pytest.raises(ValueError, match=match):
            mf.mixed_info_nce(z, first, second, queue.T, lam, 0.2)
        with pytest.raises(ValueError, match=match):
            mf.two_way_nce(z, first, second, lam, 0.2)


def test_cosines_are_not_rounded_under_autocast(unit):
    z, first, second, queue = unit
    lam = torch.tensor([0.3])
    wide = mf.mixed_info_nce(z, first, second, queue.T, lam, 0.05)
    with torch.autocast("cpu", torch.bfloat16):
        found = mf.mixed_info_nce(z, first, second, queue.T, lam, 0.05)
    assert torch.equal(found, wide)
