import pytest
import torch

import mixbench.functional as mf

GOLDEN = "resizemix"
NOT_COMPARED: dict[str, str] = {}


@pytest.mark.cases("case*")
def test_resizemix_equals_the_public_code_by_one_box_and_by_gathered_pixels(case):
    x, targets = case["img"], torch.eye(len(case["img"]))
    height, width = x.shape[2:]
    center = torch.stack([(case["cy"] + 0.5) / height, (case["cx"] + 0.5) / width])[None]
    mode = "bilinear" if case["bilinear"] else "nearest"
    decisions = {"tau": case["tau"][None], "center": center, "perm": case["perm"]}
    mixed = mf.resizemix(x, targets, mode=mode, **decisions)
    top, left, bottom, right = mixed.aux.unbind(1)
    case.compare("expect_box", torch.cat([top, bottom, left, right]), "box")
    case.compare("expect_img", mixed.x, "img")
    case.compare("expect_lam", mixed.lam[0], "lam")
    several = mixed.aux.expand(len(x), 4)
    case.compare("expect_img", mf.paste_resized(x, case["perm"], several, mode=mode), "img")


def test_every_recorded_case_is_compared(untested_cases):
    assert untested_cases == []
