import pytest
import torch

from mixbench.config.schema import DataInfo, NetConfig
from mixbench.errors import UserError
from mixbench.nn.gan import AveragedGenerators, ImageDiscriminator, ImageGenerator, dcgan

SHAPE = (1, 8, 12)


def made(**settings):
    torch.manual_seed(0)
    return ImageGenerator(5, SHAPE, 4, **settings)


def test_a_generator_fills_its_span_and_never_leaves_it():
    net = made(span=(-2.0, 1.0))
    with torch.no_grad():
        net.layers[-1].weight.mul_(1e4)
        x = net(torch.rand(16, 5) * 2 - 1)
    assert x.shape == (16, *SHAPE)
    assert (x.min().item(), x.max().item()) == (-2.0, 1.0)


def test_latent_vectors_of_another_length_are_refused_with_the_key():
    with pytest.raises(ValueError, match=r"\(N, 5\) are needed, got \(3, 4\); net\.latent"):
        made()(torch.zeros(3, 4))


@pytest.mark.parametrize("net", [ImageGenerator, ImageDiscriminator])
def test_sides_that_two_strides_do_not_divide_are_refused(net):
    with pytest.raises(ValueError, match="multiples of 4, such as 28x28, got 30x28"):
        net(image_shape=(1, 30, 28))


def test_a_discriminator_refuses_images_of_another_shape():
    with pytest.raises(ValueError, match=r"\(1, 8, 12\) are needed, got \(3, 8, 12\)"):
        ImageDiscriminator(SHAPE, 4)(torch.zeros(2, 3, 8, 12))


def test_the_generator_of_a_run_says_how_to_resize_and_to_widen():
    info = DataInfo(4, 30, 30, channels=1)
    with pytest.raises(UserError, match="got 30x30") as error:
        dcgan(NetConfig(name="dcgan", width=8), info)
    assert "data.size=28" in error.value.todo
    with pytest.raises(UserError, match="even, got 3") as error:
        dcgan(NetConfig(name="dcgan", width=3), DataInfo(4, 28, 28, channels=1))
    assert error.value.where == "net.width=3"


def test_a_generator_of_the_same_size_has_weights_of_its_own():
    net = made()
    other = net.like("batch", (0.0, 3.0))
    assert other.span == (0.0, 3.0)
    pairs = list(zip(net.parameters(), other.parameters(), strict=True))
    assert all(a.shape == b.shape for a, b in pairs)
    assert not torch.equal(pairs[0][0], pairs[0][1])


def test_group_normalisation_sees_each_image_alone_and_batch_normalisation_does_not():
    x = torch.randn(6, *SHAPE)
    alone = {}
    for norm in ("group", "batch"):
        torch.manual_seed(1)
        net = ImageDiscriminator(SHAPE, 4, norm)
        alone[norm] = torch.allclose(net(x)[:2], net(x[:2]), atol=1e-5)
    assert alone == {"group": True, "batch": False}


def test_spectral_normalisation_bounds_each_layer():
    torch.manual_seed(0)
    net = ImageDiscriminator(SHAPE, 4, spectral=True)
    for layer in net.layers:
        if hasattr(layer, "parametrizations"):
            layer.parametrizations.weight.original.data.mul_(50)
    for _ in range(30):  # iterations of the power method
        net(torch.randn(2, *SHAPE))
    found = [m.weight.flatten(1) for m in net.layers if hasattr(m, "parametrizations")]
    assert len(found) == 3
    for weight in found:
        assert torch.linalg.matrix_norm(weight, 2).item() == pytest.approx(1, abs=0.02)


def test_the_activation_of_the_discriminator_is_leaky_unless_it_is_asked_for_relu():
    kinds = [
        {type(layer).__name__ for layer in ImageDiscriminator(SHAPE, 4, act=act).layers}
        for act in ("leaky", "relu")
    ]
    assert ("LeakyReLU" in kinds[0], "LeakyReLU" in kinds[1]) == (True, False)


def test_averages_follow_weights_by_their_share_and_copy_statistics():
    nets = torch.nn.ModuleList([made()])
    averages = AveragedGenerators(nets)
    before = [p.clone() for p in averages.parameters()]
    with torch.no_grad():
        for p in nets.parameters():
            p.add_(1)
        for buffer in nets.buffers():
            buffer.fill_(7)
    averages.update(nets, 0.75)
    for own, old in zip(averages.parameters(), before, strict=True):
        torch.testing.assert_close(own, old + 0.25)
        assert not own.requires_grad
    assert all(bool((buffer == 7).all()) for buffer in averages.buffers())
