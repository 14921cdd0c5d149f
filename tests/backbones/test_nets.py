"""What holds for every registered network."""

import pytest
import torch
from small_nets import CLASSIFIERS, SIZE, small_net

from mixbench.backbones import NETS
from mixbench.config.schema import DataInfo, NetConfig

EVERY = CLASSIFIERS


@pytest.fixture(scope="module", params=EVERY)
def net(request):
    torch.manual_seed(0)
    return small_net(request.param).eval()


@torch.no_grad()
def test_a_forward_can_be_cut_at_every_layer(net):
    x = torch.randn(2, 3, SIZE, SIZE)
    whole = net(x)
    assert whole.shape == (2, 4)
    for layer in range(len(net.stages) + 1):
        h = net.forward_stages(x, stop=layer)
        torch.testing.assert_close(net.head(net.forward_stages(h, start=layer)), whole)


@torch.no_grad()
def test_layers_have_the_declared_channels_and_are_maps_where_it_says_so(net):
    assert len(net.channels) == len(net.stages) + 1
    for layer, channels in enumerate(net.channels):
        h = net.forward_stages(torch.randn(2, 3, SIZE, SIZE), stop=layer)
        is_map = h.ndim == 4
        assert h.shape[1 if is_map else 2] == channels
        assert is_map or layer == 0 or "maps" not in net.provides


def test_published_names_lead_back_and_none_is_used_twice(net):
    state = net.state_dict()
    published = net.published(state)
    assert len(published) == len(state)
    back = net.own_names(published)
    assert {name: id(value) for name, value in back.items()} == {n: id(v) for n, v in state.items()}


@torch.no_grad()
def test_the_parts_of_the_head_make_the_head(net):
    h = net.forward_stages(torch.randn(2, 3, SIZE, SIZE))
    logits = net.head.fc(net.head.pool(net.head.norm(h)))
    torch.testing.assert_close(logits, net.head(h), rtol=0, atol=0)
    assert net.head.fc.in_features == net.channels[-1]


def test_every_parameter_gets_a_gradient(net):
    net.zero_grad()
    net(torch.randn(2, 3, SIZE, SIZE)).square().sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None] == []


def test_grey_images_need_no_more_than_one_channel():
    for name in EVERY:
        if name in ("wrn28x8", "resnet50", "resnext50", "deit_small", "deit_tiny"):
            continue  # the class is the same
        config = NetConfig(name=name, width=16)
        net = NETS.get(name)(config, DataInfo(3, SIZE, SIZE, channels=1)).eval()
        assert net(torch.randn(2, 1, SIZE, SIZE)).shape == (2, 3)
        assert net.channels[0] == 1
