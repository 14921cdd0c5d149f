"""Steps that are replayed, with a recorder that computes on the CPU in place of the device's."""

import contextlib
import dataclasses

import killing
import pytest
import torch
from frozen_calls import FrozenCalls
from lightning.pytorch import Callback
from torch import nn

from mixbench import compose, run
from mixbench.config.schema import OptimConfig
from mixbench.errors import RunFailedError
from mixbench.functional.mixed import Mixed
from mixbench.methods import METHODS
from mixbench.methods.base import Method
from mixbench.nn.schedules import warm_decay
from mixbench.nn.teacher import Teacher
from mixbench.nn.update import KINDS, SGDUpdate
from mixbench.records.checkpoints import LAST, read_checkpoint
from mixbench.testing.samples import fit, sample_batch, sample_method
from mixbench.training import step_graphs
from mixbench.training.callbacks.average import EMA
from mixbench.training.step_graphs import StepGraphs


@pytest.fixture
def recorded(monkeypatch):
    """Record on the CPU after one step of a kind; a list of the recorders."""
    monkeypatch.setattr(step_graphs, "DEVICES", ("cpu",))
    monkeypatch.setattr(step_graphs, "WARM_UP", 1)
    seen = []

    def imitate(function):
        seen.append(FrozenCalls())
        return seen[-1].capture(function)

    monkeypatch.setattr(step_graphs, "capture", imitate)
    return seen


RECIPE = OptimConfig(warmup_epochs=1, min_lr=1e-4)  # a rate of its own for each step


def trained(cls, graphs, settings=None, optim=RECIPE, **options):
    torch.manual_seed(0)
    method = sample_method(cls, epochs=3, **settings or {})
    trainer = dataclasses.replace(method.run.trainer, cuda_graphs=graphs)
    method.run = dataclasses.replace(method.run, trainer=trainer, optim=optim)
    average = EMA(0.9)
    return fit(method, engine="fast", callbacks=[average, *options.pop("callbacks", [])], **options)


def left(trainer):
    """All that a checkpoint holds; of the optimiser with its types."""
    content = trainer._checkpoint_connector.dump_checkpoint()
    groups = [group for state in content["optimizer_states"] for group in state["param_groups"]]
    types = [{key: type(value).__name__ for key, value in group.items()} for group in groups]
    return content | {"types": types}


class Branches(Method):
    """One step in two goes through a layer that the others have no gradient for."""

    replayable = True

    def __init__(self, net, *args, **kwargs):
        super().__init__(net, *args, **kwargs)
        self.more = nn.Linear(4, 4)

    def mix(self, x, targets):
        return Mixed(x, targets, aux=self.step % 2)

    def predict(self, mixed):
        logits = self.net(mixed.x)
        return (self.more(logits) if mixed.aux else logits), mixed

    def param_groups(self):
        return super().param_groups() + self.groups_of(self.more)


class Follows(METHODS.get("manifoldmixup")):
    """A momentum teacher, which sees the weights after each step."""

    def __init__(self, net, *args, **kwargs):
        super().__init__(net, *args, **kwargs)
        self.teacher = Teacher(net, nn.Identity())

    def after_step(self):
        self.teacher.update(self.net, nn.Identity(), warm_decay(0.9, self.step))


SGD, ADAMW = {"momentum": 0.9, "weight_decay": 0.1}, {"name": "adamw", "weight_decay": 0.1}
CLIP = {"gradient_clip_val": 0.05}


