import math

import pytest
import torch
from torch import Generator

import mixbench.functional as mf

NEXT = torch.tensor([1, 2, 3, 0])


def seeded(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def grid_of(row, height, width, official):
    """One mask in plain Python, hole by hole, each cut out as the public code cuts it out."""
    lam, holes, hole_aspect, area, aspect, top, left = row
    cut_width = int(math.sqrt(int(height * width * area) / aspect))
    cut_height = int(cut_width * aspect)
    if not official:
        cut_height, cut_width = min(cut_height, height), min(cut_width, width)
    x, y = int((width - cut_width) * left), int((height - cut_height) * top)
    cell_width = max(math.ceil(cut_width / holes), 2)
    cell_height = max(int(cell_width * hole_aspect), 1 if official else 2)
    hole_width, hole_height = (
        min(max(int(cell * math.sqrt(1 - lam)), 1), cell - 1) for cell in (cell_width, cell_height)
    )
    mask = torch.ones(height, width)
    for below in range(0, cut_height, cell_height):
        for right in range(0, cut_width, cell_width):
            end = min(below + hole_height, cut_height), min(right + hole_width, cut_width)
            if not official and (y + below < 0 or x + right < 0):
                raise AssertionError("a hole outside of the image")
            mask[y + below : y + end[0], x + right : x + end[1]] = 0
    return mask


@pytest.mark.parametrize("official", [False, True])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (24, 24), (16, 24), (9, 7)])
def test_masks_are_those_of_the_holes_one_by_one(height, width, official):
    count, generator = 200, seeded(height)
    lam = torch.rand(count, generator=generator)
    ranges = {"hole_aspect": (0.2, 1.0), "cut_area": (0.3, 1.0), "cut_aspect": (0.3, 3.0)}
    grid = mf.draw_hole_grid(count, holes=(2, 9), **ranges, generator=generator)
    masks = mf.hole_mask(lam, grid, height, width, official=official)
    rows = torch.column_stack([lam, *(t.double() for t in grid)]).tolist()
    beyond = 0
    for row, mask in zip(rows, masks[:, 0], strict=True):
        row[1] = int(row[1])
        expected = grid_of(row, height, width, official)
        assert torch.equal(mask, expected), row
        beyond += not torch.equal(expected, grid_of(row, height, width, True))
    # Grids that are longer than the image tell both rules apart.
    assert (beyond > 10) is not official


def test_every_number_lies_between_its_ends():
    grid = mf.draw_hole_grid(
        2000,
        holes=(3, 5),
        hole_aspect=(0.5, 1.5),
        cut_area=(0.2, 0.4),
        cut_aspect=(1.0, 1.0),
        generator=seeded(0),
    )
    assert grid.holes.unique().tolist() == [3, 4, 5]
    for drawn, (low, high) in ((grid.hole_aspect, (0.5, 1.5)), (grid.area, (0.2, 0.4))):
        assert low <= drawn.min() < low + 0.01 < high - 0.01 < drawn.max() <= high
    assert grid.aspect.unique().tolist() == [1]
    assert grid.place.shape == (2000, 2)


@pytest.mark.parametrize("per_sample", [False, True])
def test_the_label_weighs_what_stays_visible(per_sample):
    x, targets = torch.randn(4, 3, 16, 20, generator=seeded(0)), torch.eye(4)
    for seed in range(10):
        mixed = mf.gridmix(x, targets, perm=NEXT, per_sample=per_sample, generator=seeded(seed))
        assert len(mixed.aux) == (4 if per_sample else 1)
        assert torch.equal(mixed.x, torch.where(mixed.aux == 1, x, x[NEXT]))
        visible = (mixed.x == x).float().mean((1, 2, 3))
        torch.testing.assert_close(mixed.lam, visible)
        torch.testing.assert_close(mixed.targets.diagonal(), visible)
        assert (mixed.lam > 0).all()
        assert (mixed.lam < 1).all()


def test_it_compiles_into_one_graph(compiled):
    x, targets = torch.randn(4, 3, 8, 8, generator=seeded(0)), torch.eye(4)
    whole = compiled(lambda lam, grid: mf.gridmix(x, targets, lam=lam, grid=grid, perm=NEXT).x)
    for seed in range(3):
        grid, lam = mf.draw_hole_grid(1, generator=seeded(seed)), torch.tensor([0.3 + 0.1 * seed])
        expected = mf.gridmix(x, targets, lam=lam, grid=grid, perm=NEXT).x
        assert torch.equal(whole.call(lam, grid), expected)
    assert whole.graphs == 1
