"""Runs that are stopped and go on: nothing of what they leave may tell the difference."""

import json
import logging
import os
import pickle
import random
import signal
from pathlib import Path

import killing
import pytest
import torch
from making import write_judged
from PIL import Image
from several_labels import SeveralDigits
from small_nets import narrow_vit

from mixbench import compose, run
from mixbench.backbones import NETS
from mixbench.data import DATA
from mixbench.errors import InterruptedRunError, RunFailedError, UserError
from mixbench.launch.identify import identify_runs
from mixbench.launch.plan import PlannedRun
from mixbench.methods import METHODS
from mixbench.methods.base import Method
from mixbench.records.checkpoints import LAST, PREVIOUS, read_checkpoint
from mixbench.records.record import read_record
from mixbench.training.build import build
from mixbench.training.job import resolve
from mixbench.training.reevaluate import verify_run
from mixbench.training.run import resume

WORDS = [
    "data=digits",
    "data.limit=160",
    "data.size=8",
    "net.width=4",
    "eval.suites=[calibration]",
    "epochs=3",
    "batch_size=32",
    "wandb.mode=disabled",
    "trainer.log_every=2",
    "trainer.ckpt_steps=2",
]


@pytest.fixture
def plant(monkeypatch):
    """Registers a method under the name of a real one, so that it makes the same run."""

    def add(cls, name="erm"):
        monkeypatch.setitem(METHODS._objects, name, cls)

    return add


def stopped_at(position: int, action, base=Method):
    """A method that does something when it is about to train on a batch, once."""

    class Stopped(base):
        def training_step(self, batch, batch_idx):
            here = self.current_epoch * int(self.trainer.num_training_batches) + batch_idx
            if here == position:
                action()
            return super().training_step(batch, batch_idx)

    return Stopped


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def crash():
    raise RuntimeError("planted failure")


def place(root: Path) -> Path:
    (folder,) = root.iterdir()
    return folder


def both(words, tmp_path, monkeypatch, plant, position, action=terminate, name="erm"):
    """Outcomes of an undisturbed run and of one that is stopped at a batch and goes on."""
    base = METHODS.get(name)
    found = []
    for kind in ("whole", "stopped"):
        monkeypatch.setenv("MIXBENCH_RUNS", str(tmp_path / kind))
        config = compose([*words, f"method={name}"])
        if kind == "stopped":
            plant(stopped_at(position, action, base), name)
            with pytest.raises((InterruptedRunError, RunFailedError)):
                run(config)
            plant(base, name)
            torch.manual_seed(99)  # whatever another process would draw
        assert run(config).status == "done"
        found.append(killing.outcome(tmp_path / kind))
    return found


def judge_digits(tmp_path, monkeypatch):
    """Seven people judge three mixtures of test images."""
    folder = tmp_path.parent / f"{tmp_path.name}-judged"
    folder.mkdir()
    monkeypatch.chdir(folder)
    labels = DATA.get("digits")(compose("data=digits").data).load().test.labels
    pairs = [(0, 1), (2, 3), (4, 5), (0, 1), (2, 3), (0, 1), (2, 3)]
    rated = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    write_judged("judged.npz", pairs, labels, rated=rated)


OPTIONS = {
    "plain": [],
    "in the first epoch": [],
    "averaged weights": ["optim.ema=0.9"],
    "accumulation and clipping": ["optim.accumulate=2", "optim.clip=0.5"],
    "bf16": ["precision=bf16"],
    "best epoch": ["select=val", "data.limit=200", "optim.ema=0.95"],
    "adamw": ["optim.name=adamw", "lr=1e-3", "optim.warmup_epochs=1"],
    "workers": ["data.workers=2"],
}


# Workers take seconds, and are changed below; the others are tried one by one in ``test_storm``.
LONG_OPTIONS = ("in the first epoch", "bf16", "adamw", "workers")


@pytest.mark.parametrize(
    "option",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in LONG_OPTIONS)) for name in OPTIONS],
)
def test_a_run_that_is_told_to_stop_ends_as_if_it_had_not_been(
    option, tmp_path, monkeypatch, plant
):
    words = [*WORDS, *OPTIONS[option]]
    position = 1 if option == "in the first epoch" else 8
    whole, stopped = both(words, tmp_path, monkeypatch, plant, position)
    assert killing.differences(whole, stopped) == []
    record = read_record(place(tmp_path / "stopped"))
    assert [attempt["status"] for attempt in record.attempts] == ["interrupted", "done"]
    assert record.attempts[1]["from_step"] > 0
    assert record.resumed_bit_exact is True
    assert read_record(place(tmp_path / "whole")).resumed_bit_exact is None


