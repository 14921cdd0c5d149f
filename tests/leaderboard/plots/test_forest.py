import math

import pytest
from drawn import all_axes, lines_with, notes, row_names, texts

from mixbench.errors import UserError
from mixbench.leaderboard.plots.draw import draw


def test_differences_and_intervals_are_those_of_the_test_of_the_table(compared):
    board = compared.board()
    (axes,) = all_axes(draw("forest", board))
    contrast = board.groups[0].evidence.contrasts["cutmix"]
    assert row_names(axes) == ["cutmix", "mixup"]
    squares = {line.get_ydata()[0]: line.get_xdata()[0] for line in lines_with(axes, marker="s")}
    assert squares[0] == contrast.difference == pytest.approx(2.0333, abs=1e-3)
    ends = [tuple(line.get_xdata()) for line in lines_with(axes, marker="None")]
    assert (contrast.low, contrast.high) in ends


def test_rows_that_the_test_separates_are_filled(compared):
    (axes,) = all_axes(draw("forest", compared.board()))
    squares = lines_with(axes, marker="s")
    faces = {line.get_ydata()[0]: line.get_markerfacecolor() for line in squares}
    assert faces[1] == "white"
    assert faces[0] != "white"


def test_better_and_worse_rows_differ_in_colour(runs):
    runs.seeds("erm", 90.0, 90.2, 90.1)
    runs.seeds("cutmix", 92.0, 92.3, 92.1)
    runs.seeds("mixup", 88.0, 88.3, 88.1)
    (axes,) = all_axes(draw("forest", runs.board()))
    assert len({line.get_color() for line in lines_with(axes, marker="s")}) == 2


def test_zero_lies_on_the_axis(runs):
    runs.seeds("erm", 90.0, 90.02, 90.01)
    runs.seeds("cutmix", 95.0, 95.02, 95.01)
    low, high = all_axes(draw("forest", runs.board()))[0].get_xlim()
    assert low < 0 < high


def test_the_reference_is_named_with_the_unit(compared):
    assert "top1 minus that of erm (points)" in texts(draw("forest", compared.board()))


def test_rows_that_were_not_tested_are_named(compared):
    compared.add("bc", top1=95.0)
    compared.seeds("samix", 90.0, math.nan)
    figure = draw("forest", compared.board())
    assert row_names(all_axes(figure)[0]) == ["cutmix", "mixup"]
    assert "bc" in notes(figure)
    assert "samix" in notes(figure)


def test_tables_without_a_test_are_refused_with_the_seeds_to_train(runs):
    runs.add("erm")
    runs.add("mixup")
    with pytest.raises(UserError) as raised:
        draw("forest", runs.board())
    assert "seeds=0,1,2" in raised.value.todo
