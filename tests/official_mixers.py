"""Golden cases of AutoMix and SAMix: their networks, and weights under the official names."""

from typing import Any

import torch
from torch import Tensor, nn

import mixbench.functional as mf
from mixbench.backbones.base import Head, StagedNet
from mixbench.config.schema import DataInfo
from mixbench.methods import METHODS
from mixbench.methods.samix.base import LearnedMixMethod
from mixbench.nn.mixer import AutoMixer, Mixer

# Names under which the file states tolerances; gradients have those without a name.
FLOAT, GRADIENT = "float32", "gradients"
LAYER = 2  # of the tiny network, behind its second convolution
WEIGHTS = {"rescale": 0.25, "upsampling": "bilinear"}  # constants of whole steps

# Official name of a parameter or buffer of the mixer, and ours.
SAMIX_NAMES = {
    "query.conv.weight": "query.weight",
    "query.conv.bias": "query.bias",
    "key.conv.weight": "key.weight",
    "key.conv.bias": "key.bias",
    "value.conv.0.conv.weight": "value.weight",
    "value.conv.0.bn.weight": "norm.weight",
    "value.conv.0.bn.bias": "norm.bias",
    "value.conv.0.bn.running_mean": "norm.running_mean",
    "value.conv.0.bn.running_var": "norm.running_var",
    "value.conv.1.conv.weight": "score.weight",
}
AUTOMIX_NAMES = {
    "query.conv.weight": "query.weight",
    "query.conv.bias": "query.bias",
    "value.weight": "value.weight",
    "value.bias": "value.bias",
}


def load(module: nn.Module, values: dict[str, Tensor]) -> None:
    """Set parameters and buffers, 1x1 convolutions as matrices."""
    state = module.state_dict()
    for name, value in values.items():
        state[name].copy_(value.reshape(state[name].shape))


def official_mixer(case: Any, start: str = "w_", **settings: Any) -> tuple[Mixer, dict[str, str]]:
    """The mixer of a case with its weights, and the official names of what it holds."""
    samix = f"{start}key.conv.weight" in case
    names = SAMIX_NAMES if samix else AUTOMIX_NAMES
    first = case[f"{start}{'value.conv.0.conv' if samix else 'value'}.weight"]
    width = case[f"{start}query.conv.weight"].shape[0]
    if samix:
        mixer: Mixer = Mixer(first.shape[1], **settings)
    else:
        mixer = AutoMixer(2 * width, lam_concat=first.shape[1] > 2 * width, **settings)
    assert mixer.width == width
    load(mixer, {ours: case[start + name] for name, ours in names.items()})
    return mixer, names


class ThreeConvolutions(StagedNet):
    """The network of the recorded steps."""

    def __init__(self, widths: list[int], num_classes: int) -> None:
        super().__init__()
        pairs = zip([3, *widths], widths, strict=False)
        convolutions = [nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairs]
        self.stages = nn.ModuleList([nn.Sequential(conv, nn.ReLU()) for conv in convolutions])
        self.channels = (3, *widths)
        self.head = Head(widths[-1], num_classes)


def convolutions(case: Any, name: str) -> dict[str, Tensor]:
    """Weights of the three convolutions of a case, under our names."""
    return {
        f"stages.{k}.0.{part}": case[f"w_{name}.conv{k + 1}.{part}"]
        for k in range(3)
        for part in ("weight", "bias")
    }


def tiny_net(case: Any, name: str, classes: int) -> ThreeConvolutions:
    """The network of a case with its weights; its head keeps weights of its own."""
    widths = [len(case[f"w_{name}.conv{k}.bias"]) for k in (1, 2, 3)]
    net = ThreeConvolutions(widths, classes)
    load(net, convolutions(case, name))
    return net


