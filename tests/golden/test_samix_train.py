import pytest
import torch
from official_mixers import (
    FLOAT,
    LAYER,
    convolutions,
    load,
    official_mixer,
    one_step,
    tiny_net,
)
from torch import nn

from mixbench.config.schema import DataInfo
from mixbench.methods import METHODS

GOLDEN = "samix_train"
NOT_COMPARED: dict[str, str] = {}


@pytest.mark.cases("full1*")
def test_a_weight_near_the_ends_mixes_without_the_mixer_and_still_trains_it(case):
    assert min(float(case["lam_bb"]), 1 - float(case["lam_bb"])) <= float(case["lam_margin"])
    one_step(case)


@pytest.mark.cases("full2*")
def test_masks_adjusted_to_the_wrong_weight_are_those_of_the_authors(case):
    one_step(case, official_bugs=True)
    assert "expect_loss_total" in case.compared


def self_supervised(case):
    """The method of a case, with its linear projectors, queue and bugs."""
    cls = METHODS.get("mocosamix")
    dim, size = case["queue"].shape
    other = str(case.arrays["auxi_mb_loss"]) != "None"
    config = cls.Config(
        layer=LAYER,
        dim=dim,
        queue=size,
        temperature=float(case["temperature"]),
        mixer_loss=str(case.arrays["main_mb_loss"]).lower(),
        aux_weight=float(case["auxi_weight"]) if other else 0.0,
        mask_weight=1.0,
        official_bugs=True,
        # The constants of the file name a rescaled weight, but its masks are of one left as it is.
        lam_k=-1.0,
    )
    net = tiny_net(case, "encoder_q", dim)
    method = cls(net, DataInfo(dim, *case["x_q"].shape[2:]), config).train()
    method.mixer, _ = official_mixer(case, "w_mix_block.")
    load(method.teacher.net, convolutions(case, "encoder_k"))
    method.projector, method.teacher.mix_head = (nn.Linear(dim, dim) for _ in range(2))
    for side, head in (("q", method.projector), ("k", method.teacher.mix_head)):
        weights = {part: case[f"w_neck_{side}.fc.{part}"] for part in ("weight", "bias")}
        head.weight.data, head.bias.data = weights["weight"], weights["bias"]
    method.queue.keys.copy_(case["queue"])
    return method


@pytest.mark.cases("ssl*")
def test_views_without_labels_are_mixed_and_matched_as_the_authors_do(case):
    method = self_supervised(case)
    rows = len(case["x_q"])
    orders = [torch.arange(rows).flip(0), torch.arange(rows).roll(1)]
    for side, order in zip("qk", orders, strict=True):
        found = method.encode(case[f"x_{side}"], order, LAYER)
        case.compare(f"expect_feat_{side}", found.h, FLOAT)
        case.compare(f"expect_key_{side}", found.keys, FLOAT)
    use = {
        "orders": orders,
        "lam": case["lam_bb"].float()[None],
        "perm": case["perm_bb"],
        "lam_mixer": case["lam_mb"].float()[None],
        "perm_mixer": case["perm_mb"],
    }
    mixed = method.mix_views(case["x_q"], case["x_k"], torch.eye(rows), use)
    case.compare("expect_mixed_bb", mixed.x, FLOAT)
    case.compare("expect_mixed_mb", mixed.aux.made.detach(), FLOAT)
    terms = method.loss(*method.predict(mixed))
    keys = {"loss_moco": "contrast", "loss_bb": "mix", "loss_mb": "mixer", "mask_loss": "mask"}
    for key, ours in keys.items():
        case.compare(f"expect_{key}", terms[ours].detach(), FLOAT)


def test_every_recorded_case_is_compared(untested_cases):
    assert untested_cases == []
