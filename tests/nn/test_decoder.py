import pytest
import torch
import torch.nn.functional as F

from mixbench.backbones.cifar import PreActResNet
from mixbench.nn.decoder import Decoder


@pytest.mark.parametrize("size", [(32, 32), (24, 40), (17, 33), (8, 8)])
@pytest.mark.parametrize(("blocks", "channels"), [((1, 1, 1, 1), 3), ((1, 1), 1), ((1,), 3)])
def test_images_have_the_size_and_channels_of_those_that_any_staged_net_was_given(
    size, blocks, channels
):
    net = PreActResNet(blocks, 4, 10, channels)
    x = torch.rand(2, channels, *size)
    h = net.forward_stages(x)
    images = Decoder(net.channels)(h, size)
    assert images.shape == x.shape
    assert images.isfinite().all()


def test_the_map_grows_by_equal_ratios():
    decoder, seen = Decoder((3, 4, 8, 16)), []
    for block in (*decoder.blocks, decoder.image):
        block.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[1:]))
    decoder(torch.zeros(2, 16, 4, 3), (16, 48))
    assert seen == [(16, 4, 3), (8, 8, 12), (4, 16, 48)]


def test_positions_stay_where_they_were():
    """Height and width are not confused, and a corner decodes to the same corner."""
    decoder = Decoder((3, 4, 8)).eval()
    h = torch.zeros(1, 8, 4, 8)
    moved = h.clone()
    moved[0, :, 0, 7] = 10.0
    change = (decoder(moved, (16, 32)) - decoder(h, (16, 32))).abs().sum(dim=(0, 1))
    assert change[:4, 28:].sum() > 0
    assert change[9:].sum() == 0  # two convolutions reach one position and one pixel further
    assert change[:, :23].sum() == 0


def test_it_learns_the_image_from_the_features():
    torch.manual_seed(0)
    x = F.interpolate(torch.randn(8, 3, 4, 4), size=(16, 16))
    decoder, h = Decoder((3, 8, 16, 12)), F.interpolate(x, size=(4, 4)).repeat(1, 4, 1, 1)
    optimizer = torch.optim.SGD(decoder.parameters(), lr=0.1, momentum=0.9)
    errors = []
    for _ in range(60):
        error = F.mse_loss(decoder(h, (16, 16)), x)
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[-1] < 0.3 * errors[0]


@pytest.mark.parametrize("shape", [(2, 16), (2, 8, 4, 4), (2, 4, 16), (16, 4, 4)])
def test_other_features_are_refused_with_the_shape_wanted(shape):
    with pytest.raises(ValueError, match=r"\(B, 16, h, w\), got"):
        Decoder((3, 4, 16))(torch.zeros(shape), (8, 8))
