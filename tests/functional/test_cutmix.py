import math
from functools import partial

import pytest
import torch
from scipy import stats
from torch import Generator, Tensor, nn

import mixbench.functional as mf
from mixbench.functional.cutmix import BOX_RULES
from mixbench.methods.build import build_method

NEXT = torch.tensor([1, 2, 3, 0])  # every image gets another one as partner
LIBRARY_RULES = ("official", "timm", "torchvision")
BELOW_ONE = torch.tensor(1.0).nextafter(torch.tensor(0.0))


def seeded(seed: int) -> Generator:
    return Generator().manual_seed(seed)


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    """Four images of unequal sides, no two pixels alike."""
    return torch.randn(4, 3, 8, 6, generator=seeded(0)), torch.eye(4)


def middle(height: int, width: int, rows: Tensor, cols: Tensor) -> Tensor:
    """(N, 2) centres as fractions that fall into the middle of the given pixels."""
    return (torch.stack([rows, cols], dim=1) + 0.5) / torch.tensor([height, width])


# Boxes.


def box_by_hand(lam: float, row: int, col: int, height: int, width: int, rule: str) -> list[int]:
    """One box of a library's rule, one side after the other in plain Python."""
    low, high = [], []
    for center, size in ((row, height), (col, width)):
        side = math.sqrt(1 - lam) * size
        before = after = int(side) // 2
        if rule == "timm":
            after = int(side) - before
        elif rule == "torchvision":
            before = after = int(0.5 * side)
        low.append(max(center - before, 0))
        high.append(min(center + after, size))
    return low + high


@pytest.mark.parametrize("rule", LIBRARY_RULES)
@pytest.mark.parametrize(("height", "width"), [(32, 32), (7, 13), (64, 5), (1, 1)])
def test_boxes_are_those_of_the_rule_at_every_share_and_place(rule, height, width):
    generator = seeded(height)
    lam = torch.rand(300, generator=generator)
    # Shares whose sides are whole pixels, where a rounding error would cost one.
    lam[:100] = 1 - (torch.randint(height + 1, (100,), generator=generator) / height).square()
    lam[100], lam[101] = 0.0, 1.0
    rows, cols = (torch.randint(size, (300,), generator=generator) for size in (height, width))
    boxes = mf.cutmix_box(lam, middle(height, width, rows, cols), height, width, rule=rule)
    places = zip(lam.tolist(), rows.tolist(), cols.tolist(), strict=True)
    assert boxes.dtype == torch.int64
    assert boxes.tolist() == [box_by_hand(*place, height, width, rule) for place in places]


def test_rules_differ_in_what_becomes_of_an_odd_side():
    # Half of each side of 10 x 14 pixels: 5 x 7, around row 5 and column 7.
    lam, center = torch.tensor([0.75]), middle(10, 14, torch.tensor([5]), torch.tensor([7]))
    boxes = {rule: mf.cutmix_box(lam, center, 10, 14, rule=rule).tolist() for rule in LIBRARY_RULES}
    assert boxes["official"] == [[3, 4, 7, 10]]
    assert boxes["timm"] == [[3, 4, 8, 11]]
    assert boxes["torchvision"] == [[3, 4, 7, 10]]


@pytest.mark.parametrize("rule", BOX_RULES)
@pytest.mark.parametrize("lam", [0.0, 1e-30, 0.3, 1 - 2**-24, 1.0])
def test_boxes_stay_in_the_image_at_extreme_shares_and_centers(rule, lam):
    places = torch.tensor([0.0, 0.5, BELOW_ONE])
    center = torch.cartesian_prod(places, places)
    top, left, bottom, right = mf.cutmix_box(
        torch.tensor([lam]), center, height=9, width=4, rule=rule
    ).unbind(1)
    assert ((top >= 0) & (top <= bottom) & (bottom <= 9)).all()
    assert ((left >= 0) & (left <= right) & (right <= 4)).all()
    if lam == 1:
        assert ((bottom == top) & (right == left)).all()


