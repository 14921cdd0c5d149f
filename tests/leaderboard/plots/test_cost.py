import math

import pytest
from drawn import all_axes, notes, overlapping, texts

from mixbench.errors import UserError
from mixbench.leaderboard.plots.draw import draw

HOUR = 16 * 1000 / 3600  # images per second of a run that takes an hour


def timed(runs, method, hours, *scores, **changes):
    return runs.seeds(method, *scores, img_per_s=HOUR / hours, **changes)


def points(axes):
    """Places of the markers."""
    lines = [line for line in axes.get_lines() if line.get_marker() not in ("None", "", None)]
    return {(round(line.get_xdata()[0], 6), round(line.get_ydata()[0], 6)) for line in lines}


def test_rows_stand_at_their_hours_and_mean(runs):
    timed(runs, "erm", 1, 90.0, 90.2)
    timed(runs, "mixup", 2, 91.0)
    figure = draw("cost", runs.board())
    assert points(all_axes(figure)[0]) == {(1, 90.1), (2, 91)}
    assert "training time (CPU hours per run)" in texts(figure)


def test_hours_of_a_gpu_are_those_of_the_record(runs):
    runs.add("erm", gpu_hours=3.0, img_per_s=HOUR)
    runs.add("mixup", gpu_hours=4.0)
    figure = draw("cost", runs.board())
    assert {x for x, _ in points(all_axes(figure)[0])} == {3, 4}
    assert "training time (GPU hours per run)" in texts(figure)


def test_short_trainings_are_in_minutes_or_seconds(runs):
    timed(runs, "erm", 0.5, 90.0)
    assert "training time (CPU minutes per run)" in texts(draw("cost", runs.board()))
    timed(runs, "erm", 1e-3, 90.0, net="other")
    assert "training time (CPU seconds per run)" in texts(draw("cost", runs.board()))


def test_the_front_joins_rows_that_none_beats_at_a_lower_cost(runs):
    timed(runs, "erm", 1, 90.0)
    timed(runs, "dear", 2, 89.0)
    timed(runs, "mixup", 3, 92.0)
    (axes,) = all_axes(draw("cost", runs.board()))
    steps = [line for line in axes.get_lines() if line.get_drawstyle() == "steps-post"]
    assert [list(line.get_xdata()) for line in steps] == [[pytest.approx(1), pytest.approx(3)]]


def test_the_front_of_an_error_goes_down(runs):
    for method, hours, nll in (("erm", 1, 0.5), ("dear", 2, 0.6), ("mixup", 3, 0.4)):
        timed(runs, method, hours, 90.0, metrics={"nll": nll})
    (axes,) = all_axes(draw("cost", runs.board(), score="nll"))
    steps = [line for line in axes.get_lines() if line.get_drawstyle() == "steps-post"]
    assert [list(line.get_ydata()) for line in steps] == [[0.5, 0.4]]


def test_rows_of_another_machine_or_without_a_cost_are_left_out_and_named(runs):
    timed(runs, "erm", 1, 90.0)
    timed(runs, "mixup", 1, 90.5)
    timed(runs, "cutmix", 1, 91.0, device="another")
    runs.add("bc")
    timed(runs, "samix", 1, math.nan)
    figure = draw("cost", runs.board())
    assert len(points(all_axes(figure)[0])) == 2
    assert "Not shown: cutmix, which is trained on another machine" in notes(figure)
    assert "Not shown: bc, which is without a measured cost" in notes(figure)
    assert "Not shown: samix" in notes(figure)


def test_of_many_rows_those_of_the_front_and_the_reference_are_named(runs):
    timed(runs, "erm", 5, 80.0)
    for number in range(40):
        timed(runs, f"method{number:02}", 1 + number / 10, 90.0 - number / 10)
    figure = draw("cost", runs.board())
    assert {"erm", "method00"} <= set(texts(figure))
    assert "method01" not in texts(figure)
    assert "The other 39 rows are grey" in notes(figure)
    assert overlapping(figure) == []


def test_runs_without_any_cost_are_refused(runs):
    runs.add("erm")
    with pytest.raises(UserError, match="cost of its training"):
        draw("cost", runs.board())
