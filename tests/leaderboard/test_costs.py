import math

import pytest

from mixbench.leaderboard.costs import equal_cost, hours, prior_hours
from mixbench.leaderboard.render import render
from mixbench.leaderboard.rows import Leaderboard
from mixbench.records.record import Record


def records(method, epochs, top1, speed: float | None = 1000.0, **changes):
    values = {
        "data": "cifar",
        "net": "net",
        "recipe": "quick",
        "select": "last",
        "config_hash": method,
        "recipe_hash": f"r{epochs}",
        "family_hash": "f",
        "train_size": 36_000,
        "device": "GPU",
        "img_per_s": speed,
    } | changes
    return [
        Record(
            id=f"{method}{epochs}-s{seed}",
            method=method,
            seed=seed,
            epochs=epochs,
            metrics={"top1": value},
            **values,
        )
        for seed, value in enumerate(top1)
    ]


def row(method, epochs, top1, speed: float | None = 1000.0, **changes):
    return method, "top1", records(method, epochs, top1, speed, **changes)


def test_hours_are_those_of_the_gpu_or_of_the_measured_speed():
    (record,) = records("erm", 10, [90.0])
    assert hours(record) == pytest.approx(10 * 36_000 / 1000 / 3600)
    record.gpu_hours = 2.5
    assert hours(record) == 2.5
    assert hours(records("erm", 10, [90.0], speed=None)[0]) is None


@pytest.mark.parametrize("on_gpu", [False, True])
def test_runs_that_a_run_uses_are_part_of_its_cost_each_once(on_gpu):
    teacher, search, use = (records(name, 10, [90.0])[0] for name in ("erm", "search", "use"))
    for record, before in ((teacher, []), (search, [teacher]), (use, [search, teacher])):
        if on_gpu:
            record.gpu_hours = 2.0
        record.prior_hours = prior_hours(record, before)
        if on_gpu:
            record.gpu_hours = 2.0 + sum(record.prior_hours.values())
    own = 2.0 if on_gpu else 0.1
    assert hours(search) == pytest.approx(2 * own)
    assert use.prior_hours == pytest.approx({teacher.id: own, search.id: own})
    assert hours(use) == pytest.approx(3 * own)
    other = records("other", 10, [90.0])[0]
    other.gpu_hours = None if on_gpu else 5.0
    assert prior_hours(use, [other]) == {}  # hours of a CPU and of a GPU do not add up


def test_a_slow_method_stands_beside_longer_runs_of_the_others():
    found = equal_cost(
        [
            row("erm", 10, [90.0, 90.2]),
            row("samix", 10, [93.0, 93.2], speed=400.0),
            row("mixup", 10, [91.0, 91.2], speed=990.0),
            row("erm", 25, [92.0, 92.2]),
            row("mixup", 24, [94.0, 94.2]),
            row("mixup", 27, [80.0, 80.2]),
            row("erm", 50, [99.0, 99.2]),
        ]
    )
    (table,) = found
    assert [(r.label, r.epochs) for r in table.rows] == [("mixup", 24), ("samix", 10), ("erm", 25)]
    slow = table.rows[1]
    assert slow.step == pytest.approx(2.5)
    assert slow.hours == pytest.approx(0.25)
    assert table.note == ""
    assert "at the cost of samix: 0.25 CPU hours, within 15 %" in table.title
    assert table.evidence.reference == "erm"


def test_tables_come_in_the_order_of_their_data():
    rows = [
        row(method, 10, [top1, top1 + 0.2], speed=speed, data=data)
        for data, top1 in (("b", 90.0), ("c", 91.0), ("a", 95.0))
        for method, speed in (("erm", 1000.0), ("samix", 400.0))
    ]
    longer = [row("erm", 25, [92.0, 92.2], data=data) for data in ("a", "b", "c")]
    found = equal_cost([*rows, *longer])
    assert [table.title.split(" · ")[0] for table in found] == ["a", "b", "c"]


def test_marks_stand_below_a_table_at_equal_cost():
    found = equal_cost(
        [
            row("erm", 25, [90.0, 90.2]),
            row("samix", 10, [93.0, 93.2], speed=400.0, marks=["few steps"]),
        ]
    )
    assert [r.marks for r in found[0].rows] == [{"few steps": 2}, {}]
    text = render(Leaderboard([], [], found))
    assert "The runs of samix are marked: few steps" in text
    assert "fewer than 100" in text


