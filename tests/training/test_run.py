import contextlib
import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from mixbench import compose, run
from mixbench.cli.parser import main
from mixbench.cli.run import print_unjudged
from mixbench.config.compose import to_plain
from mixbench.config.schema import RunConfig
from mixbench.data import DATA
from mixbench.errors import InterruptedRunError, RunFailedError, UserError
from mixbench.launch.identify import identify_runs
from mixbench.launch.plan import expand
from mixbench.methods import METHODS
from mixbench.methods.base import Method
from mixbench.metrics import scores
from mixbench.records.checkpoints import read_checkpoint
from mixbench.records.curves import read_curves
from mixbench.records.predictions import read_predictions
from mixbench.records.record import read_record, write_record
from mixbench.training import attempt
from mixbench.training.build import build
from mixbench.training.job import resolve


def weights(runs, record):
    return read_checkpoint(runs / record.id / "last.ckpt")["state_dict"]


def equal(first, second):
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


def test_a_run_leaves_everything_that_is_promised(runs, plain_wandb):
    config = compose(
        "method=cutmix data=digits data.limit=128 data.size=16 net.width=4 epochs=2 batch_size=32 "
        "trainer.log_every=2 run.tags=[a,b] run.notes=hello eval.adv_n=16"
    )
    record = run(config)
    folder = runs / record.id
    assert record.status == "done"
    assert record.id.startswith("cutmix-digits-preactresnet18-")
    assert record.id.endswith("-s0")
    assert read_record(folder) == record

    assert yaml.safe_load((folder / "config.yaml").read_text()) == to_plain(config)
    with np.load(folder / "predictions.npz") as saved:
        logits, labels, ids = (torch.from_numpy(saved[key]) for key in ("logits", "labels", "ids"))
    assert logits.dtype == torch.float32
    splits = DATA.get("digits")(config.data).load()
    assert torch.equal(labels, splits.test.labels)
    assert torch.equal(ids, torch.arange(128))
    expected = scores(logits, labels)
    found = {name: record.metrics[name] for name in expected}
    assert found == pytest.approx(expected, rel=1e-6)
    attacked = record.metrics.keys() - expected.keys()
    assert attacked == {"adv_n", "sat_pct", "fgsm_8", "fgsm_8_acc", "pgd20_1", "pgd20_1_acc"}

    checkpoint = read_checkpoint(folder / "last.ckpt")
    method, _ = build(resolve(config), splits)
    method.load_state_dict(checkpoint["state_dict"])
    with torch.no_grad():
        again = method.eval()(splits.test.images / 255)
    torch.testing.assert_close(again, logits, rtol=1e-5, atol=1e-5)
    assert checkpoint["mixbench"]["config"] == to_plain(config)

    rows, warnings = read_curves(folder / "metrics.csv")
    assert not warnings
    names = {name for row in rows for name in row}
    assert {"train/loss", "train/loss_epoch", "train/lam", "train/top1_mixed"} <= names
    assert {"test/top1", "test/nll", "test/ece", "test/brier", "test/bias"} <= names
    assert sum("train/loss" in row for row in rows) == 4  # every second of 8 steps
    assert sum("train/loss_epoch" in row for row in rows) == 2

    with Image.open(folder / "samples.png") as picture:
        assert picture.size[0] > 300
    (offline,) = (folder / "wandb").glob("offline-run-*/*.wandb")
    assert offline.name == f"run-{record.id}-a1.wandb"  # an id of its own for each attempt
    assert "epoch 2/2" in (folder / "log.txt").read_text()
    assert not (folder / "lock.json").exists()

    content = json.loads((folder / "record.json").read_text())
    for key in ("commit", "versions", "device", "precision", "threads", "wall_s", "attempts"):
        assert content[key], key
    assert content["params"] == sum(p.numel() for p in method.net.parameters())
    assert content["macs"] > 0
    assert content["img_per_s"] > 0


