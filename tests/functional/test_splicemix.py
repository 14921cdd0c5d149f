import math
from collections import Counter

import pytest
import torch
import torch.nn.functional as F

import mixbench.functional as mf
from mixbench.functional.splicemix import draw_dropped, draw_sources

NAN = float("nan")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def batch():
    """Twelve images of odd sides with several labels each."""
    x = torch.randn(12, 3, 11, 13, generator=generator(1))
    targets = (torch.rand(12, 5, generator=generator(2)) < 0.4).float()
    return x, targets


def splice(x, targets, *grids, **decisions):
    """One image of each grid, not transposed."""
    given = {"counts": [1] * len(grids), "transposed": [False] * len(grids)}
    grids = [mf.parse_splice_grid(text) for text in grids]
    return mf.splicemix(x, targets, grids=grids, generator=generator(), **given | decisions)


@pytest.mark.parametrize("seed", range(20))
def test_the_batch_stays_and_a_quarter_is_appended_with_all_labels_of_kept_cells(batch, seed):
    x, targets = batch
    mixed = mf.splicemix(x, targets, generator=generator(seed))
    assert torch.equal(mixed.x[:12], x)
    assert torch.equal(mixed.targets[:12], targets)
    assert mixed.x.shape == (15, 3, 11, 13)
    ((grid, count, sources, dropped),) = mixed.aux.parts()
    assert count == 3
    assert len(sources) == 3 * grid.cells
    for order in sources.split(12):  # none again before all were used
        assert len(order.unique()) == len(order)
    assert dropped.view(3, -1).sum(dim=1).tolist() == [grid.drops] * 3
    for image in range(3):
        cells = slice(image * grid.cells, (image + 1) * grid.cells)
        kept = sources[cells][~dropped[cells]]
        assert torch.equal(mixed.targets[12 + image], targets[kept].amax(dim=0))


