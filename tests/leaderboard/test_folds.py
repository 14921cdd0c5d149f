"""Runs on folds in tables: one value a seed, and nothing of a part of them."""

import numpy as np
import pytest

from mixbench.leaderboard.compare import compare, read_hits
from mixbench.leaderboard.costs import hours
from mixbench.leaderboard.folds import join_folds
from mixbench.leaderboard.plots.reliability import _diagrams
from mixbench.leaderboard.report.provenance import provenance
from mixbench.leaderboard.rows import build_leaderboard
from mixbench.leaderboard.table import default_columns, group_text
from mixbench.records.predictions import PREDICTIONS
from mixbench.records.record import Record, read_record

SIZES = (10, 10, 20)  # test images of each fold


@pytest.fixture
def add_folds(add):
    """Runs of a method on the folds of a set, with their predictions."""

    def write(method, seed, scores, **changes):
        places = []
        for fold, top1 in enumerate(scores):
            values = {
                "config_hash": f"{method}{fold}", "row_hash": f"row of {method}", "folds": 3,
                "fold": fold, "train_size": 30, "test_size": SIZES[fold], "img_per_s": 10.0,
                "notices": ["of all", f"of {fold}"], "skipped_test": fold,
                "evaluations": {"adversarial": {"images": 5, "of": SIZES[fold]}},
                "metrics": {"top1": top1, "nll": 0.5, "fgsm_8": 10.0},
            }  # fmt: skip
            place = add(method, seed, folder=f"{method}{fold}s{seed}", **(values | changes))
            right = np.arange(SIZES[fold]) < round(top1 / 100 * SIZES[fold])
            np.savez(
                place / PREDICTIONS,
                logits=np.stack([right, ~right], 1).astype(np.float32),
                labels=np.zeros(SIZES[fold], np.int64),
                ids=np.arange(SIZES[fold]),
            )
            places.append(place)
        return places

    return write


def table(places):
    (group,) = build_leaderboard(places).groups
    return group


def test_all_folds_of_a_seed_are_one_value_the_mean_over_their_images(add_folds):
    places = [*add_folds("erm", 0, (50, 60, 90)), *add_folds("erm", 1, (60, 60, 80))]
    group = table(places)
    (row,) = group.rows
    assert row.seeds == [0, 1]
    assert [record.metrics["top1"] for record in row.records] == [72.5, 70.0]
    assert row.summaries["top1"].mean == 71.25
    assert row.summaries["top1"].n == 2
    assert (group.folds, group.sizes) == (3, (30, 40))
    assert group.title.endswith("30 training and 40 test images in 3 folds")
    assert row.images_of("fgsm_8") == {15}
    assert row.runs == [places[:3], places[3:]]
    assert row.records[0].notices == ["of all"]
    assert row.records[0].skipped_test == 3


def test_the_table_says_what_n_and_intervals_count(add_folds):
    places = [
        place
        for method, shift in (("erm", 0), ("mixup", 10))
        for seed in range(3)
        for place in add_folds(method, seed, (50 + shift, 60 + shift, 75 + 5 * seed))
    ]
    text = group_text(table(places), "table", default_columns(table(places)))
    assert "a cross-validation: the mean over all images, each tested in one of 3 folds" in text
    assert "n and all intervals count seeds" in text
    assert table(places).evidence.df == 4


@pytest.mark.parametrize("status", ["interrupted", "diverged", "failed", "running"])
def test_a_part_of_the_folds_is_in_no_mean_and_said(add_folds, status):
    whole = add_folds("mixup", 0, (50, 60, 70))
    part = add_folds("erm", 0, (50, 60, 70))
    board = build_leaderboard([*whole, *part[:2]])
    assert [row.label for row in board.groups[0].rows] == ["mixup"]
    (line,) = board.others
    assert "of 3 folds these are done: 0, 1" in line
    bad = add_folds("bc", 0, (1,), status=status)[0]
    board = build_leaderboard([*whole, *add_folds("bc", 1, (50, 60, 70)), bad])
    row = next(row for row in board.groups[0].rows if row.label == "bc")
    assert (row.seeds, row.failed, row.diverged) == ([1], 1, int(status == "diverged"))
    shown = "interrupted" if status == "running" else status  # nobody holds its lock
    assert any(f"fold 0 is {shown}" in line for line in board.others)


def test_folds_and_other_divisions_share_no_table(add_folds, add):
    places = add_folds("erm", 0, (50, 60, 70))
    other = add("mixup", 0, recipe_hash="other", train_size=32, test_size=8)
    assert len(build_leaderboard([*places, other]).groups) == 2


def test_comparisons_and_plots_read_the_predictions_of_all_folds(add_folds):
    places = [*add_folds("erm", 0, (50, 60, 90)), *add_folds("mixup", 0, (60, 70, 90))]
    board = build_leaderboard(places)
    row = next(row for row in board.groups[0].rows if row.label == "erm")
    hits, labels, ids, _ = read_hits(row)
    assert hits.shape == (1, 40)
    assert hits.sum() == 29
    assert len(labels) == len(ids) == 40
    (found,) = compare(board, "mixup", "erm", resamples=100)
    assert found.numbers["images"]["difference"] == pytest.approx(5.0)
    (diagram,) = _diagrams(row, True)
    assert diagram.counts.sum() == 40
    assert "data.fold" not in provenance(row).command


def test_the_cost_is_that_of_all_folds(add_folds):
    places = add_folds("erm", 0, (50, 60, 70))
    ((whole, _),) = join_folds([(read_record(place), place) for place in places])
    one = read_record(places[0])
    assert hours(whole) == pytest.approx(3 * (hours(one) or 0))


def test_records_without_folds_stay_as_they_are(tmp_path):
    record = Record("a", "erm", "cifar", "net", "quick", 0, 1, "last", "c", "r")
    assert join_folds([(record, tmp_path)]) == [(record, [tmp_path])]
