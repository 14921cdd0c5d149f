import sys

import pytest
import torch
from making import write_hub
from safetensors.torch import save
from small_nets import small_net

import mixbench.backbones.adapters
from mixbench import compose, run
from mixbench.backbones.adapters import FAMILIES, pretrained_file
from mixbench.errors import UserError
from mixbench.training.build import build
from mixbench.training.job import resolve
from mixbench.training.requirements import provided

NAMES = {
    "resnet10t": (32, {}),
    "convnext_atto": (32, {}),
    "swin_tiny_patch4_window7_224": (32, {}),
    "vit_tiny_patch16_224": (32, {"patch": 8}),
    "test_vit2": (32, {}),
    "efficientnet_lite0": (
        32,
        {
            "stages": [
                "conv_stem+bn1+blocks.0+blocks.1",
                "blocks.2+blocks.3+blocks.4",
                "blocks.5+blocks.6+conv_head+bn2",
            ]
        },
    ),
}


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_a_network_of_timm_by_stages_is_timm_s(name):
    import timm

    size, settings = NAMES[name]
    torch.manual_seed(0)
    net = small_net(f"timm:{name}", size, 5, **settings).eval()
    options = {"img_size": size} if "patch" in name or "vit" in name else {}
    options |= {"patch_size": settings["patch"]} if "patch" in settings else {}
    theirs = timm.create_model(name, num_classes=5, **options).eval()
    state = net.published(net.state_dict())
    assert {n: v.shape for n, v in state.items()} == {
        n: v.shape for n, v in theirs.state_dict().items()
    }
    theirs.load_state_dict(state)
    x = torch.randn(2, 3, size, size)
    torch.testing.assert_close(net(x), theirs(x), rtol=1e-5, atol=1e-5)
    for layer in range(len(net.stages) + 1):
        h = net.forward_stages(x, stop=layer)
        torch.testing.assert_close(net.head(net.forward_stages(h, start=layer)), net(x))
        assert h.shape[1 if h.ndim == 4 else 2] == net.channels[layer]
        assert h.ndim == 4 or "maps" not in net.provides
    back = net.own_names(state)
    assert back.keys() == net.state_dict().keys()
    assert provided(f"timm:{name}") in (None, net.provides)


def test_the_class_of_a_network_of_timm_is_looked_up_once(monkeypatch):
    import timm

    made, create = [], timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name: made.append(name) or create(name))
    mixbench.backbones.adapters._kind.cache_clear()
    assert provided("timm:resnet10t") == provided("timm:resnet10t") == {"stages", "maps"}
    assert made == ["resnet10t"]


def test_stages_of_a_known_family_can_be_cut_elsewhere():
    stages = ["conv1+bn1+act1+maxpool", "layer1+layer2", "layer3+layer4"]
    net = small_net("timm:resnet10t", stages=stages)
    assert len(net.stages) == 3
    assert net(torch.randn(2, 3, 32, 32)).shape == (2, 4)


def test_an_unknown_family_is_refused_with_the_families_and_the_modules():
    with pytest.raises(
        UserError, match="EfficientNet belongs to none of the known families"
    ) as error:
        small_net("timm:efficientnet_lite0")
    assert all(family in error.value.what for family in FAMILIES)
    assert "it has conv_stem, bn1, blocks" in error.value.todo


@pytest.mark.parametrize(
    ("name", "stages", "text"),
    [
        ("resnet10t", ["conv1+bn1+act1", "layer1+layer2+layer3+layer4"], "do not make up"),
        ("resnet10t", ["conv1+nothing"], "nothing"),
        ("mobilenetv3_small_050", ["conv_stem+bn1", "blocks"], r"do not make up|cannot be built"),
    ],
)
def test_stages_that_are_not_the_network_are_refused(name, stages, text):
    with pytest.raises(UserError, match=text):
        small_net(f"timm:{name}", stages=stages)


def test_an_unknown_name_gives_the_nearest():
    with pytest.raises(UserError, match="has no network 'resnet81'; did you mean 'resnet"):
        small_net("timm:resnet81")


# FAULTS row 17.
def test_images_that_do_not_fit_are_refused_with_their_size():
    with pytest.raises(UserError, match="images of 31x31 pixels are not a whole number of patches"):
        small_net("timm:vit_tiny_patch16_224", 31)
    with pytest.raises(UserError, match="cannot be built for images of 32x32 pixels") as error:
        small_net("timm:vit_tiny_patch16_224", 32, stages=["blocks.99"])
    assert "data.size" in error.value.todo


def test_without_timm_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match="timm is not installed") as error:
        small_net("timm:resnet18")
    assert error.value.todo == "pip install 'mixbench[timm]'"


def test_a_run_trains_a_network_of_timm(runs, tiny):
    record = run(compose([*tiny, "net=timm:resnet10t"]))
    assert record.status == "done"
    assert record.net == "timm:resnet10t"
    assert record.id.startswith("erm-digits-timm_resnet10t-")


# Published weights.


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


WORDS = "data=digits data.size=32 net=timm:resnet10t"


def test_published_weights_are_what_training_starts_from_and_count_by_their_content(hub):
    published = write_hub(hub, "timm/resnet10t.c3_in1k", "resnet10t")
    plain, job = (resolve(compose(f"{WORDS} {more}")) for more in ("", "net.pretrained=true"))
    assert job.identity.inputs["net.pretrained"]["content"].startswith("sha256:")
    assert job.identity.recipe_hash != plain.identity.recipe_hash
    net = build(job, job.read_data())[0].net
    state = net.published(net.state_dict())
    for name, value in published.items():
        if not name.startswith("fc."):
            torch.testing.assert_close(state[name], value, rtol=0, atol=0)
    assert state["fc.weight"].shape[0] == 10  # drawn anew for the classes at hand
    file = next(hub.glob("*/snapshots/*/model.safetensors"))
    file.write_bytes(save({name: value + 1 for name, value in published.items()}))
    assert resolve(compose(f"{WORDS} net.pretrained=true")).identity.id != job.identity.id


def test_weights_that_cannot_be_fetched_are_refused_at_once_with_the_way_out(hub, monkeypatch):
    def nobody(url):
        raise OSError("nobody answers")

    monkeypatch.setattr(mixbench.backbones.adapters, "_reach", nobody)
    with pytest.raises(UserError, match="not in the cache and cannot be fetched: nobody") as caught:
        assert resolve(compose(f"{WORDS} net.pretrained=true")).identity
    assert "model.safetensors of timm/resnet10t.c3_in1k" in caught.value.todo
    assert "net.weights=FILE" in caught.value.todo
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="not in the cache"):
        pretrained_file("timm:resnet10t")
    monkeypatch.setattr("timm.is_model", lambda name: True)
    with pytest.raises(UserError, match="timm publishes no weights of timm:resnet10t_x"):
        pretrained_file("timm:resnet10t_x")


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ("net.pretrained=true", "needs net=timm:NAME, got net=preactresnet18"),
        ("net=timm:resnet10t net.pretrained=true net.weights=a.pth", "name two sets of weights"),
    ],
)
def test_published_weights_are_those_of_timm_alone(words, what):
    with pytest.raises(UserError, match=what):
        compose(f"data=digits {words}")