def test_each_cell_is_its_image_made_smaller_and_a_dropped_one_is_grey():
    x, targets = torch.randn(6, 2, 8, 12, generator=generator(3)), torch.eye(6)
    dropped = torch.tensor([False, False, True, False, False, False])
    sources = torch.tensor([5, 3, 0, 2, 4, 1])
    mixed = splice(x, targets, "2x3", sources=sources, dropped=dropped)
    small = F.interpolate(x, (4, 4), mode="bilinear", align_corners=True)
    for cell, source in enumerate(sources.tolist()):
        top, left = 4 * (cell // 3), 4 * (cell % 3)
        found = mixed.x[6, :, top : top + 4, left : left + 4]
        expected = torch.zeros_like(found) if dropped[cell] else small[source]
        torch.testing.assert_close(found, expected)
    assert mixed.targets[6].tolist() == [0, 1, 1, 1, 1, 1]


def test_dropping_all_cells_but_one_leaves_the_labels_of_its_image(batch):
    x, targets = batch
    dropped = torch.tensor([True, True, False, True])
    mixed = splice(x, targets, "2x2", sources=torch.tensor([1, 2, 7, 3]), dropped=dropped)
    assert torch.equal(mixed.targets[12], targets[7])


def test_a_constant_colour_stays_in_kept_cells():
    x = torch.full((8, 3, 10, 10), 0.7)
    mixed = splice(x, torch.eye(8), "3x3-4")  # 9 pixels of 10 are made, and resized
    values = mixed.x[8].unique()
    assert values.max() == pytest.approx(0.7)
    assert values.min() == 0
    whole = splice(x, torch.eye(8), "3x3").x[8]
    torch.testing.assert_close(whole, x[0])


def test_a_grid_of_one_cell_is_the_image(batch):
    x, targets = batch
    mixed = splice(x, targets, "1x1", counts=[0])
    order = mixed.aux.sources
    assert torch.equal(mixed.x[12:], x[order])
    assert torch.equal(mixed.targets[12:], targets[order])


def test_several_grids_take_consecutive_parts_of_permutations(batch):
    x, targets = batch
    mixed = splice(x, targets, "2x2", "1x3", "2x2-1", counts=[2, 1, 3])
    assert mixed.x.shape[0] == 12 + 6
    sources = mixed.aux.sources
    assert len(sources) == 8 + 3 + 12
    assert sources[:12].sort().values.tolist() == list(range(12))
    assert len(sources[12:].unique()) == 11  # nothing is shown a third time before all twice
    assert [len(part[2]) for part in mixed.aux.parts()] == [8, 3, 12]
    again = splice(
        x, targets, "2x2", "1x3", "2x2-1", counts=[2, 1, 3], sources=sources,
        dropped=mixed.aux.dropped,
    )  # fmt: skip
    assert torch.equal(again.x, mixed.x)


def test_a_grid_that_is_transposed_changes_its_rows_and_columns(batch):
    x, targets = batch
    given = {"sources": torch.tensor([0, 1, 2]), "dropped": torch.zeros(3, dtype=torch.bool)}
    lying = splice(x, targets, "1x3", **given)
    standing = splice(x, targets, "1x3", transposed=[True], **given)
    assert standing.aux.grids == (mf.SpliceGrid(3, 1),)
    turned = splice(x.mT.contiguous(), targets, "1x3", **given)
    torch.testing.assert_close(standing.x[12], turned.x[12].mT)
    assert not torch.equal(standing.x[12], lying.x[12])


def test_the_default_grids_come_with_the_chances_of_the_authors():
    source = generator(5)
    drawn = [mf.draw_splice_grid(source) for _ in range(6000)]
    kinds = Counter((grid.rows, grid.columns) for grid in drawn)
    expected = {(1, 2): 0.3, (2, 2): 0.4, (2, 3): 0.3}
    for kind, share in expected.items():
        spread = 5 * math.sqrt(share * (1 - share) / len(drawn))
        assert kinds[kind] / len(drawn) == pytest.approx(share, abs=spread)
        drops = Counter(g.drops for g in drawn if (g.rows, g.columns) == kind)
        most = kind[0] * kind[1] - 1
        assert set(drops) == set(range(most + 1))
        for number in range(1, most + 1):
            chance, count = 0.3 / most, drops.total()
            spread = 5 * math.sqrt(chance * (1 - chance) / count)
            assert drops[number] / count == pytest.approx(chance, abs=spread)
    turned = [mf.draw_transposed([mf.SpliceGrid(1, 2)], source)[0] for _ in range(2000)]
    assert sum(turned) / 2000 == pytest.approx(0.5, abs=0.06)
    assert not any(mf.draw_transposed([mf.SpliceGrid(2, 2)], source)[0] for _ in range(50))


def test_every_cell_is_dropped_as_often():
    dropped = draw_dropped(mf.SpliceGrid(2, 2, 1), 4000, generator(1)).view(-1, 4)
    assert (dropped.sum(dim=1) == 1).all()
    assert (dropped.float().mean(dim=0) - 0.25).abs().max() < 0.04


def test_sources_fill_whole_permutations_first():
    sources = draw_sources(25, 10, generator(1))
    assert [sorted(part.tolist()) for part in sources[:20].split(10)] == [list(range(10))] * 2
    assert len(sources[20:].unique()) == 5


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([[1, 0], [0, NAN]], [1, NAN]),
        ([[1, 0], [NAN, 1]], [1, 1]),  # there for certain, whatever the other image shows
        ([[NAN, 0], [0, 0]], [NAN, 0]),
    ],
)
def test_an_unknown_label_stays_unknown_unless_a_cell_shows_the_class(labels, expected):
    targets = torch.tensor(labels, dtype=torch.float32)
    given = {"sources": torch.tensor([0, 1]), "dropped": torch.tensor([False, False])}
    mixed = splice(torch.zeros(2, 1, 4, 4), targets, "1x2", **given)
    torch.testing.assert_close(mixed.targets[2], torch.tensor(expected).float(), equal_nan=True)
    alone = splice(
        torch.zeros(2, 1, 4, 4), targets, "1x2", sources=torch.tensor([0, 1]),
        dropped=torch.tensor([True, False]),
    )  # fmt: skip
    torch.testing.assert_close(alone.targets[2], targets[1], equal_nan=True)


def test_mean_labels_are_those_of_kept_cells_and_sum_to_one():
    x, targets = torch.randn(6, 1, 6, 6, generator=generator(1)), torch.eye(6)
    mixed = splice(x, targets, "2x3-2", counts=[4], labels="mean")
    torch.testing.assert_close(mixed.targets.sum(dim=1), torch.ones(10))
    assert mixed.targets[6:].unique().tolist() == [0, 0.25]


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_any_channels_type_and_memory_format_stay(channels, dtype):
    x = torch.randn(8, channels, 9, 12, generator=generator(1)).to(dtype)
    for antialias in (False, True):
        given = {"counts": [2], "antialias": antialias}
        plain = splice(x, torch.eye(8).to(dtype), "2x2-1", **given)
        assert plain.x.dtype == plain.targets.dtype == dtype
        last = x.to(memory_format=torch.channels_last)
        mixed = splice(last, torch.eye(8).to(dtype), "2x2-1", **given)
        assert mixed.x.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(mixed.x, plain.x)


