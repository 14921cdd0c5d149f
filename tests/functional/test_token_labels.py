import pytest
import torch

import mixbench.functional as mf

GRID = (3, 4)
COUNT = 12


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def attention(batch, heads, tokens, seed=0):
    return (3 * torch.randn(batch, heads, tokens, tokens, generator=generator(seed))).softmax(-1)


@pytest.fixture
def pasted():
    return (torch.rand(2, *GRID, generator=generator(9)) < 0.4).float()


def batch(height=12, width=16, rows=4):
    x = torch.arange(rows, dtype=torch.float32).view(-1, 1, 1, 1)
    return x.expand(rows, 3, height, width).clone(), torch.eye(rows)


# Boxes of whole patches.


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("rule", ["official", "timm", "inside"])
def test_a_patch_is_pasted_whole_or_not_at_all_and_the_label_weighs_its_area(rule, per_sample):
    x, targets = batch()
    seen = 0
    for seed in range(20):
        mixed = mf.token_cutmix(
            x, targets, patch=4, box_rule=rule, per_sample=per_sample, generator=generator(seed)
        )
        foreign = (mixed.x != x).any(1)
        cells = foreign.unflatten(1, (3, 4)).unflatten(3, (4, 4)).float()
        assert set(cells.mean((2, 4)).unique().tolist()) <= {0.0, 1.0}
        assert torch.equal(mixed.perm, torch.tensor([3, 2, 1, 0]))
        torch.testing.assert_close(mixed.lam, 1 - foreign.float().mean((1, 2)))
        torch.testing.assert_close(mixed.targets, mf.mix_targets(targets, mixed.perm, mixed.lam))
        tokens = mf.pasted_tokens(mixed.aux, (12, 16), (3, 4)).expand(4, -1, -1)
        torch.testing.assert_close(tokens, cells.mean((2, 4)))
        seen += len(mixed.lam.unique()) > 1
    assert (seen > 0) is per_sample


def test_official_sides_are_even_so_that_a_small_box_is_empty_and_the_odd_patch_can_be_kept():
    x, targets = batch(16, 16)
    draw = {"lam": torch.tensor([0.9]), "center": torch.tensor([[0.5, 0.5]]), "patch": 4}
    empty = mf.token_cutmix(x, targets, **draw)
    assert torch.equal(empty.x, x)
    assert torch.equal(empty.targets, targets)
    assert empty.lam.tolist() == [1.0] * 4
    odd = mf.token_cutmix(x, targets, box_rule="timm", **draw)
    assert odd.aux.tolist() == [[8, 8, 12, 12]]
    draw["lam"] = torch.tensor([0.4])  # a side of 3.09 patches
    assert mf.token_cutmix(x, targets, **draw).aux.tolist() == [[4, 4, 12, 12]]
    assert mf.token_cutmix(x, targets, box_rule="timm", **draw).aux.tolist() == [[4, 4, 16, 16]]


@pytest.mark.parametrize(("lam", "area"), [(0.0, 0.0), (1.0, 1.0)])
def test_a_whole_box_is_the_partner_and_an_empty_one_the_image(lam, area):
    x, targets = batch(16, 16)
    middle = torch.tensor([[0.5, 0.5]])
    mixed = mf.token_cutmix(x, targets, patch=4, lam=torch.tensor([lam]), center=middle)
    assert mixed.lam.tolist() == [area] * 4
    assert torch.equal(mixed.x, x if area else x.flip(0))


def test_one_image_meets_itself():
    x, targets = torch.rand(1, 3, 8, 8, generator=generator()), torch.ones(1, 2) / 2
    mixed = mf.token_cutmix(x, targets, patch=4, lam=torch.zeros(1), generator=generator())
    assert torch.equal(mixed.x, x)
    assert torch.equal(mixed.targets, targets)


