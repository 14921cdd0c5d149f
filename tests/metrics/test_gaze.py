import math

import pytest
import torch
from paths import SHARED

import mixbench.functional as mf
from mixbench.data.fixations import read_fixations
from mixbench.metrics import centre_gaussian, density_maps, gaze_inconsistency, gaze_lam

CUB = SHARED / "data" / "cub_gha_fixations_first300.csv.gz"


def halves(size=8):
    """Masks that take the left and the right half from the first image."""
    left = torch.zeros(size, size)
    left[:, : size // 2] = 1
    return torch.stack([left, 1 - left])


def test_gaze_counts_where_the_mask_shows_it():
    gaze_a, gaze_b = torch.zeros(2, 8, 8), torch.ones(2, 8, 8)
    gaze_a[:, 0, 0] = 5  # all of it on the left
    lam, blank = gaze_lam(gaze_a, gaze_b, halves())
    # Left from a: all of a's gaze and half of b's; right from a: none of a's.
    torch.testing.assert_close(lam, torch.tensor([1 / 1.5, 0.0], dtype=torch.float64))
    assert not blank.any()
    found = gaze_inconsistency(gaze_a, gaze_b, halves(), torch.tensor([0.5, 0.5]))
    assert found.value.item() == pytest.approx(100 * (abs(0.5 - 1 / 1.5) + 0.5) / 2)


def test_the_scale_of_a_map_means_nothing():
    generator = torch.Generator().manual_seed(0)
    gaze = torch.rand(2, 2, 8, 8, generator=generator)
    lam, _ = gaze_lam(gaze[0], gaze[1], halves())
    again, _ = gaze_lam(1000 * gaze[0], 0.01 * gaze[1], halves())
    torch.testing.assert_close(lam, again)
    swapped, _ = gaze_lam(gaze[1], gaze[0], 1 - halves())
    torch.testing.assert_close(swapped, 1 - lam)


def test_input_mixup_agrees_with_its_label_whatever_people_look_at():
    generator = torch.Generator().manual_seed(0)
    gaze = torch.rand(2, 5, 8, 8, generator=generator) ** 4
    lam = torch.linspace(0.1, 0.9, 5)
    found = gaze_inconsistency(gaze[0], gaze[1], lam[:, None, None].expand(5, 8, 8), lam)
    assert found.value < 1e-5


def test_pairs_without_visible_gaze_are_left_out_and_counted():
    gaze_a, gaze_b = torch.zeros(3, 8, 8), torch.zeros(3, 8, 8)
    gaze_a[1:, 0, 0] = gaze_b[1:, 7, 7] = 1
    masks = torch.stack([halves()[0], halves()[0], halves()[1]])  # the last hides both
    found = gaze_inconsistency(gaze_a, gaze_b, masks, torch.tensor([0.9, 0.5, 0.5]))
    assert found.blank.tolist() == [True, False, True]
    assert found.lam_gaze.tolist() == [0, 0.5, 0]
    assert found.value == 0
    none = gaze_inconsistency(gaze_a[:1], gaze_b[:1], masks[:1], torch.tensor([0.5]))
    assert math.isnan(none.value)


def test_bad_maps_are_refused():
    maps = torch.ones(2, 8, 8)
    with pytest.raises(ValueError, match="one size"):
        gaze_lam(maps, maps[:1], maps)
    with pytest.raises(ValueError, match="clip or mask"):
        gaze_lam(maps - 2, maps, maps)
    with pytest.raises(ValueError, match="clip or mask"):
        gaze_lam(maps, maps * math.inf, maps)
    with pytest.raises(ValueError, match=r"must be \(2,\)"):
        gaze_inconsistency(maps, maps, maps, torch.tensor([0.5]))
    with pytest.raises(ValueError, match="spread"):
        density_maps([], (4, 4), spread=0)


def test_a_fixation_is_a_bell_at_its_place_that_weighs_its_duration():
    points = torch.tensor([[0.25, 0.75, 300.0], [0.875, 0.125, 100.0]])
    maps = density_maps([points, points[:0]], (16, 32), spread=0.01)
    torch.testing.assert_close(maps.sum(dim=(1, 2)), torch.tensor([1.0, 0.0]).double())
    # Places are shares of width and height: column 8 and row 12, at the corner of four pixels.
    assert maps[0, 11:13, 7:9].sum() == pytest.approx(0.75, rel=1e-3)
    assert maps[0, 1:3, 27:29].sum() == pytest.approx(0.25, rel=1e-3)
    wide = density_maps([points], (16, 32), spread=0.1)
    assert wide.max() < maps.max() / 4


def test_the_control_looks_at_the_centre():
    control = centre_gaussian((9, 14))
    assert control.sum() == pytest.approx(1)
    torch.testing.assert_close(control, control.flip(0, 1))
    assert control.argmax() in (4 * 14 + 6, 4 * 14 + 7)
    # The deviation is a share of each side: as many deviations to the border in both directions.
    assert centre_gaussian((10, 10))[0, 5] / centre_gaussian((10, 10))[5, 5] == pytest.approx(
        math.exp(-(4.5**2 - 0.5**2) / (2 * 2.5**2)), rel=1e-6
    )


@pytest.mark.skipif(not CUB.exists(), reason="the fixations have no licence and lie beside us only")
def test_real_fixations_show_that_areas_are_no_objects():
    fixations = read_fixations(CUB)
    assert list(fixations) == list(range(1, 301))
    assert sum(map(len, fixations.values())) == 10_652
    maps = density_maps(list(fixations.values()), (28, 28))
    torch.testing.assert_close(maps.sum(dim=(1, 2)), torch.ones(300).double())

    generator = torch.Generator().manual_seed(0)
    x, targets = torch.zeros(300, 1, 28, 28), torch.eye(300)
    x[:, :] = torch.arange(300.0)[:, None, None, None]
    mixed = mf.cutmix(x, targets, per_sample=True, generator=generator)
    mask = (mixed.x[:, 0] == x[:, 0]).double()
    found = gaze_inconsistency(maps, maps[mixed.perm], mask, mixed.lam)
    assert 15 < found.value < 35
    control = centre_gaussian((28, 28)).expand(300, 28, 28)
    centred = gaze_inconsistency(control, control, mask, mixed.lam)
    # Part of it is there without any gaze, as people look at the middle.
    assert 3 < centred.value < found.value / 2