RESUMED = [
    "alignmix",
    "alignmix method.ae=true",
    "attentivemix method.top_k=0 precision=bf16",
    "augmix",
    "augmix method.backend=pil data.flip=true data.flip_rule=alternating data.workers=2",
    "automix",
    "choice method.members=[cutmix,samix] method.cutmix.prob=0.5",
    "bc",
    "cutmix",
    "hmix method.mode=fixed method.rule=per_annotator data.judgements=judged.npz data.workers=2",
    "fmix method.per_sample=true precision=bf16",
    "gridmix method.per_sample=true",
    "guidedmixup method.saliency=loss_grad",
    "manifoldmixup",
    "mixpro net=narrow_vit net.drop_path=0.2 precision=bf16",
    "mixup",
    "mixup2",
    "moco method.queue=100",
    "mocosamix method.queue=100 method.dropout=0.1 method.aux_weight=0.5",
    "puzzlemix method.per_sample=true",
    "samix method.mask_anneal=cosine method.dropout=0.1 method.mask_adjust=0.5",
    "resizemix",
    "saliencymix method.saliency=cam method.per_sample=true",
    "smoothmix precision=bf16",
    "snapmix method.per_sample=true precision=bf16",
    "splicemix data=several precision=bf16",
    "splicemix_cl data=several net.pool=max optim.backbone_lr=0.1",
    "tdattenmix method.dst_tie=random",
    "smmix net=narrow_vit net.drop_path=0.2 method.per_sample=true precision=bf16",
    "tokenmix net=narrow_vit method.per_sample=true method.alpha=1 precision=bf16",
    "tlalign net=narrow_vit net.drop_path=0.2",
    "transmix net=narrow_vit",
]


# Each takes seconds, and a method of its family is tried without them.
LONG = ("automix", "mixup", "mocosamix", "choice", "alignmix method.ae", "bc", "manifoldmixup")
LONG += ("gridmix", "resizemix", "smoothmix", "saliencymix", "splicemix data", "transmix")
LONG += ("attentivemix", "guidedmixup", "puzzlemix", "smmix", "tokenmix", "fmix", "snapmix")
LONG += ("mixup2", "mixpro", "moco", "tlalign", "splicemix_cl", "augmix", "tdattenmix")


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(words, marks=[pytest.mark.slow] * words.startswith(LONG), id=words)
        for words in RESUMED
    ],
)
def test_every_method_goes_on_bit_by_bit_after_a_crash(method, tmp_path, monkeypatch, plant):
    monkeypatch.setitem(NETS._objects, "narrow_vit", narrow_vit)
    monkeypatch.setitem(DATA._objects, "several", SeveralDigits)
    name, *settings = method.split()
    if "judged.npz" in method:
        judge_digits(tmp_path, monkeypatch)
    whole, stopped = both([*WORDS, *settings], tmp_path, monkeypatch, plant, 9, crash, name)
    assert killing.differences(whole, stopped) == []
    # The crash left the checkpoint of step 8, or of the epoch's end before it.
    attempts = read_record(place(tmp_path / "stopped")).attempts
    assert [attempt["status"] for attempt in attempts] == ["failed", "done"]
    assert attempts[1]["from_step"] == 8


class Noisy(Method):
    """Draws from torch's global generator, as dropout does."""

    def mix(self, x, targets, **decisions):
        return super().mix(x + 0.1 * torch.randn(x.shape), targets)


def test_noise_of_the_global_generator_is_keyed_too(tmp_path, monkeypatch, plant):
    monkeypatch.setitem(METHODS._objects, "erm", Noisy)
    whole, stopped = both(WORDS, tmp_path, monkeypatch, plant, 7)
    assert killing.differences(whole, stopped) == []


