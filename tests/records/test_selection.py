"""How others choose an epoch."""

import pytest

from mixbench.leaderboard.render import render
from mixbench.leaderboard.rows import build_leaderboard, find_runs
from mixbench.records.record import Record, write_record
from mixbench.records.selection import CHOICES, choice_columns, choose_score, peek_curve

peek_curve.__test__ = False  # pyright: ignore[reportFunctionMemberAccess]
CURVE = [50.0, 99.0, *range(60, 69), 61.0]  # twelve epochs


@pytest.mark.parametrize(
    ("choice", "expected"),
    [("last", 61), ("best", 99), ("best10", 68), ("median10", 63.5), ("median5", 66)],
)
def test_each_choice_looks_at_its_own_epochs(choice, expected):
    assert choose_score(CURVE, choice) == expected


def test_a_short_run_has_no_median_of_its_last_ten_epochs():
    assert [choose_score([3.0, 1.0], choice) for choice in CHOICES] == [1, 3, None, None, None]
    assert choose_score(CURVE[:10], "median10") == 63.5
    assert choice_columns([3.0, 1.0], "top1") == {"top1_best_test": 3}
    assert choice_columns(CURVE, "map") == {"map_median10": 63.5, "map_best_test": 99}
    assert choice_columns([], "top1") == {}


def test_an_epoch_without_a_score_leaves_no_curve():
    rows = [{"step": 1, "peek/top1": "50"}, {"step": 2}, {"step": 3, "peek/top1": "60"}]
    assert peek_curve(rows, "top1", 2) == [50, 60]
    assert peek_curve(rows, "top1", 3) is None
    assert peek_curve(rows, "map", 2) is None


# FAULTS row 57: where it is asked for.
def test_the_columns_carry_a_warning_and_change_no_rank(tmp_path):
    figures = {"low": (50.0, 99.0), "high": (60.0, 61.0)}
    for method, (top1, best) in figures.items():
        for seed in (0, 1):
            record = Record(
                id=f"{method}-{seed}",
                method=method,
                data="cifar10",
                net="n",
                recipe="r",
                seed=seed,
                epochs=10,
                select="last",
                config_hash=method,
                recipe_hash="shared",
                status="done",
                metrics={"top1": top1 + seed, "top1_best_test": best, "top1_median10": top1},
            )
            folder = tmp_path / record.id
            folder.mkdir()
            write_record(folder, record)
    board = build_leaderboard(find_runs([tmp_path]))
    assert [row.label for row in board.groups[0].rows] == ["high", "low"]
    assert [row.marked for row in board.groups[0].rows] == [True, False]
    for style in ("table", "markdown"):
        assert "top1_median10" not in render(board, style)  # never among the default columns
        text = render(board, style, columns=["all"])
        assert "top1_median10 \N{WARNING SIGN}" in text
        assert "top1_best_test \N{WARNING SIGN}" in text
        assert "99.00" in text
        assert "chosen on the test set" in text
    assert "top1_best_test_mean" in render(board, "csv")
