import pytest
import torch

import mixbench.functional as mf
from mixbench.methods import METHODS
from mixbench.testing.samples import sample_method

GOLDEN = "saliencymix"
NOT_COMPARED: dict[str, str] = {}


@pytest.mark.cases("case*")
def test_saliencymix_equals_the_authors_code_up_to_the_loss_for_a_given_map(case):
    logits = case["logits"]
    x, targets = case["img"], mf.one_hot(case["labels"], logits.shape[1])
    decisions = {"saliency": case["saliency"][None], "lam": case["lam_drawn"][None]}
    decisions["perm"] = case["perm"]
    method = sample_method(METHODS.get("saliencymix"))
    for mixed in (mf.saliencymix(x, targets, **decisions), method.mix(x, targets, **decisions)):
        top, left, bottom, right = mixed.aux.unbind(1)
        case.compare("expect_box", torch.cat([top, bottom, left, right]), "box")
        case.compare("expect_img", mixed.x, "img")
        case.compare("expect_lam", mixed.lam[0], "lam")
        case.compare("expect_loss", mf.soft_cross_entropy(logits, mixed.targets), "loss")


def test_every_recorded_case_is_compared(untested_cases):
    assert untested_cases == []
