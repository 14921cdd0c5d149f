import math

import pytest
import torch
from torch import Generator

import mixbench.functional as mf


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def batch(rows=4, height=16, width=16):
    x = torch.rand(rows, 3, height, width, generator=seeded(rows))
    return x, torch.eye(rows), torch.rand(rows, height, width, generator=seeded(1)) ** 3


NEXT = torch.tensor([1, 2, 3, 0])


def test_costs_are_those_of_each_block_and_border():
    x, _, saliency = batch(height=8, width=12)
    costs = mf.puzzle_costs(x, saliency, NEXT, (2, 3), beta=2.0, gamma=0.25, neigh=2)
    weight = 2.0 / (16 * math.sqrt(6)) * 0.25
    pooled = torch.nn.functional.avg_pool2d(x, 2)  # each block of 4 pixels has 2 x 2 of them
    for row in range(4):
        share = saliency.unflatten(2, (3, 4)).unflatten(1, (2, 4)).sum((2, 4))
        share = share / share.sum((1, 2), keepdim=True)
        own, other = share[row].clone(), share[NEXT[row]].clone()
        images = pooled[NEXT[row]], pooled[row]
        for i in range(2):
            for j in range(3):
                for down, right in ((1, 0), (0, 1)):
                    if i + down == 2 or j + right == 3:
                        continue
                    # The last pooled row or column of the block, and the first of the next.
                    if down:
                        first = slice(2 * i + 1, 2 * i + 2), slice(2 * j, 2 * j + 2)
                        then = slice(2 * i + 2, 2 * i + 3), first[1]
                    else:
                        first = slice(2 * i, 2 * i + 2), slice(2 * j + 1, 2 * j + 2)
                        then = first[0], slice(2 * j + 2, 2 * j + 3)
                    gap = {
                        (s, t): weight
                        * (images[s][:, *first] - images[t][:, *then]).abs().mean().item()
                        for s in (0, 1)
                        for t in (0, 1)
                    }
                    other[i, j] += (gap[1, 0] + gap[1, 1]) / 2
                    own[i, j] += (gap[0, 1] + gap[0, 0]) / 2
                    other[i + down, j + right] += (gap[0, 1] + gap[1, 1]) / 2
                    own[i + down, j + right] += (gap[1, 0] + gap[0, 0]) / 2
                    pair = (costs.rows if down else costs.columns)[row, i, j]
                    expected = (gap[1, 0] + gap[0, 1] - gap[1, 1] - gap[0, 0]) / 2
                    assert pair.item() == pytest.approx(expected, rel=1e-4, abs=1e-7)
        torch.testing.assert_close(costs.own[row], own)
        torch.testing.assert_close(costs.other[row], other)


@pytest.mark.parametrize("labels", [2, 3, 5])
def test_labels_cost_what_they_hide_and_their_distance_from_the_share(labels):
    x, _, saliency = batch()
    costs = mf.puzzle_costs(x, saliency, NEXT, (4, 4))
    lam = torch.tensor([0.3, 0.9, 0.0, 1.0])
    problem = mf.cut_problem(costs, lam, labels=labels, beta=1.5, eta=0.4)
    for label in range(labels):
        t = label / (labels - 1)
        for row, share in enumerate(lam.double().tolist()):
            law = math.comb(labels - 1, label)
            law *= share ** (labels - 1 - label) * (1 - share) ** label
            prior = -0.4 * math.log(law + 1e-8) / 16
            cost = 16000 * ((1 - t) * costs.other[row] + t * costs.own[row] + prior)
            assert (problem.unary[row, label] - cost).abs().max() <= 1.01
            assert torch.equal(problem.unary[row, label], problem.unary[row, label].trunc())
    torch.testing.assert_close(problem.rows, 16000 * (costs.rows + 1.5 / 64), rtol=0, atol=1.01)


