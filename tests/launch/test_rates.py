"""Hours of a grid follow from speeds that were measured, and from no others."""

import pytest

from mixbench import cli, compose, run
from mixbench.errors import UserError
from mixbench.launch.plan import expand
from mixbench.launch.rates import cells, costs, devices_within, finished_after, read_rates
from mixbench.perf.report import Row, to_json

STEPS = [
    Row("P4", "B128 3x32x32 width 64", "erm", 128, [640.0]),  # 200 images per second
    Row("P4", "B128 3x32x32 width 64", "mixup", 128, [1280.0]),
    Row("P4", "B128 3x32x32 width 64", "alignmix, transport", 128, [1280.0]),
    Row("P4", "B512 3x32x32 width 64", "cutmix", 512, [1280.0]),
    Row("P4", "B128 3x32x32 width 64", "bc", 128, skipped="lightning is not installed"),
    Row("P4", "B128 3x64x64 ViT-Ti/8", "samix", 128, [1280.0]),
    Row("P3", "B128 3x32x32", "fmix", 128, [1280.0]),
]
FACTS = {"hardware": "Made up", "device": "cuda", "threads": 1}


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "speed.json"
    path.write_text(to_json(FACTS, STEPS, [], {"P4": "erm"}))
    return path


def planned(table, *words):
    return costs(cells(expand(["epochs=200", *words]), {}), read_rates([table]))


def test_hours_are_images_times_epochs_over_the_speed(table, capsys):
    words = ["method=erm,mixup", "data=cifar10,cifar100", "seeds=0..9", "epochs=200"]
    assert cli.main(["plan", *words, "--rates", str(table), "--budget", "100h"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "40 runs; speeds were measured on: Made up"
    found = [line.split() for line in lines]
    erm, mixup = 200 * 50_000 / 200 / 3600, 200 * 50_000 / 100 / 3600
    for data in ("cifar10", "cifar100"):
        assert ["erm", data, "steps", "200.0", f"{erm:.1f}", "h", "10"] in found
        assert ["mixup", data, "steps", "100.0", f"{mixup:.1f}", "h", "10"] in found
    whole = 20 * (erm + mixup)
    assert ["1", f"{whole:,.1f}", f"{whole / 24:.1f}"] in found
    eighth = 8 * erm  # of 60 times that in all
    assert ["8", f"{eighth:.1f}", f"{eighth / 24:.1f}"] in found
    assert ["64", f"{mixup:.1f}", f"{mixup / 24:.1f}"] in found
    assert "within 4.2 d: at least 9 devices" in lines
    assert "Steps were timed alone" in lines[-2]


@pytest.mark.parametrize(
    "words",
    [
        ["method=fmix"],  # of another part
        ["method=bc"],  # skipped
        ["method=alignmix"],  # steps of other settings
        ["method=samix"],  # another network
        ["method=cutmix"],  # another batch
        ["method=erm", "net.width=16"],
        ["method=erm", "precision=bf16"],
        ["method=erm", "batch_size=64"],
        ["method=erm", "optim.ema=0.99"],
        ["method=erm", "net=wrn16x8"],
        ["method=erm", "data=tinyimagenet", "batch_size=128"],
        ["method=mixup", "method.alpha=0.2"],  # of which steps tell nothing
    ],
)
def test_a_speed_of_something_else_is_none(table, words):
    with pytest.raises(
        UserError, match=r"(?s)was not measured.*mixbench bench method=\w+ .*--jobs 1"
    ):
        planned(table, "data=cifar10", *words)


def test_the_command_that_measures_names_all_that_lacks(table, capsys):
    words = ["plan", "method=erm,bc,fmix", "data=cifar10", "net.width=32"]
    assert cli.main([*words, "--rates", str(table)]) == 2
    told = capsys.readouterr().err
    assert "known is one with net.width=64" in told
    assert "method=erm,bc,fmix data=cifar10 net.width=32 epochs=1 seeds=0" in told


def test_without_speeds_nothing_is_guessed(capsys):
    assert cli.main(["plan", "method=erm", "data=cifar10"]) == 2
    assert "none is guessed" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["no.json", "empty.json", "list.json"])
def test_what_tells_no_speed_is_refused(tmp_path, name):
    (tmp_path / "empty.json").write_text(to_json(FACTS, STEPS[-1:], [], {}))
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(UserError):
        read_rates([tmp_path / name])


def test_a_run_tells_its_speed_for_its_own_settings_and_what_it_takes_beside(runs, tiny):
    record = run(compose(["method=cutmix", *tiny]))
    (rate,) = read_rates([runs])
    assert record.img_per_s is not None
    assert rate.other_s is not None
    assert (rate.images_s, rate.data, rate.count) == (record.img_per_s, "digits", 1)
    trained = record.epochs * record.train_size / record.img_per_s
    assert rate.other_s == pytest.approx(record.wall_s - trained)
    given = [*tiny, "method=cutmix", "epochs=50", "seeds=0,1"]
    (cell,) = cells(expand(given), {"digits": 1000})
    ((cost,),) = costs([cell], [rate]).values()
    assert (cell.images, cell.epochs, cell.runs) == (128, 50, 2)  # of 1000, data.limit
    assert cost.seconds == pytest.approx(50 * 128 / record.img_per_s + rate.other_s)
    for other in ("method.prob=0.5", "net.width=8", "trainer.compile=true"):
        with pytest.raises(UserError, match="known is one with"):
            costs(cells(expand([*given, other]), {"digits": 1000}), [rate])
    with pytest.raises(UserError, match="--images digits=N"):
        cells(expand(given), {})


def test_long_runs_start_first_and_a_device_that_is_free_takes_the_next():
    assert finished_after([1, 1, 1, 3], 2) == 3
    assert finished_after([2, 2, 2], 2) == 4
    assert finished_after([5.0], 64) == 5
    assert devices_within([2, 2, 2], 4) == 2
    assert devices_within([2, 2, 2], 3.9) == 3
    assert devices_within([2, 2, 2], 1.9) is None
