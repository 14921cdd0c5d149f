import math

import pytest
import torch

import mixbench.functional as mf

REAL, FAKE = torch.tensor([2.0, -1.0]), torch.tensor([0.5, -3.0])


def test_the_logarithmic_losses_are_those_of_probabilities():
    d_real, d_fake = REAL.sigmoid(), FAKE.sigmoid()
    expected = -d_real.log().mean() - (1 - d_fake).log().mean()
    torch.testing.assert_close(mf.discriminator_loss(REAL, FAKE), expected)
    torch.testing.assert_close(mf.generator_loss(FAKE), -d_fake.log().mean())
    saturating = mf.generator_loss(FAKE, saturating=True)
    torch.testing.assert_close(saturating, (1 - d_fake).log().mean())


def test_the_hinge_losses_by_hand():
    # max(0, 1 - 2) = 0 and max(0, 1 + 1) = 2; max(0, 1.5) = 1.5 and max(0, -2) = 0
    assert mf.discriminator_loss(REAL, FAKE, "hinge").item() == 1.0 + 0.75
    assert mf.generator_loss(FAKE, "hinge").item() == 1.25


def test_large_logits_of_half_precision_give_finite_losses():
    large = torch.tensor([300.0, -300.0], dtype=torch.bfloat16)
    assert math.isfinite(mf.discriminator_loss(-large, large))
    assert mf.generator_loss(large).dtype == torch.float32


def test_an_unknown_loss_is_refused_with_those_there_are():
    for call in (
        lambda: mf.discriminator_loss(REAL, FAKE, "w"),
        lambda: mf.generator_loss(FAKE, "w"),
    ):
        with pytest.raises(ValueError, match="log, hinge, got 'w'"):
            call()


def test_the_gradient_penalty_is_the_squared_slope_and_reaches_the_weights():
    weight = torch.tensor([1.0, -2.0, 3.0], requires_grad=True)
    x = torch.randn(4, 1, 1, 3, requires_grad=True)
    logits = (x[:, 0, 0].square() * weight).sum(1) / 2
    found = mf.r1_penalty(logits, x)
    torch.testing.assert_close(found, (x[:, 0, 0] * weight).square().sum(1).mean())
    found.backward()
    torch.testing.assert_close(weight.grad, 2 * weight * x[:, 0, 0].detach().square().mean(0))


def test_images_that_collapse_cost_more_than_images_that_differ():
    z = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    spread = torch.randn(6, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    assert mf.diversity_penalty(z, spread) < mf.diversity_penalty(z, 0.01 * spread)
    assert mf.diversity_penalty(z[:1], spread[:1]) == 0
