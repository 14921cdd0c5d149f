import pytest
import torch

import mixbench.functional as mf

FLIP = torch.tensor([3, 2, 1, 0])


def batch(rows=4, size=(8, 8), classes=4):
    """Images whose pixels are all different, labels, and maps that are mostly 0."""
    generator = torch.Generator().manual_seed(rows)
    x = torch.arange(rows * 3.0 * size[0] * size[1]).reshape(rows, 3, *size)
    maps = (torch.rand(rows, size[0] // 2, size[1] // 2, generator=generator) - 0.6).clamp(min=0)
    return x, torch.eye(classes)[torch.arange(rows) % classes], maps


def by_hand(x, maps, perm, side):
    """Windows, image and masses of one row after the other, as the paper tells it."""
    cell = x.shape[2] // maps.shape[1]
    images, places, masses = [], [], []
    rows, columns = (n - side + 1 for n in maps.shape[1:])
    order = [(r, c) for r in range(rows) for c in range(columns)]

    def total(index, corner):
        r, c = corner
        return float(maps[index, r : r + side, c : c + side].sum())

    for own, other in enumerate(perm.tolist()):
        least = min(order, key=lambda corner: total(own, corner))
        most = max(order, key=lambda corner: total(other, corner))
        image = x[own].clone()
        (a, b), (c, d) = (tuple(n * cell for n in corner) for corner in (least, most))
        wide = side * cell
        image[:, a : a + wide, b : b + wide] = x[other, :, c : c + wide, d : d + wide]
        images.append(image)
        places.append([*least, *most])
        masses.append([float(maps[own].sum()) - total(own, least), total(other, most)])
    return torch.stack(images), torch.tensor(places), torch.tensor(masses)


@pytest.mark.parametrize("side", [1, 2, 3])
@pytest.mark.parametrize("size", [(8, 8), (6, 10)])
def test_every_image_is_pasted_and_weighed_as_the_paper_says(side, size):
    x, targets, maps = batch(size=size)
    perm = torch.tensor([1, 3, 2, 0])
    mixed = mf.tdattenmix(x, targets, maps, side=side, perm=perm, beta=0.25)
    images, places, masses = by_hand(x, maps, perm, side)
    assert torch.equal(mixed.x, images)
    assert torch.equal(torch.cat([mixed.aux.target, mixed.aux.source], dim=1), places)
    area = 1 - side**2 / maps[0].numel()
    lam = 0.25 * area + 0.75 * masses[:, 0] / masses.sum(1)
    torch.testing.assert_close(mixed.lam, lam)
    torch.testing.assert_close(
        mixed.targets, lam[:, None] * targets + (1 - lam[:, None]) * targets[perm]
    )


def test_the_mask_counts_the_window_and_the_image_is_itself_outside_of_it():
    x, targets, maps = batch()
    mixed = mf.tdattenmix(x, targets, maps, side=2, perm=FLIP)
    pasted = ~mixed.aux.kept
    assert (pasted.sum((1, 2)) == 4).all()
    pixels = pasted.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, None].expand_as(x)
    assert torch.equal(mixed.x[~pixels], x[~pixels])
    # Every pixel inside is one of the partner's and of the same channel.
    partner = mixed.x[pixels].long() // (3 * 64)
    assert torch.equal(partner, FLIP.repeat_interleave(3 * 16))
    assert mixed.aux.maps is not maps or torch.equal(mixed.aux.maps, maps)


def test_labels_are_shares_and_equal_images_of_one_colour_stay():
    x, targets, maps = torch.full((4, 3, 8, 8), 0.5), torch.eye(4), batch()[2]
    mixed = mf.tdattenmix(x, targets, maps, generator=torch.Generator().manual_seed(0))
    assert torch.equal(mixed.x, x)
    assert ((mixed.lam >= 0) & (mixed.lam <= 1)).all()
    torch.testing.assert_close(mixed.targets.sum(1), torch.ones(4))


@pytest.mark.parametrize("ratio", ["fixed", "official"])
@pytest.mark.parametrize("value", [0.0, 0.3])
def test_maps_without_a_difference_weigh_by_area_and_are_never_nan(ratio, value):
    x, targets, _ = batch()
    maps = torch.full((4, 4, 4), value)
    mixed = mf.tdattenmix(x, targets, maps, side=2, perm=FLIP, ratio=ratio, map_norm="sum")
    torch.testing.assert_close(mixed.lam, torch.full((4,), 0.75))
    assert not mixed.aux.target.any()


def test_one_image_without_attention_weighs_by_area_beside_others():
    x, targets, maps = batch()
    maps[[0, 3]] = 0
    mixed = mf.tdattenmix(x, targets, maps, side=2, perm=FLIP, beta=0.0)
    assert mixed.lam[0] == mixed.lam[3] == 0.75
    assert mixed.lam[1] != 0.75


@pytest.mark.parametrize("norm", ["none", "sum"])
def test_a_partner_without_attention_brings_none(norm):
    x, targets, maps = batch()
    maps[3] = 0
    mixed = mf.tdattenmix(x, targets, maps, side=2, perm=FLIP, beta=0.0, map_norm=norm)
    assert mixed.lam[0] == 1
    assert mixed.lam[3] == 0
    assert (mixed.lam[1:3] != 0.75).all()


def test_a_label_of_area_alone_needs_no_maps():
    x, targets, maps = batch()
    mixed = mf.tdattenmix(x, targets, maps, side=3, perm=FLIP, beta=1.0)
    torch.testing.assert_close(mixed.lam, torch.full((4,), 1 - 9 / 16))


@pytest.mark.parametrize("ratio", ["fixed", "official"])
def test_reordering_the_batch_reorders_fixed_labels_and_changes_official_ones(ratio):
    x, targets, maps = batch()
    order = torch.tensor([2, 0, 3, 1])
    back = torch.empty_like(order).scatter_(0, order, torch.arange(4))
    options = {"side": 2, "ratio": ratio, "beta": 0.0}
    first = mf.tdattenmix(x, targets, maps, perm=FLIP, **options)
    perm = back[FLIP[order]]
    second = mf.tdattenmix(x[order], targets[order], maps[order], perm=perm, **options)
    assert torch.equal(second.x, first.x[order])
    torch.testing.assert_close(second.lam, first.lam[order])
    # What one image is worth depends on its batch in the authors' label alone.
    third = mf.tdattenmix(
        x, targets, torch.cat([maps[:1], 9 * maps[1:3], maps[3:]]), perm=FLIP, **options
    )
    assert (third.lam[0] == first.lam[0]) == (ratio == "fixed")


def test_the_scale_of_a_map_counts_unless_maps_are_normed():
    x, targets, maps = batch()
    louder = maps * torch.tensor([1.0, 1.0, 2.0, 2.0])[:, None, None]
    both = {
        norm: [
            mf.tdattenmix(x, targets, m, side=2, perm=FLIP, beta=0.0, map_norm=norm).lam
            for m in (maps, louder)
        ]
        for norm in ("none", "sum")
    }
    torch.testing.assert_close(*both["sum"])
    assert (both["none"][1][:2] < both["none"][0][:2]).all()


def test_windows_of_zeros_tie_exactly_beside_large_numbers():
    maps = torch.zeros(1, 6, 6)
    maps[0, 0] = torch.tensor([1e-3, 1e4, 3e-5, 7e3, 1e-7, 0.1])
    sums = mf.window_sums(maps, 3)
    assert (sums[0, 1:] == 0).all()
    assert mf.least_attended(sums).tolist() == [[1, 0]]


def test_among_ties_the_first_is_taken_or_the_one_that_an_order_puts_first():
    sums = torch.tensor([[[3.0, 1.0], [1.0, 1.0]]])
    assert mf.least_attended(sums).tolist() == [[0, 1]]
    order = torch.tensor([[[0.0, 0.9], [0.2, 0.5]]])  # the smallest number is no minimum
    assert mf.least_attended(sums, order).tolist() == [[1, 0]]
    assert mf.most_attended(torch.tensor([[[1.0, 2.0, 2.0]]])).tolist() == [[0, 1]]


def test_random_ties_spread_over_all_windows_that_nobody_looks_at():
    x, targets, maps = torch.zeros(256, 1, 4, 4), torch.eye(2)[[0, 1] * 128], torch.zeros(256, 4, 4)
    order = torch.rand(256, 3, 3, generator=torch.Generator().manual_seed(0))
    target = mf.tdattenmix(x, targets, maps, side=2, order=order).aux.target
    assert len({tuple(place) for place in target.tolist()}) == 9


def test_all_sides_between_the_shares_are_drawn_alike():
    generator = torch.Generator().manual_seed(0)
    drawn = [mf.draw_window(14, generator=generator) for _ in range(2000)]
    assert sorted(set(drawn)) == list(range(3, 11))
    counts = torch.tensor(drawn).bincount()[3:].float()
    assert ((counts - 250).square() / 250).sum() < 24.3  # chi-squared of 7 degrees, p = 0.001
    assert mf.draw_window(2, generator=generator) == 1


@pytest.mark.parametrize(
    ("size", "grid"),
    [
        ((224, 224), (14, 14)),
        ((64, 64), (16, 16)),
        ((32, 32), (8, 8)),
        ((28, 28), (7, 7)),
        ((16, 24), (4, 6)),
        ((30, 30), (10, 10)),
        ((7, 9), (7, 9)),
        ((112, 224), (7, 14)),
    ],
)
def test_cells_are_square_and_divide_every_image(size, grid):
    assert mf.window_grid(*size) == grid


def test_sides_that_do_not_divide_are_refused_with_those_that_do():
    with pytest.raises(ValueError, match=r"5 cells do not divide .* 32x32 .* 1 or 2 or 4 or 8"):
        mf.window_grid(32, 32, 5)
    assert mf.window_grid(32, 64, 8) == (8, 16)
    with pytest.raises(ValueError, match="use a side of 2 or 4 or 8"):
        mf.window_grid(8, 12, 1)


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
def test_pixels_are_copied_in_every_type_and_layout(memory, dtype):
    x, targets, maps = batch()
    x = (x % 251).to(dtype).contiguous(memory_format=memory)
    mixed = mf.tdattenmix(x, targets, maps, side=2, perm=FLIP)
    expected, _, _ = by_hand(x, maps, FLIP, 2)
    assert torch.equal(mixed.x, expected)
    assert mixed.x.dtype == dtype
    assert mixed.x.is_contiguous(memory_format=memory)


def test_reduced_maps_choose_as_wide_ones_of_the_same_numbers():
    x, targets, maps = batch()
    narrow = maps.bfloat16()
    first = mf.tdattenmix(x, targets, narrow, side=2, perm=FLIP)
    second = mf.tdattenmix(x, targets, narrow.float(), side=2, perm=FLIP)
    assert first.lam.dtype == torch.float32
    assert torch.equal(first.lam, second.lam)


def test_a_window_of_the_whole_grid_is_the_partner():
    x, targets, maps = batch()
    mixed = mf.tdattenmix(x, targets, maps + 1, side=4, perm=FLIP)
    assert torch.equal(mixed.x, x[FLIP])
    assert torch.equal(mixed.targets, targets[FLIP])


@pytest.mark.parametrize("rows", [1, 2, 3, 5])
def test_any_batch_is_mixed_and_a_single_image_meets_itself(rows):
    x, targets, maps = batch(rows, classes=8)
    mixed = mf.tdattenmix(x, targets, maps, generator=torch.Generator().manual_seed(0))
    assert mixed.x.isfinite().all()
    if rows == 1:
        assert torch.equal(mixed.targets, targets)


def test_maps_are_resized_by_area_or_between_their_cells():
    maps = torch.tensor([[[0.0, 4.0], [8.0, 12.0]]])
    assert mf.resize_maps(maps, (1, 1)).item() == 6
    assert mf.resize_maps(maps, (2, 2)) is maps
    assert mf.resize_maps(maps, (4, 4), "bilinear")[0, 0].tolist() == [0, 1, 3, 4]


def test_given_windows_are_used():
    x, targets, maps = batch()
    places = torch.tensor([[0, 0], [1, 0], [0, 2], [2, 2]])
    mixed = mf.tdattenmix(x, targets, maps, side=2, perm=FLIP, target=places, source=places.flip(0))
    assert torch.equal(mixed.x[2, :, :4, 4:], x[1, :, 2:6, :4])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"maps": torch.rand(4, 16)}, r"maps must be \(B, R, C\)"),
        ({"maps": torch.rand(3, 4, 4)}, r"maps must be \(B, R, C\)"),
        ({"maps": torch.rand(4, 3, 3)}, "3x3 cells does not cut images of 8x8"),
        ({"maps": torch.rand(4, 2, 4)}, "into squares.*resize_maps"),
        ({"side": 0}, "side of 1 to 4 cells, got 0"),
        ({"side": 5}, "side of 1 to 4 cells, got 5"),
        ({"ratio": "area"}, "fixed, official"),
        ({"map_norm": "max"}, "none, sum"),
        ({"perm": torch.tensor([0, 1])}, "4 partners"),
        ({"targets": torch.tensor([0, 1, 2, 3])}, "one_hot"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    x, targets, maps = batch()
    given = {"x": x, "targets": targets, "maps": maps} | change
    with pytest.raises(ValueError, match=message):
        mf.tdattenmix(**given)


def test_flipped_pairs_need_an_even_batch():
    x, targets, maps = batch(3)
    with pytest.raises(ValueError, match="flip pairing needs an even batch, got B=3"):
        mf.tdattenmix(x, targets, maps, partner="flip")
    x, targets, maps = batch(4)
    assert torch.equal(mf.tdattenmix(x, targets, maps, partner="flip").perm, FLIP)


def test_sums_of_maps_that_are_flat_are_refused():
    with pytest.raises(ValueError, match=r"maps must be \(B, R, C\)"):
        mf.window_sums(torch.rand(4, 16), 2)


def test_no_gradient_reaches_the_maps():
    x, targets, maps = batch()
    mixed = mf.tdattenmix(x.requires_grad_(), targets, maps.requires_grad_(), side=2, perm=FLIP)
    assert not mixed.lam.requires_grad
    mixed.x.sum().backward()
    assert maps.grad is None
    assert x.grad is not None


def test_it_compiles_into_one_graph_for_a_side(compiled):
    x, targets, maps = batch()
    operation = compiled(lambda x, t, m: mf.tdattenmix(x, t, m, side=2, perm=FLIP))
    mixed = operation.call(x, targets, maps)
    operation.call(x + 1, targets, maps)
    assert operation.graphs == 1
    assert torch.equal(mixed.x, mf.tdattenmix(x, targets, maps, side=2, perm=FLIP).x)
