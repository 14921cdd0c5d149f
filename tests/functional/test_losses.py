import pytest
import torch
import torch.nn.functional as F
from torch import Generator

import mixbench.functional as mf


def seeded(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def test_soft_losses_of_a_mixture_are_the_mixture_of_two_losses():
    generator = seeded(0)
    logits = torch.randn(6, 4, generator=generator)
    y, partner = torch.randint(4, (2, 6), generator=generator)
    lam = 0.3
    targets = lam * mf.one_hot(y, 4) + (1 - lam) * mf.one_hot(partner, 4)
    pair = lam * F.cross_entropy(logits, y) + (1 - lam) * F.cross_entropy(logits, partner)
    torch.testing.assert_close(mf.soft_cross_entropy(logits, targets), pair, rtol=1e-6, atol=1e-6)


def test_divergence_is_cross_entropy_less_the_entropy_of_the_targets():
    generator = seeded(1)
    logits = torch.randn(6, 4, generator=generator)
    targets = torch.rand(6, 4, generator=generator).softmax(1)
    entropy = -(targets * targets.log()).sum(1).mean()
    expected = mf.soft_cross_entropy(logits, targets) - entropy
    torch.testing.assert_close(mf.soft_kl(logits, targets), expected, rtol=1e-6, atol=1e-6)


def test_divergence_is_never_negative_and_zero_only_where_the_softmax_is_the_target():
    generator = seeded(2)
    logits = torch.randn(200, 5, generator=generator)
    targets = torch.randn(200, 5, generator=generator).softmax(1)
    rows = zip(logits[:, None], targets[:, None], strict=True)
    losses = torch.stack([mf.soft_kl(*row) for row in rows])
    assert (losses > 1e-4).all()
    same = mf.soft_kl(logits, logits.softmax(1))
    torch.testing.assert_close(same, torch.zeros(()), rtol=0, atol=1e-6)


def test_divergence_of_one_hot_targets_is_the_plain_loss_and_has_no_log_of_zero():
    logits, y = torch.randn(4, 3, generator=seeded(3)).requires_grad_(), torch.tensor([0, 2, 1, 1])
    loss = mf.soft_kl(logits, mf.one_hot(y, 3))
    torch.testing.assert_close(loss, F.cross_entropy(logits, y), rtol=1e-6, atol=1e-6)
    (grad,) = torch.autograd.grad(loss, logits)
    assert grad.isfinite().all()


def test_divergence_and_cross_entropy_have_the_same_gradient():
    generator = seeded(4)
    logits = torch.randn(6, 4, generator=generator).requires_grad_()
    targets = torch.rand(6, 4, generator=generator).softmax(1)
    (first,) = torch.autograd.grad(mf.soft_kl(logits, targets), logits)
    (second,) = torch.autograd.grad(mf.soft_cross_entropy(logits, targets), logits)
    torch.testing.assert_close(first, second, rtol=1e-6, atol=1e-7)


def test_binary_cross_entropy_takes_mixed_multi_hot_targets():
    generator = seeded(5)
    logits, targets = torch.randn(4, 6, generator=generator), torch.rand(4, 6, generator=generator)
    share = logits.sigmoid()
    expected = -(targets * share.log() + (1 - targets) * (1 - share).log()).mean()
    loss = mf.soft_binary_cross_entropy(logits, targets)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["soft_cross_entropy", "soft_kl", "soft_binary_cross_entropy"])
def test_losses_are_computed_in_float32_whatever_the_precision_of_the_logits(name):
    loss = getattr(mf, name)
    generator = seeded(6)
    logits = (torch.randn(6, 4, generator=generator) * 20).bfloat16()
    targets = torch.rand(6, 4, generator=generator).softmax(1).bfloat16()
    expected = loss(logits.float(), targets.float())
    assert loss(logits, targets).dtype == torch.float32
    torch.testing.assert_close(loss(logits, targets), expected, rtol=0, atol=0)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(loss(logits, targets), expected, rtol=0, atol=0)


def test_an_unknown_label_takes_no_part_in_the_loss_and_has_no_gradient():
    nan = float("nan")
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    targets = torch.tensor([[1.0, 0, nan, 0.3], [nan, nan, nan, nan], [0, 1, 1, nan]])
    known = ~targets.isnan()
    loss = mf.soft_binary_cross_entropy(logits, targets)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits[known], targets[known])
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert logits.grad is not None
    assert (logits.grad[~known] == 0).all()
    assert (logits.grad[known] != 0).all()
    nothing = mf.soft_binary_cross_entropy(logits.detach(), torch.full_like(targets, nan))
    assert nothing == 0
