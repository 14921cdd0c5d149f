import planted
import pytest
import torch
from torch import nn

from mixbench.nn.latent_encoder import LatentEncoder, fit_encoder


def test_latent_vectors_are_those_of_each_generator_in_their_range():
    encoder = LatentEncoder((1, 12, 16), [3, 5], width=4)
    first, second = encoder(100 * torch.randn(2, 1, 12, 16))
    assert first.shape == (2, 3)
    assert second.shape == (2, 5)
    assert first.abs().max() <= 1
    assert second.abs().max() <= 1


@pytest.fixture(scope="module")
def halves():
    return [planted.Half(False), planted.Half(True)]


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.3, 2.0)])
def test_a_trained_encoder_knows_what_sums_are_made_of(halves, weights):
    encoder = fit_encoder(halves, weights, 200)
    z = [2 * torch.rand(20, 3, generator=torch.Generator().manual_seed(i)) - 1 for i in (5, 6)]
    y = sum(w * half(each) for w, half, each in zip(weights, halves, z, strict=True))
    error = torch.stack([(a - b).square() for a, b in zip(encoder(y), z, strict=True)]).mean()
    assert error < 0.05  # of a variance of 1/3
    assert not encoder.training
    assert not any(p.requires_grad for p in encoder.parameters())


def test_an_encoder_follows_from_its_seed_and_leaves_other_numbers_alone(halves):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    one, two = (fit_encoder(halves, (1.0, 1.0), 3, seed=seed) for seed in (0, 0))
    torch.testing.assert_close(torch.rand(2), expected, rtol=0, atol=0)
    other = fit_encoder(halves, (1.0, 1.0), 3, seed=1)
    weights = [nn.utils.parameters_to_vector(net.parameters()) for net in (one, two, other)]
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=0)
    assert not torch.equal(weights[0], weights[2])