@pytest.mark.parametrize(
    ("cls", "settings", "recipe", "options", "kinds"),
    [
        ("erm", {}, SGD | {"nesterov": False}, {}, 1),
        ("mixup", {"prob": 0.5}, ADAMW, CLIP, 2),  # mixed or not
        (Follows, {}, SGD, CLIP, 3),  # one for each layer
        (Branches, {}, SGD, {}, 2),
        (Branches, {}, ADAMW, {}, 2),
        pytest.param("erm", {}, {"momentum": 0.0}, {}, 1, marks=pytest.mark.slow),
        pytest.param("erm", {}, SGD, {"precision": "bf16-mixed"}, 1, marks=pytest.mark.slow),
        pytest.param("manifoldmixup", {}, ADAMW, {}, 3, marks=pytest.mark.slow),
        pytest.param("bc", {}, SGD, {}, 1, marks=pytest.mark.slow),
        pytest.param("fmix", {"per_sample": True}, SGD, {}, 1, marks=pytest.mark.slow),
    ],
)
def test_replayed_steps_train_the_same_bit_by_bit(recorded, cls, settings, recipe, options, kinds):
    cls = METHODS.get(cls) if isinstance(cls, str) else cls
    optim = dataclasses.replace(RECIPE, **recipe)
    plain, replayed = (trained(cls, on, settings, optim, **options) for on in (False, True))
    graphs = replayed.fit_loop.epoch_loop.graphs
    assert graphs.outcome == f"{kinds} graph{'s' * (kinds > 1)} of passes and update"
    assert len(recorded) == kinds
    assert killing.differences(left(plain), left(replayed)) == []


class Looks(Callback):
    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        optimizer.param_groups[0]["params"][0].grad.mul_(2)


def test_an_update_that_others_look_into_stays_outside_and_says_so(recorded):
    erm, options = METHODS.get("erm"), CLIP | {"callbacks": [Looks()]}
    plain, replayed = (trained(erm, graphs, **options) for graphs in (False, True))
    assert replayed.fit_loop.epoch_loop.graphs.outcome == (
        "1 graph of passes alone: the method or a callback has hooks in front of the update"
    )
    assert killing.differences(left(plain), left(replayed)) == []


def test_an_update_that_cannot_be_recorded_leaves_the_passes(recorded, monkeypatch):
    monkeypatch.setattr(SGDUpdate, "follow", lambda self: self.gradients[0].sum().item())
    plain, replayed = (trained(METHODS.get("mixup"), graphs) for graphs in (False, True))
    assert replayed.fit_loop.epoch_loop.graphs.outcome == (
        "1 graph of passes alone: the update cannot be recorded: RuntimeError: "
        "operation not permitted when stream is capturing"
    )
    assert killing.differences(left(plain), left(replayed)) == []


@pytest.mark.parametrize(
    ("name", "accumulate", "words"),
    [
        ("erm", 2, "gradients of several micro-batches"),
        pytest.param("samix", 1, "decides in its passes", marks=pytest.mark.slow),
        pytest.param("automix", 1, "decides in its passes", marks=pytest.mark.slow),
        pytest.param("moco", 1, "hooks around the passes", marks=pytest.mark.slow),
    ],
)
def test_steps_that_are_not_replayed_train_the_same(recorded, name, accumulate, words):
    optim = dataclasses.replace(RECIPE, accumulate=accumulate)
    parts = {"accumulate_grad_batches": accumulate, "optim": optim}
    plain, asked = (trained(METHODS.get(name), graphs, **parts) for graphs in (False, True))
    outcome = asked.fit_loop.epoch_loop.graphs.outcome
    assert outcome.startswith("none: ")
    assert words in outcome
    assert killing.differences(left(plain), left(asked)) == []


def numbers(recorded, optim):
    """What two graphs of the same step hold fast, one of them of a later step."""
    method = with_run(sample_method(METHODS.get("erm")), optim=optim)
    made = method.configure_optimizers()
    optimizer, schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
    mixed = method.mix(*sample_batch())

    def clip():
        nn.utils.clip_grad_norm_(method.parameters(), 0.1)

    for _ in range(2):
        graphs = StepGraphs(method, "", optimizer, clip)
        for _ in range(2):
            optimizer.zero_grad()
            loss = graphs(mixed).loss
            if not graphs.replayed:
                loss.backward()
            (graphs.update or optimizer).step()
            schedule.step()
        assert graphs.update is not None
    return [each.numbers for each in recorded]


