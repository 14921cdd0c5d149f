import math

import pytest
from drawn import all_axes, notes, overlapping, texts

from mixbench.errors import UserError
from mixbench.leaderboard.plots.draw import draw

LOSSES, SCORES = ((2.0, 1.0),), ((50.0, 60.0),)


def logged(runs, method="erm", losses=LOSSES, split="val", scores=SCORES, **changes):
    for seed, loss in enumerate(losses):
        folder = runs.add(method, seed, **changes)
        curves = {"train_loss_epoch": loss}
        if scores:
            curves[f"{split}_top1"] = scores[seed]
        runs.log(folder, **curves)
    return folder


def test_losses_and_scores_are_means_over_seeds_by_epoch_from_one(runs):
    logged(runs, losses=((2.0, 1.0), (4.0, 2.0)), scores=((50, 60), (52, 64)))
    loss, score = all_axes(draw("curves", runs.board()))
    assert list(loss.get_lines()[0].get_xdata()) == [1, 2]
    assert list(loss.get_lines()[0].get_ydata()) == [3.0, 1.5]
    assert list(score.get_lines()[0].get_ydata()) == [51, 62]


def test_the_band_is_one_deviation_over_seeds(runs):
    logged(runs, losses=((2.0, 1.0), (4.0, 2.0)), scores=())
    figure = draw("curves", runs.board())
    (band,) = all_axes(figure)[0].collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert heights.max() == pytest.approx(3 + math.sqrt(2))
    assert "standard deviation" in notes(figure)


def test_one_seed_has_no_band(runs):
    logged(runs)
    figure = draw("curves", runs.board())
    assert not all_axes(figure)[0].collections
    assert "band" not in notes(figure)


def test_it_is_said_which_images_the_scores_are_of(runs):
    logged(runs, split="peek")
    assert "not to choose by" in notes(draw("curves", runs.board()))


def test_without_scores_the_losses_stand_alone_with_what_to_do(runs):
    logged(runs, scores=())
    figure = draw("curves", runs.board())
    assert len(all_axes(figure)) == 1
    assert "select=val" in notes(figure)


def test_a_row_of_another_length_has_its_own_epochs(runs):
    logged(runs, "erm")
    logged(runs, "mixup", losses=((3.0, 2.0, 1.0),), scores=((10, 20, 30),))
    lines = all_axes(draw("curves", runs.board()))[0].get_lines()
    assert sorted(len(line.get_xdata()) for line in lines) == [2, 3]


def test_losses_that_are_no_numbers_leave_a_gap_and_a_row_of_them_is_named(runs):
    logged(runs, "erm", losses=((2.0, math.nan),))
    logged(runs, "mixup", losses=((math.nan, math.inf),), scores=())
    figure = draw("curves", runs.board())
    (line,) = all_axes(figure)[0].get_lines()
    assert math.isnan(line.get_ydata()[1])
    assert "Not shown: mixup" in notes(figure)


def test_at_most_eight_rows_are_drawn_the_reference_among_them(runs):
    logged(runs, "erm", top1=10.0)
    for number in range(12):
        logged(runs, f"method{number:02}", top1=50.0 + number)
    figure = draw("curves", runs.board())
    assert len(all_axes(figure)[0].get_lines()) == 8
    assert {"erm", "method11"} <= set(texts(figure))
    assert "2 others" in notes(figure)
    assert overlapping(figure) == []


def test_losses_of_several_orders_are_on_a_logarithmic_axis(runs):
    logged(runs, losses=((900.0, 1.0),))
    assert all_axes(draw("curves", runs.board()))[0].get_yscale() == "log"


def test_damaged_and_missing_curves_are_named(runs):
    folder = logged(runs, "erm")
    (folder / "metrics.csv").write_text((folder / "metrics.csv").read_text() + "3,3,boom\n")
    runs.add("mixup")
    figure = draw("curves", runs.board())
    assert "left out" in notes(figure)
    assert "Not shown: mixup" in notes(figure)


def test_runs_without_curves_are_refused_with_what_to_do(runs):
    runs.add("erm")
    with pytest.raises(UserError) as raised:
        draw("curves", runs.board())
    assert "select=val" in raised.value.todo
