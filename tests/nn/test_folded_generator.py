import pytest
import torch

import mixbench.functional as mf
from mixbench.nn.folded_generator import FoldedGenerator
from mixbench.nn.gan import ImageGenerator


def made(shape=(1, 8, 12), width=6, norm="batch", span=(0.0, 1.0)):
    """A frozen generator in float64, all of whose weights and statistics matter."""
    random = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        net = ImageGenerator(5, shape, width, norm, span).double()
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if value.is_floating_point():
                drawn = torch.randn(value.shape, generator=random, dtype=value.dtype) / 2
                value.copy_(drawn.abs() + 0.5 if "var" in name else drawn)
    return net.eval().requires_grad_(False)


class Wrapped(torch.nn.Module):
    """Gives all attributes of another module for its own, as a compiled module does."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def __getattr__(self, name):
        return super().__getattr__(name) if name == "net" else getattr(self.net, name)

    def forward(self, z):
        return self.net(z)


@pytest.mark.parametrize(
    ("shape", "span"),
    [((1, 28, 28), (0.0, 1.0)), ((3, 8, 12), (-2.0, 1.0)), ((1, 4, 4), (0.0, 1.0))],
)
def test_images_and_gradients_are_those_of_the_generator(shape, span):
    net = made(shape, span=span)
    z = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    expected, found = net(z), net.folded()(z)
    assert expected.std(dim=0).min() > 0  # every pixel follows the latent vector
    torch.testing.assert_close(found, expected)
    weight = torch.randn_like(expected)
    gradients = [torch.autograd.grad(images, z, weight)[0] for images in (found, expected)]
    assert gradients[1].abs().min() > 0
    torch.testing.assert_close(*gradients)


def test_what_does_not_fold_stays_as_it_is():
    assert isinstance(made().folded(), FoldedGenerator)
    for net in (made(norm="group"), made().train(), made().to("meta")):
        assert net.folded() is net


def test_a_search_uses_the_folded_form_and_finds_the_same():
    net = made((1, 8, 8)).float()
    starts = mf.draw_starts(torch.arange(3), 2, [5])
    y = net(mf.draw_starts(torch.arange(3) + 9, 1, [5])[0][:, 0])
    calls = []

    class Noted(ImageGenerator):
        def folded(self):
            form = super().folded()
            return lambda z: calls.append(len(z)) or form(z)

    expected = mf.latent_search([lambda z: net(z)], y, starts, steps=20)
    net.__class__ = Noted
    found = mf.latent_search([net], y, starts, steps=20)
    assert calls.count(6) >= 20
    torch.testing.assert_close(found.data_terms, expected.data_terms, rtol=1e-3, atol=1e-4)
    calls.clear()
    mf.latent_search([Wrapped(net).eval()], y, starts, steps=2)
    assert not calls