def test_the_box_is_high_along_rows_and_wide_along_columns():
    center = middle(8, 20, torch.tensor([4]), torch.tensor([10]))
    for rule in BOX_RULES:
        top, left, bottom, right = mf.cutmix_box(
            torch.tensor([0.75]), center, height=8, width=20, rule=rule
        )[0]
        assert (bottom - top, right - left) == (4, 10)
    box = torch.tensor([[1, 5, 4, 15]])  # 3 rows, 10 columns
    image, lam = mf.paste_box(torch.zeros(1, 1, 8, 20), torch.ones(1, 1, 8, 20), box)
    assert image[0, 0, 1:4, 5:15].sum() == image.sum() == 30
    torch.testing.assert_close(lam, torch.tensor([1 - 30 / 160]), rtol=0, atol=1e-7)


def test_inside_boxes_have_the_area_asked_for_wherever_they_lie():
    center = torch.rand(500, 2, generator=seeded(0))
    box = mf.cutmix_box(torch.tensor([0.75]), center, height=8, width=20, rule="inside")
    top, left, bottom, right = box.unbind(1)
    assert ((top >= 0) & (bottom <= 8) & (left >= 0) & (right <= 20)).all()
    assert ((bottom - top == 4) & (right - left == 10)).all()


def test_minmax_boxes_have_the_sides_asked_for_and_lie_inside():
    generator = seeded(1)
    sides, origin = torch.rand(2, 500, 2, generator=generator)
    sides[0], sides[1], origin[2] = 0, 1, BELOW_ONE
    top, left, bottom, right = mf.cutmix_minmax_box(sides, origin, height=9, width=14).unbind(1)
    assert ((top >= 0) & (bottom <= 9) & (left >= 0) & (right <= 14)).all()
    assert torch.equal(bottom - top, (sides[:, 0].double() * 9).long())
    assert torch.equal(right - left, (sides[:, 1].double() * 14).long())


def test_minmax_sides_are_drawn_independently_between_the_two_shares():
    x = torch.zeros(1, 1, 100, 50, dtype=torch.uint8).expand(400, 1, 100, 50)
    targets = torch.ones(400, 1)
    mixed = mf.cutmix(x, targets, minmax=(0.2, 0.6), per_sample=True, generator=seeded(2))
    top, left, bottom, right = mixed.aux.unbind(1)
    heights, widths = bottom - top, right - left
    assert heights.unique().tolist() == list(range(20, 60))
    assert widths.unique().tolist() == list(range(10, 30))
    assert abs(torch.corrcoef(torch.stack([heights, widths]).double())[0, 1]) < 0.2


def drawn_boxes(count: int, height: int, width: int, **settings: object) -> Tensor:
    """(count, 4) boxes as the operation itself draws them."""
    x = torch.zeros(1, 1, height, width, dtype=torch.uint8).expand(count, 1, height, width)
    targets = torch.ones(count, 1)
    mixed = mf.cutmix(x, targets, per_sample=True, partner="roll", generator=seeded(0), **settings)
    return mixed.aux


def uniformity(places: Tensor, ways: int) -> float:
    """Chance of counts so uneven if all places, numbered from 0, were equally likely."""
    counts = places.bincount(minlength=ways)
    assert len(counts) == ways
    return stats.chisquare(counts.numpy()).pvalue


@pytest.mark.parametrize("rule", LIBRARY_RULES)
def test_every_center_is_equally_likely(rule):
    # Boxes of 2 x 2 pixels before clipping, so that each center has an end of its own.
    box = drawn_boxes(10_000, 7, 5, lam=torch.tensor([1 - 0.41**2]), box_rule=rule)
    rows, cols = box[:, 2] - 1, box[:, 3] - 1
    assert uniformity(rows * 5 + cols, 7 * 5) > 1e-3


def test_every_valid_origin_of_an_inside_box_is_equally_likely():
    box = drawn_boxes(10_000, 9, 6, lam=torch.tensor([0.75]), box_rule="inside")
    top, left, bottom, right = box.unbind(1)
    assert ((bottom - top == 4) & (right - left == 3)).all()
    assert uniformity(top * 4 + left, 6 * 4) > 1e-3


def test_every_valid_origin_of_a_minmax_box_is_equally_likely():
    sides = torch.tensor([[0.5, 0.34]])
    box = drawn_boxes(10_000, 9, 6, sides=sides, minmax=(0.2, 0.8))
    top, left, bottom, right = box.unbind(1)
    assert ((bottom - top == 4) & (right - left == 2)).all()
    assert uniformity(top * 5 + left, 6 * 5) > 1e-3


