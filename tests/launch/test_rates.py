"""Hours of a grid follow from rates that were measured, and from no others."""

import pytest

from mixbench import cli, compose, run
from mixbench.config.auto import auto_values
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
    Row("P4", "B128 3x32x32 width 64", "moco", 128, [1280.0]),
    Row("P4", "B100 3x64x64 width 64", "puzzlemix", 100, [1000.0]),
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


def test_hours_are_images_times_epochs_over_the_rate(table, capsys):
    words = ["method=erm,mixup", "data=cifar10,cifar100", "seeds=0..9", "epochs=200"]
    assert cli.main(["plan", *words, "--rates", str(table), "--budget", "100h"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "40 runs; rates were measured on: Made up"
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


def test_less_than_an_hour_is_told_in_minutes(table, capsys):
    words = ["method=erm", "data=cifar10", "seeds=0..9", "epochs=2"]  # of 500 seconds each
    assert cli.main(["plan", *words, "--rates", str(table), "--devices", "1,2"]) == 0
    found = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["1", "1.4", "0.1"] in found
    assert ["2", "42", "min"] in found


def test_a_budget_below_zero_is_told_as_one(table, capsys):
    words = ["plan", "method=erm", "data=cifar10", "--rates", str(table), "--budget"]
    for value in ("-3d", "-1h30min", "0h"):
        assert cli.main([*words, value]) == 2
        assert f"--budget {value} must be positive" in capsys.readouterr().err


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
        ["method=erm", "optim.name=adamw"],
        ["method=erm", "optim.clip=1"],
        ["method=erm", "trainer.channels_last=false"],
        ["method=erm", "trainer.deterministic=true"],
        ["method=erm", "trainer.engine=fast"],
        ["method=erm", "trainer.compile_input=always"],
        ["method=erm", "data.augment_by=epoch"],
        ["method=erm", "data=tinyimagenet", "batch_size=128"],
        ["method=mixup", "method.alpha=0.2"],  # of which steps tell nothing
        ["method=puzzlemix", "recipe=puzzlemix_tinyimagenet", "data=tinyimagenet"],  # nor of its
    ],
)
def test_a_rate_of_something_else_is_none(table, words):
    with pytest.raises(
        UserError, match=r"(?s)was not measured.*mixbench bench method=\w+ .*--jobs 1"
    ):
        planned(table, "data=cifar10", *words)


def test_steps_hold_for_the_defaults_of_a_method_and_for_its_task(table):
    words = ["method=puzzlemix", "method.cell=4", "data=tinyimagenet", "batch_size=100"]
    ((cost,),) = planned(table, *words).values()
    assert cost.rate.images_s == 100
    ((cost,),) = planned(table, "method=moco", "data=cifar10").values()
    assert cost.cell.keys["task"] == "ssl"


@pytest.mark.parametrize("word", ["crop_area=0.5", "resize=40", "crop_scales=[1.0]", "workers=2"])
def test_the_way_that_images_are_read_is_part_of_what_a_rate_holds_for(word):
    given = ["method=erm", "data=cifar10", "data.size=32", "data.fit=squeeze"]
    given = given[:3] if "resize" in word else given
    plain, other = (cells(expand([*given, *more]), {})[0].keys for more in ([], [f"data.{word}"]))
    assert plain != other
    if "area" in word:
        (stored,) = cells(expand([*given, f"data.{word}", "data.store=40"]), {})
        assert stored.keys not in (plain, other)


def test_graphs_are_part_of_what_a_rate_holds_for():
    given = ["method=erm", "data=cifar10", "trainer.engine=fast"]
    found = [cells(expand([*given, f"trainer.cuda_graphs={on}"]), {}) for on in ("false", "true")]
    assert found[0][0].keys != found[1][0].keys


