import pytest
import torch
from torch import Generator
from torchvision.transforms.functional import gaussian_blur

import mixbench.functional as mf


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def batch(rows=6, height=12, width=16):
    x = torch.rand(rows, 3, height, width, generator=seeded(rows))
    return x, torch.eye(rows), torch.rand(rows, height, width, generator=seeded(1))


def one_by_one(distance):
    """Partners in plain Python: the farthest pair, then always the farthest that is left."""
    rows = len(distance)
    pairs = [(i, j) for i in range(rows) for j in range(rows) if i != j]
    row, column = max(pairs, key=lambda pair: (distance[pair[0]][pair[1]], -pair[0], -pair[1]))
    first, partners, gone = row, {row: column}, {row}
    while len(partners) < rows - 1:
        row = column
        gone.add(row)
        left = [j for j in range(rows) if j not in gone]
        column = max(left, key=lambda j: (distance[row][j], -j))
        partners[row] = column
    partners[column] = first
    return [partners[row] for row in range(rows)]


@pytest.mark.parametrize("rows", [2, 3, 5, 8])
@pytest.mark.parametrize("levels", [2, 1000])
def test_pairs_are_those_found_one_by_one(rows, levels):
    upper = torch.randint(1, levels + 1, (4, rows, rows), generator=seeded(rows)).float().triu(1)
    distance = upper + upper.mT
    found = mf.greedy_pairing(distance)
    assert found.tolist() == [one_by_one(each) for each in distance.tolist()]
    assert torch.equal(mf.greedy_pairing(distance[1]), found[1])


@pytest.mark.parametrize("rows", [2, 3, 7])
def test_equal_maps_give_a_cycle_as_well(rows):
    partners = mf.greedy_pairing(torch.zeros(rows, rows))
    row, seen = 0, []
    for _ in range(rows):
        seen.append(row)
        row = int(partners[row])
    assert row == 0
    assert sorted(seen) == list(range(rows))


def test_one_image_is_its_own_partner():
    x, targets, saliency = batch(1)
    mixed = mf.guidedmixup(x, targets, saliency)
    torch.testing.assert_close(mixed.x, x)
    assert mixed.perm.tolist() == [0]


def test_maps_are_blurred_with_mirrored_borders_and_sum_to_one():
    _, _, saliency = batch()
    maps = mf.normalized_saliency(saliency)
    torch.testing.assert_close(maps.sum((1, 2)), torch.ones(6))
    blurred = gaussian_blur(saliency[:, None], [7, 7], [3.0, 3.0])[:, 0]
    torch.testing.assert_close(maps, blurred / blurred.sum((1, 2), keepdim=True))


def test_the_spectrum_of_large_images_is_that_of_smaller_ones():
    x = torch.rand(2, 3, 160, 140, generator=seeded())
    small = torch.nn.functional.interpolate(x, (128, 128), mode="bilinear", antialias=True)
    found = mf.residual_saliency(x)
    assert found.shape == (2, 160, 140)
    inner = mf.residual_saliency(small)[:, None]
    expected = torch.nn.functional.interpolate(inner, (160, 140), mode="bilinear")[:, 0]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def test_grey_is_weighed_by_colour_for_three_channels_alone():
    x = torch.rand(2, 3, 8, 8, generator=seeded())
    grey = (x * torch.tensor([0.2989, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    torch.testing.assert_close(mf.residual_saliency(x), mf.residual_saliency(grey))
    even = mf.residual_saliency(x[:, :2])
    torch.testing.assert_close(even, mf.residual_saliency(x[:, :2].mean(1, keepdim=True)))


def test_each_pixel_shows_both_images_by_their_saliency_and_so_does_the_label():
    x, targets, saliency = batch()
    mixed = mf.guidedmixup(x, targets, saliency)
    maps = mf.normalized_saliency(saliency)
    for row, other in enumerate(mixed.perm.tolist()):
        share = maps[row] / (maps[row] + maps[other])
        torch.testing.assert_close(mixed.x[row], share * x[row] + (1 - share) * x[other])
        weight = share.mean()
        expected = weight * targets[row] + (1 - weight) * targets[other]
        torch.testing.assert_close(mixed.targets[row], expected)


def test_maps_without_saliency_mix_half_and_half():
    x, targets, _ = batch(4)
    mixed = mf.guidedmixup(x, targets, torch.zeros(4, 12, 16))
    torch.testing.assert_close(mixed.aux, torch.full((4, 1, 12, 16), 0.5))
    # Points beyond the reach of the blur: pixels that neither image marks.
    saliency = torch.zeros(2, 12, 16)
    saliency[0, 0, 0] = saliency[1, 11, 15] = 1
    mixed = mf.guidedmixup(x[:2], targets[:2], saliency)
    assert mixed.aux[0, 0, 0, 0] == 1
    assert mixed.aux[0, 0, 11, 15] == 0
    assert mixed.aux[0, 0, 0, 15] == 0.5


def test_openmixup_s_random_partners_never_are_the_greedy_ones_that_it_finds():
    x, targets, saliency = batch(8)
    drawn = mf.draw_perm(8, seeded(3))
    ported = mf.guidedmixup(x, targets, saliency, pairing="random", generator=seeded(3))
    assert torch.equal(ported.perm, drawn)
    given = mf.guidedmixup(x, targets, saliency, perm=drawn)
    assert torch.equal(ported.x, given.x)
    mended = mf.guidedmixup(x, targets, saliency, generator=seeded(3))
    greedy = mf.greedy_pairing(mf.saliency_distance(mf.normalized_saliency(saliency)))
    assert torch.equal(mended.perm, greedy)
    assert not torch.equal(mended.x, ported.x)


@pytest.mark.parametrize(("part", "sizes"), [(3, [3, 3, 2]), (4, [4, 4]), (20, [8]), (7, [7, 1])])
def test_parts_of_a_batch_are_paired_among_themselves(part, sizes):
    x, targets, saliency = batch(8)
    mixed = mf.guidedmixup(x, targets, saliency, part=part)
    start = 0
    for size in sizes:
        rows = slice(start, start + size)
        alone = mf.guidedmixup(x[rows], targets[rows], saliency[rows])
        assert torch.equal(mixed.perm[rows] - start, alone.perm)
        torch.testing.assert_close(mixed.x[rows], alone.x)
        start += size


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"pairing": "best"}, "pairing must be one of greedy, random, got 'best'"),
        ({"part": 0}, "part must be 1 or more"),
        ({"saliency": torch.rand(6, 4, 4)}, r"\(6, 12, 16\) maps, got \(6, 4, 4\)"),
        ({"mask": torch.rand(6, 1, 12, 16)}, "give perm"),
    ],
)
def test_what_does_not_fit_is_refused(given, message):
    x, targets, _ = batch()
    with pytest.raises(ValueError, match=message):
        mf.guidedmixup(x, targets, **given)


def test_images_smaller_than_the_blur_are_refused_with_the_remedy():
    x, targets, _ = batch(2, 3, 16)
    with pytest.raises(ValueError, match=r"4 or more along each side, got \(3, 16\); use"):
        mf.guidedmixup(x, targets)