@pytest.mark.parametrize(
    ("rule", "mean"), [("official", 0.7005), ("timm", 0.690), ("torchvision", 0.701)]
)
def test_clipping_raises_the_mean_weight_as_simulated_for_each_library(rule, mean):
    generator = seeded(3)
    lam, center = mf.draw_lam(50_000, 1.0, generator), torch.rand(50_000, 2, generator=generator)
    top, left, bottom, right = mf.cutmix_box(lam, center, 32, 32, rule=rule).unbind(1)
    kept = 1 - (bottom - top) * (right - left) / 32**2
    assert abs(kept.mean() - mean) < 0.005


def test_inside_boxes_keep_the_mean_weight_of_the_draw():
    generator = seeded(4)
    lam, center = mf.draw_lam(50_000, 1.0, generator), torch.rand(50_000, 2, generator=generator)
    top, left, bottom, right = mf.cutmix_box(lam, center, 224, 224, rule="inside").unbind(1)
    kept = 1 - (bottom - top) * (right - left) / 224**2
    assert abs(kept.mean() - 0.503) < 0.005  # whole pixels cost a box 0.3 % of the image


def test_an_unknown_box_rule_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"official, timm, torchvision, inside, got 'center'"):
        mf.cutmix_box(torch.tensor([0.5]), torch.zeros(1, 2), 4, 4, rule="center")


# Images and labels.


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("rule", BOX_RULES)
def test_every_pixel_stays_or_is_the_partners_and_labels_tell_the_share(batch, per_sample, rule):
    x, targets = batch
    for seed in range(10):
        mixed = mf.cutmix(
            x, targets, perm=NEXT, per_sample=per_sample, box_rule=rule, generator=seeded(seed)
        )
        own, other = mixed.x == x, mixed.x == x[NEXT]
        assert (own ^ other).all()
        visible = own.float().mean(dim=(1, 2, 3))
        torch.testing.assert_close(mixed.lam, visible, rtol=0, atol=1e-6)
        torch.testing.assert_close(mixed.targets.diagonal(), visible, rtol=0, atol=1e-6)
        assert len(mixed.aux) == (4 if per_sample else 1)


def test_each_image_gets_its_own_box_of_its_own_partner(batch):
    x, targets = batch
    boxes = [[0, 0, 8, 6], [2, 1, 5, 4], [3, 3, 3, 6], [7, 5, 8, 6]]
    mixed = mf.cutmix(x, targets, box=torch.tensor(boxes), perm=NEXT)
    for row, (top, left, bottom, right) in enumerate(boxes):
        expected = x[row].clone()
        expected[:, top:bottom, left:right] = x[(row + 1) % 4, :, top:bottom, left:right]
        torch.testing.assert_close(mixed.x[row], expected, rtol=0, atol=0)
        kept = 1 - (bottom - top) * (right - left) / 48
        torch.testing.assert_close(mixed.lam[row], torch.tensor(kept), rtol=0, atol=1e-7)


def test_one_box_for_all_is_the_same_as_that_box_for_each(batch):
    box = torch.tensor([[1, 2, 6, 5]])
    once = mf.cutmix(*batch, box=box, perm=NEXT)
    each = mf.cutmix(*batch, box=box.expand(4, 4), perm=NEXT)
    for value, other in zip(once[:4], each[:4], strict=True):
        torch.testing.assert_close(other, value, rtol=0, atol=0)


@pytest.mark.parametrize("rule", BOX_RULES)
def test_share_one_is_the_identity_and_its_loss_the_plain_loss(batch, rule):
    x, targets = batch
    mixed = mf.cutmix(x, targets, lam=torch.tensor([1.0]), box_rule=rule, generator=seeded(0))
    torch.testing.assert_close(mixed.x, x, rtol=0, atol=0)
    torch.testing.assert_close(mixed.lam, torch.ones(4), rtol=0, atol=0)
    torch.testing.assert_close(mixed.targets, targets, rtol=0, atol=0)
    logits = torch.randn(4, 4, generator=seeded(1))
    loss = nn.functional.cross_entropy(logits, torch.arange(4))
    torch.testing.assert_close(mf.soft_cross_entropy(logits, mixed.targets), loss)