def test_smoothing_lets_no_stripes_through():
    x = torch.ones(4, 1, 24, 24)
    x[..., ::2] = -1  # every other column, which a third of the size cannot show
    given = {"sources": torch.arange(3), "dropped": torch.zeros(3, dtype=torch.bool)}
    rough, smooth = (
        splice(x, torch.eye(4), "1x3", antialias=antialias, **given).x[4]
        for antialias in (False, True)
    )
    assert rough.std() > 0.5
    assert smooth.std() < 0.3


def test_permuting_the_batch_with_its_sources_permutes_nothing_else(batch):
    x, targets = batch
    order = torch.randperm(12, generator=generator(4))
    first = mf.splicemix(x, targets, generator=generator(9))
    spliced = first.aux
    second = mf.splicemix(
        x[order],
        targets[order],
        grids=spliced.grids,
        counts=spliced.counts,
        transposed=[False],
        sources=order.argsort()[spliced.sources],
        dropped=spliced.dropped,
    )
    assert torch.equal(second.x[12:], first.x[12:])
    assert torch.equal(second.targets[12:], first.targets[12:])


def test_a_batch_that_is_too_small_is_handed_back():
    x, targets = torch.randn(3, 1, 4, 4), torch.eye(3)
    for mixed in (
        mf.splicemix(x, targets, generator=generator()),
        splice(x, targets, "2x2", counts=[0]),
    ):
        assert mixed.x is x
        assert mixed.targets is targets
        assert mixed.aux is None


# Consistency.


def spliced(grids, counts, dropped=None):
    grids = tuple(mf.parse_splice_grid(text) for text in grids)
    cells = sum(grid.cells * count for grid, count in zip(grids, counts, strict=True))
    dropped = torch.zeros(cells, dtype=torch.bool) if dropped is None else torch.tensor(dropped)
    return mf.Spliced(grids, tuple(counts), torch.arange(cells), dropped)


def test_cells_of_a_map_are_its_parts_row_by_row():
    h = torch.randn(3, 2, 4, 6, generator=generator())
    first, second = mf.splice_cells(h, spliced(["2x3", "1x2"], [1, 2]))
    assert first.shape == (6, 2, 2, 2)
    assert second.shape == (4, 2, 4, 3)
    assert torch.equal(first[4], h[0, :, 2:, 2:4])
    assert torch.equal(second[3], h[2, :, :, 3:])


def test_a_map_that_a_grid_does_not_divide_is_resized_to_a_place_a_cell_at_least():
    h = torch.randn(1, 2, 5, 2, generator=generator())
    (cells,) = mf.splice_cells(h, spliced(["2x3"], [1]))
    assert cells.shape == (6, 2, 2, 1)
    resized = F.interpolate(h, (4, 3), mode="bilinear", align_corners=True)
    torch.testing.assert_close(cells[2], resized[0, :, :2, 2:])


def test_equal_cells_cost_the_entropy_of_the_teacher():
    logits = 3 * torch.randn(4, 6, generator=generator())
    loss = mf.splice_consistency(logits, logits, spliced(["2x2"], [1]))
    p = logits.sigmoid().double()
    entropy = -(p * p.log() + (1 - p) * (1 - p).log()).mean()
    assert float(loss) == pytest.approx(float(entropy), rel=1e-5)
    for way in (1, -1):
        assert mf.splice_consistency(logits + way, logits, spliced(["2x2"], [1])) > loss


@pytest.mark.parametrize(("kept_only", "share"), [(False, 0.25), (True, 1.0)])
def test_dropped_cells_cost_nothing_and_count_only_in_the_authors_mean(kept_only, share):
    logits = torch.randn(4, 3, generator=generator()).requires_grad_()
    cells = torch.randn(4, 3, generator=generator(1)).requires_grad_()
    made = spliced(["2x2"], [1], [True, True, False, True])
    loss = mf.splice_consistency(cells, logits, made, detach=False, kept_only=kept_only)
    one = mf.splice_consistency(cells[2:3], logits[2:3], spliced(["1x1"], [1]))
    torch.testing.assert_close(loss, share * one)
    loss.backward()
    for gradient in (cells.grad, logits.grad):
        assert (gradient.abs().sum(dim=1) > 0).tolist() == [False, False, True, False]


