"""Steps that are replayed, with a recorder that computes on the CPU in place of the device's."""

import dataclasses

import killing
import pytest
import torch
from torch import nn

from mixbench import compose, run
from mixbench.methods import METHODS
from mixbench.methods.base import Method
from mixbench.testing.samples import fit, sample_batch, sample_method
from mixbench.training import step_graphs
from mixbench.training.step_graphs import StepGraphs


@pytest.fixture
def recorded(monkeypatch):
    """Record on the CPU after one step of a kind; a list of the methods that were recorded."""
    monkeypatch.setattr(step_graphs, "DEVICES", ("cpu",))
    monkeypatch.setattr(step_graphs, "WARM_UP", 1)
    seen = []

    def imitate(function):
        (method,) = (
            cell.cell_contents
            for cell in function.__closure__
            if isinstance(cell.cell_contents, Method)
        )
        seen.append(method)
        parameters, buffers = list(method.parameters()), list(method.buffers())
        before = [buffer.clone() for buffer in buffers]
        found = function()
        held = [parameter.grad for parameter in parameters]
        for buffer, value in zip(buffers, before, strict=True):  # a device would compute nothing
            buffer.copy_(value)
        for value in (found.loss, found.logits, *(g for g in held if g is not None)):
            value.fill_(torch.nan)

        def replay():
            for parameter in parameters:
                parameter.grad = None
            again = function()
            found.loss.copy_(again.loss)
            found.logits.copy_(again.logits)
            for gradient, parameter in zip(held, parameters, strict=True):
                if gradient is not None:
                    gradient.copy_(parameter.grad)
                parameter.grad = None  # who replays says where the gradients are

        return found, replay

    monkeypatch.setattr(step_graphs, "capture", imitate)
    return seen


def trained(name, graphs, settings, **options):
    torch.manual_seed(0)
    method = sample_method(METHODS.get(name), epochs=3, **settings)
    method.run = dataclasses.replace(
        method.run, trainer=dataclasses.replace(method.run.trainer, cuda_graphs=graphs)
    )
    return fit(method, engine="fast", **options)


@pytest.mark.parametrize(
    ("name", "settings", "kinds"),
    [
        ("erm", {}, 1),
        ("mixup", {"prob": 0.5}, 2),  # mixed or not
        ("manifoldmixup", {}, 3),  # one for each layer
        pytest.param("bc", {}, 1, marks=pytest.mark.slow),
        pytest.param("fmix", {"per_sample": True}, 1, marks=pytest.mark.slow),
    ],
)
def test_replayed_steps_train_the_same_bit_by_bit(recorded, name, settings, kinds):
    plain, replayed = (trained(name, graphs, settings) for graphs in (False, True))
    graphs = replayed.fit_loop.epoch_loop.graphs
    assert graphs.reason == ""
    assert graphs.outcome == f"{kinds} graph{'s' * (kinds > 1)}"
    assert len(recorded) == kinds
    assert (
        killing.differences(
            *(trainer._checkpoint_connector.dump_checkpoint() for trainer in (plain, replayed))
        )
        == []
    )


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
    assert graphs.outcome == "1 graph, then none: steps are of more than 3 kinds"


def test_a_run_under_lightnings_loop_records_that_nothing_was_replayed(runs):
    words = (
        "data=digits data.limit=32 net.width=4 epochs=1 batch_size=32 eval.suites=[] logger=none"
    )
    record = run(compose(f"{words} trainer.cuda_graphs=true"))
    assert record.cuda_graphs == "none: trainer.engine is lightning"