def plan_by_hand(saliency, shown, eps):
    """The official rules on nested loops, for one image (R, C)."""
    rows, columns = saliency.shape
    count, longest = rows * columns, max(rows, columns)
    q, z = saliency.flatten(), (shown > 0).float().flatten()
    cost = torch.zeros(count, count)
    for i in range(count):
        for j in range(count):
            way = (i // columns - j // columns) ** 2 + (i % columns - j % columns) ** 2
            way = torch.tensor(float(way)) / max(longest - 1, 1) ** 2
            cost[i, j] = eps * way - q[i] * z[j]
    kept = {}
    for _ in range(longest):
        asked = [min(range(count), key=lambda j, i=i: (cost[i, j].item(), j)) for i in range(count)]
        kept = {}
        for j in range(count):
            value = [cost[i, j].item() if asked[i] == j else 0.0 for i in range(count)]
            best = min(range(count), key=lambda i: (value[i], i))
            if asked[best] == j:
                kept[j] = best
        for i, j in enumerate(asked):
            if kept.get(j) != i:
                cost[i, j] += 1
    return torch.tensor([kept.get(j, -1) for j in range(count)]).view(rows, columns)


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (2, 2), (3, 4), (4, 4), (1, 5)])
@pytest.mark.parametrize("eps", [0.0, 0.1, 0.8, 10.0])
def test_a_plan_follows_the_official_rules_ties_and_all(rows, columns, eps):
    generator = seeded(rows * columns)
    saliency = torch.rand(6, rows, columns, generator=generator)
    saliency[2:4] = saliency[2:4].round()  # whole numbers tie
    saliency[4] = 0
    saliency = saliency / saliency.sum((1, 2), keepdim=True).clamp(min=1e-9)
    shown = torch.randint(0, 3, (6, rows, columns), generator=generator) / 2
    shown[5] = 0
    found = mf.move_plan(saliency, shown, eps=eps)
    for row in range(6):
        assert torch.equal(found[row], plan_by_hand(saliency[row], shown[row], eps)), row


def test_cells_are_moved_whole_and_none_is_black():
    x = torch.arange(2 * 4 * 6.0).view(1, 2, 4, 6) + 1
    moved = mf.move_cells(x, torch.tensor([[[4, -1, 0], [3, 3, 2]]]))
    cells = {k: x[:, :, k // 3 * 2 : k // 3 * 2 + 2, k % 3 * 2 : k % 3 * 2 + 2] for k in range(6)}
    for place, source in enumerate((4, None, 0, 3, 3, 2)):
        i, j = place // 3 * 2, place % 3 * 2
        expected = torch.zeros(1, 2, 2, 2) if source is None else cells[source]
        assert torch.equal(moved[:, :, i : i + 2, j : j + 2], expected)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (16, 24), (24, 16), (28, 28)])
@pytest.mark.parametrize("options", [{}, {"transport": False}, {"labels": 2, "cell": None}])
def test_the_label_is_what_is_shown_and_the_shares_are_of_what_is_seen(height, width, options):
    x, targets, saliency = batch(4, height, width)
    mixed = mf.puzzlemix(x, targets, saliency, perm=NEXT, generator=seeded(2), **options)
    torch.testing.assert_close(mixed.lam, mixed.aux.mask.mean((1, 2, 3)))
    torch.testing.assert_close(mixed.targets.diagonal(), mixed.lam)
    own, other = (share[:, None] for share in mf.puzzle_shares(mixed.aux))
    shown = (x * own).sum((2, 3)) + (x[NEXT] * other).sum((2, 3))
    torch.testing.assert_close(mixed.x.sum((2, 3)), shown)
    if options.get("transport", True):
        assert own.mean((1, 2, 3)).le(mixed.lam + 1e-6).all()
    else:
        torch.testing.assert_close(mixed.x, mixed.aux.mask * x + (1 - mixed.aux.mask) * x[NEXT])


