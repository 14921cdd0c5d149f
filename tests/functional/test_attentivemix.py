import pytest
import torch
from torch import Generator

import mixbench.functional as mf

NEXT = torch.tensor([1, 2, 3, 0])


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


@pytest.fixture
def batch():
    x = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 10, 14)  # image i is filled with i
    return x, torch.eye(4), torch.rand(4, 3, 5, generator=seeded())


def test_of_equal_cells_the_first_are_kept():
    maps = torch.tensor([[[1.0, 0.0, 1.0], [1.0, 1.0, 0.0]], [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]])
    kept = mf.attended_cells(maps, torch.tensor([3, 1]))
    assert kept.tolist() == [[[1, 0, 1], [1, 0, 0]], [[1, 0, 0], [0, 0, 0]]]


def test_each_pixel_is_of_the_image_where_its_cell_is_among_the_largest(batch):
    x, targets, maps = batch
    mixed = mf.attentivemix(x, targets, maps, top_k=4, perm=NEXT)
    for row in range(4):
        cells = maps[row].flatten().tolist()
        largest = sorted(range(15), key=lambda cell: -cells[cell])[:4]
        for i in range(10):
            for j in range(14):
                own = (i * 3 // 10) * 5 + j * 5 // 14 in largest
                assert mixed.x[row, 0, i, j] == (row if own else NEXT[row])


def test_the_label_follows_the_pixels_where_cells_differ_in_size(batch):
    x, targets, maps = batch
    mixed = mf.attentivemix(x, targets, maps, top_k=4, perm=NEXT)
    visible = (mixed.x == x).float().mean((1, 2, 3))
    torch.testing.assert_close(mixed.lam, visible)
    torch.testing.assert_close(mixed.targets.diagonal(), visible)
    assert len(visible.unique()) > 1  # 7 by 5 cells do not divide 14 by 10 pixels evenly


@pytest.mark.parametrize(("lam", "count"), [(0.0, 1), (0.5, 7), (0.4667, 7), (1.0, 15)])
def test_a_share_becomes_whole_cells_rounded_down_but_at_least_one(batch, lam, count):
    x, targets, maps = batch
    x = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 3, 5)
    mixed = mf.attentivemix(x, targets, maps, top_k=0, lam=torch.tensor([lam]), perm=NEXT)
    assert mixed.aux.sum((1, 2, 3)).tolist() == [count] * 4


def test_shares_are_drawn_per_batch_or_per_image(batch):
    _, targets, maps = batch
    x = torch.rand(4, 3, 12, 10, generator=seeded())  # 3 x 5 cells of 4 x 2 pixels
    for per_sample, count in ((False, 1), (True, 4)):
        drawn = mf.draw_lam(count, 1.0, seeded(3)).double() * 15
        options = {"top_k": 0, "per_sample": per_sample, "perm": NEXT, "generator": seeded(3)}
        mixed = mf.attentivemix(x, targets, maps, **options)
        expected = drawn.floor().clamp(1, 15).expand(4) * 8
        assert mixed.aux.sum((1, 2, 3)).tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"maps": torch.rand(3, 2, 2)}, "maps must be 4 maps"),
        ({"maps": torch.rand(4, 2, 2), "top_k": 5}, r"\[0, 4\], the cells of a map, got 5"),
        ({"maps": torch.rand(4, 2, 2), "top_k": 0, "lam": torch.rand(3)}, "1 or 4 weights"),
    ],
)
def test_what_does_not_fit_is_refused(batch, given, message):
    x, targets, _ = batch
    with pytest.raises(ValueError, match=message):
        mf.attentivemix(x, targets, **given)