@pytest.mark.parametrize("recipe", [SGD, ADAMW])
def test_a_graph_holds_no_number_that_changes_by_the_step(recorded, monkeypatch, recipe):
    optim = dataclasses.replace(RECIPE, **recipe)
    first, second = numbers(recorded, optim)
    assert first == second
    assert any("_foreach_norm" in name for name, _ in first)
    recorded.clear()
    kind = KINDS[torch.optim.SGD if recipe is SGD else torch.optim.AdamW]
    follow = kind.follow
    monkeypatch.setattr(kind, "follow", lambda self: (follow(self), self.move()))  # planted
    monkeypatch.setattr("frozen_calls.READS", ())
    first, second = numbers(recorded, optim)
    assert first != second


@pytest.mark.parametrize(
    ("recipe", "setting", "values"),
    [
        (SGD, "weight_decay", (0.2, 0.0)),
        (SGD, "momentum", (0.9, 0.5)),
        (SGD, "nesterov", (True, False)),
        (ADAMW, "betas", ([0.9, 0.99], [0.8, 0.99])),
    ],
)
def test_a_setting_that_changes_has_graphs_of_its_own(recorded, recipe, setting, values):
    class Changes(METHODS.get("erm")):
        def after_step(self):
            for group in self.trainer.optimizers[0].param_groups:
                group[setting] = values[self.step > 5]

    optim = dataclasses.replace(RECIPE, **recipe)
    plain, replayed = (trained(Changes, graphs, optim=optim) for graphs in (False, True))
    assert replayed.fit_loop.epoch_loop.graphs.outcome == "2 graphs of passes and update"
    assert killing.differences(left(plain), left(replayed)) == []