def test_decisions_come_from_the_generator_alone():
    x, targets = batch()
    torch.manual_seed(0)
    first = mf.token_cutmix(x, targets, patch=4, generator=generator(3))
    torch.manual_seed(1)
    assert torch.equal(first.x, mf.token_cutmix(x, targets, patch=4, generator=generator(3)).x)
    whole = mf.token_cutmix(x, targets, patch=4, lam=torch.tensor([0.3]), generator=generator(3))
    assert whole.aux.tolist() != first.aux.tolist()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"patch": 5}, "whole patches of 5x5 pixels; resize"),
        ({"patch": 8}, "whole patches of 8x8"),
        ({"patch": 0}, "whole patches of 0x0"),
        ({"alpha": 0.0}, "alpha must be > 0"),
        ({"lam": torch.tensor([1.5])}, r"lam must lie in \[0, 1\]"),
        ({"lam": torch.tensor([0.5, 0.5])}, "lam must hold 1 or 4 weights"),
        ({"box_rule": "exact"}, "box rule must be one of official, timm"),
    ],
)
def test_what_cannot_be_pasted_is_refused(change, text):
    x, targets = batch()
    with pytest.raises(ValueError, match=text):
        mf.token_cutmix(x, targets, **{"patch": 4, **change})


def test_tokens_of_a_grid_that_does_not_divide_the_image_follow_nearest_interpolation():
    box = torch.tensor([[11, 0, 30, 17], [0, 5, 30, 26], [3, 3, 3, 9]])
    mask = torch.zeros(3, 30, 26)
    for row, (top, left, bottom, right) in enumerate(box.tolist()):
        mask[row, top:bottom, left:right] = 1
    expected = torch.nn.functional.interpolate(mask[:, None], (7, 5))[:, 0]
    assert torch.equal(mf.pasted_tokens(box, (30, 26), (7, 5)), expected)


# TransMix.


def test_weights_are_area_and_attention_half_and_half(pasted):
    attn = torch.rand(2, COUNT, generator=generator(1))
    area = torch.tensor([0.3, 0.6])
    own = (attn * (1 - pasted.flatten(1))).sum(1) / attn.sum(1)
    torch.testing.assert_close(mf.attention_lam(attn, pasted, area), (own + area) / 2)
    torch.testing.assert_close(mf.attention_lam(attn, pasted, area, ratio=1), own)
    assert torch.equal(mf.attention_lam(attn, pasted, area, ratio=0), area)
    torch.testing.assert_close(
        mf.attention_lam(attn, pasted, area, ratio=0.2), 0.2 * own + 0.8 * area
    )
    torch.testing.assert_close(
        mf.attention_lam(7 * attn, pasted, area), mf.attention_lam(attn, pasted, area)
    )


def test_heads_are_averaged_and_one_box_serves_all_images(pasted):
    heads = torch.rand(2, 3, COUNT, generator=generator(1))
    area = torch.tensor([0.5])
    found = mf.attention_lam(heads, pasted[:1], area)
    torch.testing.assert_close(
        found, mf.attention_lam(heads.mean(1), pasted[:1].expand(2, -1, -1), area)
    )
    assert found.shape == (2,)


def test_without_any_attention_the_area_counts_for_that_image_alone(pasted):
    attn = torch.rand(2, COUNT, generator=generator(1))
    expected = mf.attention_lam(attn, pasted, torch.tensor([0.3, 0.3]))
    attn[0] = 0
    found = mf.attention_lam(attn, pasted, torch.tensor([0.3, 0.3]))
    assert found.tolist() == [pytest.approx(0.3), expected[1].item()]


def test_even_attention_gives_the_share_of_tokens(pasted):
    share = 1 - pasted.flatten(1).mean(1)
    even = torch.full((2, COUNT), 0.01)
    torch.testing.assert_close(mf.attention_lam(even, pasted, share), share)