def test_a_difference_would_be_found(tmp_path, monkeypatch, plant):
    """The comparison itself: another seed of the noise must show."""
    from mixbench.methods import base

    class Forgetful(Noisy):
        def reseed(self, epoch, batch):
            super().reseed(epoch, batch)
            torch.seed()

    monkeypatch.setitem(METHODS._objects, "erm", Forgetful)
    whole, stopped = both(WORDS, tmp_path, monkeypatch, plant, 7)
    assert any("state_dict" in line for line in killing.differences(whole, stopped))
    assert base.Method is Method


def test_before_the_first_checkpoint_a_run_starts_from_step_0(runs, plant, caplog):
    words = [*WORDS, "trainer.ckpt_steps=null"]
    plant(stopped_at(2, crash))
    config = compose(words)
    with pytest.raises(RunFailedError):
        run(config)
    assert not (place(runs) / LAST).exists()
    plant(Method)
    with caplog.at_level(logging.INFO, "mixbench"):
        record = run(config)
    assert "has no checkpoint yet and starts from step 0" in caplog.text
    assert record.resumed_bit_exact is None
    assert [attempt["from_step"] for attempt in record.attempts] == [0, 0]


def test_a_run_that_is_trained_is_only_tested(runs, monkeypatch):
    words = [*WORDS, "optim.ema=0.9"]
    first = run(compose(words))
    before = killing.outcome(runs)
    folder = place(runs)
    content = json.loads((folder / "record.json").read_text())
    content |= {"status": "interrupted", "metrics": {}}
    (folder / "record.json").write_text(json.dumps(content))
    (folder / "predictions.npz").unlink()
    monkeypatch.setattr(Method, "training_step", lambda *_: crash())
    again = run(compose(words))
    assert again.metrics == first.metrics
    assert killing.differences(before, killing.outcome(runs)) == []
    assert again.img_per_s == first.img_per_s  # of the attempt that trained


# FAULTS row 29.
class Explodes(Method):
    def loss(self, logits, mixed):
        value = super().loss(logits, mixed)
        return value * (float("nan") if self.step >= 7 else 1.0)


def test_a_loss_that_is_not_finite_stops_training_and_keeps_the_batch(runs, plant):
    plant(type("Explodes", (Explodes, METHODS.get("cutmix")), {}), "cutmix")
    config = compose([*WORDS, "method=cutmix", "epochs=50", "trainer.log_every=4"])
    with pytest.raises(RunFailedError, match="diverged: the loss is not finite, first in epoch 2"):
        run(config)
    folder = place(runs)
    record = read_record(folder)
    assert record.status == "diverged"
    assert record.attempts[-1]["status"] == "diverged"
    # Ten batches were asked for at most: of 250 steps none after the next look was taken.
    checkpoint = read_checkpoint(folder / LAST)
    assert checkpoint["mixbench_step"] == 6
    assert all(bool(value.isfinite().all()) for value in checkpoint["state_dict"].values())
    kept = json.loads((folder / "diverged.json").read_text())
    assert (kept["seed"], kept["epoch"], kept["batch"]) == (0, 1, 2)
    assert len(kept["rows"]) == len(kept["perm"]) == len(kept["lam"]) == 32
    assert 0 < kept["lam"][0] < 1


def test_the_loss_is_watched_without_reading_the_device_at_every_step(runs, monkeypatch):
    from torch.utils._python_dispatch import TorchDispatchMode

    reads = []

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is torch.ops.aten._local_scalar_dense.default:
                reads.append(1)
            return func(*args, **(kwargs or {}))

    original, inside = Method.training_step, []

    def step(self, batch, batch_idx):
        with Count():
            before = len(reads)
            loss = original(self, batch, batch_idx)
            inside.append(len(reads) - before)
        return loss

    monkeypatch.setattr(Method, "training_step", step)
    run(compose([*WORDS, "trainer.log_every=5", "trainer.ckpt_steps=null"]))
    assert len(inside) == 15
    quiet = [count for n, count in enumerate(inside) if n % 5]
    assert set(quiet) == {2}  # smallest and largest label, which are looked at on the CPU only


