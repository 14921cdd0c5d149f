import math

import pytest
from drawn import all_axes, lines_with, notes, overlapping, row_names, texts

from mixbench.errors import UserError
from mixbench.leaderboard.plots.draw import draw


def test_rows_stand_below_each_other_the_best_first_at_their_mean(compared):
    (axes,) = all_axes(draw("leaderboard", compared.board()))
    assert row_names(axes) == ["cutmix", "mixup", "erm"]
    means = {line.get_ydata()[0]: line.get_xdata()[0] for line in lines_with(axes, marker="o")}
    assert means == pytest.approx({0: 92.4 / 1 - 0.8 / 3, 1: 90.4 / 1 - 0.8 / 3, 2: 90.1}, abs=1e-9)


def test_each_seed_is_a_dot_and_the_interval_that_of_the_table(compared):
    board = compared.board()
    (axes,) = all_axes(draw("leaderboard", board))
    seeds = [sorted(line.get_xdata()) for line in lines_with(axes, marker=".")]
    assert seeds[0] == [92.0, 92.1, 92.3]
    summary = board.groups[0].rows[0].summaries["top1"]
    ends = [tuple(line.get_xdata()) for line in lines_with(axes, marker="None")]
    assert (summary.low, summary.high) in ends


def test_a_line_stands_at_the_mean_of_the_reference(compared):
    (axes,) = all_axes(draw("leaderboard", compared.board()))
    across = [line for line in axes.get_lines() if list(line.get_ydata()) == [0, 1]]
    assert [line.get_xdata()[0] for line in across] == [pytest.approx(90.1)]


def test_one_seed_has_no_interval(runs):
    runs.add("erm")
    figure = draw("leaderboard", runs.board())
    assert "one seed" in notes(figure)
    assert len(all_axes(figure)[0].get_lines()) == 2  # the mean and the line of the reference


def test_shares_are_never_drawn_beyond_100_percent(runs):
    runs.seeds("erm", 99.0, 99.9)
    (axes,) = all_axes(draw("leaderboard", runs.board()))
    places = [x for line in axes.get_lines() for x in line.get_xdata()]
    assert max(places) <= 100
    assert axes.get_xlim()[1] <= 102


def test_an_interval_of_two_seeds_does_not_stretch_the_axis_and_ends_in_an_arrow(runs):
    runs.seeds("erm", 50.0, 50.1)
    runs.seeds("mixup", 50.0, 52.0)
    figure = draw("leaderboard", runs.board())
    (axes,) = all_axes(figure)
    low, high = axes.get_xlim()
    assert high - low < 6
    assert len(lines_with(axes, marker=">")) == len(lines_with(axes, marker="<")) == 1
    assert "arrow" in notes(figure)


def test_rows_without_a_finite_mean_are_left_out_and_counted(runs):
    runs.seeds("erm", 90.0, 90.1)
    runs.seeds("mixup", 90.0, math.nan)
    figure = draw("leaderboard", runs.board())
    assert row_names(all_axes(figure)[0]) == ["erm"]
    assert "Not shown: mixup" in notes(figure)


def test_another_score_is_ranked_in_its_own_direction(runs):
    runs.add("erm", metrics={"nll": 0.5})
    runs.add("mixup", metrics={"nll": 0.4})
    figure = draw("leaderboard", runs.board(), score="nll")
    assert row_names(all_axes(figure)[0]) == ["mixup", "erm"]
    assert "negative log-likelihood (nats)" in texts(figure)


def test_a_score_that_no_run_has_is_refused_with_the_suite_that_adds_it(compared):
    with pytest.raises(UserError, match="fgsm_8") as raised:
        draw("leaderboard", compared.board(), score="fgsm_8")
    assert "--suite adversarial" in raised.value.todo


def test_every_table_has_a_panel_with_the_unit_of_its_score(runs):
    runs.add("erm")
    runs.add("erm", data="voc2007", metrics={"map": 40.0})
    runs.add("erm", net="resnet18")
    figure = draw("leaderboard", runs.board())
    assert len(all_axes(figure)) == 3
    assert overlapping(figure) == []


@pytest.mark.parametrize("count", [40, 400])
def test_many_rows_do_not_overlap_and_those_left_out_are_counted(runs, count):
    runs.add("erm", top1=10.0)
    for number in range(count):
        runs.add(f"method{number:03}", top1=50 + number / 20)
    figure = draw("leaderboard", runs.board())
    names = row_names(all_axes(figure)[0])
    assert overlapping(figure) == []
    assert names[0] == f"method{count - 1:03}"
    assert names[-1] == "erm"
    assert len(names) == (41 if count == 40 else 60)
    assert ("338 others" in notes(figure)) == (count == 400)


def test_rows_of_data_on_which_no_method_wins_are_in_alphabetical_order(runs):
    for number, method in enumerate(("mixup", "erm", "bc")):
        runs.add(method, top1=90.0 - number, data="digits")
    (axes,) = all_axes(draw("leaderboard", runs.board()))
    assert row_names(axes) == ["bc", "erm", "mixup"]


@pytest.mark.parametrize("scores", [[93.28], [93.1] * 3, [100.0]])
def test_the_axis_of_a_single_row_is_no_finer_than_half_a_point(runs, scores):
    runs.seeds("erm", *scores)
    figure = draw("leaderboard", runs.board())
    low, high = all_axes(figure)[0].get_xlim()
    assert 0.5 <= high - low < 2
    assert low < scores[0] < high
    assert "arrow" not in notes(figure)


@pytest.mark.parametrize("scores", [(93.28, 93.3), (0.0128, 0.013)])
def test_numbers_of_the_axis_do_not_overlap(runs, scores):
    for method, score in zip(("erm", "mixup"), scores, strict=True):
        runs.add(method, 0, 90.0, metrics={"ece": score, "top1": score})
    figure = draw("leaderboard", runs.board(), score="ece")
    assert overlapping(figure) == []
