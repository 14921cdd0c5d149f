import pytest
import torch
from small_nets import small_net
from torch import nn

from mixbench.backbones import NETS
from mixbench.config.schema import DataInfo, NetConfig
from mixbench.errors import UserError


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def wake(module):
    """Statistics and shifts that a mistake would not survive."""
    generator = torch.Generator().manual_seed(3)
    for name, value in module.state_dict().items():
        if value.is_floating_point() and value.ndim == 1:
            low, high = (0.5, 1.5) if "var" in name or "weight" in name else (-0.5, 0.5)
            value.uniform_(low, high, generator=generator)
    return module.eval()


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@torch.no_grad()
def test_weights_of_torchvision_give_its_logits_and_its_layers(name):
    import torchvision

    theirs = wake(getattr(torchvision.models, name)(num_classes=7))
    net = NETS.get(name)(NetConfig(name=name), DataInfo(7, 64, 64)).eval()
    net.load_state_dict(net.own_names(theirs.state_dict()))
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(net(x), theirs(x), rtol=1e-5, atol=1e-5)
    h = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(x))))
    for layer in range(1, 5):
        h = getattr(theirs, f"layer{layer}")(h)
        torch.testing.assert_close(net.forward_stages(x, stop=layer), h, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet101"])
def test_published_weights_are_those_of_torchvision_by_name_and_shape(name):
    import torchvision

    with torch.device("meta"):
        theirs = getattr(torchvision.models, name)().state_dict()
        net = NETS.get(name)(NetConfig(name=name), DataInfo(1000, 224, 224))
    published = net.published(net.state_dict())
    assert {n: v.shape for n, v in published.items()} == {n: v.shape for n, v in theirs.items()}


@torch.no_grad()
def test_resnext50_is_torchvision_s_behind_another_stem():
    import torchvision

    theirs = wake(torchvision.models.resnext50_32x4d(num_classes=5))
    theirs.conv1 = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False)
    theirs.maxpool = torch.nn.Identity()
    net = NETS.get("resnext50")(NetConfig(name="resnext50"), DataInfo(5, 16, 16)).eval()
    net.load_state_dict(net.own_names(theirs.state_dict()))
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(net(x), theirs(x), rtol=1e-5, atol=1e-5)
    assert net.forward_stages(x, stop=1).shape == (2, 256, 16, 16)


def test_resnext50_has_the_size_that_openmixup_states():
    with torch.device("meta"):
        net = NETS.get("resnext50")(NetConfig(name="resnext50"), DataInfo(100, 32, 32))
    assert round(parameters(net) / 1e6, 2) == 23.18


HE = ["resnet18", "resnet50", "resnext50", "wrn16x8"]


@pytest.mark.parametrize("name", [*HE, "preactresnet18"])
def test_every_layer_starts_as_its_authors_draw_it(name):
    torch.manual_seed(0)
    net = small_net(name, classes=100, width=32)
    for part in net.modules():
        if isinstance(part, nn.Conv2d):
            weight = part.weight.detach()
            outputs, per_group, height, width = weight.shape
            if name in HE:  # He et al.: normal, by the connections out of a layer
                std, tails = (2 / (outputs * height * width)) ** 0.5, 3.0
            else:  # PyTorch: uniform, by the connections into it
                bound = (1 / (per_group * height * width)) ** 0.5
                std, tails = bound / 3**0.5, 1.8
                assert weight.abs().max() <= bound
            error = 4 / weight.numel() ** 0.5  # at least four deviations of each estimate
            assert abs(weight.mean() / std) < error
            assert weight.std() / std == pytest.approx(1, abs=error)
            kurtosis = ((weight - weight.mean()) / weight.std()).pow(4).mean()
            assert kurtosis == pytest.approx(tails, abs=5 * error)
        elif isinstance(part, nn.BatchNorm2d):  # also the last of a block: none starts at 0
            assert (part.weight == 1).all()
            assert (part.bias == 0).all()
        elif isinstance(part, nn.Linear):
            bound = (1 / part.in_features) ** 0.5
            for value in (part.weight, part.bias):
                assert bound * 0.9 < value.abs().max() <= bound


def test_a_width_that_leaves_part_of_a_channel_to_a_group_is_refused():
    with pytest.raises(UserError, match=r"groups of 1\.25 channels") as error:
        small_net("resnext50", width=20)
    assert "a multiple of 16" in str(error.value)