# FAULTS row 35.
def test_a_changed_configuration_is_refused_with_its_difference_or_recorded(runs, plant, caplog):
    plant(stopped_at(8, crash))
    with pytest.raises(RunFailedError):
        run(compose(WORDS))
    plant(Method)
    folder = place(runs)
    before = (folder / LAST).read_bytes()
    with pytest.raises(UserError, match=r"lr: 0\.05 -> 0\.01|lr: .* -> 0\.01") as error:
        resume(folder, "lr=0.01")
    assert "--allow-config-change" in str(error.value)
    assert (folder / LAST).read_bytes() == before
    record = resume(folder, "lr=0.01", allow_config_change=True)
    assert record.status == "done"
    assert record.id == folder.name
    assert record.config_changes["lr"][1] == 0.01
    assert record.resumed_bit_exact is False
    clean = resolve(compose(WORDS)).identity
    changed = resolve(compose([*WORDS, "lr=0.01"])).identity
    assert record.config_hash not in (clean.config_hash, changed.config_hash)
    assert record.recipe_hash not in (clean.recipe_hash, changed.recipe_hash)
    assert verify_run(folder).record.verified is True
    with caplog.at_level(logging.WARNING, "mixbench"):
        assert run(compose(WORDS)).config_changes  # it has the name, and says what it is
    assert "changed during the run" in caplog.text


@pytest.mark.parametrize(
    "change",
    [
        "lr=0.01",
        pytest.param("optim.weight_decay=0.1", marks=pytest.mark.slow),
        pytest.param("optim.momentum=0.5", marks=pytest.mark.slow),
    ],
)
def test_an_accepted_change_is_trained_with_as_if_it_had_been_so_from_that_step_on(
    tmp_path, monkeypatch, plant, interrupted, change
):
    step = read_checkpoint(interrupted / LAST)["mixbench_step"]
    resume(interrupted, change, allow_config_change=True)
    found = read_checkpoint(interrupted / LAST)

    # The same training by hand: settings are changed in the optimiser when that step begins.
    changed = compose([*WORDS, change])

    class Changes(Method):
        def on_train_batch_start(self, batch, batch_idx):
            if self.step == step:
                fresh = replacement.configure_optimizers()
                scheduler = self.lr_schedulers()
                scheduler.base_lrs = fresh["lr_scheduler"]["scheduler"].base_lrs
                for group, new in zip(
                    self.optimizers().param_groups, fresh["optimizer"].param_groups, strict=True
                ):
                    rest = {key: value for key, value in new.items() if key != "params"}
                    group |= rest | {"lr": new["initial_lr"] * scheduler.lr_lambdas[0](step)}
            return super().on_train_batch_start(batch, batch_idx)

    splits = DATA.get("digits")(changed.data).load()
    replacement, _ = build(resolve(changed), splits)
    monkeypatch.setenv("MIXBENCH_RUNS", str(tmp_path / "by-hand"))
    plant(Changes)
    record = run(compose(WORDS))
    expected = read_checkpoint(tmp_path / "by-hand" / record.id / LAST)
    for name, value in expected["state_dict"].items():
        assert torch.equal(found["state_dict"][name], value), name
    monkeypatch.setenv("MIXBENCH_RUNS", str(tmp_path / "plain"))
    plant(Method)
    record = run(compose(WORDS))
    plain = read_checkpoint(tmp_path / "plain" / record.id / LAST)["state_dict"]
    assert not torch.equal(found["state_dict"]["net.head.fc.weight"], plain["net.head.fc.weight"])


@pytest.mark.parametrize("change", ["optim.name=adamw", "optim.decay_all=true", "optim.ema=0.9"])
def test_the_state_of_another_optimiser_is_refused_before_anything_is_written(interrupted, change):
    before = (interrupted / "config.yaml").read_bytes()
    with pytest.raises(UserError, match=change.partition("=")[0]):
        resume(interrupted, change, allow_config_change=True)
    assert (interrupted / "config.yaml").read_bytes() == before
    assert resume(interrupted).config_changes == {}


@pytest.fixture
def started(tmp_path, runs, plant):
    """A run that started from weights and stopped in its second epoch, and other weights."""
    paths = []
    for seed in (0, 1):
        config = compose([*WORDS, f"seed={seed}"])
        method, _ = build(resolve(config), DATA.get("digits")(config.data).load())
        paths.append(tmp_path / f"net{seed}.pth")
        torch.save(method.net.state_dict(), paths[-1])
    plant(stopped_at(8, crash))
    with pytest.raises(RunFailedError):
        run(compose([*WORDS, f"net.weights={paths[0]}"]))
    plant(Method)
    return place(runs), *paths


