"""A published figure beside our runs."""

import math

import pytest

from mixbench.leaderboard.literature import Figure
from mixbench.leaderboard.reproduction import compare, published, report, value_of
from mixbench.records.curves import write_curves
from mixbench.records.record import Record

FACTS = {"method": "mixup", "data": "cifar10", "net": "preactresnet18", "recipe": "mixup_cifar"}
T2 = 4.302652729911275  # 95 % quantile of t with two degrees of freedom


def figure(value=90.0, metric="top1", select="last", **more):
    return Figure(
        **FACTS, value=value, metric=metric, select=select, source="README", title="A paper", **more
    )


def record(folder, seed, top1, curve=None, **more):
    folder.mkdir()
    if curve is not None:
        rows = [{"epoch": n, "step": n, "peek/top1": value} for n, value in enumerate(curve)]
        write_curves(folder / "metrics.csv", rows)
    facts = {key: FACTS[key] for key in ("method", "data", "net", "recipe")}
    return Record(
        id=folder.name,
        seed=seed,
        epochs=len(curve) if curve else 200,
        select="last",
        config_hash="a",
        recipe_hash="b",
        status="done",
        metrics={"top1": top1},
        **facts,
        **more,
    ), folder


@pytest.fixture
def three(tmp_path):
    return [record(tmp_path / str(seed), seed, 89.0 + seed) for seed in range(3)]


@pytest.mark.parametrize(
    ("value", "verdict"),
    [(90, "inside"), (94.96, "inside"), (94.97, "outside"), (85.04, "inside"), (85.03, "outside")],
)
def test_a_value_is_inside_where_one_more_run_is_expected(three, value, verdict):
    half = T2 * math.sqrt(1 + 1 / 3)  # the deviation of 89, 90, 91 is 1
    found = compare(figure(value), three, {})
    assert found.interval == pytest.approx((90 - half, 90 + half))
    assert found.verdict == verdict


def test_an_error_is_compared_as_an_accuracy(three):
    assert compare(figure(10.0, "top1_err"), three, {}).verdict == "inside"
    assert compare(figure(20.0, "top1_err"), three, {}).verdict == "outside"
    assert "10 top1_err = 90 top1" in published(figure(10.0, "top1_err"))


def test_one_seed_supports_no_verdict(three):
    found = compare(figure(), three[:1], {})
    assert found.verdict == "one seed: no verdict"
    assert "prediction interval" not in "\n".join(report(found))


def test_the_same_statistic_is_compared(tmp_path):
    curve = [10.0, 99.0, *range(60, 68), 50.0]  # eleven epochs
    run, folder = record(tmp_path / "0", 0, 50.0, curve)
    expected = {"last": 50, "best": 99, "best10": 99, "median10": 63.5, "median5": 65}
    for select, value in expected.items():
        assert value_of(figure(select=select), run, folder) == value
    assert value_of(figure(select="unknown"), run, folder) == 50
    assert value_of(figure(metric="top1_err"), run, folder) == 50
    assert value_of(figure(metric="map", select="best"), run, folder) is None
    run.metrics["top1"] = math.nan
    assert value_of(figure(), run, folder) is None


@pytest.mark.parametrize(
    ("more", "changes", "reason"),
    [
        ({}, {"epochs": [200, 3]}, "epochs 200 -> 3"),
        ({}, {"data.crop": [4, 0]}, "data.crop 4 -> 0"),
        ({}, {"data.name": ["", "q80"]}, "data.name none -> q80"),
        ({"official": False}, {}, "not the authors'"),
        ({"label_noise": 0.4}, {}, "trained on other labels"),
        ({"config_changes": {"lr": [0.1, 0.2]}}, {}, "changed during the run"),
    ],
)
def test_what_differs_makes_it_not_comparable(tmp_path, more, changes, reason):
    runs = [record(tmp_path / str(seed), seed, 90.0 + seed, **more) for seed in range(2)]
    verdict = compare(figure(), runs, changes).verdict
    assert verdict.startswith("not comparable: ")
    assert reason in verdict


def test_an_unsaid_choice_or_another_length_is_not_comparable(three):
    assert "does not say" in compare(figure(select="unknown"), three, {}).verdict
    assert "epochs 300 -> 200" in compare(figure(epochs=300), three, {}).verdict
    assert compare(figure(epochs=200), three, {}).verdict == "inside"


def test_a_run_that_did_not_look_gives_no_best_epoch(tmp_path, three):
    verdict = compare(figure(select="best"), three, {}).verdict
    assert "seed 2: best needs a test score of each epoch (peek=true)" in verdict
    short = [record(tmp_path / f"s{seed}", seed, 1.0, [1.0, 2.0]) for seed in range(2)]
    found = compare(figure(select="median10"), short, {})
    assert "seed 1: median10 needs 10 epochs, not 2" in found.verdict
    assert found.verdict in report(found)[-1]


def test_a_run_without_the_score_is_named(tmp_path, three):
    bare, folder = record(tmp_path / "bare", 7, 90.0)
    del bare.metrics["top1"]
    verdict = compare(figure(select="last"), [*three, (bare, folder)], {}).verdict
    assert "seed 7: its record has no finite top1" in verdict


def test_the_report_says_everything_once(three):
    lines = report(compare(figure(94.0, epochs=200, n=10, setting="with care"), three, {}))
    assert lines[0].endswith("94 top1, last epoch, 200 epochs, n=10, with care: README; A paper")
    assert "90.00 top1, last epoch, n=3, sd 1.00: 89.00, 90.00, 91.00" in lines[1]
    assert "85.03 to 94.97" in lines[2]
    assert "mean of 10 runs, which varies less" in lines[3]
    assert lines[4].split(maxsplit=1) == ["verdict", "inside"]
