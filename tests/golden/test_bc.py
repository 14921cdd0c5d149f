import pytest
import torch
from torch import Tensor, nn

import mixbench.functional as mf
from mixbench.config.schema import DataInfo
from mixbench.data.augment.batches import crop_flip, to_float
from mixbench.methods.build import build_method

GOLDEN = "bc"
NOT_COMPARED: dict[str, str] = {}

PADDING = 4
# Mean and deviation per channel on the scale 0..255, by (classes of CIFAR, BC+), as the authors'
# code states them.
CONSTANTS = {
    (10, 0): ([125.3, 123.0, 113.9], [63.0, 62.1, 66.7]),
    (10, 1): ([4.60, 2.24, -6.84], [55.9, 53.7, 56.5]),
    (100, 0): ([129.3, 124.1, 112.4], [68.2, 65.4, 70.4]),
    (100, 1): ([7.37, 2.13, -9.50], [57.6, 54.0, 58.5]),
}


def normalized_by_hand(images: Tensor, dataset: int, plus: bool) -> Tensor:
    mean, std = (torch.tensor(value)[:, None, None] for value in CONSTANTS[dataset, int(plus)])
    x = images.float()
    return ((mf.subtract_image_mean(x) if plus else x) - mean) / std


def normalized_by_method(images: Tensor, dataset: int, plus: bool) -> Tensor:
    (mean, std), (residual_mean, residual_std) = (
        ([value / 255 for value in row] for row in CONSTANTS[dataset, kind]) for kind in (0, 1)
    )
    height, width = images.shape[2:]
    info = DataInfo(
        num_classes=dataset,
        height=height,
        width=width,
        mean=mean,
        std=std,
        residual_mean=residual_mean,
        residual_std=residual_std,
    )
    return build_method("bc", nn.Identity(), info, plus=plus).normalize(to_float(images))


@pytest.mark.parametrize("normalize", [normalized_by_hand, normalized_by_method])
@pytest.mark.cases("case*")
def test_pairs_equal_the_authors_code_from_the_pixels_to_the_mixture(case, normalize):
    pair = torch.stack([case["i"], case["j"]])
    plus = bool(case["plus"])
    x = normalize(case["data/images"][pair], int(case["dataset"]), plus)
    x = crop_flip(x, case["crop"], case["flip"] == 1, PADDING)
    for key, image in zip(("expect_pre_i", "expect_pre_j"), x, strict=True):
        if key in case:  # stored for some pairs only
            case.compare(key, image)
    loudness = mf.pixel_std(x)
    case.compare("expect_std", loudness)

    r = case["r"][None]
    weight = mf.bc_plus_lam(r, *loudness[:, None])
    case.compare("expect_p", weight[0])
    targets = mf.one_hot(case["data/labels"][pair], len(case["expect_label"]))
    mixed = mf.bc(x, targets, plus=plus, lam=r, perm=torch.tensor([1]))
    case.compare("expect_x", mixed.x[0])
    case.compare("expect_label", mixed.targets[0])
    torch.testing.assert_close(mixed.aux, weight if plus else r, rtol=0, atol=0)


@pytest.mark.cases("loss")
def test_loss_equals_the_authors_divergence(case):
    case.compare("expect_kl", mf.soft_kl(case["logits"], case["target"]))


def test_every_recorded_case_is_compared(untested_cases):
    assert untested_cases == []
