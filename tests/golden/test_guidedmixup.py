import pytest
import torch

import mixbench.functional as mf
from mixbench.methods import METHODS
from mixbench.testing.samples import sample_method

GOLDEN = "guidedmixup"
NOT_COMPARED: dict[str, str] = {}


@pytest.mark.cases("case*")
def test_guidedmixup_equals_the_authors_code(case):
    x, targets = case["img"], torch.eye(len(case["img"]))
    pixels = x[0, 0].numel()
    if "saliency" in case:
        saliency = case["saliency"]
    else:
        saliency = mf.residual_saliency(x)
        case.compare("expect_saliency", saliency, "saliency")
    maps = mf.normalized_saliency(saliency)
    case.compare("expect_saliency_norm", maps * pixels, "saliency_norm")
    case.compare("expect_dist", mf.saliency_distance(maps) * pixels**0.5, "dist")
    for key in ("expect_perm", "expect_perm_cython"):
        case.compare(key, mf.greedy_pairing(case["expect_dist"]))
    method = sample_method(METHODS.get("guidedmixup"))
    given = {"saliency": saliency, "perm": case["expect_perm"]}
    for mixed in (
        mf.guidedmixup(x, targets, **given),
        mf.guidedmixup(x, targets, saliency),
        method.mix(x, targets, **given),
    ):
        case.compare("expect_perm", mixed.perm)
        case.compare("expect_mask", mixed.aux[:, 0], "mask")
        case.compare("expect_img", mixed.x, "img")
        case.compare("expect_lam", mixed.lam, "lam")


def test_every_recorded_case_is_compared(untested_cases):
    assert untested_cases == []
