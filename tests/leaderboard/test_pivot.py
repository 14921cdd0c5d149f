import re

import pytest

from mixbench import cli
from mixbench.errors import UserError
from mixbench.leaderboard.columns import NONE
from mixbench.leaderboard.pivot import pivot_text
from mixbench.leaderboard.rows import build_leaderboard, find_runs


def board(tmp_path):
    return build_leaderboard(find_runs([tmp_path]))


@pytest.fixture
def grid(add):
    """A method over two layers and three values of eps, one of them the default."""
    for layers in ([0], [0, -1]):
        for eps in (0.05, 0.1, 1.0):
            own = {"layers": layers} | ({} if eps == 0.1 else {"eps": eps})
            for seed in range(2):
                top1 = 70.0 + 10 * len(layers) + eps + seed
                own_hash = f"{len(layers)}-{eps}"
                folder = add("alignmix", seed, top1, settings=own, config_hash=own_hash)
                text = f"method: {{name: alignmix, eps: {eps}, layers: {layers}}}\n"
                (folder / "config.yaml").write_text(text)


def cells(text, lines):
    return [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()[1 : lines + 3]]


def test_two_settings_make_a_grid_in_the_order_of_their_values(grid, tmp_path):
    text = pivot_text(board(tmp_path), "method.layers", "method.eps", "table")
    head, _, *rows = cells(text, 2)
    assert head == ["layers / eps", "0.05", "0.1", "1.0"]
    assert [row[0] for row in rows] == ["[0, -1]", "[0]"]
    assert rows[1][1:] == ["80.55 ± 0.71", "80.60 ± 0.71", "81.50 ± 0.71"]
    assert "alignmix" in text.splitlines()[0]
    assert "2 seeds" in text


@pytest.mark.parametrize("style", ["table", "markdown", "latex"])
def test_the_command_prints_the_grid(grid, tmp_path, style, capsys):
    words = ["--pivot", "method.eps", "method.layers", "--format", style]
    assert cli.main(["leaderboard", str(tmp_path), *words]) == 0
    assert "81.50" in capsys.readouterr().out


def test_methods_by_data_leave_what_was_not_run_empty(add, tmp_path):
    add("erm", 0, 80.0, data="cifar10", recipe_hash="a")
    add("mixup", 0, 81.0, data="cifar10", recipe_hash="a")
    add("erm", 0, 60.0, data="cifar100", recipe_hash="b", folder="b")
    head, _, *rows = cells(pivot_text(board(tmp_path), "method", "data", "table"), 2)
    assert head == ["method / data", "cifar10", "cifar100"]
    assert rows == [["erm", "80.00", "60.00"], ["mixup", "81.00", NONE]]


def test_rows_without_a_key_are_named(grid, add, tmp_path):
    add("erm", 0, 80.0)
    text = pivot_text(board(tmp_path), "method.layers", "method.eps", "table")
    assert "erm" in text.splitlines()[-1]
    assert "method.layers and method.eps" in text.splitlines()[-1]


def test_a_setting_of_none_is_a_value(add, tmp_path):
    add("mixup", 0, 80.0, settings={"eps": None}, config_hash="a")
    add("mixup", 0, 81.0, settings={"eps": 2}, config_hash="b")
    head, _, *_ = cells(pivot_text(board(tmp_path), "method", "method.eps", "table"), 1)
    assert head == ["method / eps", "2", "null"]


def test_a_long_value_is_cut(add, tmp_path):
    add("mixup", 0, 80.0, settings={"text": "x" * 3000})
    text = pivot_text(board(tmp_path), "method", "method.text", "table")
    assert max(map(len, text.splitlines())) < 100


def test_runs_that_differ_in_more_make_grids_of_their_own(grid, add, tmp_path):
    folder = add("alignmix", 0, 70.0, settings={"layers": [0], "iters": 5}, config_hash="x")
    (folder / "config.yaml").write_text("method: {name: alignmix, eps: 0.1, layers: [0]}\n")
    text = pivot_text(board(tmp_path), "method.layers", "method.eps", "table")
    assert text.count("layers / eps") == 2
    assert "iters=5" in text


def test_an_unknown_key_is_refused_with_the_nearest(grid, tmp_path):
    with pytest.raises(UserError, match=r"method\.epss(.|\n)*method\.eps"):
        pivot_text(board(tmp_path), "method.layers", "method.epss", "table")


def test_a_folder_without_finished_runs_has_no_grid(tmp_path):
    assert pivot_text(board(tmp_path), "method", "data", "table") == "No finished runs.\n"


@pytest.mark.parametrize("keys", [("method", "seed"), ("seed", "method")])
def test_seeds_are_no_key_of_a_grid_of_means(add, tmp_path, keys):
    add("erm", 0, 80.0)
    with pytest.raises(UserError, match="mean over seeds"):
        pivot_text(board(tmp_path), *keys, "table")