# FAULTS row 35: what a run starts from decides it, whatever it is called.
def test_a_run_that_started_from_other_weights_does_not_go_on(started):
    folder, own, other = started
    original = own.read_bytes()
    with pytest.raises(UserError, match=r"net\.weights: net0\.pth .* -> net1\.pth"):
        resume(folder, f"net.weights={other}")
    own.write_bytes(other.read_bytes())
    with pytest.raises(UserError, match=r"net\.weights: net0\.pth .* -> net0\.pth"):
        resume(folder)
    with pytest.raises(UserError, match=r"net\.weights: net0\.pth .* -> None"):
        resume(folder, "net.weights=null")
    other.write_bytes(original)  # the same weights under another name are the same
    record = resume(folder, f"net.weights={other}")
    assert record.status == "done"
    assert record.id == folder.name
    assert record.config_changes == {}
    assert resolve(compose([*WORDS, f"net.weights={other}"])).identity.id == folder.name


# FAULTS row 35: a run without a checkpoint keeps its name, too.
def test_a_run_without_a_checkpoint_is_not_begun_anew_as_another(runs, plant):
    plant(stopped_at(0, crash))
    with pytest.raises(RunFailedError):
        run(compose(WORDS))
    plant(Method)
    folder = place(runs)
    assert not (folder / LAST).exists()
    for change in ("lr=0.01", "seed=1"):
        with pytest.raises(UserError, match=change.partition("=")[0]):
            resume(folder, change)
    record = resume(folder, "lr=0.01", allow_config_change=True)
    assert record.config_changes["lr"][1] == 0.01
    assert record.config_hash != resolve(compose([*WORDS, "lr=0.01"])).identity.config_hash


def test_weights_may_move_before_the_first_checkpoint(tmp_path, runs, plant, started):
    _, own, _ = started
    plant(stopped_at(0, crash))
    words = [*WORDS, "seed=3"]
    with pytest.raises(RunFailedError):
        run(compose([*words, f"net.weights={own}"]))
    plant(Method)
    folder = next(path for path in runs.iterdir() if path.name.endswith("-s3"))
    moved = own.rename(tmp_path / "moved.pth")
    record = resume(folder, [f"net.weights={moved}", "lr=0.01"], allow_config_change=True)
    assert record.config_changes.keys() == {"lr"}


# FAULTS row 35.
def test_a_changed_seed_is_refused(interrupted):
    with pytest.raises(UserError, match="seed: 0 -> 1"):
        resume(interrupted, "seed=1")


def test_a_run_of_a_version_without_a_key_goes_on_at_its_default_and_with_no_other(interrupted):
    path = interrupted / LAST
    saved = torch.load(path, weights_only=True)
    for group, key in (("net", "pool"), ("data", "fit"), ("data", "crop_scales")):
        del saved["mixbench"]["config"][group][key]
    torch.save(saved, path)
    with pytest.raises(UserError, match=r"net\.pool: None -> max"):
        resume(interrupted, "net.pool=max")
    record = resume(interrupted)
    assert record.status == "done"
    assert not record.config_changes
    assert record.resumed_bit_exact is True


def test_a_finished_run_takes_no_other_configuration(runs, caplog):
    run(compose(WORDS))
    folder = place(runs)
    for change in ("lr=0.01", "seed=1"):
        with pytest.raises(UserError, match=f"{change.partition('=')[0]} would make it another"):
            resume(folder, change)
    assert resume(folder, "trainer.threads=1").status == "done"


def test_several_changes_of_one_key_are_told_from_the_first_value_on(interrupted, plant):
    plant(stopped_at(12, crash))
    with pytest.raises(RunFailedError):
        resume(interrupted, "lr=0.01", allow_config_change=True)
    plant(Method)
    before = read_record(interrupted).config_changes["lr"][0]
    record = resume(interrupted, "lr=0.02", allow_config_change=True)
    assert record.config_changes == {"lr": [before, 0.02]}


