import math

import pytest
from drawn import all_axes, notes, overlapping, shown, texts

from mixbench.errors import UserError
from mixbench.leaderboard.plots.draw import draw
from mixbench.leaderboard.plots.style import PAGE


@pytest.fixture
def grid(runs):
    for alpha in (0.1, 1.0):
        for layers in ([0], [0, 1], [2]):
            scores = [90 + alpha + len(layers) + seed / 10 for seed in range(3)]
            runs.seeds("alignmix", *scores, settings={"alpha": alpha, "layers": layers})
    return runs


def test_one_setting_makes_a_line_over_its_values_in_order(runs):
    for alpha in (2.0, 0.5, 1.0):
        runs.seeds("mixup", 90 + alpha, 90.2 + alpha, settings={"alpha": alpha})
    figure = draw("sweep", runs.board())
    line = all_axes(figure)[0].get_lines()[0]
    assert list(line.get_xdata()) == [0.5, 1.0, 2.0]
    assert list(line.get_ydata()) == pytest.approx([90.6, 91.1, 92.1])
    assert "mixup, alpha" in texts(figure)


def test_a_row_at_the_default_stands_at_the_value_of_its_configuration(runs):
    folder = runs.add("mixup", top1=91.0)
    (folder / "config.yaml").write_text("method:\n  name: mixup\n  alpha: 1.0\n")
    runs.add("mixup", top1=92.0, settings={"alpha": 0.2})
    (axes,) = all_axes(draw("sweep", runs.board()))
    assert dict(zip(*axes.get_lines()[0].get_data(), strict=True)) == {0.2: 92.0, 1.0: 91.0}


@pytest.mark.parametrize("content", [None, "method: 3\n", "boom: [\n"])
def test_a_default_that_no_file_tells_is_called_so(runs, content):
    folder = runs.add("mixup", top1=91.0)
    if content:
        (folder / "config.yaml").write_text(content)
    runs.add("mixup", top1=92.0, settings={"alpha": 0.2})
    (axes,) = all_axes(draw("sweep", runs.board()))
    assert [shown(label) for label in axes.get_xticklabels()] == ["0.2", "default"]


def test_two_settings_make_a_map_of_means_with_half_intervals(grid):
    figure = draw("sweep", grid.board())
    (axes,) = all_axes(figure)
    means = axes.images[0].get_array()
    assert means.shape == (2, 3)
    assert means[0].tolist() == pytest.approx([91.2, 92.2, 91.2])
    assert [shown(label) for label in axes.get_xticklabels()] == ["[0]", "[0, 1]", "[2]"]
    assert [shown(label) for label in axes.get_yticklabels()] == ["0.1", "1"]
    half = 4.302653 * 0.1 / math.sqrt(3)
    assert f"91.20\n\N{PLUS-MINUS SIGN} {half:.2f}" in texts(figure)


def test_a_named_setting_is_the_axis_and_the_other_one_makes_lines(grid):
    figure = draw("sweep", grid.board(), keys=["method.alpha"])
    (axes,) = all_axes(figure)
    curves = [line for line in axes.get_lines() if list(line.get_xdata()) == [0.1, 1.0]]
    assert len(curves) == 3
    assert {"layers=[0]", "layers=[0, 1]", "layers=[2]"} <= set(texts(figure))


def test_empty_cells_stay_empty(grid):
    grid.seeds("alignmix", 95.0, 95.1, settings={"alpha": 5.0, "layers": [2]})
    figure = draw("sweep", grid.board())
    assert math.isnan(all_axes(figure)[0].images[0].get_array().filled(math.nan)[2, 0])
    assert overlapping(figure) == []


def test_a_map_of_many_cells_has_a_scale_in_place_of_numbers(runs):
    for a in range(20):
        for b in range(2):
            runs.add("mixup", top1=80 + a / 10, settings={"a": a, "b": b})
    figure = draw("sweep", runs.board(), keys=["b", "a"])
    assert len(all_axes(figure)) == 2
    assert overlapping(figure) == []


def test_several_methods_have_a_panel_each(runs):
    for method in ("mixup", "cutmix"):
        for alpha in (0.2, 1.0):
            runs.add(method, settings={"alpha": alpha})
    figure = draw("sweep", runs.board(), width=PAGE)
    assert len(all_axes(figure)) == 2


def test_the_mean_of_the_reference_is_a_line(runs):
    runs.seeds("erm", 89.0, 89.2)
    for alpha in (0.2, 1.0):
        runs.add("mixup", settings={"alpha": alpha})
    lines = all_axes(draw("sweep", runs.board()))[0].get_lines()
    assert any(list(line.get_xdata()) == [0, 1] and line.get_ydata()[0] == 89.1 for line in lines)


def test_rows_that_are_not_finite_are_named(runs):
    for alpha, top1 in ((0.2, 90.0), (0.5, 91.0), (1.0, math.nan)):
        runs.add("mixup", top1=top1, settings={"alpha": alpha})
    assert "Not shown: mixup alpha=1.0" in notes(draw("sweep", runs.board()))


def test_more_settings_than_a_plot_has_axes_are_refused_by_name(runs):
    for number in range(2):
        runs.add("mixup", settings={"a": number, "b": number, "c": number})
    with pytest.raises(UserError, match="a, b, c") as raised:
        draw("sweep", runs.board())
    assert "--key" in raised.value.todo


def test_two_rows_of_one_cell_are_refused(runs):
    for a in range(2):
        for b in range(2):
            for c in range(2):
                runs.add("mixup", settings={"a": a, "b": b, "c": c})
    with pytest.raises(UserError, match="mixup a=0 b=0 c=1") as raised:
        draw("sweep", runs.board(), keys=["a", "b"])
    assert "--row" in raised.value.todo


@pytest.mark.parametrize("keys", [["alpha"], []])
def test_runs_that_differ_in_no_such_setting_are_refused_with_what_to_do(compared, keys):
    with pytest.raises(UserError, match="differ in") as raised:
        draw("sweep", compared.board(), keys=keys)
    assert "mixbench sweep" in raised.value.todo


@pytest.mark.parametrize("keys", [["a", "a"], ["a", "b", "c"]])
def test_other_than_one_or_two_settings_are_refused(compared, keys):
    with pytest.raises(UserError, match="one setting or two"):
        draw("sweep", compared.board(), keys=keys)