def test_what_is_salient_at_one_place_in_both_images_is_seen_of_both_once_moved():
    x, targets, saliency = batch()
    saliency = torch.full_like(saliency, 0.01)
    saliency[:, :4, :4] = 1  # the first of 4 x 4 cells
    mask = torch.zeros(4, 4, 4)
    mask[:, :, :2] = 1  # the left half shows the image
    options = {"perm": NEXT, "blocks": 4, "mask": mask, "cell": None}
    seen = {}
    for transport in (True, False):
        mixed = mf.puzzlemix(x, targets, saliency, transport=transport, **options)
        seen[transport] = [share[:, :4, :4].mean().item() for share in mf.puzzle_shares(mixed.aux)]
    assert seen == {True: [1, 1], False: [1, 0]}


def test_the_exact_cut_decides_where_it_is_asked_for():
    x, targets, saliency = batch()
    options = {"perm": NEXT, "blocks": 8, "lam": torch.tensor([0.4]), "transport": False}
    costs = mf.puzzle_costs(x, saliency, NEXT, (8, 8))
    problem = mf.cut_problem(costs, options["lam"])
    for solver, solve in (("exact", mf.exact_cut), ("relaxed", mf.relaxed_cut)):
        mixed = mf.puzzlemix(x, targets, saliency, solver=solver, **options)
        mask = 1 - solve(problem).float() / 2
        assert torch.equal(mixed.aux.mask[:, 0, ::2, ::2], mask)


def test_openmixup_ignores_a_share_that_is_given():
    x, targets, saliency = batch()
    options = {"perm": NEXT, "blocks": 4, "transport": False}
    lam = torch.tensor([0.95])
    drawn = mf.draw_lam(1, 1.0, seeded(0))
    assert abs(drawn - lam) > 0.3

    def mixed(**given):
        return mf.puzzlemix(x, targets, saliency, **options, **given).x

    ported = mixed(lam=lam, official=True, generator=seeded(0))
    assert torch.equal(ported, mixed(lam=drawn))
    mended = mixed(lam=lam, generator=seeded(0))
    assert torch.equal(mended, mixed(lam=lam))
    assert not torch.equal(mended, ported)


def test_one_share_for_the_batch_or_one_for_each_image():
    x, targets, saliency = batch()
    options = {"perm": NEXT, "blocks": 4}
    for per_sample, count in ((False, 1), (True, 4)):
        lam = mf.draw_lam(count, 1.0, seeded(5))
        found = mf.puzzlemix(
            x, targets, saliency, per_sample=per_sample, generator=seeded(5), **options
        )
        assert torch.equal(found.x, mf.puzzlemix(x, targets, saliency, lam=lam, **options).x)


def test_blocks_are_drawn_of_those_that_divide_the_images():
    assert mf.fitting_blocks(32, 32) == [2, 4, 8, 16]
    assert mf.fitting_blocks(28, 42) == [2, 4]
    assert mf.block_grid(28, 42, 2) == (2, 3)
    assert mf.fitting_blocks(33, 33) == []
    x, targets, saliency = batch(4, 28, 28)
    shapes = set()
    for seed in range(12):
        mixed = mf.puzzlemix(x, targets, saliency, cell=None, generator=seeded(seed))
        shapes.add(tuple(mixed.aux.own.shape[1:]))
    assert shapes == {(2, 2), (4, 4)}


@pytest.mark.parametrize(
    ("size", "given", "message"),
    [
        ((33, 33), {}, "33 x 33 pixels have no 2, 4, 8 or 16 square blocks"),
        ((28, 28), {"blocks": 8}, "8 square blocks along the shorter side do not divide"),
        ((16, 16), {"labels": 1}, "2 labels or more"),
        ((16, 16), {"gamma": 1.5}, "gamma in"),
        ((16, 16), {"solver": "swap"}, "a solver of relaxed, exact"),
        ((16, 16), {"blocks": 4, "mask": torch.rand(4, 2, 2)}, r"\(4, 4, 4\) blocks, got \(4, 2"),
        ((16, 16), {"saliency": torch.rand(4, 8, 8)}, r"\(4, 16, 16\) maps, got \(4, 8, 8\)"),
    ],
)
def test_what_does_not_fit_is_refused(size, given, message):
    x, targets, saliency = batch(4, *size)
    with pytest.raises(ValueError, match=message):
        mf.puzzlemix(x, targets, given.pop("saliency", saliency), **given)
