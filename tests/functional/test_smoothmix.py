import math

import pytest
import torch
from torch import Generator

import mixbench.functional as mf

NEXT = torch.tensor([1, 2, 3, 0])


def seeded(seed: int) -> Generator:
    return Generator().manual_seed(seed)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 12)])
def test_a_window_is_a_gaussian_around_the_line_before_a_pixel(height, width):
    center, sigma = (
        torch.rand(20, 2, generator=seeded(0)),
        torch.rand(20, generator=seeded(1)) + 0.1,
    )
    masks = mf.smooth_mask(center, sigma, height, width)
    assert masks.shape == (20, 1, height, width)
    for (row, col), share, mask in zip(center.tolist(), sigma.tolist(), masks[:, 0], strict=True):
        y, x = int(row * height) - 0.5, int(col * width) - 0.5
        spread = share * math.sqrt(height * width)
        for i in range(height):
            for j in range(width):
                far = ((i - y) ** 2 + (j - x) ** 2) / (2 * spread**2)
                assert mask[i, j].item() == pytest.approx(1 - math.exp(-far), abs=1e-6)


def test_turning_the_image_turns_the_window():
    center, sigma = torch.tensor([[0.3, 0.8]]), torch.tensor([0.4])
    upright = mf.smooth_mask(center, sigma, 6, 10)
    assert torch.equal(upright.mT, mf.smooth_mask(center.flip(1), sigma, 10, 6))


@pytest.mark.parametrize("per_sample", [False, True])
def test_the_label_weighs_the_mean_of_the_mask_and_is_swapped_in_the_public_code(per_sample):
    x, targets = torch.randn(4, 3, 10, 8, generator=seeded(0)), torch.eye(4)
    decisions = {"perm": NEXT, "per_sample": per_sample}
    right = mf.smoothmix(x, targets, **decisions, generator=seeded(1))
    swapped = mf.smoothmix(x, targets, official=True, **decisions, generator=seeded(1))
    mean = right.aux.mean((1, 2, 3)).expand(4)
    assert torch.equal(right.x, swapped.x)
    torch.testing.assert_close(right.x, right.aux * x + (1 - right.aux) * x[NEXT])
    for mixed, weight in ((right, mean), (swapped, 1 - mean)):
        torch.testing.assert_close(mixed.lam, weight)
        torch.testing.assert_close(mixed.targets.diagonal(), weight)
        torch.testing.assert_close(mixed.targets[torch.arange(4), NEXT], 1 - weight)
    assert mean.unique().numel() == (4 if per_sample else 1)
    assert not torch.allclose(mean, 1 - mean)


def test_the_spread_lies_between_its_ends():
    x, targets = torch.zeros(300, 1, 9, 9), torch.eye(300)
    whole = {"per_sample": True, "center": torch.full((300, 2), 0.5)}
    lam = mf.smoothmix(x, targets, spread=(0.2, 0.6), **whole, generator=seeded(0)).lam
    ends = [mf.smoothmix(x, targets, sigma=torch.tensor([s]), **whole).lam[0] for s in (0.2, 0.6)]
    assert ends[1] <= lam.min() < lam.max() <= ends[0]
    assert (lam.max() - lam.min()) > 0.95 * (ends[0] - ends[1])
