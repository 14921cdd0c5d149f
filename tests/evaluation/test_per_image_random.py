import pytest
import torch

from mixbench.evaluation import per_image_random as drawing

MASK = (1 << 64) - 1


def h(x):
    """The rule in plain integers."""
    z = (x + 0x9E3779B97F4A7C15) & MASK
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
    return z ^ (z >> 31)


@pytest.mark.parametrize("seed", [0, 7, 2**63 - 1, -1, 2**64 - 5])
def test_keys_follow_the_rule_in_plain_integers(seed):
    index = torch.tensor([0, 3, 10**12])
    found = drawing.keys(seed, index, 5)
    for row, i in zip(found.tolist(), index.tolist(), strict=True):
        assert [value & MASK for value in row] == [h(h(h(seed & MASK) ^ i) ^ j) for j in range(5)]
    order = drawing.orders(seed, index, 5)
    for row, drawn in zip(found.tolist(), order.tolist(), strict=True):
        assert drawn == sorted(range(5), key=lambda place: row[place] & MASK)


def test_what_is_drawn_for_an_image_depends_on_no_batch():
    index = torch.arange(40)
    whole = drawing.orders(3, index, 16), drawing.uniform(3, index, (2, 4))
    for rows in (index[5:6], index.flip(0), index[::7]):
        assert torch.equal(drawing.orders(3, rows, 16), whole[0][rows])
        assert torch.equal(drawing.uniform(3, rows, (2, 4)), whole[1][rows])


def test_uniform_numbers_are_uniform_and_unrelated():
    drawn = drawing.uniform(0, torch.arange(200), (3, 10, 10))
    assert drawn.shape == (200, 3, 10, 10)
    assert 0 <= drawn.min() < 1e-3
    assert 0.999 < drawn.max() < 1
    counts = torch.histc(drawn, 10, 0, 1)
    assert (counts / 6000 - 1).abs().max() < 0.06
    rows = drawn.view(200, -1)
    assert torch.corrcoef(rows).fill_diagonal_(0).abs().max() < 0.3
    assert not torch.equal(drawn, drawing.uniform(1, torch.arange(200), (3, 10, 10)))


def test_a_subset_is_the_same_for_everyone():
    chosen = drawing.subset(1000, 100)
    assert torch.equal(chosen, drawing.subset(1000, 100))
    assert len(chosen.unique()) == 100
    assert torch.equal(chosen, chosen.sort().values)
    assert 350 < chosen.float().mean() < 650
    assert not torch.equal(chosen, drawing.subset(1000, 100, seed=1))
    larger = set(drawing.subset(1000, 200).tolist())
    assert set(chosen.tolist()) < larger
    for count in (None, 1000, 2000):
        assert torch.equal(drawing.subset(1000, count), torch.arange(1000))
    with pytest.raises(ValueError, match="at least one"):
        drawing.subset(1000, 0)
