import pytest
import torch

import mixbench.functional as mf

GOLDEN = "tokenmix"
NOT_COMPARED: dict[str, str] = {}
HALF = torch.tensor([0.5])  # the kept share, a constant of the official runs
EXTRA = 14  # patches beyond it


@pytest.mark.cases("case*")
def test_tokenmix_equals_the_authors_code(case):
    x, y, classes = case["img"], case["hard_label"], int(case["num_classes"])
    grid = tuple(case["expect_mask"].shape)
    count = int((1 - float(HALF)) * grid[0] * grid[1]) + EXTRA
    if int(case["mask_is_block"]):
        mask = mf.block_mask(count, grid, attempts=case["attempts"])
    else:
        mask = torch.ones(grid[0] * grid[1])
        mask[case["token_perm"][:count]] = 0
        mask = mask.unflatten(0, grid)
    case.compare("expect_mask", 1 - mask, "mask")
    maps = mf.label_map(case["map_score"], case["map_class"], y, case["crop"], grid)
    case.compare("expect_token_map", maps, "token_map")

    smoothing = float(case["smoothing"])
    targets = mf.one_hot(y, classes, smoothing=smoothing)
    given = {"grid": grid, "mask": mask[None], "partner": "flip"}
    mixed = mf.tokenmix(x, targets, maps, official=True, smoothing=smoothing, **given)
    case.compare("expect_lam_area", mixed.aux.mask.mean(), "lam")
    case.compare("expect_img", mixed.x, "img")
    own = mixed.lam * mixed.aux.weight
    case.compare("expect_mass_a", own, "mass")
    case.compare("expect_mass_b", mixed.aux.weight - own, "mass")
    case.compare("expect_target", mixed.targets * mixed.aux.weight[:, None], "target")


def test_every_recorded_case_is_compared(untested_cases):
    assert untested_cases == []