def test_only_an_attached_teacher_gets_a_gradient():
    logits, cells = (torch.randn(4, 3, generator=generator(s)).requires_grad_() for s in (0, 1))
    for detach in (True, False):
        loss = mf.splice_consistency(cells, logits, spliced(["2x2"], [1]), detach=detach)
        found = torch.autograd.grad(loss, [cells, logits], allow_unused=True)
        assert found[0].abs().sum() > 0
        assert (found[1] is None) == detach


def test_half_precision_logits_lose_nothing_to_dropped_cells():
    made = spliced(["2x2"], [1], [True, False, False, False])
    wide = torch.randn(4, 3, generator=generator())
    narrow = mf.splice_consistency(wide.half(), wide.half(), made)
    assert narrow.dtype == torch.float32
    assert float(narrow) == pytest.approx(float(mf.splice_consistency(wide, wide, made)), abs=1e-3)


# Bad input.


BAD_NAMES = ["2", "x2", "2x", "0x2", "2x2-", "2 x 2", "2x2-a", "-1x2", "", "2x2\n"]


@pytest.mark.parametrize("text", BAD_NAMES)
def test_a_name_that_is_no_grid_is_refused(text):
    with pytest.raises(ValueError, match="a grid is RxC or RxC-d"):
        mf.parse_splice_grid(text)


@pytest.mark.parametrize("text", ["2x2-4", "1x1-1", "2x3-9"])
def test_a_grid_without_a_cell_is_refused(text):
    with pytest.raises(ValueError, match=r"drops \d of \d cells"):
        mf.parse_splice_grid(text)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"targets": torch.arange(12) % 5}, "one_hot"),
        ({"x": torch.zeros(12, 3, 8, 8, dtype=torch.uint8)}, "convert to float"),
        ({"x": torch.zeros(12, 3)}, r"needs images \(B, C, H, W\)"),
        ({"x": torch.zeros(12, 3, 1, 8)}, "images of 1x8 pixels"),
        ({"labels": "sum"}, "labels must be one of union, mean"),
        ({"counts": [1, 2]}, "counts must give each of 1 grids"),
        ({"counts": [-1]}, "counts must give each of 1 grids"),
        ({"transposed": [False, True]}, "transposed must decide on 1 grids"),
        ({"sources": torch.arange(8)}, "must hold 4 cells"),
        ({"sources": torch.tensor([0, 1, 2, 12])}, "rows of a batch of 12"),
        ({"dropped": torch.zeros(3, dtype=torch.bool)}, "must hold 4 cells"),
        ({"dropped": torch.zeros(4)}, "dropped must be bool"),
    ],
)
def test_input_that_does_not_fit_is_refused(batch, change, match):
    given = {"x": batch[0], "targets": batch[1], "counts": [1], "transposed": [False]} | change
    with pytest.raises(ValueError, match=match):
        mf.splicemix(grids=[mf.SpliceGrid(2, 2)], **given)


def test_counts_of_several_grids_have_to_be_given(batch):
    grids = [mf.SpliceGrid(2, 2), mf.SpliceGrid(1, 2)]
    for counts in (None, [0, 1]):
        with pytest.raises(ValueError, match="count"):
            mf.splicemix(*batch, grids=grids, counts=counts)


def test_a_map_of_other_images_is_refused():
    with pytest.raises(ValueError, match=r"h must be \(2, C, h, w\)"):
        mf.splice_cells(torch.zeros(3, 1, 4, 4), spliced(["2x2"], [2]))


# Compiled.


def test_a_step_with_given_decisions_compiles_whole_once_a_grid(batch, compiled):
    x, targets = batch

    def step(x, targets, sources, dropped, columns):
        grid = mf.SpliceGrid(1, columns)
        given = {"grids": [grid], "counts": [2], "transposed": [False]}
        mixed = mf.splicemix(x, targets, sources=sources, dropped=dropped, **given)
        (cells,) = mf.splice_cells(mixed.x[12:], mixed.aux)
        logits = cells.flatten(1)[:, :5]
        return mixed.x, mf.splice_consistency(logits, mixed.targets, mixed.aux)

    call = compiled(step)
    for columns in (2, 3, 2, 3):
        sources = torch.randperm(12, generator=generator(columns))[: 2 * columns]
        dropped = torch.rand(2 * columns, generator=generator(7)) < 0.3
        given = (x, targets, sources, dropped, columns)
        torch.testing.assert_close(call.call(*given), step(*given))
    assert call.graphs == 2
