import copy

import pytest
import torch
from torch import nn

from mixbench.backbones import NETS
from mixbench.backbones.cifar import PreActResNet
from mixbench.config.schema import DataInfo, NetConfig


def net(width=4, final_norm=True, classes=10, channels=3):
    config = NetConfig(width=width, final_norm=final_norm)
    return NETS.get("preactresnet18")(config, DataInfo(classes, 32, 32, channels))


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def test_the_full_width_network_has_the_published_size():
    assert round(parameters(net(64)) / 1e6, 1) == 11.2


def test_forward_flops_at_32_pixels_match_the_published_count():
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        net(64).eval()(torch.zeros(1, 3, 32, 32))
    assert round(counter.get_total_flops() / 1e9, 2) == 1.11


@pytest.mark.parametrize("size", [(32, 32), (64, 64), (28, 28), (17, 33)])
def test_any_input_size_works_and_layers_have_the_declared_channels(size):
    module = net().eval()
    x = torch.randn(2, 3, *size)
    assert module(x).shape == (2, 10)
    for layer, channels in enumerate(module.channels):
        h = module.forward_stages(x, stop=layer)
        assert h.shape[1] == channels
    assert h.shape[2:] == tuple(-(-n // 8) for n in size)


def test_a_forward_can_be_cut_at_every_layer():
    module = net().eval()
    x = torch.randn(2, 3, 16, 16)
    whole = module(x)
    for layer in range(len(module.stages) + 1):
        h = module.forward_stages(x, stop=layer)
        torch.testing.assert_close(module.head(module.forward_stages(h, start=layer)), whole)
        assert torch.equal(module.forward_stages(x, stop=layer - 5), h)
        rest = module.forward_stages(h, start=layer - 5)
        torch.testing.assert_close(module.head(rest), whole)
    assert torch.equal(module.forward_stages(x, stop=0), x)
    assert torch.equal(module.forward_stages(x, stop=-1), module.forward_stages(x))


def test_layers_out_of_order_are_refused():
    module = net()
    x = torch.randn(1, 3, 8, 8)
    with pytest.raises(ValueError, match="0 <= start <= stop <= 4"):
        module.forward_stages(x, stop=5)
    with pytest.raises(ValueError, match="got 3, 1"):
        module.forward_stages(x, start=3, stop=1)


def test_a_network_without_attention_refuses_to_capture_it():
    assert net().provides == {"stages", "maps"}
    with pytest.raises(ValueError, match="no attention to capture"):
        net().forward_stages(torch.randn(1, 3, 8, 8), capture=object())


def test_the_final_normalisation_belongs_to_the_last_stage():
    with_norm, without = net(final_norm=True), net(final_norm=False)
    assert parameters(with_norm) - parameters(without) == 2 * with_norm.channels[-1]
    last = with_norm.eval().forward_stages(torch.randn(2, 3, 16, 16))
    assert last.min() >= 0  # behind a ReLU
    assert without.eval().forward_stages(torch.randn(2, 3, 16, 16)).min() < 0


def test_blocks_follow_the_definition_of_the_paper():
    block = PreActResNet((1, 1), 4, 10).stages[1][0].eval()
    h = torch.randn(2, 4, 8, 8)
    ready = torch.relu(block.norm1(h))
    inner = block.conv2(torch.relu(block.norm2(block.conv1(ready))))
    torch.testing.assert_close(block(h), inner + block.shortcut(ready))
    assert block.conv1.stride == (2, 2)


def test_the_head_can_be_copied_and_its_parts_called():
    module = net().eval()
    h = module.forward_stages(torch.randn(2, 3, 16, 16))
    second = copy.deepcopy(module.head)
    nn.init.zeros_(second.fc.weight)
    assert module.head.fc.weight.abs().sum() > 0
    torch.testing.assert_close(
        module.head(h), module.head.fc(module.head.pool(module.head.norm(h)))
    )


def test_stages_keep_nothing_between_calls_and_compile_one_by_one():
    module = net(final_norm=True).eval()
    x = torch.randn(2, 3, 16, 16)
    expected = module(x)
    for stage in module.stages:
        stage.compile(backend="eager", fullgraph=True)
    torch.testing.assert_close(module(x), expected)
    assert set(module.state_dict()) == set(net().state_dict())


def wide(name, width=None, classes=10, final_norm=True):
    config = NetConfig(name=name, width=width, final_norm=final_norm)
    return NETS.get(name)(config, DataInfo(classes, 32, 32))


# Zagoruyko and Komodakis: 11.0 M, 2.2 M and, by the same formula, 23.4 M.
@pytest.mark.parametrize(
    ("name", "depth", "factor", "size"),
    [("wrn16x8", 16, 8, 11.0), ("wrn28x8", 28, 8, 23.4), ("wrn40x2", 40, 2, 2.2)],
)
def test_wide_networks_have_the_size_and_depth_of_the_paper(name, depth, factor, size):
    with torch.device("meta"):
        module = wide(name)
    assert round(parameters(module) / 1e6, 1) == size
    convolutions = [
        m for m in module.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)
    ]
    # The paper counts the shortcuts of three stages; without them and with the stem it is this.
    assert len(convolutions) == depth - 3
    assert module.channels == (3, 16 * factor, 32 * factor, 64 * factor)
    assert convolutions[0].out_channels == 16


def test_the_width_of_a_network_is_that_of_its_paper_unless_given():
    assert NetConfig().width == 64
    assert NetConfig(name="wrn28x8").width == 128
    assert NetConfig(name="wrn28x8", width=32).width == 32
    assert wide("wrn16x8", 32).channels == (3, 32, 64, 128)


def test_wide_networks_halve_the_resolution_twice_and_end_with_their_norm():
    module = wide("wrn16x8", 16).eval()
    h = module.forward_stages(torch.randn(2, 3, 32, 32))
    assert h.shape == (2, 64, 8, 8)
    assert h.min() >= 0
    assert wide("wrn16x8", 16, final_norm=False).final_norm is False
