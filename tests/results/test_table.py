import csv
import io
import json
import math
import shutil

import pytest

from mixbench.errors import UserError
from mixbench.results.curves import read_curves, write_curves
from mixbench.results.leaderboard import build_leaderboard, find_runs
from mixbench.results.record import RECORD, Record, write_record
from mixbench.results.table import FORMATS, NONE, render


@pytest.fixture
def add(tmp_path):
    def write(method="mixup", seed=0, top1=90.0, folder=None, status="done", **changes):
        values = {
            "data": "cifar",
            "net": "net",
            "recipe": "quick",
            "epochs": 16,
            "select": "last",
            "config_hash": f"{method}{changes.get('settings', '')}",
            "recipe_hash": "r" * 16,
            "metrics": {"top1": top1, "nll": 0.5, "ece": 0.04},
        } | changes
        identity = f"{method}-{values['data']}-{values['config_hash'][:8]}-s{seed}"
        place = tmp_path / (folder or identity)
        place.mkdir(parents=True)
        write_record(place, Record(id=identity, method=method, seed=seed, status=status, **values))
        return place

    return write


def board(tmp_path):
    return build_leaderboard(find_runs([tmp_path]))


def test_rows_are_ranked_by_their_mean_over_seeds(add, tmp_path):
    for seed, (first, second) in enumerate([(90.0, 93.0), (90.2, 93.3), (90.4, 93.1)]):
        add("erm", seed, first)
        add("mixup", seed, second)
    (group,) = board(tmp_path).groups
    assert [row.label for row in group.rows] == ["mixup", "erm"]
    assert group.rows[1].summaries["top1"].mean == pytest.approx(90.2)
    assert [row.marked for row in group.rows] == [True, False]
    text = render(board(tmp_path), "table")
    assert "mixup *" in text
    assert "90.20" in text


# FAULTS row 55.
def test_different_protocols_are_never_averaged_or_ranked_together(add, tmp_path):
    add("mixup", 0)
    add("mixup", 1, epochs=200, recipe_hash="long", config_hash="mixup200")
    add("mixup", 2, select="val", config_hash="mixupval")
    add("mixup", 3, net="other", config_hash="mixupother")
    assert len(board(tmp_path).groups) == 4
    assert all(len(row.seeds) == 1 for group in board(tmp_path).groups for row in group.rows)


def test_settings_make_rows_of_their_own(add, tmp_path):
    add("mixup", 0, 90, settings={"alpha": 0.2})
    add("mixup", 0, 91)
    (group,) = board(tmp_path).groups
    assert [row.label for row in group.rows] == ["mixup", "mixup alpha=0.2"]


def test_one_seed_shows_no_deviation_and_no_mark(add, tmp_path):
    add("mixup", 0, 93.0)
    text = render(board(tmp_path), "markdown")
    assert "n=1: one seed supports no interval and no claim" in text
    assert "**" not in text
    assert f"| mixup | 1 | 93.00 | {NONE} | {NONE} |" in text


def test_ties_within_the_interval_are_marked_as_ties(add, tmp_path):
    for seed in range(3):
        add("erm", seed, 90.0 + seed)
        add("mixup", seed, 90.1 + seed)
    (group,) = board(tmp_path).groups
    assert [row.marked for row in group.rows] == [True, True]


def test_failed_seeds_are_counted_and_listed(add, tmp_path):
    add("mixup", 0)
    add("mixup", 1)
    add("mixup", 2, status="diverged", message="weights are not finite")
    found = board(tmp_path)
    assert found.groups[0].rows[0].failed == 1
    text = render(found)
    assert "2 of 3" in text
    assert "-s2: diverged (weights are not finite)" in text


def test_a_group_without_finished_runs_is_listed_only(add, tmp_path):
    add("mixup", 0, status="failed")
    assert board(tmp_path).groups == []
    assert "No finished runs." in render(board(tmp_path))