def official_method(case: Any, **settings: Any) -> LearnedMixMethod:
    """SAMix as it was recorded, in training mode."""
    cls = METHODS.get("samix")
    classes = len(case["w_head_one_q.fc.bias"])
    net = tiny_net(case, "backbone_q", classes)
    config = cls.Config(
        layer=LAYER,
        lam_k=WEIGHTS["rescale"],
        lam_margin=float(case["lam_margin"]),
        mask_adjust=float(case["mask_adjust"]),
        **settings,
    )
    method = cls(net, DataInfo(classes, *case["x"].shape[2:]), config).train()
    mixer, _ = official_mixer(case, "w_mix_block.", **WEIGHTS)
    method.mixer.load_state_dict(mixer.state_dict())
    load(method.teacher.net, convolutions(case, "backbone_k"))
    heads = heads_of(method)
    for name, head in heads.items():
        load(head, {part: case[f"w_{name}.{part}"] for part in ("fc.weight", "fc.bias")})
    return method


def heads_of(method: LearnedMixMethod) -> dict[str, Any]:
    """The heads by their official names."""
    net: Any = method.net
    return {
        "head_mix_q": method.mix_head,
        "head_mix_k": method.teacher.mix_head,
        "head_one_q": net.head,
        "head_one_k": method.teacher.net.head,
    }


def parameters_of(method: LearnedMixMethod) -> dict[str, Tensor]:
    """Parameters and buffers of a method by their official names."""
    found = {f"mix_block.{name}": value(method.mixer, ours) for name, ours in SAMIX_NAMES.items()}
    for side, net in (("q", method.net), ("k", method.teacher.net)):
        for k in range(3):
            for part in ("weight", "bias"):
                found[f"backbone_{side}.conv{k + 1}.{part}"] = value(net, f"stages.{k}.0.{part}")
    for name, head in heads_of(method).items():
        found |= {f"{name}.{part}": value(head, part) for part in ("fc.weight", "fc.bias")}
    return found


def value(module: nn.Module, name: str) -> Tensor:
    return dict([*module.named_parameters(), *module.named_buffers()])[name]


def both(mask: Tensor) -> Tensor:
    """(B, 2, H, W) weights of first and second image, as the file holds them."""
    return torch.cat([mask, 1 - mask], dim=1)


def one_step(case: Any, **settings: Any) -> None:
    """A whole training step of a case, from the masks to the gradients and the next teacher."""
    method = official_method(case, **settings)
    x, targets = case["x"], mf.one_hot(case["y"], method.info.num_classes)
    given = {
        "lam": case["lam_bb"].float()[None],
        "perm": case["perm_bb"],
        "lam_mixer": case["lam_mb"].float()[None],
        "perm_mixer": case["perm_mb"],
    }
    mixed = method.mix(x, targets, **given)
    after = {name: tensor.clone() for name, tensor in parameters_of(method).items()}
    case.compare("expect_mask_mb", both(mixed.aux.mask.detach()), FLOAT)
    with torch.no_grad():
        shared = method.share(x)
        raw = method.mixer.draw(shared, given["lam"], given["perm"], x.shape[2:])
    case.compare("expect_mask_bb_raw", both(raw), FLOAT)
    case.compare("expect_mixed_mb", mixed.aux.mixed.x.detach(), FLOAT)
    case.compare("expect_mixed_bb", mixed.x, FLOAT)

    logits, mixed = method.predict(mixed)
    terms = method.loss(logits, mixed)
    keys = {"one_q": "clean", "mix_q": "mix", "mix_k": "mixer", "mask_weighted": "mask"}
    for key, ours in keys.items():
        case.compare(f"expect_loss_{key}", terms[ours].detach(), FLOAT)
    total = sum(terms.values())
    case.compare("expect_loss_total", total.detach(), FLOAT)
    total.backward()

    learned = parameters_of(method)
    parameters = [name for name in learned if "running" not in name]
    without = {name for name in parameters if learned[name].grad is None}
    case.compare_names("expect_no_grad_names", without)
    for key in case.arrays:
        kind, _, name = key.removeprefix("expect_").partition("_")
        if key.startswith("expect_grad_"):
            grad = learned[name].grad
            assert grad is not None, name
            case.compare(key, grad.reshape(case[key].shape), GRADIENT)
        elif kind == "after":
            case.compare(key, after[name], FLOAT)
    if any(key.startswith("expect_ema_") for key in case.arrays):
        method.teacher.update(method.net, method.mix_head, float(case["ema_momentum"]))
        for name, tensor in parameters_of(method).items():
            if f"expect_ema_{name}" in case:
                case.compare(f"expect_ema_{name}", tensor.detach(), "ema")
