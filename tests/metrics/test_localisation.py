import numpy as np
import pytest
import torch

from mixbench.metrics.localisation import (
    MAP_SIDE,
    THRESHOLDS,
    best_ious,
    box_ious,
    cut_boxes,
    heat_of,
    localisation_scores,
    normalised_maps,
    scaled_boxes,
)


def drawn(*lines):
    """A map of 8 x 8 pixels, on where a line has a sign."""
    heat = np.zeros((8, 8), dtype=np.uint8)
    for row, line in enumerate(lines):
        for column, sign in enumerate(line):
            heat[row, column] = 255 * (sign == "#")
    return heat


def both(*lines):
    found = cut_boxes(drawn(*lines), 0)
    return found.largest.tolist(), sorted(found.every.tolist())


def test_ends_lie_one_beyond_the_last_pixel_but_on_the_map():
    assert both("", " ##", " ##") == ([1, 1, 3, 3], [[1, 1, 3, 3]])
    assert both(*[""] * 6, "      ##", "      ##") == ([6, 6, 7, 7], [[6, 6, 7, 7]])


def test_nothing_above_the_threshold_is_a_box_at_the_corner():
    assert both() == ([0, 0, 0, 0], [[0, 0, 0, 0]])
    assert (cut_boxes(drawn("##"), 255).every == 0).all()


def test_pixels_that_touch_at_a_corner_are_one_contour():
    assert both("#", " #", "  #") == ([0, 0, 3, 3], [[0, 0, 3, 3]])


def test_the_largest_area_within_the_outline_counts_and_not_the_most_pixels():
    # A line of seven pixels encloses nothing, four in a square a unit.
    assert both("#######", "", "##", "##")[0] == [0, 2, 2, 4]
    # Six pixels in two rows enclose two units, five steps of a stair three halves.
    assert both("###", "###", "", "##", " ##", "  #")[0] == [0, 0, 3, 2]
    # The outline of a ring encloses what is not in it.
    assert both("####  ##", "#  #  ##", "#  #  ##", "####  ##")[0] == [0, 0, 4, 4]


def test_of_equal_areas_the_one_that_rows_meet_last_is_taken():
    assert both("##  ##", "##  ##")[0] == [4, 0, 6, 2]
    assert both("    ##", "##  ##", "##")[0] == [0, 1, 2, 3]
    assert both("# #", "", "  #")[0] == [2, 2, 3, 3]  # of single pixels as well


def test_the_outline_of_a_hole_is_a_contour_of_its_own():
    ring = ("#####", "#   #", "#   #", "#####")
    assert both(*ring) == ([0, 0, 5, 4], [[0, 0, 5, 4]] * 2)
    # A hole that is open at a corner alone is closed, as its pixels meet at their sides alone.
    assert len(both(" # ", "# #", " # ")[1]) == 2
    # The inner square is a third contour, and its box is never that of the largest.
    largest, every = both("######", "#    #", "# ## #", "# ## #", "#    #", "######")
    assert largest == [0, 0, 6, 6]
    assert every == [[0, 0, 6, 6], [0, 0, 6, 6], [2, 2, 4, 4]]


def test_agreement_counts_the_ends_of_both_boxes():
    boxes, truths = np.array([[0, 0, 1, 1], [5, 5, 6, 6]]), np.array([[0, 0, 1, 3], [0, 0, 1, 1]])
    np.testing.assert_allclose(box_ious(boxes, truths), [[0.5, 1], [0, 0]])


def test_every_threshold_is_that_of_its_own_cut():
    generator = np.random.default_rng(3)
    heat = (generator.random((8, 8)) * 90).astype(np.uint8)
    truths = np.array([[1, 1, 4, 5], [3, 3, 7, 7]])
    found = best_ious(heat, truths)
    for place in range(0, len(THRESHOLDS), 37):
        cut = cut_boxes(heat, int(THRESHOLDS[place] * heat.max()))
        assert found[0, place] == box_ious(cut.largest[None], truths).max()
        assert found[1, place] == box_ious(cut.every, truths).max()


def test_a_hole_that_opens_at_one_threshold_is_found_from_there_on():
    heat = np.zeros((8, 8), dtype=np.uint8)
    heat[:7, :7], heat[2:5, 2:5] = 200, 100
    hole = best_ious(heat, np.array([[1, 1, 6, 6]]))[1]
    assert (hole[THRESHOLDS < 0.5] < 1).all()
    assert (hole[THRESHOLDS >= 0.5] == 1).all()


def test_maps_are_stretched_from_0_to_1_and_constant_or_broken_ones_are_empty():
    maps = torch.tensor([[[-3.0, 1.0], [0.0, 2.0]], [[5.0, 5.0], [5.0, 5.0]]])
    maps = torch.cat([maps, torch.full((1, 2, 2), torch.nan)])
    large = normalised_maps(maps)
    assert large.shape == (3, MAP_SIDE, MAP_SIDE)
    assert (float(large[0].min()), float(large[0].max())) == (0, 1)
    assert not large[1:].any()
    assert heat_of(torch.tensor([[[0.0, 0.9999, 1.0]]])).tolist() == [[[0, 254, 255]]]


def test_true_boxes_are_truncated_to_pixels_of_the_map():
    boxes, sizes = torch.tensor([[10, 20, 31, 64]]), torch.tensor([[64, 128]])
    assert scaled_boxes(boxes, sizes).tolist() == [[35, 35, 108, 112]]


def test_shares_are_those_of_the_thresholds_that_they_are_named_after():
    largest = torch.tensor([[1, 0, 1], [1, 0, 0], [0, 1, 1], [0, 1, 0]], dtype=torch.bool)
    every = torch.stack([largest, torch.zeros_like(largest), torch.ones_like(largest)])
    right = torch.tensor([False, True, True, True])
    scores = localisation_scores(largest, every, right, torch.tensor([False, False, True, True]))
    assert scores["max_box_acc"] == 50
    assert scores["max_box_acc_v2"] == pytest.approx((50 + 0 + 100) / 3)
    assert scores["box_acc_val"] == 0  # each half's best threshold finds nothing in the other
    assert scores["top1_loc"] == 25  # at the first of the best thresholds
    assert scores["top1_loc_max"] == 50
    with pytest.raises(ValueError, match="no image with a box"):
        localisation_scores(largest[:0], every[:, :0], right[:0], right[:0])
