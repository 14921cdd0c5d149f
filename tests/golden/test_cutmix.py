import pytest
import torch
from torch import Tensor

import mixbench.functional as mf

GOLDEN = "cutmix"
NOT_COMPARED: dict[str, str] = {}
RULES = {"official": "official", "timm": "timm", "tv": "torchvision"}


def as_fraction(cy: Tensor, cx: Tensor, height: int, width: int) -> Tensor:
    """(N, 2) centre as a fraction of the image that falls into the middle of a pixel."""
    pixels = torch.stack([cy.reshape(-1), cx.reshape(-1)], dim=1)
    return (pixels + 0.5) / torch.tensor([height, width])


@pytest.mark.cases("boxes")
def test_every_box_rule_equals_its_library(case):
    table = [case[key] for key in ("H", "W", "cy", "cx", "lam_drawn")]
    for recorded, rule in RULES.items():
        boxes, shares = [], []
        for height, width, cy, cx, lam in zip(*table, strict=True):
            size = int(height), int(width)
            box = mf.cutmix_box(lam[None], as_fraction(cy, cx, *size), *size, rule=rule)
            _, share = mf.paste_box(torch.zeros(1, 1, *size), torch.ones(1, 1, *size), box)
            boxes.append(box[0])
            shares.append(share[0])
        ends = zip(("y0", "x0", "y1", "x1"), torch.stack(boxes, dim=1), strict=True)
        for end, values in ends:
            case.compare(f"expect_{recorded}_{end}", values, "boxes")
        case.compare(f"expect_{recorded}_lam", torch.stack(shares), "lam")


@pytest.mark.cases("case*")
def test_cutmix_equals_the_authors_code_up_to_the_loss(case):
    x, targets = case["x"], mf.one_hot(case["y"], int(case["num_classes"]))
    center = as_fraction(case["cy"], case["cx"], *x.shape[2:])
    mixed = mf.cutmix(x, targets, lam=case["lam_drawn"], center=center, perm=case["perm"])
    top, left, bottom, right = mixed.aux.unbind(1)
    case.compare("expect_box", torch.cat([top, bottom, left, right]), "boxes")
    case.compare("expect_lam", mixed.lam[0], "lam")
    case.compare("expect_x", mixed.x, "pixels")
    case.compare("expect_loss", mf.soft_cross_entropy(case["logits"], mixed.targets), "loss")


@pytest.mark.cases("timm_*")
def test_timm_modes_equal_both_operations_picked_row_by_row(case):
    x = case["x"]
    lam, *center, use_cutmix, active = (
        torch.cat([value, value.flip(0)]) if len(value) == len(x) // 2 else value
        for value in (case[key] for key in ("lam_drawn", "cy", "cx", "use_cutmix", "active"))
    )
    targets = mf.one_hot(case["y"], int(case["num_classes"]), smoothing=float(case["smoothing"]))
    lam = torch.where(active == 1, lam, 1)
    center = as_fraction(*center, *x.shape[2:])
    cut = mf.cutmix(x, targets, lam=lam, center=center, partner="flip", box_rule="timm")
    mixed = mf.mixup(x, targets, lam=lam, partner="flip")
    moved = ((use_cutmix == 1) | (active == 0)).expand(
        len(x)
    )  # these rows hold only pixels of the batch
    case.compare("expect_x", cut.x, "pixels", rows=moved)
    case.compare("expect_x", mixed.x, "target", rows=~moved)
    rows = use_cutmix[:, None] == 1
    case.compare("expect_target", torch.where(rows, cut.targets, mixed.targets), "target")


@pytest.mark.cases("torchvision")
def test_rolled_partners_and_box_equal_torchvision(case):
    x, targets = case["x"], mf.one_hot(case["y"], int(case["num_classes"]))
    center = as_fraction(case["cy"], case["cx"], *x.shape[2:])
    lam = case["lam_drawn"]
    mixed = mf.cutmix(x, targets, lam=lam, center=center, partner="roll", box_rule="torchvision")
    case.compare("expect_x", mixed.x, "pixels")
    case.compare("expect_target", mixed.targets, "target")


def test_every_recorded_case_is_compared(untested_cases):
    assert untested_cases == []
