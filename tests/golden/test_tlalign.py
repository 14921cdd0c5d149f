import re

import pytest
import torch
from golden_vit import golden_vit

import mixbench.functional as mf
from mixbench.backbones.attention import Capture
from mixbench.config.schema import DataInfo
from mixbench.methods.build import build_method

GOLDEN = "tlalign"
NOT_COMPARED: dict[str, str] = {}
LABELS, IMAGES = "labels", "images"


def count(case, pattern: str) -> int:
    return sum(bool(re.fullmatch(pattern, key)) for key in case.arrays)


def both_labels(case):
    """Smoothed labels of the images and of their partners, the flipped batch."""
    classes, smoothing = int(case["num_classes"]), float(case["smoothing"])
    targets = mf.one_hot(case["labels"], classes, smoothing=smoothing)
    return targets, targets.flip(0)


def labels_of(case, weight):
    """Labels of all tokens, from the partner's weight in each."""
    own, partner = (t.view(len(t), *[1] * (weight.ndim - 1), -1) for t in both_labels(case))
    return (1 - weight[..., None]) * own + weight[..., None] * partner


def decisions(case):
    """The recorded draw, with the centre as fractions that fall into the middle of a token."""
    size, patch = torch.tensor(case["img"].shape[2:]), int(case["patch"])
    return {"lam": case["lam_in"][None], "center": (case["center"][None] + 0.5) * patch / size}


@pytest.mark.cases(having="expect_label_in")
def test_labels_of_tokens_equal_those_that_the_authors_send_through_the_network(case):
    x, (targets, _) = case["img"], both_labels(case)
    patch, size = int(case["patch"]), x.shape[2:]
    mixed = mf.token_cutmix(x, targets, patch=patch, **decisions(case))
    top, left, bottom, right = (mixed.aux[0] // patch).unbind()
    case.compare("expect_box", torch.stack([top, bottom, left, right]))
    case.compare("expect_lam", mixed.lam[0], LABELS)
    case.compare("expect_img", mixed.x, IMAGES)

    grid = (size[0] // patch, size[1] // patch)
    pasted = mf.pasted_tokens(mixed.aux, size, grid).expand(len(x), -1, -1)
    attns = [case[f"attn{layer}"] for layer in range(count(case, r"attn\d+"))]
    case.compare("expect_label_in", labels_of(case, mf.token_weights(pasted, [])), LABELS)
    for layer in range(len(attns)):
        weight = mf.token_weights(pasted, attns[: layer + 1])
        case.compare(f"expect_label{layer}", labels_of(case, weight), LABELS)
    case.compare("derived_partner_weight", weight, LABELS)

    # The same beside fused attention, in a whole step in float64.
    net = golden_vit(case).double()
    capture = Capture({layer: "mean" for layer in range(len(attns))}, weight=pasted)
    net.forward_stages(mixed.x.double(), capture=capture)
    for layer, attn in enumerate(attns):
        torch.testing.assert_close(capture.attention[layer], attn.mean(1), rtol=1e-4, atol=1e-5)
    case.compare("derived_partner_weight", capture.weight, LABELS)
    info = DataInfo(targets.shape[1], *size)
    method = build_method("tlalign", net, info).train()
    assert method.fidelity == "official-verified"
    mixed = method.mix(x.double(), targets, **decisions(case))
    logits, mixed = method.predict(mixed)
    loss = method.loss(logits, mixed)
    loss.backward()
    case.compare("expect_logits", logits.detach())
    case.compare("expect_target", mixed.targets, LABELS)
    case.compare("expect_loss", loss.detach())
    by_area = mf.mix_targets(targets, mixed.perm, mixed.aux.area)
    case.compare("expect_loss_unaligned", mf.soft_cross_entropy(logits.detach(), by_area))
    case.compare("expect_grad_qkv0", net.stages[0].blocks[0].attn.qkv.weight.grad)
    case.compare("expect_grad_head", net.head.fc.weight.grad)


@pytest.mark.cases(having="derived_target")
def test_labels_inside_of_windows_follow_shifts_and_merging(case):
    side, (top, bottom, left, right) = int(case["grid"]), case["box"].tolist()
    box = torch.tensor([[top, left, bottom, right]])
    weight = mf.pasted_tokens(box, (side, side), (side, side)).expand(len(case["labels"]), -1, -1)
    torch.testing.assert_close(labels_of(case, weight), case["label_in"])
    layer = 0
    for stage, depth in enumerate(case["depths"].tolist()):
        if stage:
            weight = mf.merge_weights(weight)
            case.compare(f"derived_label_merge{stage}", labels_of(case, weight), LABELS)
        for _ in range(depth):
            window, shift = (tuple(case[k][layer].tolist()) for k in ("window_per_block", "shift"))
            weight = mf.propagate_windows(weight, case[f"attn{layer}"], window, shift=shift)
            case.compare(f"derived_label{layer}", labels_of(case, weight), LABELS)
            layer += 1
    assert layer == count(case, r"attn\d+")
    case.compare("derived_target", labels_of(case, weight.flatten(1).mean(1)), LABELS)


def test_every_recorded_case_is_compared(untested_cases):
    assert untested_cases == []
