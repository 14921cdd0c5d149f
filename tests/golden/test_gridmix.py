import pytest
import torch

import mixbench.functional as mf

GOLDEN = "gridmix"
NOT_COMPARED: dict[str, str] = {}


@pytest.mark.cases("case*")
@pytest.mark.parametrize("official", [False, True])
def test_gridmix_equals_the_public_code_where_the_grid_fits_the_image(case, official):
    x, targets = case["img"], torch.eye(len(case["img"]))
    grid = mf.HoleGrid(
        *(case[key][None] for key in ("n_holes", "hole_aspect", "cut_area", "cut_aspect")),
        torch.stack([case["u_y"], case["u_x"]])[None],
    )
    decisions = {"lam": case["lam_drawn"], "grid": grid, "perm": case["perm"]}
    mixed = mf.gridmix(x, targets, official=official, **decisions)
    case.compare("expect_mask", 1 - mixed.aux, "mask")
    case.compare("expect_img", mixed.x, "img")
    case.compare("expect_lam", mixed.lam[0], "lam")
    torch.testing.assert_close(
        mixed.targets.diagonal()[mixed.perm != torch.arange(len(x))],
        mixed.lam[mixed.perm != torch.arange(len(x))],
    )


def test_every_recorded_case_is_compared(untested_cases):
    assert untested_cases == []
