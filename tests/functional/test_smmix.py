import pytest
import torch
from torch import Generator

import mixbench.functional as mf

NEXT = torch.tensor([1, 2, 3, 0])
GRID = (5, 6)


def seeded(seed: int) -> Generator:
    return Generator().manual_seed(seed)


@pytest.fixture
def batch():
    return torch.randn(4, 3, 15, 18, generator=seeded(0)), torch.eye(4)


@pytest.fixture
def maps():
    return torch.rand(4, *GRID, generator=seeded(1))


def extreme(values, k, sign):
    """Row and column of the window with the largest sum times sign, the first of equal ones."""
    found, best = (0, 0), None
    for row in range(values.shape[0] - k + 1):
        for column in range(values.shape[1] - k + 1):
            total = sign * float(values[row : row + k, column : column + k].sum())
            if best is None or total > best + 1e-6:
                found, best = (row, column), total
    return found


@pytest.mark.parametrize("side", [2, torch.tensor([1, 4, 2, 5])])
def test_the_most_attended_window_of_the_partner_covers_the_least_attended_one(batch, maps, side):
    x, targets = batch
    mixed = mf.smmix(x, targets, maps, side=side, perm=NEXT)
    for row in range(4):
        k = side if isinstance(side, int) else int(side[row])
        (top, left), (above, before) = extreme(maps[row], k, -1), extreme(maps[NEXT[row]], k, 1)
        assert mixed.aux.target[row].tolist() == [top, left]
        assert mixed.aux.source[row].tolist() == [above, before]
        expected = x[row].clone()
        places = [
            (slice(None), slice(3 * a, 3 * (a + k)), slice(3 * b, 3 * (b + k)))
            for a, b in ((top, left), (above, before))
        ]
        expected[places[0]] = x[NEXT[row]][places[1]]
        assert torch.equal(mixed.x[row], expected)
        torch.testing.assert_close(mixed.lam[row], torch.tensor(1 - k**2 / 30))
    torch.testing.assert_close(mixed.targets, mf.mix_targets(targets, NEXT, mixed.lam))


def test_of_equal_windows_the_first_is_taken(batch):
    x, targets = batch
    mixed = mf.smmix(x, targets, torch.ones(4, *GRID), side=torch.tensor([1, 2, 3, 4]))
    assert not mixed.aux.target.any()
    assert not mixed.aux.source.any()
    assert torch.equal(mixed.perm, torch.arange(4).flip(0))  # the authors' partners


def test_sides_are_drawn_between_a_quarter_and_three_quarters_of_the_grid_all_alike():
    x, targets, maps = torch.rand(400, 1, 14, 14), torch.ones(400, 1), torch.ones(400, 14, 14)
    each = mf.smmix(x, targets, maps, per_sample=True, generator=seeded(0)).aux.side
    count = each.bincount(minlength=15)
    assert count[3:11].min() > 25
    assert count.sum() == count[3:11].sum()
    small = x[:2], targets[:2], maps[:2]
    sides = {mf.smmix(*small, generator=seeded(n)).aux.side for n in range(60)}
    assert sides == set(range(3, 11))


def test_windows_of_many_sides_are_those_of_each_side_alone(batch, maps):
    x, targets = batch
    sides = torch.tensor([3, 1, 3, 2])
    together = mf.smmix(x, targets, maps, side=sides, perm=NEXT)
    own, partner = mf.window_shares(together.aux, (15, 18))
    for row, k in enumerate(sides.tolist()):
        alone = mf.smmix(x, targets, maps, side=k, perm=NEXT)
        assert torch.equal(together.x[row], alone.x[row])
        expected = mf.window_shares(alone.aux, (15, 18))
        assert torch.equal(own[row], expected[0][row])
        assert torch.equal(partner[row], expected[1][row])


def test_a_grid_that_does_not_divide_the_images_is_refused(batch):
    with pytest.raises(ValueError, match="a grid of 4x6 cells does not cut"):
        mf.smmix(*batch, torch.ones(4, 4, 6))
    with pytest.raises(ValueError, match="a window has a side of 1 to 5 cells, got 6"):
        mf.smmix(*batch, torch.ones(4, *GRID), side=6)
