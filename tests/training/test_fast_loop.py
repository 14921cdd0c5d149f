"""The fast loop over training batches: nothing that it leaves tells it from Lightning's."""

import json
import os
import signal
import sys

import killing
import pytest
import torch
from lightning.pytorch import Callback

from mixbench import compose, run
from mixbench.config.schema import TrainerConfig
from mixbench.errors import InterruptedRunError, RunFailedError
from mixbench.methods import METHODS
from mixbench.methods.base import Method
from mixbench.records.checkpoints import LAST, read_checkpoint
from mixbench.records.record import read_record
from mixbench.testing.samples import fit, sample_method
from mixbench.training.facts import bit_exact, kernel_choices
from mixbench.training.fast_loop import FastTrainingLoop

WORDS = [
    "data=digits",
    "data.limit=160",
    "data.size=16",
    "net.width=4",
    "eval.suites=[]",
    "epochs=2",
    "batch_size=32",
    "logger=none",
    "trainer.log_every=2",
]
ENGINES = ("lightning", "fast")
# Methods of each kind of step; the others are tried in all tests.
OF_EACH_KIND = ("erm", "cutmix", "alignmix", "samix", "moco", "augmix", "splicemix", "demixgan")


def trained(cls, engine, *, epochs=1, **options):
    """The Trainer of a method that was trained by an engine, and the method."""
    torch.manual_seed(0)
    method = sample_method(cls, epochs=epochs, **options.pop("settings", {}))
    return fit(method, engine=engine, **options), method


def left(trainer):
    """All that a checkpoint holds: weights, optimisers, schedules, and the state of the loop."""
    content = trainer._checkpoint_connector.dump_checkpoint()
    return content | {"progress": trainer.callback_metrics}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name not in OF_EACH_KIND))
        for name in METHODS.names()
    ],
)
def test_every_method_trains_as_under_lightnings_loop(name):
    found = []
    for engine in ENGINES:
        trainer, method = trained(METHODS.get(name), engine)
        assert isinstance(trainer.fit_loop.epoch_loop, FastTrainingLoop) is (engine == "fast")
        assert method.step == 4
        found.append(left(trainer))
    assert killing.differences(*found) == []


OPTIONS = {
    "averaged weights": "optim.ema=0.9 method=mixup",
    "accumulation and clipping": "optim.accumulate=2 optim.clip=0.05",
    "bf16": "precision=bf16 method=cutmix",
    "best epoch": "select=val data.limit=200 optim.ema=0.9 peek=true",
    "adamw": "optim.name=adamw lr=1e-3 optim.warmup_epochs=1",
    "workers": "data.workers=1",
    "two optimisers": "method=demixgan data.size=12 net=dcgan net.latent=6 method.tested=5 "
    "method.search_steps=2 method.restarts=1 method.ema=0.9",
}
LONG = ("bf16", "adamw", "workers")


def outcome(root):
    """What a run left, without the name of its engine."""
    found = killing.outcome(root)
    del found["record"]["engine"], found["checkpoint"]["mixbench"]["config"]["trainer"]["engine"]
    return found


def place(root):
    (folder,) = root.iterdir()
    return folder


@pytest.mark.parametrize(
    "option",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in LONG)) for name in OPTIONS],
)
def test_a_run_leaves_the_same_under_either_engine(option, tmp_path, monkeypatch):
    found = []
    for engine in ENGINES:
        monkeypatch.setenv("MIXBENCH_RUNS", str(tmp_path / engine))
        record = run(compose([*WORDS, *OPTIONS[option].split(), f"trainer.engine={engine}"]))
        assert (record.status, record.engine) == ("done", engine)
        assert record.attempts[-1]["machine"]["engine"] == engine
        found.append(outcome(tmp_path / engine))
    assert killing.differences(*found) == []


def stops(step, base):
    """A method that is asked to stop in a step."""

    class Stops(base):
        def after_step(self):
            super().after_step()
            if self.step == step:
                os.kill(os.getpid(), signal.SIGTERM)

    return Stops


