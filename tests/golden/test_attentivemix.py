import pytest
import torch

import mixbench.functional as mf
from mixbench.methods import METHODS
from mixbench.testing.samples import sample_method

GOLDEN = "attentivemix"
NOT_COMPARED: dict[str, str] = {}


@pytest.mark.cases("case*")
def test_attentivemix_equals_the_public_code(case):
    x, targets, maps = case["img"], torch.eye(len(case["img"])), case["features"].mean(1)
    top_k = int(case["top_k"])
    decisions = {"perm": case["perm"], "lam": case["lam_drawn"]}
    method = sample_method(METHODS.get("attentivemix"), top_k=top_k, grid=maps.shape[1])
    for mixed in (
        mf.attentivemix(x, targets, maps, top_k=top_k, **decisions),
        method.mix(x, targets, maps=maps, **decisions),
    ):
        case.compare("expect_mask", mixed.aux, "mask")
        case.compare("expect_img", mixed.x, "img")
        case.compare("expect_lam", mixed.lam[0], "lam")
        cells = mixed.aux[0, 0].mean() * maps[0].numel()
        case.compare("expect_top_k", cells.round().long(), "top_k")


def test_every_recorded_case_is_compared(untested_cases):
    assert untested_cases == []