def test_a_training_that_is_over_is_refused_before_anything_is_written(interrupted):
    before = {path: path.read_bytes() for path in interrupted.iterdir() if path.is_file()}
    del before[interrupted / "log.txt"]
    saved = read_checkpoint(interrupted / LAST)["mixbench"]
    assert (saved["epoch"], saved["batch"]) > (1, 0)
    with pytest.raises(UserError, match=r"no step(.|\n)*more epochs"):
        resume(interrupted, "epochs=1", allow_config_change=True)
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("change", ["lr=0.01", "epochs=1"])
def test_a_change_under_which_nothing_is_left_to_train_is_refused(runs, plant, change):
    class Stops(Method):
        def on_test_start(self):
            crash()

    words = [*WORDS, "epochs=2"]
    plant(Stops)
    with pytest.raises(RunFailedError):
        run(compose(words))
    plant(Method)
    folder = place(runs)
    with pytest.raises(UserError, match="no step is left"):
        resume(folder, change, allow_config_change=True)
    assert resume(folder).config_changes == {}
    assert verify_run(folder).record.verified is True


def test_a_change_that_no_step_was_trained_under_leaves_no_mark(interrupted, plant):
    clean = resolve(compose(WORDS)).identity
    trained = read_checkpoint(interrupted / LAST)["mixbench_step"]
    plant(stopped_at(trained, crash))
    with pytest.raises(RunFailedError):
        resume(interrupted, "lr=0.01", allow_config_change=True)
    plant(Method)
    assert read_record(interrupted).config_changes["lr"][1] == 0.01
    record = run(compose(WORDS))
    assert record.config_changes == {}
    assert (record.config_hash, record.recipe_hash) == (clean.config_hash, clean.recipe_hash)


def test_an_accepted_change_need_not_be_allowed_again(interrupted, plant):
    plant(stopped_at(read_checkpoint(interrupted / LAST)["mixbench_step"], crash))
    with pytest.raises(RunFailedError):
        resume(interrupted, "lr=0.01", allow_config_change=True)
    plant(Method)
    assert resume(interrupted).config_changes["lr"][1] == 0.01


# FAULTS row 36.
@pytest.mark.slow
def test_workers_may_change_and_threads_are_noted(tmp_path, monkeypatch, plant):
    monkeypatch.setenv("MIXBENCH_RUNS", str(tmp_path / "whole"))
    run(compose(WORDS))
    monkeypatch.setenv("MIXBENCH_RUNS", str(tmp_path / "stopped"))
    plant(stopped_at(8, crash))
    with pytest.raises(RunFailedError):
        run(compose(WORDS))
    plant(Method)
    record = run(compose([*WORDS, "data.workers=1"]))
    assert record.resumed_bit_exact is True
    outcomes = [killing.outcome(tmp_path / kind) for kind in ("whole", "stopped")]
    for outcome in outcomes:  # the checkpoint holds the configuration as it is at the end
        outcome["checkpoint"]["mixbench"]["config"]["data"].pop("workers")
    assert killing.differences(*outcomes) == []

    monkeypatch.setenv("MIXBENCH_RUNS", str(tmp_path / "threads"))
    plant(stopped_at(8, crash))
    with pytest.raises(RunFailedError):
        run(compose(WORDS))
    plant(Method)
    assert run(compose([*WORDS, "trainer.threads=2"])).resumed_bit_exact is False
    torch.set_num_threads(1)


# FAULTS row 37.
def test_a_finished_run_is_left_alone_and_a_wrong_folder_is_named(runs, tmp_path, caplog):
    run(compose(WORDS))
    stamp = (place(runs) / LAST).stat().st_mtime_ns
    with caplog.at_level(logging.INFO, "mixbench"):
        assert resume(place(runs)).status == "done"
    assert "is done already" in caplog.text
    assert (place(runs) / LAST).stat().st_mtime_ns == stamp
    with pytest.raises(UserError, match="no run that could be continued"):
        resume(tmp_path / "missing")


def test_keys_that_a_finished_run_cannot_heed_are_refused_or_counted_aloud(runs, caplog):
    run(compose(WORDS))
    with pytest.raises(UserError, match="none are set aside"):
        run(compose([*WORDS, "data.folds=2"]))
    heard = {}
    for more in ([], ["trainer.threads=2"], ["eval.adv_n=7", "run.tags=[a]"]):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "mixbench"):
            assert run(compose([*WORDS, *more])).status == "done"
        heard[len(more)] = caplog.text
    assert "too late" not in heard[0] + heard[1]  # threads say how, and what is done is done
    assert "eval.adv_n=7" in heard[2]
    assert "run.tags=['a']" in heard[2]
    _, notes = identify_runs([PlannedRun([*WORDS, "eval.adv_n=7"])], strict=False, timed=False)
    assert any("eval.adv_n=7" in note for note in notes)


