import re

import pytest
import torch

import mixbench.functional as mf
from mixbench.backbones.cifar import PreActResNet
from mixbench.config.schema import DataInfo
from mixbench.methods.build import build_method

GOLDEN = "manifold_mixup"
NOT_COMPARED: dict[str, str] = {}
LOSSES = {"bce": "bce_softmax", "ce": "ce"}
PARTS = {"bn": "norm", "conv": "conv", "shortcut.0": "shortcut"}


def our_name(name: str) -> str:
    """The name that a parameter of the authors' network has in ours."""
    if name.startswith("conv1."):
        return name.replace("conv1", "stages.0.0")
    if name.startswith("linear."):
        return name.replace("linear", "head.fc")
    layer, block, part = re.fullmatch(r"layer(\d+)\.(\d+)\.(.+)", name).groups()
    for theirs, ours in PARTS.items():
        part = part.replace(theirs, ours)
    stem = int(layer) == 1  # of our first stage
    return f"stages.{int(layer) - 1}.{int(block) + stem}.{part}"


def network(case) -> PreActResNet:
    """The authors' network with the weights of the case."""
    names = case.file.cases[f"{case.name}/w"]
    weights = {our_name(name): case[f"{case.name}/w/{name}"] for name in names}
    found = [re.match(r"layer(\d+)\.(\d+)\.", name) for name in names]
    pairs = {(int(match[1]), int(match[2])) for match in found if match}
    layers = sorted({layer for layer, _ in pairs})
    blocks = tuple(sum(layer == each for each, _ in pairs) for layer in layers)
    width, channels = weights["stages.0.0.weight"].shape[:2]
    net = PreActResNet(blocks, width, int(case["num_classes"]), channels, final_norm=False)
    left = net.load_state_dict(weights, strict=False)
    assert left.unexpected_keys == []
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    assert all(name.endswith(statistics) for name in left.missing_keys)
    return net


def layers(case) -> list[str]:
    """The layers of a case as its keys spell them, ``none`` where nothing was mixed."""
    found = (re.fullmatch(r"expect_k(\w+)_logits", key) for key in case.arrays)
    return [match[1] for match in found if match]


@pytest.mark.cases("case*[0-9]")
def test_every_layer_equals_the_authors_code_up_to_the_gradient_of_both_losses(case):
    x, targets = case["x"], mf.one_hot(case["y"], int(case["num_classes"]))
    info = DataInfo(int(case["num_classes"]), *x.shape[2:])
    assert layers(case)
    for layer in layers(case):
        for short, loss in LOSSES.items():
            method = build_method("manifoldmixup", network(case), info, loss=loss).train()
            mixed = mf.Mixed(x, targets)
            if layer != "none":
                decisions = {"lam": case["lam"], "perm": case["perm"]}
                mixed = method.mix(x, targets, layer=int(layer), **decisions)
            logits, mixed = method.predict(mixed)
            value = method.loss(logits, mixed)
            (grad,) = torch.autograd.grad(value, method.net.stages[0][0].weight)
            case.compare(f"expect_k{layer}_logits", logits.detach(), "logits")
            case.compare(f"expect_k{layer}_target", mixed.targets, "targets")
            case.compare(f"expect_k{layer}_loss_{short}", value.detach(), "losses")
            case.compare(f"expect_k{layer}_dconv1_{short}", grad, "gradients")
        if f"expect_k{layer}_feat_before" in case:
            h = network(case).forward_stages(x, stop=int(layer)).detach()
            features = mf.manifoldmixup(h, targets, lam=case["lam"], perm=case["perm"])
            case.compare(f"expect_k{layer}_feat_before", h, "logits")
            case.compare(f"expect_k{layer}_feat_after", features.x, "logits")


def test_every_recorded_case_is_compared(untested_cases):
    assert untested_cases == []