class Clips(METHODS.get("erm")):
    """Begins to limit the gradients, and does so in another way after three steps each."""

    def after_step(self):
        ways = (None, None), (0.05, "norm"), (0.05, "value"), (0.001, "norm")
        value, algorithm = ways[min(self.step // 3, 3)]
        self.trainer.gradient_clip_val, self.trainer.gradient_clip_algorithm = value, algorithm


def test_a_threshold_of_clipping_that_changes_has_graphs_of_its_own(recorded):
    plain, replayed = (trained(Clips, graphs) for graphs in (False, True))
    assert replayed.fit_loop.epoch_loop.graphs.outcome == "4 graphs of passes and update"
    assert killing.differences(left(plain), left(replayed)) == []


class Decays(METHODS.get("erm")):
    """A weight decay of its own for each step."""

    def after_step(self):
        for group in self.trainer.optimizers[0].param_groups:
            group["weight_decay"] = 0.01 * self.step


@pytest.mark.parametrize(
    ("recipe", "callbacks", "words"),
    [
        (SGD, [Looks()], "1 graph of passes alone: the method or a callback has hooks"),
        (ADAMW, [], "1 graph of passes and update"),  # it decays weights as it moves them
        (SGD, [], "none: steps are of more than 6 kinds, by 7 different settings of update and"),
    ],
)
def test_settings_count_as_far_as_a_graph_holds_them(
    recorded, monkeypatch, recipe, callbacks, words
):
    monkeypatch.setattr(step_graphs, "MOST", 6)
    optim = dataclasses.replace(RECIPE, **recipe)
    options = {"optim": optim, "callbacks": callbacks}
    plain, replayed = (trained(Decays, graphs, **options) for graphs in (False, True))
    assert replayed.fit_loop.epoch_loop.graphs.outcome.startswith(words)
    assert killing.differences(left(plain), left(replayed)) == []


class Turns(METHODS.get("erm")):
    """Goes uphill for some steps, and has a note in its groups of parameters."""

    def param_groups(self):
        return [group | {"names": ["a"]} for group in super().param_groups()]

    def after_step(self):
        for group in self.trainer.optimizers[0].param_groups:
            group["maximize"] = 4 < self.step < 9


def test_an_update_is_not_replayed_while_it_is_another_one(recorded):
    plain, replayed = (trained(Turns, graphs) for graphs in (False, True))
    graphs = replayed.fit_loop.epoch_loop.graphs
    assert graphs.outcome == (
        "1 graph of passes and update, then "
        "1 graph of passes alone: the update of SGD is not known in two parts"
    )
    assert graphs.update is not None  # in the end it is the first again
    assert killing.differences(left(plain), left(replayed)) == []


class Crashes(METHODS.get("manifoldmixup")):
    def after_step(self):
        super().after_step()
        if self.step == 8:
            raise RuntimeError("planted failure")


@pytest.mark.parametrize(
    "first", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["first", "second"]
)
def test_a_run_goes_on_from_replayed_steps_without_them_and_back(
    recorded, tmp_path, monkeypatch, first
):
    words = "method=manifoldmixup data=digits data.limit=96 net.width=4 eval.suites=[] epochs=2 "
    words += "batch_size=8 logger=none trainer.ckpt_steps=7 trainer.engine=fast optim.ema=0.9 "
    words += "optim.name=adamw optim.clip=0.1 optim.warmup_epochs=1 lr=1e-2"
    found = []
    for name in ("whole", "stopped"):
        monkeypatch.setenv("MIXBENCH_RUNS", str(tmp_path / name))
        if name == "stopped":
            with monkeypatch.context() as patch, contextlib.suppress(RunFailedError):
                patch.setitem(METHODS._objects, "manifoldmixup", Crashes)
                run(compose(f"{words} trainer.cuda_graphs={first}"))
            assert bool(recorded) is first
        record = run(compose(f"{words} trainer.cuda_graphs={not first and name == 'stopped'}"))
        found.append(killing.outcome(tmp_path / name))
        del found[-1]["record"]["cuda_graphs"]
        del found[-1]["checkpoint"]["mixbench"]["config"]["trainer"]["cuda_graphs"]
    assert len(record.attempts) == 2
    assert recorded
    assert killing.differences(*found) == []


@pytest.mark.slow
def test_replayed_steps_that_diverge_stop_at_the_same_step(recorded, tmp_path, monkeypatch):
    words = "method=mixup data=digits data.limit=64 net.width=4 eval.suites=[] epochs=9 lr=1e12 "
    words += "batch_size=8 logger=none trainer.engine=fast trainer.log_every=4 trainer.ckpt_steps=2"
    found = []
    for graphs in (False, True):
        folder = tmp_path / str(graphs)
        monkeypatch.setenv("MIXBENCH_RUNS", str(folder))
        with pytest.raises(RunFailedError, match="the loss is not finite"):
            run(compose(f"{words} trainer.cuda_graphs={graphs}"))
        (place,) = folder.iterdir()
        content = read_checkpoint(place / LAST)
        del content["mixbench"]["config"]["trainer"]["cuda_graphs"]
        found.append((content, (place / "diverged.json").read_text()))
    assert recorded
    assert killing.differences(*found) == []


def with_run(method, **changes):
    method.run = dataclasses.replace(method.run, **changes)
    return method


def test_what_cannot_be_replayed_says_why(recorded):
    erm, several = METHODS.get("erm"), METHODS.get("alignmix")
    base = sample_method(erm).run
    taught = sample_method(erm)
    taught.distillation = nn.Identity()
    optim = dataclasses.replace(base.optim, accumulate=2)
    cases = [
        (sample_method(erm), ""),
        (with_run(sample_method(erm), batch_size=512), "batches of 512 images"),
        (with_run(sample_method(erm), batch_size=512, devices=2), "several processes"),
        (with_run(sample_method(erm), batch_size=512, optim=optim), "several micro-batches"),
        (sample_method(several), "decides in its passes"),
        (taught, "a teacher"),
    ]
    for method, words in cases:
        found = StepGraphs(method)
        assert words in found.reason
        assert bool(found.reason) == bool(words)
    assert StepGraphs(sample_method(erm), "no").outcome == "none: no"
    for kind, words in [(torch.optim.SGD, ""), (torch.optim.Adagrad, "of Adagrad is not known")]:
        method = sample_method(erm)
        found = StepGraphs(method, "", kind(method.parameters(), lr=0.1, foreach=True)).outside
        assert words in found
        assert bool(found) == bool(words)


class Draws(nn.Module):
    def forward(self, x):
        return x * torch.rand(())


def steps(graphs, mixed, count=3):
    for _ in range(count):
        graphs.method.zero_grad()
        loss = graphs(mixed).loss
        if not graphs.replayed:
            loss.backward()
    return [p.grad for p in graphs.method.parameters()]


def test_a_step_that_cannot_be_recorded_runs_as_it_is(recorded, monkeypatch):
    method = sample_method(METHODS.get("erm")).eval()  # equal steps
    mixed = method.mix(*sample_batch())
    plain = [gradient.clone() for gradient in steps(StepGraphs(method, "not asked"), mixed)]
    refused = StepGraphs(method)
    with monkeypatch.context() as patch:
        patch.setattr(step_graphs, "capture", lambda _: 1 / 0)
        assert all(map(torch.equal, steps(refused, mixed), plain))
    assert refused.outcome.startswith("none: a step cannot be recorded: ZeroDivisionError")

    strange = StepGraphs(method)
    assert all(map(torch.equal, steps(strange, mixed._replace(aux=object())), plain))
    assert "holds an object of type object" in strange.outcome

    leaf = mixed._replace(x=mixed.x.clone().requires_grad_())
    learned = StepGraphs(method)
    assert all(map(torch.equal, steps(learned, leaf), plain))
    assert "has a gradient" in learned.outcome


class Fails(METHODS.get("erm")):
    def training_step(self, *args):
        raise RuntimeError("planted")


def test_a_step_that_fails_leaves_the_method_its_own_passes():
    method = sample_method(Fails)
    trainer = dataclasses.replace(method.run.trainer, cuda_graphs=True)
    with pytest.raises(RuntimeError, match="planted"):
        fit(with_run(method, trainer=trainer), engine="fast")
    assert "passes" not in vars(method)


def test_passes_that_draw_on_the_host_are_not_frozen(recorded):
    method = sample_method(METHODS.get("erm")).eval()
    method.net = nn.Sequential(Draws(), method.net)
    graphs, mixed = StepGraphs(method), method.mix(*sample_batch())
    first, state = graphs(mixed).loss, torch.get_rng_state()
    second = graphs(mixed).loss  # was to be recorded
    assert "draws on the host" in graphs.outcome
    assert not torch.equal(first, second)
    torch.set_rng_state(state)
    assert torch.equal(second, method.passes_of(mixed).loss)


def test_kinds_of_steps_without_end_are_not_recorded_one_by_one(recorded, monkeypatch):
    monkeypatch.setattr(step_graphs, "MOST", 3)
    method = sample_method(METHODS.get("erm")).eval()
    x, targets = sample_batch()
    graphs = StepGraphs(method)
    for rows in (2, 2, 3, 4, 5):
        graphs(method.mix(x[:rows], targets[:rows]))
    assert graphs.outcome == (
        "1 graph of passes alone: there is no optimiser, then none: steps are of more than 3 kinds"
    )


def test_a_run_under_lightnings_loop_records_that_nothing_was_replayed(runs):
    words = (
        "data=digits data.limit=32 net.width=4 epochs=1 batch_size=32 eval.suites=[] logger=none"
    )
    record = run(compose(f"{words} trainer.cuda_graphs=true"))
    assert record.cuda_graphs == "none: trainer.engine is lightning"