# FAULTS row 54.
def test_an_unreadable_record_is_listed_and_the_rest_shown(add, tmp_path):
    add("mixup", 0)
    (add("mixup", 1) / RECORD).write_text('{"id": "mix')
    found = board(tmp_path)
    assert found.groups[0].rows[0].seeds == [0]
    assert any("unreadable" in line for line in found.others)


def test_duplicate_ids_are_resolved_by_their_attempt(add, tmp_path):
    add("mixup", 0, 80.0, folder="old", attempts=[{"number": 1}])
    add("mixup", 0, 95.0, folder="new", attempts=[{"number": 1}, {"number": 2}])
    found = board(tmp_path)
    assert found.groups[0].rows[0].summaries["top1"].mean == 95.0
    assert found.groups[0].rows[0].seeds == [0]
    assert any("another record of mixup" in line for line in found.others)
    shutil.move(tmp_path / "old", tmp_path / "zzz")  # not a matter of order
    assert board(tmp_path).groups[0].rows[0].summaries["top1"].mean == 95.0


# FAULTS row 56.
def test_values_that_are_not_finite_are_shown_as_missing_last_and_never_best(add, tmp_path):
    for seed in range(2):
        add("erm", seed, math.nan)
        add("mixup", seed, 50.0 + seed)
    (group,) = board(tmp_path).groups
    assert [row.label for row in group.rows] == ["mixup", "erm"]
    assert group.rows[1].marked is False
    assert "NaN" not in render(board(tmp_path), "json")
    assert "nan" not in render(board(tmp_path), "table")


def test_digits_are_listed_alphabetically_without_marks(add, tmp_path):
    for seed in range(2):
        add("mixup", seed, 99.0 + seed / 10, data="digits")
        add("erm", seed, 90.0 + seed / 10, data="digits")
    (group,) = board(tmp_path).groups
    assert [row.label for row in group.rows] == ["erm", "mixup"]
    assert not any(row.marked for row in group.rows)
    assert "smoke test: listed alphabetically" in render(board(tmp_path))


@pytest.mark.parametrize("style", FORMATS)
def test_every_format_carries_mean_deviation_count_and_interval(add, tmp_path, style):
    for seed, top1 in enumerate([90.0, 91.0, 92.0]):
        add("mixup", seed, top1)
    text = render(board(tmp_path), style)
    if style == "json":
        found = json.loads(text)["groups"][0]["rows"][0]["metrics"]["top1"]
    elif style == "csv":
        (line,) = csv.DictReader(io.StringIO(text))
        found = {key: float(line[f"top1_{key}"]) for key in ("mean", "sd", "low", "high")}
        found["n"] = int(line["n"])
    else:
        for expected in ("91.00", "1.00", "88.52", "93.48", "3"):
            assert expected in text
        return
    assert found["mean"] == 91.0
    assert found["sd"] == 1.0
    assert found["n"] == 3
    assert (found["low"], found["high"]) == pytest.approx((88.5159, 93.4841), abs=1e-3)


def test_hostile_text_stays_text(add, tmp_path):
    add("=cmd()|x<script>", 0, settings={"a": "*"})
    assert "'=cmd()" in render(board(tmp_path), "csv")
    text = render(board(tmp_path), "markdown")
    assert "<script>" not in text
    assert "\\|" in text


def test_an_unknown_format_or_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="unknown format 'xml'"):
        render(build_leaderboard([]), "xml")
    with pytest.raises(UserError, match="no such folder of runs"):
        find_runs([tmp_path / "missing"])


def test_curves_come_back_and_half_a_line_is_left_out(tmp_path):
    path = tmp_path / "metrics.csv"
    rows = [{"epoch": 0, "step": 1, "train/loss": 2.5}, {"epoch": 1, "step": 9, "test/top1": 50}]
    write_curves(path, rows)
    assert read_curves(path) == (rows, [])
    path.write_text(path.read_text() + "2,17,0.")
    found, warnings = read_curves(path)
    assert found == rows
    assert "incomplete" in warnings[0]
