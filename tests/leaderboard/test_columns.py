"""A score is described once, and every table reads it there."""

import math
from dataclasses import fields

import pytest

from mixbench.leaderboard import columns
from mixbench.leaderboard.columns import COLUMNS, NONE, Column, column_names, describe, sampled
from mixbench.leaderboard.render import render
from mixbench.leaderboard.rows import build_leaderboard, find_runs
from mixbench.records.record import Record, write_record


def test_every_column_says_what_it_is():
    everything = (*columns._SCORES, *columns._PEEKED, *columns._COSTS)
    assert len(COLUMNS) == len(everything)  # no name is given twice
    for column in everything:
        assert column.title, column.name
        assert column.better in ("higher", "lower", ""), column.name
        assert column.kind in ("score", "cost", "peek"), column.name
        assert column.suite or not column.sampled, column.name


def test_costs_are_fields_of_a_record():
    known = {item.name for item in fields(Record)}
    assert set(column_names("cost", unlisted=True)) <= known


def test_kinds_and_unlisted_columns_are_told_apart():
    assert column_names("cost") == ("img_per_s", "peak_mem_gb", "gpu_hours", "wall_s")
    assert "T" not in column_names()
    assert "T" in column_names(unlisted=True)
    assert set(column_names("score", "peek", "cost")) == set(column_names())


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("top1", 80.126, "80.13"),
        ("nll", 0.7, "0.7000"),
        ("img_per_s", 1234.5, "1234"),
        ("top1", None, NONE),
        ("top1", math.nan, NONE),
        ("of_a_plugin", 1.0, "1.0000"),
    ],
)
def test_a_value_has_the_digits_of_its_column(name, value, shown):
    assert describe(name).text(value) == shown


def test_the_better_value_comes_first_and_what_is_no_number_last():
    values = [2.0, math.nan, 3.0, 1.0]
    assert sorted(values, key=describe("top1").rank)[:3] == [3.0, 2.0, 1.0]
    assert sorted(values, key=describe("nll").rank)[:3] == [1.0, 2.0, 3.0]


def test_scores_of_some_images_are_told_by_their_suite():
    assert sampled(["top1", "fgsm_8", "lin_gap", "pgd20_1", "occ_auc"]) == {
        "adversarial": ["fgsm_8", "pgd20_1"],
        "linearity": ["lin_gap"],
    }


def test_a_column_that_is_added_is_in_the_leaderboard(tmp_path, monkeypatch):
    more = {**COLUMNS, "toy": Column("toy", "a toy", "%", "lower", 1, suite="toys", sampled=True)}
    monkeypatch.setattr(columns, "COLUMNS", more)
    for seed in range(2):
        (tmp_path / f"r{seed}").mkdir()
        words = dict.fromkeys(
            ("method", "data", "net", "recipe", "config_hash", "recipe_hash"), "x"
        )
        found = Record(f"r{seed}", **words, seed=seed, epochs=1, select="last", status="done")
        found.metrics = {"top1": 90.0, "toy": 3.26}
        found.evaluations = {"toys": {"images": 30}}
        write_record(tmp_path / f"r{seed}", found)
    text = render(build_leaderboard(find_runs([tmp_path])), columns=["all"])
    assert " 3.3" in text
    assert "toy (%, lower is better) is measured on 30 of the test images" in text