@pytest.mark.parametrize("rule", BOX_RULES)
def test_share_zero_in_the_middle_of_an_even_image_swaps_everything(batch, rule):
    x, targets = batch
    center = torch.tensor([[0.5, 0.5]])
    mixed = mf.cutmix(x, targets, lam=torch.tensor([0.0]), center=center, box_rule=rule, perm=NEXT)
    torch.testing.assert_close(mixed.x, x[NEXT], rtol=0, atol=0)
    torch.testing.assert_close(mixed.lam, torch.zeros(4), rtol=0, atol=0)
    torch.testing.assert_close(mixed.targets, targets[NEXT], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("box", "area"),
    [
        ([0, 0, 8, 6], 48),
        ([-3, -3, 99, 99], 48),  # only what lies in the image counts
        ([6, 4, 12, 9], 4),
        ([2, 3, 2, 5], 0),
        ([5, 4, 3, 1], 0),  # ends before it begins
        ([8, 6, 9, 9], 0),
    ],
)
def test_given_boxes_may_be_empty_whole_or_reach_over_the_border(batch, box, area):
    x, targets = batch
    mixed = mf.cutmix(x, targets, box=torch.tensor([box]), perm=NEXT)
    torch.testing.assert_close(mixed.lam, torch.full((4,), 1 - area / 48), rtol=0, atol=1e-7)
    assert (mixed.x != x).sum() == 4 * 3 * area
    torch.testing.assert_close(mixed.targets.sum(1), torch.ones(4), rtol=0, atol=1e-6)


def test_channels_are_treated_alike(batch):
    x, targets = batch
    order = [2, 0, 1]
    cut = partial(mf.cutmix, targets=targets, box=torch.tensor([[1, 2, 6, 5]]), perm=NEXT)
    torch.testing.assert_close(cut(x[:, order]).x, cut(x).x[:, order], rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool, torch.float64])
def test_pixels_of_any_type_are_moved_and_keep_their_type(dtype):
    x = torch.randint(256, (4, 3, 8, 6), generator=seeded(0)).to(dtype)
    box = torch.tensor([[1, 2, 6, 5]])
    mixed = mf.cutmix(x, torch.eye(4), box=box, perm=NEXT)
    expected = x.clone()
    expected[:, :, 1:6, 2:5] = x[NEXT][:, :, 1:6, 2:5]
    assert mixed.x.dtype == dtype
    assert torch.equal(mixed.x, expected)


def test_multi_hot_targets_are_mixed_by_area(batch):
    targets = torch.tensor([[1.0, 1], [0, 1], [0, 0], [1, 0]])
    mixed = mf.cutmix(batch[0], targets, box=torch.tensor([[0, 0, 4, 3]]), perm=NEXT)
    expected = torch.tensor([[0.75, 1], [0, 0.75], [0.25, 0], [1, 0.25]])
    torch.testing.assert_close(mixed.targets, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("rule", ["random", "flip", "roll", "derange"])
def test_partners_follow_the_rule_asked_for(batch, rule):
    mixed = mf.cutmix(*batch, partner=rule, generator=seeded(3))
    assert torch.equal(mixed.perm, mf.draw_perm(4, seeded(3), rule=rule))


def test_decisions_may_be_given_one_by_one(batch):
    drawn = mf.cutmix(*batch, generator=seeded(4))
    lam, center = torch.tensor([0.4]), torch.tensor([[0.3, 0.8]])
    for settings in ({"lam": lam}, {"center": center}, {"perm": NEXT}):
        mixed = mf.cutmix(*batch, **settings, generator=seeded(4))
        assert mixed.x.shape == drawn.x.shape
    both = mf.cutmix(*batch, lam=lam, center=center, generator=seeded(4))
    assert torch.equal(both.aux, mf.cutmix_box(lam, center, 8, 6))


@pytest.mark.parametrize(
    "given",
    [
        {"lam": torch.tensor([0.5])},
        {"center": torch.tensor([[0.5, 0.5]])},
        {"sides": torch.tensor([[0.5, 0.5]]), "minmax": (0.2, 0.8)},
    ],
    ids=["lam", "center", "sides"],
)
def test_a_decision_on_the_device_goes_with_the_others_drawn_on_the_cpu(batch, given):
    on_meta = {
        key: value.to("meta") if isinstance(value, Tensor) else value
        for key, value in given.items()
    }
    x, targets = (value.to("meta") for value in batch)
    assert mf.cutmix(x, targets, **on_meta, generator=seeded(0)).x.device.type == "meta"


def test_the_gradient_is_that_of_the_moved_pixels(batch):
    box, perm = torch.tensor([[1, 2, 6, 5]]), torch.tensor([1, 0, 2, 0])
    x = batch[0].double().requires_grad_()
    targets = batch[1].double().requires_grad_()

    def mix(x: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        mixed = mf.cutmix(x, targets, box=box, perm=perm)
        return mixed.x, mixed.targets

    assert torch.autograd.gradcheck(mix, (x, targets), eps=1e-6, atol=1e-6, rtol=1e-6)


def test_new_boxes_neither_break_a_compiled_graph_nor_compile_it_again(compiled, batch):
    operation = compiled(mf.cutmix)
    for seed in range(4):
        lam, perm = mf.draw_lam(4, 1.0, seeded(seed)), mf.draw_perm(4, seeded(seed))
        center = torch.rand(4, 2, generator=seeded(seed))
        mixed = operation.call(*batch, lam=lam, center=center, perm=perm)
        expected = mf.cutmix(*batch, lam=lam, center=center, perm=perm)
        torch.testing.assert_close(mixed.x, expected.x, rtol=0, atol=0)
    assert operation.graphs == 1


# Bad input.


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), float("inf")])
def test_a_bad_alpha_is_refused(batch, alpha):
    with pytest.raises(ValueError, match=r"alpha must be >=? 0"):
        mf.cutmix(*batch, alpha=alpha)