@pytest.mark.parametrize(
    ("words", "images"),
    [
        (["data=cifar10", "data.repeats=3"], 50_000),  # an epoch is as long as without
        (["data=cifar10", "select=val"], 45_000),
        (["data=tinyimagenet", "select=val"], 95_000),  # at most 5,000 are held out
    ],
)
def test_an_epoch_has_as_many_images_as_training_gives_it(words, images):
    (cell,) = cells(expand(["method=erm", *words]), {})
    assert cell.images == images


def test_what_is_left_to_the_number_of_images_is_decided_before_it_costs():
    (cell,) = cells(expand(["method=erm", "data=digits", "recipe=auto"]), {"digits": 3000})
    values = auto_values(3000)
    assert (cell.epochs, cell.keys["batch_size"]) == (values.epochs, values.batch_size)


def test_a_precision_that_is_left_to_the_device_is_refused(table):
    with pytest.raises(UserError, match="give precision=fp32 or precision=bf16"):
        planned(table, "method=erm", "data=cifar10", "precision=auto")


def test_the_command_that_measures_names_all_that_lacks(table, capsys):
    words = ["plan", "method=erm,bc,fmix", "data=cifar10", "net.width=32"]
    assert cli.main([*words, "--rates", str(table)]) == 2
    told = capsys.readouterr().err
    assert "known is one with net.width=64" in told
    assert "method=erm,bc,fmix data=cifar10 net.width=32 epochs=1 seeds=0" in told


def test_methods_that_cannot_train_are_left_out_of_all_and_refused_by_name(table, capsys):
    words = ["data=cifar10", "net.width=64", "--rates", str(table)]
    assert cli.main(["plan", "method=all", *words]) == 2  # as no rate of many others is known
    told = capsys.readouterr().err
    assert "left out: method splicemix needs multilabel data" in told
    (measured,) = [line for line in told.splitlines() if "mixbench bench" in line]
    assert "fmix" in measured
    assert not {"splicemix", "tlalign", "transformmix_search"} & set(
        measured.replace("=", ",").split(",")
    )
    assert cli.main(["plan", "method=erm,tlalign", *words]) == 2
    assert "where: method=tlalign" in capsys.readouterr().err


def test_without_rates_nothing_is_guessed(capsys):
    assert cli.main(["plan", "method=erm", "data=cifar10"]) == 2
    assert "none is guessed" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["no.json", "empty.json", "list.json", "dry.json"])
def test_what_tells_no_rate_is_refused(tmp_path, name):
    (tmp_path / "empty.json").write_text(to_json(FACTS, STEPS[-1:], [], {}))
    (tmp_path / "dry.json").write_text(to_json(FACTS | {"dry_run": True}, STEPS, [], {}))
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(UserError):
        read_rates([tmp_path / name])


def test_a_run_tells_its_rate_for_its_own_settings_and_what_it_takes_beside(runs, tiny):
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
    with pytest.raises(UserError, match="--images own=N"):
        cells(expand([*given, "data.name=own"]), {})


def test_long_runs_start_first_and_a_device_that_is_free_takes_the_next():
    assert finished_after([1, 1, 1, 3], 2) == 3
    assert finished_after([2, 2, 2], 2) == 4
    assert finished_after([5.0], 64) == 5
    assert devices_within([2, 2, 2], 4) == 2
    assert devices_within([2, 2, 2], 3.9) == 3
    assert devices_within([2, 2, 2], 1.9) is None


def test_images_of_a_data_set_that_no_run_trains_on_are_refused():
    planned = expand(["method=erm", "data=cifar10"])
    assert cells(planned, {"cifar10": 5})[0].images == 5
    with pytest.raises(UserError, match=r"(?s)no run trains on foo.*cifar10"):
        cells(planned, {"foo": 5})


def test_a_budget_that_is_no_time_is_named_as_it_is_given(tmp_path, capsys):
    words = ["plan", "method=erm", "data=digits", "--rates", str(tmp_path / "none")]
    assert cli.main([*words, "--budget", "7"]) == 2
    assert "write --budget 4h" in capsys.readouterr().err
    assert cli.main(words) == 2
    assert "no such folder" in capsys.readouterr().err