def test_what_is_missing_is_named_with_its_length():
    (table,) = equal_cost(
        [row("erm", 10, [90.0, 90.2]), row("samix", 10, [93.0, 93.2], speed=400.0)]
    )
    assert [r.label for r in table.rows] == ["samix"]
    text = render(Leaderboard([], [], [table]))
    assert "samix (epochs=25)" in text
    assert "equal cost: " not in text
    assert table.note == "No run of erm costs as much; train one with epochs=25."


def test_rows_that_lack_a_measure_on_several_data_are_told_apart():
    members = [
        row(name, 10, [90.0, 90.2], speed=speed, data=data)
        for data in ("cifar10", "cifar100")
        for name, speed in (("erm", 1000.0), ("samix", 400.0))
    ]
    text = render(Leaderboard([], costs=equal_cost(members)))
    assert "samix (cifar10, epochs=25)" in text
    assert "samix (cifar100, epochs=25)" in text


def test_hundreds_of_slow_methods_without_a_measure_are_not_tested(monkeypatch):
    slow = [row(f"m{number}", 10, [93.0, 93.2], speed=400.0 - number) for number in range(20)]
    monkeypatch.setattr("mixbench.leaderboard.costs.weigh", None)
    tables = equal_cost([row("erm", 10, [90.0, 90.2]), *slow])
    assert len(tables) == 20
    for style in ("table", "json", "csv"):
        render(Leaderboard([], costs=tables), style)


def test_steps_up_to_a_third_dearer_need_no_table():
    assert equal_cost([row("erm", 10, [90.0]), row("mixup", 10, [90.0], speed=780.0)]) == []
    assert equal_cost([row("erm", 10, [90.0]), row("mixup", 10, [90.0], speed=760.0)])


@pytest.mark.parametrize(
    "changes",
    [
        {"device": "other"},
        {"precision": "bf16"},
        {"threads": 4},
        {"batch_size": 64},
        {"family_hash": "g"},
        {"net": "wide"},
        {"select": "val"},
    ],
)
def test_other_machines_and_protocols_are_not_compared(changes):
    rows = [row("erm", 10, [90.0]), row("samix", 10, [93.0], speed=400.0, **changes)]
    assert equal_cost(rows) == []


def test_gpu_hours_count_all_stages():
    rows = [
        row("erm", 10, [90.0], gpu_hours=1.0),
        row("searched", 10, [93.0], gpu_hours=2.0),  # as fast a step, but with a search
        row("erm", 20, [91.0], gpu_hours=2.1),
    ]
    (table,) = equal_cost(rows)
    assert table.unit == "GPU hours"
    assert [r.label for r in table.rows] == ["searched", "erm"]


def test_rows_of_unknown_cost_or_of_several_machines_are_left_out():
    mixed = records("samix", 10, [93.0, 93.1], speed=400.0)
    mixed[1].device = "other"
    unknown = row("samix", 10, [93.0], speed=None)
    assert equal_cost([row("erm", 10, [90.0]), ("samix", "top1", mixed), unknown]) == []


def test_a_score_that_is_not_finite_does_not_stop_the_table():
    (table,) = equal_cost(
        [row("erm", 10, [90.0, math.nan]), row("samix", 10, [93.0, 92.0], speed=400.0)]
    )
    assert table.rows[0].label == "samix"


def test_steps_are_compared_with_plain_training_of_any_length():
    (table,) = equal_cost(
        [row("erm", 25, [92.0, 92.2]), row("samix", 10, [93.0, 93.2], speed=400.0)]
    )
    assert {r.label: r.step for r in table.rows} == pytest.approx({"samix": 2.5, "erm": 1.0})


@pytest.mark.parametrize(("fast", "slow"), [(1e38, 5e-324), (1000.0, 5e-324), (1e38, 1.0)])
def test_speeds_that_no_machine_has_make_no_ratio(fast, slow):
    found = equal_cost([row("erm", 10, [90.0], speed=fast), row("samix", 10, [93.0], speed=slow)])
    assert found == []