@pytest.mark.parametrize("first", ENGINES)
@pytest.mark.parametrize(
    "words",
    [
        "optim.ema=0.9 select=val data.limit=200 method=mixup",
        pytest.param("method=samix method.dropout=0.1 optim.accumulate=2", marks=pytest.mark.slow),
    ],
)
def test_either_engine_goes_on_with_a_run_that_was_stopped_under_the_other(
    words, first, tmp_path, monkeypatch
):
    name = words.partition("method=")[2].split()[0]
    base, given = METHODS.get(name), [*WORDS, *words.split()]
    monkeypatch.setenv("MIXBENCH_RUNS", str(tmp_path / "whole"))
    run(compose(given))
    monkeypatch.setenv("MIXBENCH_RUNS", str(tmp_path / "stopped"))
    monkeypatch.setitem(METHODS._objects, name, stops(3, base))
    with pytest.raises(InterruptedRunError):
        run(compose([*given, f"trainer.engine={first}"]))
    saved = read_checkpoint(place(tmp_path / "stopped") / LAST)
    assert (saved["mixbench_step"], saved["mixbench"]["epoch"]) == (3, 0)  # inside an epoch
    monkeypatch.setitem(METHODS._objects, name, base)
    (second,) = {*ENGINES} - {first}
    record = run(compose([*given, f"trainer.engine={second}"]))
    assert [attempt["machine"]["engine"] for attempt in record.attempts] == [first, second]
    assert record.resumed_bit_exact is True
    assert killing.differences(*(outcome(tmp_path / kind) for kind in ("whole", "stopped"))) == []


def test_a_run_goes_on_inside_an_epoch_that_is_augmented_at_once(tmp_path, monkeypatch):
    base = METHODS.get("mixup")
    given = [*WORDS, "method=mixup", "data.flip=true", "data.flip_rule=alternating"]
    by_epoch = ["data.augment_by=epoch", "trainer.engine=fast"]
    monkeypatch.setenv("MIXBENCH_RUNS", str(tmp_path / "whole"))
    run(compose(given))
    monkeypatch.setenv("MIXBENCH_RUNS", str(tmp_path / "stopped"))
    monkeypatch.setitem(METHODS._objects, "mixup", stops(2, base))
    with pytest.raises(InterruptedRunError):
        run(compose(given))
    monkeypatch.setitem(METHODS._objects, "mixup", base)
    record = run(compose([*given, *by_epoch]))
    found = [attempt["machine"]["augment_by"] for attempt in record.attempts]
    assert found == ["batch", "epoch"]
    assert record.resumed_bit_exact is True
    outcomes = [outcome(tmp_path / kind) for kind in ("whole", "stopped")]
    for each in outcomes:
        del each["record"]["augment_by"], each["checkpoint"]["mixbench"]["config"]["data"]
    assert killing.differences(*outcomes) == []


class Explodes(METHODS.get("cutmix")):
    def loss(self, logits, mixed):
        value = super().loss(logits, mixed)
        return value * (float("nan") if self.step >= 7 else 1.0)


def test_a_loss_that_is_not_finite_stops_the_fast_engine_too(runs, monkeypatch):
    monkeypatch.setitem(METHODS._objects, "cutmix", Explodes)
    words = "method=cutmix epochs=50 trainer.log_every=4 trainer.ckpt_steps=2 trainer.engine=fast"
    with pytest.raises(RunFailedError, match="the loss is not finite, first in epoch 2, batch 2"):
        run(compose([*WORDS, *words.split()]))
    folder = place(runs)
    assert read_record(folder).status == "diverged"
    assert read_checkpoint(folder / LAST)["mixbench_step"] == 6
    assert json.loads((folder / "diverged.json").read_text())["batch"] == 2


def test_the_engine_is_no_part_of_the_machine_that_weights_depend_on():
    machine = {"device": "cpu", "deterministic": True}
    machines = [machine | {"engine": engine} for engine in ENGINES]

    def exact(*machines):
        attempts = [{"from_step": n, "machine": found} for n, found in enumerate(machines)]
        return bit_exact(attempts, changed=False)

    assert exact(*machines) is True
    assert exact(*machines, machine) is True  # the last of an older version
    assert exact(*machines, machine | {"device": "another"}) is False
    assert exact({}, {}) is False


def test_attempts_on_a_gpu_with_other_kernels_did_not_compute_alike(monkeypatch):
    def machine(device, graphs=False):
        trainer = TrainerConfig(engine="fast", cuda_graphs=graphs)
        return {"deterministic": True} | kernel_choices(trainer, torch.device(device))

    def exact(*machines):
        attempts = [{"from_step": n, "machine": found} for n, found in enumerate(machines)]
        return bit_exact(attempts, changed=False)

    sinkhorn = sys.modules["mixbench.functional.sinkhorn"]
    monkeypatch.setattr(sinkhorn, "_TRITON", True)
    monkeypatch.setattr(sinkhorn, "_UNFIT", [])
    first = machine("cuda")
    assert exact(first, machine("cuda")) is True
    assert exact(first, machine("cuda", graphs=True)) is False
    sinkhorn._UNFIT.append("planted")
    assert exact(first, machine("cuda")) is False
    sinkhorn._UNFIT.clear()
    monkeypatch.setenv("MIXBENCH_FUSED", "0")
    assert exact(first, machine("cuda")) is False
    older = {"deterministic": True}
    assert exact(older, machine("cuda")) is False  # which kernels it chose is not known
    assert exact(older, machine("cpu", graphs=True)) is True  # there it had no choice


