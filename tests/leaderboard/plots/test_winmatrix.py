import math

import pytest
from drawn import all_axes, notes, overlapping, shown

from mixbench.errors import UserError
from mixbench.leaderboard.compare import compare, pairwise
from mixbench.leaderboard.plots.draw import draw


def cells(axes):
    """Numbers by place, and colours of the cells by place."""
    numbers = {text.get_position(): shown(text) for text in axes.texts}
    colours = {
        (patch.get_x() + 0.5, patch.get_y() + 0.5): patch.get_facecolor() for patch in axes.patches
    }
    return numbers, colours


def test_a_cell_is_the_score_of_its_row_less_that_of_its_column(compared):
    (axes,) = all_axes(draw("winmatrix", compared.board()))
    numbers, _ = cells(axes)
    assert [shown(label) for label in axes.get_yticklabels()] == ["cutmix 1", "mixup 2", "erm 3"]
    assert numbers[2, 0] == "+2.0"
    assert numbers[0, 2] == "\N{MINUS SIGN}2.0"
    assert numbers[2, 1] == "0.0"
    assert (1, 1) not in numbers


def test_pairs_that_the_pooled_test_separates_are_coloured(compared):
    (axes,) = all_axes(draw("winmatrix", compared.board()))
    _, colours = cells(axes)
    assert colours[2, 1] == colours[1, 2]  # mixup and erm
    assert len({colours[2, 0], colours[0, 2], colours[2, 1]}) == 3


def test_a_pair_is_separated_where_the_comparison_of_the_two_says_so(compared):
    board = compared.board()
    lines = pairwise(board.groups[0], ["cutmix", "mixup", "erm"])
    assert len(lines) == 6
    for (mine, other), line in lines.items():
        numbers = compare(board, mine, other)[0].numbers
        assert line.separated == numbers["separated"]
        assert line.difference == numbers["difference"]
        assert (line.low, line.high) == pytest.approx((numbers["low"], numbers["high"]))


def test_one_seed_separates_no_pair(runs):
    runs.add("erm")
    runs.add("mixup", top1=99.0)
    figure = draw("winmatrix", runs.board())
    assert "One seed separates no pair" in notes(figure)
    assert len(set(cells(all_axes(figure)[0])[1].values())) == 1


def test_many_rows_have_signs_in_place_of_numbers(runs):
    runs.add("erm", top1=10.0)
    for number in range(30):
        runs.add(f"method{number:02}", top1=50.0 + number)
    figure = draw("winmatrix", runs.board())
    assert {text for text in cells(all_axes(figure)[0])[0].values()} == {"+", "\N{MINUS SIGN}"}
    assert "12 others" in notes(figure)
    assert overlapping(figure) == []


def test_rows_without_a_finite_mean_are_left_out_and_named(compared):
    compared.seeds("samix", 90.0, math.nan)
    figure = draw("winmatrix", compared.board())
    assert len(cells(all_axes(figure)[0])[0]) == 6
    assert "Not shown: samix" in notes(figure)


def test_one_row_alone_is_refused(runs):
    runs.add("erm")
    with pytest.raises(UserError, match="two rows"):
        draw("winmatrix", runs.board())
