import pytest
import torch

import mixbench.functional as mf

GOLDEN = "smoothmix"
NOT_COMPARED: dict[str, str] = {}


@pytest.mark.cases("case*")
def test_smoothmix_equals_the_public_code_whose_labels_are_swapped(case):
    x, targets = case["img"], torch.eye(len(case["img"]))
    height, width = x.shape[2:]
    # A fraction that falls into the middle of the pixel that was drawn.
    center = torch.stack([(case["draw_h"] + 0.5) / height, (case["draw_w"] + 0.5) / width])[None]
    sigma = (case["u_sigma"] / 4 + 1 / 4)[None]
    decisions = {"center": center, "sigma": sigma, "perm": case["perm"]}
    mixed = mf.smoothmix(x, targets, official=True, **decisions)
    case.compare("expect_mask", 1 - mixed.aux, "mask")
    case.compare("expect_img", mixed.x, "img")
    case.compare("expect_lam", mixed.lam[0], "lam")
    right = mf.smoothmix(x, targets, **decisions)
    case.compare("expect_img", right.x, "img")
    case.compare("expect_lam", 1 - right.lam[0], "lam")
    torch.testing.assert_close(right.lam, right.aux.mean().expand(len(x)))
    moved = mixed.perm != torch.arange(len(x))
    for each in (mixed, right):
        torch.testing.assert_close(each.targets.diagonal()[moved], each.lam[moved])


def test_every_recorded_case_is_compared(untested_cases):
    assert untested_cases == []