@pytest.mark.parametrize("minmax", [(0.5, 0.5), (0.6, 0.4), (0.0, 0.5), (-0.1, 0.5), (0.5, 1.1)])
def test_a_bad_range_of_sides_is_refused(batch, minmax):
    with pytest.raises(ValueError, match="0 < min < max <= 1"):
        mf.cutmix(*batch, minmax=minmax)


def test_inputs_that_are_no_images_are_refused(batch):
    with pytest.raises(ValueError, match=r"\(B, C, H, W\), got \(4, 3, 48\)"):
        mf.cutmix(batch[0].flatten(2), batch[1])


# The method.


@pytest.mark.parametrize(
    ("settings", "key"),
    [({"alpha": value}, "method.alpha") for value in (0.0, -1.0, float("nan"))]
    + [({"prob": value}, "method.prob") for value in (-0.1, 1.1, float("nan"))]
    + [({"minmax": ends}, "method.minmax") for ends in ([0.6, 0.4], [0.0, 0.5], [0.5, 1.1], [0.5])]
    + [({"partner": "pair"}, "method.partner"), ({"box_rule": "tv"}, "method.box_rule")],
)
def test_the_method_refuses_settings_out_of_range_by_their_key(settings, key):
    with pytest.raises(ValueError, match=rf"^{key} must"):
        build_method("cutmix", nn.Identity(), **settings)


@pytest.mark.parametrize("rule", ["official", "timm", "torchvision", "inside"])
def test_a_single_box_is_the_same_as_one_of_many(rule):
    generator = torch.Generator().manual_seed(11)
    lam = torch.rand(500, generator=generator)
    lam[:2] = torch.tensor([0.0, 1.0])
    center = torch.rand(500, 2, generator=generator)
    for height, width in ((32, 32), (7, 9), (1, 64)):
        many = mf.cutmix_box(lam, center, height, width, rule=rule)
        rows = zip(lam.split(1), center.split(1), strict=True)
        single = [mf.cutmix_box(*row, height, width, rule=rule) for row in rows]
        assert torch.equal(torch.cat(single), many)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("box", [[1, 2, 6, 5], [0, 0, 8, 6], [3, 3, 3, 3]])
def test_a_shared_box_is_pasted_as_boxes_of_their_own_are(box, layout):
    generator = torch.Generator().manual_seed(12)
    x = torch.randn(5, 3, 8, 6, generator=generator).contiguous(memory_format=layout)
    targets = torch.eye(5)
    perm = torch.randperm(5, generator=generator)
    shared = mf.cutmix(x, targets, box=torch.tensor([box]), perm=perm)
    own = mf.cutmix(x, targets, box=torch.tensor([box] * 5), perm=perm)
    assert torch.equal(shared.x, own.x)
    assert torch.equal(shared.targets, own.targets)
    assert torch.equal(shared.lam, own.lam)
    assert shared.x.is_contiguous(memory_format=layout)
    through = x.clone().requires_grad_()
    mf.cutmix(through, targets, box=torch.tensor([box]), perm=perm).x.sum().backward()
    torch.testing.assert_close(through.grad.sum(), torch.tensor(float(x.numel())))
