import pytest
import torch
from golden_vit import golden_vit

import mixbench.functional as mf
from mixbench.config.schema import DataInfo
from mixbench.methods.build import build_method

GOLDEN = "transmix"
NOT_COMPARED: dict[str, str] = {}


def decisions(case):
    """The recorded draws, with the centre as fractions that fall into the middle of a pixel."""
    cut = bool(case["switch_draw"] < case["switch_prob"])
    drawn = {"cutmix": cut, "lam": case["lam_drawn"][None]}
    if cut:
        size = torch.tensor(case["img"].shape[2:])
        drawn["center"] = (torch.stack([case["cy"], case["cx"]])[None] + 0.5) / size
    return drawn


def own_labels(case):
    classes, smoothing = int(case["num_classes"]), float(case["smoothing"])
    return mf.one_hot(case["labels"], classes, smoothing=smoothing)


class Recorded(torch.nn.Module):
    """A network that looks where the recorded one did, and says what it said."""

    prefix = 1

    def __init__(self, case):
        super().__init__()
        self.logits = case["logits"]
        if "attn" in case:
            self.attn, self.size = case["attn"].mean(1), tuple(case["grid"].tolist())

    def grid(self, x):
        return self.size

    def forward_stages(self, x, capture):
        capture.attention = {key: self.attn for key in capture.wanted}
        return x

    def head(self, h):
        return self.logits


def step(case, net, dtype=torch.float32):
    """Mix and predict through the method, and compare what all cases hold."""
    x, targets = case["img"].to(dtype), own_labels(case)
    method = build_method("transmix", net, DataInfo(targets.shape[1], *x.shape[2:])).train()
    assert method.fidelity == "official-verified"
    mixed = method.mix(x, targets, **decisions(case))
    case.compare("expect_use_cutmix", torch.tensor(int(mixed.aux is not None)))
    image = "img/CutMix" if mixed.aux is not None else "img/mixup"
    case.compare("expect_img", mixed.x.float(), image)
    if mixed.aux is not None:
        top, left, bottom, right = mixed.aux.box[0].unbind()
        case.compare("expect_box", torch.stack([top, bottom, left, right]))
    return method, mixed


@pytest.mark.cases(having="expect_mask")
def test_labels_equal_those_that_the_authors_give_by_area_and_attention(case):
    method, mixed = step(case, Recorded(case))
    own, grid, size = own_labels(case), tuple(case["grid"].tolist()), mixed.x.shape[2:]
    area, pasted = mixed.aux.area, mf.pasted_tokens(mixed.aux.box, size, grid)
    case.compare("expect_mask", pasted[0].long())
    case.compare("expect_lam_area", area[0], "lam_area")
    case.compare("expect_target_area", mf.mix_targets(own, mixed.perm, area), "target_area")
    attn = case["attn"][:, :, 1:]
    case.compare("expect_lam_attn", mf.attention_lam(attn, pasted, area, ratio=1), "lam_attn")
    logits, mixed = method.predict(mixed)
    case.compare("expect_lam", mixed.lam, "lam")
    case.compare("expect_target", mixed.targets, "target")
    case.compare("expect_loss", method.loss(logits, mixed), "loss")


@pytest.mark.cases(having="logits", lacking="expect_mask")
def test_interpolated_batches_keep_their_labels(case):
    method, mixed = step(case, Recorded(case))
    case.compare("expect_lam", mixed.lam.expand(len(mixed.x)), "lam")
    case.compare("expect_target", mixed.targets, "target")
    logits = method.net.head(mixed.x)
    case.compare("expect_loss", method.loss(logits, mixed), "loss")


@pytest.mark.cases(having="expect_attn")
def test_a_whole_step_has_the_labels_and_gradients_of_the_authors(case):
    net = golden_vit(case).double()
    method, mixed = step(case, net, torch.float64)
    logits, mixed = method.predict(mixed)
    loss = method.loss(logits, mixed)
    loss.backward()
    case.compare("expect_attn", mixed.aux.weight.flatten(1), "full_step/expect_attn")
    for key, value in (("logits", logits), ("target", mixed.targets), ("lam", mixed.lam)):
        case.compare(f"expect_{key}", value.detach(), f"full_step/{key}")
    case.compare("expect_loss", loss.detach(), "full_step/loss")
    ours = net.published({name: p.grad for name, p in net.named_parameters()})
    for key in [key for key in case.arrays if key.startswith("expect_grad/")]:
        case.compare(key, ours[key.partition("/")[2]], "full_step/gradients")


@pytest.mark.cases(having="expect_tokens")
def test_tokens_count_as_pasted_where_the_authors_sample_the_box(case):
    names = ("H", "W", "gh", "gw", "y0", "x0", "y1", "x1")
    table = torch.stack([case[name] for name in names], dim=1)
    found = torch.full_like(case["expect_tokens"], -1)
    for row, (height, width, rows, columns, *box) in enumerate(table.tolist()):
        tokens = mf.pasted_tokens(torch.tensor([box]), (height, width), (rows, columns))
        found[row, : rows * columns] = tokens.flatten().long()
    case.compare("expect_tokens", found)


def test_every_recorded_case_is_compared(untested_cases):
    assert untested_cases == []
