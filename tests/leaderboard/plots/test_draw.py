import builtins

import matplotlib
import pytest
from drawn import all_axes, notes, overlapping, row_names, texts

import mixbench
from mixbench.errors import UserError
from mixbench.leaderboard.plots.draw import draw, plot
from mixbench.leaderboard.plots.kinds import KINDS
from mixbench.leaderboard.plots.style import PAGE
from mixbench.leaderboard.rows import Leaderboard

HOSTILE = {
    "markup": '$x_1$ and $y^2$ <b>bold</b> & "quoted" two\nlines \x1b[31m',
    "long": "very long " * 200,
}


def fill(runs, method, seed, top1, **changes):
    """A run that every kind of plot can be drawn from."""
    metrics = {"fgsm_4": 40.0 + seed, "fgsm_8": 60.0 + seed}
    folder = runs.add(method, seed, top1, metrics=metrics, img_per_s=100.0, **changes)
    runs.log(folder, train_loss_epoch=[2.0, 1.0 + seed], val_top1=[50.0, top1])
    right = [[4.0, 0.0]] * (2 + seed % 2) + [[0.0, 4.0]] * (4 - seed % 2)
    runs.predict(folder, right, [0, 0, 0, 1, 1, 1], ["ant", "bee"])


@pytest.fixture
def whole(runs):
    for seed in range(3):
        fill(runs, "erm", seed, 90.0 + seed / 10)
        for alpha in (0.2, 0.5):
            fill(runs, "mixup", seed, 91.0 + seed / 10 + alpha, settings={"alpha": alpha})
    return runs


@pytest.mark.parametrize("kind", KINDS.table)
@pytest.mark.parametrize("width", [2.5, PAGE])
def test_no_text_of_a_plot_lies_on_another_or_beyond_the_figure(whole, kind, width):
    figure = draw(kind, whole.board(), width=width)
    assert figure.get_size_inches()[0] == pytest.approx(width)
    assert overlapping(figure) == []


@pytest.mark.parametrize("kind", KINDS.table)
@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_names_of_strangers_stay_text_in_every_plot(runs, kind, name):
    for seed in range(2):
        fill(runs, "erm", seed, 90.0 + seed, recipe=name[:900], net=name[:900])
        for alpha in (1, 2):
            settings = {name[:50]: name[:100] + str(alpha)}
            fill(runs, name[:900], seed, 91.0 + seed + alpha, settings=settings)
    for folder in runs.folder.iterdir():
        right = [[4.0, 0.0], [0.0, 4.0], [0.0, 4.0]]
        runs.predict(folder, right, [0, 0, 1], [name[:900], "bee"])
    figure = draw(kind, runs.board(), width=PAGE)
    assert not any("\x1b" in text for text in texts(figure))
    parts = [text for text in figure.findobj(matplotlib.text.Text) if "x_1" in text.get_text()]
    assert not any(matplotlib.cbook.is_math_text(part.get_text()) for part in parts)
    assert overlapping(figure) == []


@pytest.mark.parametrize("kind", KINDS.table)
def test_nothing_global_of_matplotlib_changes(whole, kind):
    with matplotlib.rc_context({"font.size": 31, "text.usetex": False, "lines.linewidth": 9}):
        before = dict(matplotlib.rcParams)
        draw(kind, whole.board())
        assert dict(matplotlib.rcParams) == before


def test_settings_of_a_user_leave_a_plot_as_it_is(compared):
    plain = draw("forest", compared.board())
    with matplotlib.rc_context({"font.size": 31, "axes.facecolor": "red"}):
        own = draw("forest", compared.board())
    assert own.get_size_inches() == pytest.approx(plain.get_size_inches())
    assert all_axes(own)[0].get_facecolor() == all_axes(plain)[0].get_facecolor()


@pytest.mark.parametrize("kind", KINDS.table)
def test_without_finished_runs_a_command_is_named_that_trains_some(kind):
    with pytest.raises(UserError, match="no finished runs") as raised:
        draw(kind, Leaderboard([]))
    assert "mixbench bench" in raised.value.todo