def test_swapped_roles_swap_the_weights(pasted):
    attn, area = torch.rand(2, COUNT, generator=generator(1)), torch.tensor([0.3, 0.6])
    swapped = mf.attention_lam(attn, 1 - pasted, 1 - area)
    torch.testing.assert_close(swapped, 1 - mf.attention_lam(attn, pasted, area))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_weights_are_float32_and_carry_no_gradient(pasted, dtype):
    attn = torch.rand(2, COUNT, generator=generator(1)).to(dtype).requires_grad_()
    lam = mf.attention_lam(attn, pasted, torch.tensor([0.5]))
    assert (lam.dtype, lam.requires_grad) == (torch.float32, False)
    square = attention(2, 2, COUNT).to(dtype).requires_grad_()
    weight = mf.propagate(pasted.flatten(1), square)
    assert (weight.dtype, weight.requires_grad) == (torch.float32, False)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"ratio": 1.5}, r"ratio must lie in \[0, 1\]"),
        ({"attn": torch.rand(2, COUNT + 1)}, "leave out the columns of class"),
        ({"pasted": torch.zeros(3, COUNT)}, "must have equal patches"),
        ({"attn": torch.rand(COUNT)}, "must have 2 dimensions"),
        ({"lam": torch.tensor([1.2])}, "lam must lie"),
        ({"lam": torch.tensor([0.1, 0.2, 0.3])}, "lam must hold 1 or 2"),
    ],
)
def test_attention_that_does_not_fit_is_refused(change, text):
    given = {"attn": torch.rand(2, COUNT), "pasted": torch.zeros(2, COUNT), "lam": torch.ones(1)}
    with pytest.raises(ValueError, match=text):
        mf.attention_lam(**{**given, **change})


# TL-Align.


@pytest.mark.parametrize("prefix", [0, 1, 2, 5])
@pytest.mark.parametrize("residual", [0.5, 0.2])
def test_one_weight_per_token_does_what_a_label_per_token_does(pasted, prefix, residual):
    own, partner = torch.rand(2, 2, 1, 7, generator=generator(2)).unbind()
    attns = [attention(2, 3, prefix + COUNT, seed) for seed in range(3)]
    share = pasted.flatten(1)[..., None]
    labels = (1 - share) * own + share * partner
    labels = torch.cat([labels.mean(1, keepdim=True).expand(-1, prefix, -1), labels], dim=1)
    for attn in attns:
        labels = residual * labels + (1 - residual) * attn.mean(1) @ labels
    weight = mf.token_weights(pasted, attns, prefix=prefix, residual=residual)[..., None]
    torch.testing.assert_close((1 - weight) * own + weight * partner, labels)


def test_weights_stay_shares_and_equal_ones_stay_equal(pasted):
    attns = [attention(2, 2, 1 + COUNT, seed) for seed in range(4)]
    weight = mf.token_weights(pasted, attns)
    assert 0 <= weight.min() <= weight.max() <= 1
    same = mf.token_weights(torch.full((2, COUNT), 0.3), attns)
    torch.testing.assert_close(same, torch.full((2, 1 + COUNT), 0.3))
    whole = mf.token_weights(torch.ones(2, COUNT), attns)
    torch.testing.assert_close(whole, torch.ones(2, 1 + COUNT))


def test_a_token_that_looks_at_itself_keeps_its_label(pasted):
    eye = torch.eye(1 + COUNT).expand(2, -1, -1)
    weight = mf.token_weights(pasted, [eye, eye])
    torch.testing.assert_close(weight[:, 1:], pasted.flatten(1))
    torch.testing.assert_close(weight[:, 0], pasted.flatten(1).mean(1))


def test_even_attention_leaves_the_class_token_at_the_area(pasted):
    tokens = 1 + COUNT
    weight = mf.token_weights(pasted, [torch.full((2, tokens, tokens), 1 / tokens)])
    torch.testing.assert_close(weight[:, 0], pasted.flatten(1).mean(1))


def test_swapped_images_have_the_other_weights(pasted):
    attns = [attention(2, 2, 1 + COUNT, seed) for seed in range(3)]
    swapped = mf.token_weights(1 - pasted, attns)
    torch.testing.assert_close(swapped, 1 - mf.token_weights(pasted, attns))


