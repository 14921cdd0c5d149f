import pytest
import torch

import mixbench.functional as mf

GOLDEN = "fmix"
NOT_COMPARED: dict[str, str] = {}


@pytest.mark.cases("case*")
def test_fmix_equals_the_authors_code_with_their_spectrum(case):
    x, targets = case["img"], torch.eye(len(case["img"]))
    height, width = x.shape[2:]
    noise, lam, round_up = case["noise"], case["lam_drawn"], case["round_draw"] > 0.5
    max_soft, decay = float(case["max_soft"]), float(case["decay"])
    grey = mf.low_frequency_image(noise, height, width, decay=decay, spectrum="official")
    case.compare("expect_grey", grey, "grey")
    mask = mf.ranked_mask(case["expect_grey"], lam, round_up, max_soft=max_soft)
    case.compare("expect_mask", mask[:, 0], "mask")
    mixed = mf.fmix(x, targets, lam=lam, mask=mask, perm=case["perm"])
    case.compare("expect_img", mixed.x, "img")
    case.compare("expect_lam", mixed.lam[0], "lam")
    whole = mf.fmix(
        x,
        targets,
        decay=decay,
        max_soft=max_soft,
        spectrum="official",
        **{"lam": lam, "round_up": round_up, "noise": noise, "perm": case["perm"]},
    )
    # The file allows two pixels to differ where the grey image is computed again.
    assert int(((whole.aux[:, 0] - case["expect_mask"]).abs() > 1e-6).sum()) <= 2
    assert torch.equal(whole.lam, mixed.lam)


def test_every_recorded_case_is_compared(untested_cases):
    assert untested_cases == []