def test_a_key_that_an_older_version_did_not_know_is_not_too_late_at_its_default(runs):
    run(compose(WORDS))
    path = place(runs) / "config.yaml"
    lines = path.read_text().splitlines(keepends=True)
    shorter = [line for line in lines if not line.lstrip().startswith("adv_n:")]
    assert len(shorter) == len(lines) - 1
    path.write_text("".join(shorter))
    assert resolve(compose(WORDS)).too_late(place(runs)) == []
    assert resolve(compose([*WORDS, "eval.adv_n=7"])).too_late(place(runs)) == ["eval.adv_n=7"]


@pytest.fixture
def interrupted(runs, plant):
    """A run that stopped in its second epoch."""
    plant(stopped_at(8, crash))
    with pytest.raises(RunFailedError):
        run(compose(WORDS))
    plant(Method)
    return place(runs)


class Evil:
    def __reduce__(self):
        return (os.system, ("touch planted-file",))


def flip(path, place):
    """Change one bit of a file."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


# FAULTS rows 38 and 58.
@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:5000]), "is damaged"),
        (lambda path: path.write_bytes(b""), "is damaged"),
        (lambda path: path.write_bytes(pickle.dumps(Evil())), "holds more than tensors"),
        (lambda path: torch.save({"state_dict": Evil()}, path), r"more than tensors(.|\n)*system"),
        (lambda path: path.write_text("# epochs"), "not written by torch"),
        (lambda path: torch.save({"state_dict": {}}, path), "no optimizer_states"),
        (lambda path: torch.save([1], path), "no state_dict"),
        (lambda path: flip(path, path.stat().st_size // 2), "is damaged"),
    ],
    ids=["truncated", "empty", "pickle", "malicious", "text", "foreign", "list", "flipped"],
)
def test_a_checkpoint_that_cannot_be_trusted_is_refused(
    interrupted, damage, match, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    damage(interrupted / LAST)
    before = (interrupted / LAST).read_bytes()
    with pytest.raises(UserError, match=match) as error:
        run(compose(WORDS))
    assert PREVIOUS in str(error.value)
    assert (interrupted / LAST).read_bytes() == before
    assert not (tmp_path / "planted-file").exists()
    (interrupted / PREVIOUS).replace(interrupted / LAST)  # what the message says
    assert run(compose(WORDS)).status == "done"


@pytest.mark.parametrize(
    "states", [[], [3], [{}], [{"param_groups": []}], [{"param_groups": [3, 4]}]], ids=str
)
def test_a_checkpoint_without_the_state_of_the_optimiser_is_refused(interrupted, states):
    content = read_checkpoint(interrupted / LAST)
    torch.save(content | {"optimizer_states": states}, interrupted / LAST)
    with pytest.raises(UserError, match="state of this run's optimiser") as error:
        run(compose(WORDS))
    assert PREVIOUS in str(error.value)


def test_a_checkpoint_of_another_format_or_shape_is_never_loaded_in_part(interrupted):
    path = interrupted / LAST
    content = read_checkpoint(path)
    content["mixbench"]["format"] = 99
    torch.save(content, path)
    with pytest.raises(UserError, match="has format 99, this version reads 1"):
        run(compose(WORDS))
    content["mixbench"]["format"] = 1
    content["state_dict"]["net.head.fc.weight"] = torch.zeros(7, 3)
    torch.save(content, path)
    with pytest.raises(UserError, match=r"net\.head\.fc\.weight is \(7, 3\), wanted \(10, 32\)"):
        run(compose(WORDS))


# FAULTS row 59.
def test_a_checkpoint_holds_plain_values_only(runs):
    run(compose([*WORDS, "run.tags=[a,b]", "optim.ema=0.9"]))
    content = torch.load(place(runs) / LAST, weights_only=True)

    def types(value):
        if isinstance(value, dict):
            for key, inner in value.items():
                yield type(key)
                yield from types(inner)
        elif isinstance(value, list | tuple):
            for inner in value:
                yield from types(inner)
        else:
            yield type(value)

    allowed = {str, int, float, bool, type(None), torch.Tensor}
    assert set(types(content)) <= allowed, set(types(content)) - allowed


# FAULTS row 33.
def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(tmp_path, monkeypatch):
    words = [*WORDS, "method=killing:KilledWhileSaving"]
    process, reader = killing.start(words, tmp_path)
    with pytest.raises(EOFError):
        reader.recv()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    folder = place(tmp_path)
    assert list(folder.glob(".last.ckpt.*.tmp"))
    assert read_checkpoint(folder / LAST)["mixbench_step"] == 5  # the end of the first epoch
    monkeypatch.setenv("MIXBENCH_RUNS", str(tmp_path))
    monkeypatch.setattr(killing.KilledWhileSaving, "on_save_checkpoint", Method.on_save_checkpoint)
    assert run(compose(words)).status == "done"
    assert not list(folder.glob(".*.tmp"))


# FAULTS row 34. The limit on file sizes is the kernel's and fails a write as a full disk does.
def test_a_disk_that_is_full_costs_no_checkpoint(tmp_path, monkeypatch):
    words = [*WORDS, "net.width=8", "method=killing:FillsTheDisk"]
    required, optional = tmp_path / "required", tmp_path / "optional"
    assert killing.finish(words, required) == 3
    folder = place(required)
    assert read_checkpoint(folder / LAST)["mixbench_step"] == 5
    assert not list(folder.glob(".*.tmp"))
    assert "cannot be written: File too large" in read_record(folder).message
    assert killing.finish([*words, "trainer.ckpt_required=false"], optional) == 0
    assert read_checkpoint(place(optional) / LAST)["mixbench_step"] == 5
    log = (place(optional) / "log.txt").read_text()
    assert log.count("training goes on, as trainer.ckpt_required=false") == 1


# FAULTS row 11, 31: with the command line, tests/training/test_stopping.py.


def folder_data(root: Path, classes: int = 3, images: int = 40) -> Path:
    """Small pictures on disk, half noise and half of the colour of their class."""
    draw = random.Random(0)
    for part, count in (("train", images), ("val", 12)):
        for label in range(classes):
            for number in range(count):
                path = root / part / f"class{label}" / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                values = bytes(
                    draw.randrange(256) if k % 2 else 60 * label for k in range(16 * 16 * 3)
                )
                Image.frombytes("RGB", (16, 16), values).save(path)
    return root


def test_kills_at_any_moment_change_nothing(tmp_path):
    words = [*WORDS, "epochs=20"]
    assert killing.finish(words, tmp_path / "whole") == 0
    moments = killing.storm(words, tmp_path / "killed", kills=4, seed=1)
    assert len(moments) == 4
    outcomes = [killing.outcome(tmp_path / kind) for kind in ("whole", "killed")]
    assert killing.differences(*outcomes) == []


STORM = {
    "erm": ["method=erm"],
    "mixup": ["method=mixup", "optim.ema=0.9"],
    "cutmix": ["method=cutmix", "select=val", "data.limit=200"],
    "bc": ["method=bc", "optim.accumulate=2", "precision=bf16"],
    "manifoldmixup": ["method=manifoldmixup", "method.layers=[0,1,-1]"],
    "tdattenmix": ["method=tdattenmix", "method.dst_tie=random"],
    "tlalign": ["method=tlalign", "net=vit_tiny", "net.width=16"],
    "transmix": ["method=transmix", "net=vit_tiny", "net.width=16"],
    "folder": ["method=cutmix"],
    "folder, 2 workers": ["method=mixup", "data.workers=2"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", STORM)
def test_storm(name, tmp_path, record_property):
    """Five kills each, fifty in all."""
    words = [*WORDS, "epochs=20", *STORM[name]]
    if name.startswith("folder"):
        root = folder_data(tmp_path / "images")
        words = [word for word in words if not word.startswith("data=")]
        words += ["data=folder", f"data.root={root}", "data.limit=null", "epochs=50"]
    assert killing.finish(words, tmp_path / "whole") == 0
    moments = killing.storm(words, tmp_path / "killed", kills=5, seed=len(name))
    record_property("kills", moments)
    assert len(moments) == 5
    outcomes = [killing.outcome(tmp_path / kind) for kind in ("whole", "killed")]
    assert killing.differences(*outcomes) == []