HOOKS = (
    "on_before_batch_transfer",
    "transfer_batch_to_device",
    "on_after_batch_transfer",
    "on_train_epoch_start",
    "on_before_zero_grad",
    "optimizer_zero_grad",
    "training_step",
    "on_before_backward",
    "backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "configure_gradient_clipping",
    "optimizer_step",
    "lr_scheduler_step",
    "on_train_epoch_end",
    "on_validation_model_zero_grad",
)
BATCH = ("on_train_batch_start", "on_train_batch_end")


def noting(base, names, seen):
    """A class with some hooks, which write down that they were called, and with what kinds."""

    def noted(name):
        def hook(self, *args, **kwargs):
            kinds = [type(arg).__name__.removeprefix("Lightning") for arg in args]
            seen.append((base.__name__, name, kinds if name != "optimizer_step" else len(args)))
            return getattr(base, name)(self, *args, **kwargs)

        return hook

    return type(f"Noting{base.__name__}", (base,), {name: noted(name) for name in names})


@pytest.mark.parametrize("names", [(), HOOKS, BATCH, *((name,) for name in HOOKS)], ids=str)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_each_hook_of_a_method_and_of_a_callback_is_called_in_its_turn(names, accumulate):
    own = [name for name in (*HOOKS, *BATCH) if hasattr(Callback, name)]
    found = []
    for engine in ENGINES:
        seen = []
        cls = noting(METHODS.get("mixup"), names, seen)
        callbacks = [noting(Callback, own, seen)()] if accumulate == 1 else []
        options = {"accumulate_grad_batches": accumulate, "gradient_clip_val": 0.1}
        trainer, _ = trained(cls, engine, callbacks=callbacks, **options)
        found.append((seen, left(trainer)))
    assert found[0][0] == found[1][0]
    assert {name for kind, name, _ in found[0][0] if kind != "Callback"} >= {*names} - {
        "on_validation_model_zero_grad"
    }
    assert killing.differences(found[0][1], found[1][1]) == []


class Logs(Method):
    """Logs in the ways of Lightning, which no method of this package does."""

    def training_step(self, batch):
        loss = super().training_step(batch, self.trainer.fit_loop.batch_idx)
        self.log("step", loss, on_epoch=True, prog_bar=True)
        self.log("mean", loss, on_step=False, on_epoch=True)
        return {"loss": loss, "more": loss.detach() + 1}


class SkipsAStep(Method):
    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return None if batch_idx == 1 else loss


class StopsEarly(Method):
    def after_step(self):
        self.trainer.should_stop = self.step == 6


class OtherSchedule(Method):
    """Two schedules, of which one waits for a score and one for the end of an epoch."""

    def configure_optimizers(self):
        made = super().configure_optimizers()
        optimizer = made["optimizer"]
        epochs = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        return [optimizer], [made["lr_scheduler"], {"scheduler": epochs, "interval": "epoch"}]


class TakesClosures(Method):
    def configure_optimizers(self):
        return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=2)


class Looks(Callback):
    """Keeps what callbacks are given, and what is logged by then."""

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.seen.append({key: value.clone() for key, value in outputs.items()})
        self.seen.append(dict(trainer.callback_metrics))
        pl_module.log("looked", float(batch_idx), on_epoch=True)


class Clips(Method):
    """Begins to limit the gradients inside an epoch."""

    def after_step(self):
        self.trainer.gradient_clip_val = 0.01 if self.step > 1 else None


@pytest.mark.parametrize("cls", [Logs, SkipsAStep, StopsEarly, OtherSchedule, TakesClosures, Clips])
def test_what_only_plug_ins_do_is_done_alike(cls):
    found = []
    for engine in ENGINES:
        looks = Looks()
        trainer, method = trained(cls, engine, epochs=3, callbacks=[looks])
        found.append((left(trainer), looks.seen, method.step))
    assert killing.differences(*found) == []
    assert found[0][1]


def test_a_difference_would_be_found(monkeypatch):
    monkeypatch.setattr(FastTrainingLoop, "_schedule", lambda self: None)
    found = [left(trained(METHODS.get("mixup"), engine, epochs=1)[0]) for engine in ENGINES]
    places = {line.split("/")[1] for line in killing.differences(*found)}
    assert places == {"lr_schedulers", "loops"}