def test_a_finished_run_is_not_repeated(runs, tiny):
    config = compose(tiny)
    first = run(config)
    stamp = (runs / first.id / "last.ckpt").stat().st_mtime_ns
    assert run(config) == first
    assert (runs / first.id / "last.ckpt").stat().st_mtime_ns == stamp


def test_a_suite_that_a_finished_run_lacks_is_named_with_the_command_that_adds_it(
    runs, tiny, capsys, caplog
):
    config = compose([*tiny, "eval.suites=[calibration]"])
    first = run(config)
    asked = [*tiny, "eval.suites=[calibration,shuffle]"]
    assert run(compose(asked)) == first
    command = f"mixbench eval {runs / first.id} --suite shuffle"
    assert command in caplog.text
    print_unjudged(identify_runs(expand(asked), strict=False)[0], runs)
    assert command in capsys.readouterr().err
    assert main(command.split()[1:]) == 0
    capsys.readouterr()
    caplog.clear()
    assert run(compose(asked)).metrics.keys() > first.metrics.keys()
    print_unjudged(identify_runs(expand(asked), strict=False)[0], runs)
    assert "--suite" not in caplog.text + capsys.readouterr().err


def test_what_came_before_in_the_process_changes_no_weight(runs, tiny, monkeypatch):
    methods = ["bc", "cutmix", "mixup"]
    found = {}
    for place, order in (("one", methods), ("two", methods[::-1]), ("alone", ["cutmix"])):
        folder = runs / place
        monkeypatch.setenv("MIXBENCH_RUNS", str(folder))
        for name in order:
            torch.manual_seed(len(found))  # whatever was drawn before
            record = run(compose([*tiny, f"method={name}"]))
            found[place, name] = weights(folder, record), record.metrics
    for name in methods:
        assert equal(found["one", name][0], found["two", name][0])
        assert found["one", name][1] == found["two", name][1]
    assert equal(found["one", "cutmix"][0], found["alone", "cutmix"][0])
    assert not equal(found["one", "cutmix"][0], found["one", "mixup"][0])


def test_the_seed_changes_the_weights(runs, tiny):
    first, second = (run(compose([*tiny, f"seed={seed}"])) for seed in (0, 1))
    assert first.config_hash == second.config_hash
    assert not equal(weights(runs, first), weights(runs, second))


@pytest.mark.parametrize(
    "extra",
    [
        ["precision=bf16"],
        ["optim.accumulate=2", "optim.clip=0.5"],
        ["optim.name=adamw", "lr=1e-3", "optim.label_smoothing=0.1"],
        ["trainer.channels_last=false", "data.pad=mean"],
        ["method=bc", "method.pairing=dataset", "method.plus=true"],
        ["data.auto_augment=rand-m9-mstd0.5-inc1", "data.erasing=0.25", "data.repeats=3"],
        ["method=manifoldmixup", "method.loss=bce_softmax", "precision=bf16", "lr=0.5"],
    ],
    ids=" ".join,
)
def test_training_options_work_and_make_runs_of_their_own(runs, tiny, extra):
    record = run(compose([*tiny, *extra]))
    assert record.status == "done"
    assert record.config_hash != resolve(compose(tiny)).identity.config_hash


def test_workers_augment_images_as_one_process_does(runs, tiny):
    words = [*tiny, "data.jitter=0.4", "data.lighting=0.1", "data.auto_augment=rand-m5-inc1"]
    alone = run(compose(words))
    states = [weights(runs, alone)]
    shutil.rmtree(runs / alone.id)
    states.append(weights(runs, run(compose([*words, "data.workers=2"]))))
    assert equal(*states)
    assert not equal(states[0], weights(runs, run(compose(tiny))))


class Fails(Method):
    def mix(self, x, targets, **decisions):
        raise RuntimeError("planted failure")


class Stops(Method):
    def mix(self, x, targets, **decisions):
        raise KeyboardInterrupt


class Explodes(Method):
    def loss(self, logits, mixed):
        return super().loss(logits, mixed) * float("inf")


class NeedsAttention(Method):
    class Config(Method.Config):
        @property
        def requires(self):
            return frozenset({"attention"})