def test_only_the_last_layers_may_move_labels(pasted):
    attns = [attention(2, 2, 1 + COUNT, seed) for seed in range(3)]
    torch.testing.assert_close(
        mf.token_weights(pasted, attns, last=2), mf.token_weights(pasted, attns[1:])
    )
    none = mf.token_weights(pasted, attns, last=0)
    torch.testing.assert_close(none, mf.token_weights(pasted, []))
    assert torch.equal(mf.token_weights(pasted, attns, last=9), mf.token_weights(pasted, attns))
    still = mf.propagate(pasted.flatten(1), attns[0][:, :, 1:, 1:], residual=1.0)
    torch.testing.assert_close(still, pasted.flatten(1))


def test_under_autocast_weights_keep_float32():
    weight = torch.rand(2, 197, generator=generator(4))
    attn = attention(2, 1, 197)
    expected = mf.propagate(weight, attn)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(mf.propagate(weight, attn), expected)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: mf.propagate(torch.rand(2, 5), torch.rand(2, 4, 4)), "for the 5 tokens of weight"),
        (lambda: mf.propagate(torch.rand(2, 4), torch.rand(4, 4)), "must have 3 dimensions"),
        (lambda: mf.propagate(torch.rand(2, 4), torch.rand(2, 4, 4), residual=-1), "residual"),
        (lambda: mf.token_weights(torch.rand(2, 4), [], prefix=-1), "prefix and last must be >= 0"),
        (lambda: mf.token_weights(torch.rand(2, 4), [], last=-1), "prefix and last must be >= 0"),
        (
            lambda: mf.propagate_windows(torch.rand(1, 4, 4), torch.rand(1, 1, 9, 9), (3, 3)),
            r"windows of \(3, 3\) tokens do not divide a grid of \(4, 4\)",
        ),
        (
            lambda: mf.propagate_windows(torch.rand(1, 4, 4), torch.rand(3, 1, 4, 4), (2, 2)),
            "must hold 4 windows for each of 1 images",
        ),
    ],
)
def test_labels_that_do_not_fit_are_refused(call, text):
    with pytest.raises(ValueError, match=text):
        call()


# Windows.


def test_one_window_is_plain_attention_and_the_residual_counts_there_too(pasted):
    attn = attention(2, 2, COUNT)
    for residual in (0.5, 0.9):
        windowed = mf.propagate_windows(pasted, attn, GRID, residual=residual)
        plain = mf.propagate(pasted.flatten(1), attn, residual=residual)
        torch.testing.assert_close(windowed.flatten(1), plain)


@pytest.mark.parametrize("shift", [(0, 0), (1, 0), (0, 2), (1, 2)])
def test_labels_stay_in_their_windows_wherever_these_are(shift):
    weight = torch.rand(2, 4, 8, generator=generator(5))
    attn = attention(2 * 4, 3, 8)
    expected = torch.zeros_like(weight)
    for image in range(2):
        for window in range(4):
            top, left = 2 * (window // 2), 4 * (window % 2)
            places = [
                ((top + i + shift[0]) % 4, (left + j + shift[1]) % 8)
                for i in range(2)
                for j in range(4)
            ]
            inside = torch.stack([weight[image, r, c] for r, c in places])
            moved = (attn[4 * image + window].mean(0) @ inside + inside) / 2
            for (r, c), value in zip(places, moved, strict=True):
                expected[image, r, c] = value
    found = mf.propagate_windows(weight, attn, (2, 4), shift=shift)
    torch.testing.assert_close(found, expected)
    by_image = attn.mean(1).unflatten(0, (2, 4))
    torch.testing.assert_close(
        mf.propagate_windows(weight, by_image, (2, 4), shift=shift), expected
    )


def test_merged_tokens_have_the_mean_of_their_four():
    weight = torch.rand(2, 4, 6, generator=generator(6))
    expected = sum(weight[:, i::2, j::2] for i in range(2) for j in range(2)) / 4
    torch.testing.assert_close(mf.merge_weights(weight), expected)
    torch.testing.assert_close(mf.merge_weights(weight).mean(), weight.mean())