@pytest.mark.parametrize("kind", KINDS.table)
def test_one_run_is_drawn_or_refused_with_what_to_do(runs, kind):
    fill(runs, "erm", 0, 90.0)
    refused = {"forest": "seeds=", "harm": "another method", "sweep": "method.alpha"}
    refused["winmatrix"] = "second method"
    if kind not in refused:
        assert overlapping(draw(kind, runs.board())) == []
        return
    with pytest.raises(UserError) as raised:
        draw(kind, runs.board())
    assert refused[kind] in raised.value.todo


def test_an_unknown_kind_option_or_row_is_refused_with_its_nearest_name(compared):
    board = compared.board()
    with pytest.raises(UserError, match="did you mean 'forest'"):
        draw("forst", board)
    with pytest.raises(UserError, match="no option 'scores'; did you mean 'score'"):
        draw("leaderboard", board, scores="nll")
    with pytest.raises(UserError, match="no finished run of 'cutmx'; did you mean 'cutmix'"):
        draw("forest", board, rows=["cutmx"])


@pytest.mark.parametrize("width", [0, 1e9, float("nan"), "wide"])
def test_a_width_that_no_figure_has_is_refused(compared, width):
    with pytest.raises(UserError, match="inches"):
        draw("forest", compared.board(), width=width)


def test_named_rows_are_shown_beside_the_reference(compared):
    figure = draw("leaderboard", compared.board(), rows="cutmix")
    assert row_names(all_axes(figure)[0]) == ["cutmix", "erm"]


def test_more_tables_than_a_figure_holds_are_refused(runs):
    for number in range(7):
        runs.add("erm", net=f"net{number}")
    with pytest.raises(UserError, match="7 panels") as raised:
        draw("leaderboard", runs.board())
    assert "name only the folders" in raised.value.todo


def test_tables_that_differ_in_their_recipe_alone_are_told_apart(runs):
    for letter in "ab":
        runs.add("erm", recipe_hash=letter * 16, config_hash=letter)
    heads = [text for text in texts(draw("leaderboard", runs.board(), width=PAGE)) if "·" in text]
    assert [head[-8:] for head in heads] == ["a" * 8, "b" * 8]


def test_the_title_can_be_left_out(compared):
    board = compared.board()
    assert any("preactresnet18" in text for text in texts(draw("forest", board)))
    assert not any("preactresnet18" in text for text in texts(draw("forest", board, title=False)))


def test_a_missing_matplotlib_is_named_with_its_remedy(compared, monkeypatch):
    board, plain = compared.board(), builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return plain(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UserError, match="Matplotlib") as raised:
        draw("forest", board)
    assert "mixbench[plots]" in raised.value.todo


def test_plot_reads_folders_and_writes_the_file(compared, tmp_path):
    figure = mixbench.plot("forest", compared.folder, tmp_path / "forest.svg", width=PAGE)
    assert figure.get_size_inches()[0] == pytest.approx(PAGE)
    assert (tmp_path / "forest.svg").read_text().startswith("<?xml")


def test_plot_reads_the_folder_of_all_runs_by_default(compared, monkeypatch):
    monkeypatch.setenv("MIXBENCH_RUNS", str(compared.folder))
    assert "cutmix" in texts(plot("leaderboard"))


def test_a_file_that_cannot_be_written_is_refused_before_runs_are_read(tmp_path):
    with pytest.raises(UserError, match=r"\.gif"):
        plot("forest", tmp_path / "nowhere", tmp_path / "forest.gif")


def test_data_on_which_no_method_wins_is_named(runs):
    runs.seeds("erm", 99.0, 99.1, data="digits")
    runs.seeds("mixup", 99.0, 99.2, data="digits")
    assert "digits is a smoke test" in notes(draw("forest", runs.board()))


def test_a_notebook_shows_the_figure(compared):
    assert draw("forest", compared.board())._repr_png_().startswith(b"\x89PNG")