class MultiLabel(Method):
    tasks = frozenset({"multilabel"})


@pytest.fixture
def plant(monkeypatch):
    def add(cls):
        monkeypatch.setitem(METHODS._objects, "planted", cls)
        return "method=planted"

    return add


def test_a_failed_run_is_recorded_with_its_traceback_and_can_be_repeated(runs, tiny, plant):
    config = compose([*tiny, plant(Fails)])
    with pytest.raises(RunFailedError, match="planted failure"):
        run(config)
    folder = runs / resolve(config).identity.id
    record = read_record(folder)
    assert record.status == "failed"
    assert "planted failure" in record.message
    assert "Traceback" in (folder / "traceback.txt").read_text()
    plant(Method)
    again = run(config)
    assert again.status == "done"
    assert not (folder / "traceback.txt").exists()
    assert [attempt["number"] for attempt in again.attempts] == [1, 2]
    assert [attempt["status"] for attempt in again.attempts] == ["failed", "done"]


def test_a_failed_run_leaves_no_w_and_b_run_open_for_the_next(runs, tiny, plant, plain_wandb):
    from wandb.sdk import wandb_setup

    words = [word for word in tiny if not word.startswith("wandb")]
    with pytest.raises(RunFailedError):
        run(compose([*words, plant(Fails)]))
    open_run = wandb_setup.singleton().most_recent_active_run
    assert open_run is None


# FAULTS rows 50 and 53.
def test_without_a_network_w_and_b_is_offline_and_a_key_is_nowhere(
    runs, tiny, plain_wandb, monkeypatch, caplog, capfd
):
    key = "0123456789abcdef0123456789abcdef01234567"
    monkeypatch.setenv("WANDB_API_KEY", key)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    words = [word for word in tiny if not word.startswith("wandb")]
    record = run(compose([*words, f"run.notes=no {key[:8]} here"]))
    assert record.status == "done"
    assert sum("W&B is offline" in line for line in caplog.messages) == 1
    files = [path for path in (runs / record.id).rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in files)
    assert not [path for path in files if key.encode() in path.read_bytes()]
    shown = capfd.readouterr()
    assert key not in shown.out + shown.err + caplog.text


# FAULTS row 54.
def test_a_damaged_record_is_moved_aside_and_the_run_repeated(runs, tiny):
    config = compose(tiny)
    folder = runs / run(config).id
    (folder / "record.json").write_text('{"id": "erm')
    assert run(config).status == "done"
    assert [path.read_text() for path in folder.glob("unreadable-*.json")] == ['{"id": "erm']


def test_an_interrupted_run_is_recorded_as_such(runs, tiny, plant):
    config = compose([*tiny, plant(Stops)])
    with pytest.raises(InterruptedRunError, match="interrupted") as error:
        run(config)
    assert error.value.exit_code == 4
    assert read_record(runs / resolve(config).identity.id).status == "interrupted"


def test_weights_that_are_not_finite_are_no_result(runs, tiny, plant):
    config = compose([*tiny, plant(Explodes)])
    with pytest.raises(RunFailedError, match="diverged"):
        run(config)
    assert read_record(runs / resolve(config).identity.id).status == "diverged"


@pytest.mark.parametrize(
    ("cls", "need"), [(NeedsAttention, "attention"), (MultiLabel, "multilabel")]
)
def test_an_impossible_pair_is_refused_before_anything_is_written(runs, tiny, plant, cls, need):
    with pytest.raises(UserError, match=f"needs {need}"):
        run(compose([*tiny, plant(cls)]))
    assert not runs.exists()


class ForgetsAtTheEnd(Method):
    """Learns, and loses its classifier in the last epoch."""

    def after_step(self):
        if self.step > self.total_steps * 3 // 4:
            torch.nn.init.zeros_(self.net.head.fc.weight)


