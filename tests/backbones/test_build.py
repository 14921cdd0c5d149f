import re

import pytest
import torch
from torch import nn

from mixbench import cli
from mixbench.backbones.build import build_net, check_logits
from mixbench.config.schema import DataInfo, NetConfig
from mixbench.errors import UserError

MODULE = """
import torch
from torch import nn

class Own(nn.Module):
    def __init__(self, config, info):
        super().__init__()
        self.fc = nn.Linear(info.channels * info.height * info.width, info.num_classes)

    def forward(self, x):
        return self.fc(x.flatten(1))

class OtherArguments(nn.Module):
    def __init__(self, num_classes):
        super().__init__()

class OtherTypes(nn.Module):
    def __init__(self, width, depth):
        super().__init__()
        self.fc = nn.Linear(width, depth)

def returns_text(config, info):
    return "a network"

def seven(config, info):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 7))

def other_size(config, info):
    return nn.Sequential(nn.Flatten(), nn.Linear(5, info.num_classes))

class Pair(Own):
    def forward(self, x):
        return super().forward(x), x

number = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "own_nets.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("module")
def test_a_network_of_ones_own_is_built_of_configuration_and_facts():
    info = DataInfo(num_classes=7, height=4, width=4)
    net = build_net(NetConfig(name="own_nets:Own"), info)
    assert isinstance(net, nn.Module)
    assert net(torch.zeros(2, 3, 4, 4)).shape == (2, 7)


@pytest.mark.usefixtures("module", "runs")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("own_nets:OtherArguments", "cannot build a network"),
        ("own_nets:number", "cannot build a network"),
        ("os:system", "cannot build a network"),
        ("own_nets:OtherTypes", "cannot be built: TypeError"),
        ("own_nets:returns_text", "returned str"),
    ],
)
def test_what_builds_no_network_is_named_with_what_would(name, words, capsys):
    with pytest.raises(UserError, match=words):
        build_net(NetConfig(name=name), DataInfo(7, 4, 4))
    assert cli.main(["run", f"net={name}", "data.limit=64", "wandb.mode=disabled"]) == 2
    error = capsys.readouterr().err
    assert f"net={name}" in error
    assert "NetConfig, DataInfo" in error


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("seven", r"own_nets:seven returns \(2, 7\) for images \(2, 3, 32, 32\)"),
        (
            "other_size",
            r"own_nets:other_size fails on images \(2, 3, 32, 32\): RuntimeError: ",
        ),
        ("Pair", "own_nets:Pair returns tuple instead of a tensor"),
    ],
)
def test_a_network_that_gives_no_logits_is_refused_before_training(name, words, runs, tiny, capsys):
    keys = [word for word in tiny if not word.startswith("net.")] + ["data.size=32"]
    assert cli.main(["run", f"net=own_nets:{name}", "method=mixup", *keys]) == 2
    error = capsys.readouterr().err
    assert re.search(words, error)
    assert "return logits (2, 10)" in error
    assert not list(runs.glob("*/record.json"))


@pytest.mark.usefixtures("module")
def test_the_trial_of_a_network_leaves_its_mode_and_the_random_source():
    class Noisy(nn.Module):
        def forward(self, x):
            return torch.rand(len(x), 7)

    net, before = Noisy(), torch.get_rng_state()
    check_logits(net, NetConfig(name="own_nets:Own"), DataInfo(7, 4, 4))
    assert net.training
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.usefixtures("module", "runs")
def test_a_network_that_provides_nothing_trains_what_needs_nothing(tiny, capsys):
    words = ["net=own_nets:Own", *(word for word in tiny if not word.startswith("net."))]
    assert cli.main(["run", "method=mixup", *words]) == 0
    assert cli.main(["run", "method=alignmix", *words]) == 2
    error = capsys.readouterr().err
    assert "needs maps" in error
    assert "derives from mixbench.backbones.base.StagedNet" in error


@pytest.mark.parametrize("name", ["preactresnet18", "resnet18", "resnet50", "swin_tiny"])
@torch.no_grad()
def test_the_classifier_reads_the_maximum_of_each_channel_if_asked(name):
    config = NetConfig(name=name, width=8, pool="max")
    net = build_net(config, DataInfo(5, 32, 32)).eval()
    plain = build_net(NetConfig(name=name, width=8), DataInfo(5, 32, 32)).eval()
    assert net.state_dict().keys() == plain.state_dict().keys()  # weights go either way
    x = torch.randn(2, 3, 32, 32)
    h = net.head.norm(net.forward_stages(x))
    torch.testing.assert_close(net(x), net.head.fc(h.amax(dim=(2, 3))))


@pytest.mark.parametrize("name", ["vit_tiny", "timm:convnext_atto"])
def test_a_network_without_such_pooling_is_refused(name):
    config = NetConfig(name=name, pool="max", patch=16 if "vit" in name else None)
    with pytest.raises(UserError, match=r"the classifier could read|in its pooling") as error:
        build_net(config, DataInfo(5, 32, 32))
    assert "net.pool=avg" in str(error.value)