def test_the_best_epoch_is_chosen_on_the_hold_out_and_tested_once(runs, tiny, plant):
    words = ["select=val", "epochs=4", "data.limit=600", "net.width=8", "data.size=32"]
    config = compose([*tiny, *words, plant(ForgetsAtTheEnd)])
    record = run(config)
    folder = runs / record.id
    rows, _ = read_curves(folder / "metrics.csv")
    scored = [row["val/top1"] for row in rows if "val/top1" in row]
    assert len(scored) == 4
    assert sum("test/top1" in row for row in rows) == 1
    assert record.metrics["val_top1"] == pytest.approx(max(scored))
    assert record.metrics["best_epoch"] == scored.index(max(scored)) < 3
    splits = DATA.get("digits")(config.data).load(holdout=True)
    method, _ = build(resolve(config), splits)
    top1, held = {}, {}
    for name in ("best", "last"):
        method.load_state_dict(read_checkpoint(folder / f"{name}.ckpt")["state_dict"])
        with torch.no_grad():
            logits = method.eval()(splits.test.images / 255)
            held[name] = method(splits.val.images / 255)
        top1[name] = scores(logits, splits.test.labels)["top1"]
    # The hold-out gives a temperature, under the weights that were chosen and are tested.
    stored = read_predictions(folder / "predictions.npz")
    torch.testing.assert_close(stored.holdout[0], held["best"], rtol=1e-5, atol=1e-5)
    assert torch.equal(stored.holdout[1], splits.val.labels)
    assert {"T_ts", "nll_ts", "ece_ts"} <= record.metrics.keys()
    expected = scores(stored.logits, stored.labels, stored.holdout[:2])
    assert {name: record.metrics[name] for name in expected} == pytest.approx(expected, rel=1e-6)
    assert record.metrics["top1"] == pytest.approx(top1["best"])
    assert top1["best"] > top1["last"] + 10


# FAULTS row 20.
def test_a_set_smaller_than_a_batch_trains_and_one_image_is_refused(runs, tiny):
    assert run(compose([*tiny, "data.limit=20", "batch_size=64"])).status == "done"
    with pytest.raises(UserError, match="batches of 1 image"):
        run(compose([*tiny, "batch_size=1"]))
    with pytest.raises(UserError, match="has training images of 1 class"):
        run(compose([*tiny, "data.limit=1"]))


def test_a_gpu_that_is_not_there_is_never_replaced_by_the_cpu(runs, tiny, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="no usable GPU"):
        run(compose([*tiny, "trainer.accelerator=gpu"]))


def test_the_public_names_are_those_of_the_interface():
    import mixbench

    assert {"run", "compose", "build_method", "list_methods", "register"} <= set(mixbench.__all__)
    assert mixbench.list_methods("cut*") == ["cutmix"]
    with pytest.raises(AttributeError):
        _ = mixbench.missing
    assert dataclasses.is_dataclass(RunConfig)


# Between the look at the record and the lock another process may have carried the run out.
def test_a_run_that_was_finished_meanwhile_is_not_carried_out_again(runs, tiny, monkeypatch):
    config = compose(["method=erm", *tiny])
    done = run(config)
    folder = runs / done.id
    content = (folder / "record.json").read_bytes()
    shutil.rmtree(folder)
    real = attempt.locked

    @contextlib.contextmanager
    def late(place):
        (place / "record.json").write_bytes(content)
        with real(place):
            yield

    monkeypatch.setattr(attempt, "locked", late)
    assert run(config) == done
    assert (folder / "record.json").read_bytes() == content
    assert not (folder / "last.ckpt").exists()


def test_attempts_that_were_added_meanwhile_are_kept(runs, tiny, monkeypatch):
    config = compose(["method=erm", *tiny])
    done = run(config)
    folder = runs / done.id
    shutil.rmtree(folder)
    earlier = dataclasses.replace(done, status="interrupted")
    real = attempt.locked

    @contextlib.contextmanager
    def late(place):
        write_record(place, earlier)
        with real(place):
            yield

    monkeypatch.setattr(attempt, "locked", late)
    assert [known["number"] for known in run(config).attempts] == [1, 2]
