import contextlib
import copy
import logging
from pathlib import Path

import killing
import pytest
import torch
from small_nets import SIZE, small_net
from torch import nn

from mixbench import compose, run
from mixbench.backbones import NETS
from mixbench.backbones.vit import VisionTransformer
from mixbench.config.schema import DataInfo, RunConfig
from mixbench.data import DATA
from mixbench.methods import METHODS
from mixbench.records.checkpoints import LAST, read_checkpoint
from mixbench.testing.samples import sample_batch
from mixbench.training.build import build
from mixbench.training.compile import compile_stages
from mixbench.training.job import resolve


class Refuses(nn.Module):
    """Works as it is, and not under the compiler."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, h):
        if torch.compiler.is_compiling():
            raise NotImplementedError("planted for the compiler")
        return self.inner(h)


def refusing(config, info):
    net = NETS._objects["real"](config, info)
    net.stages[0] = Refuses(net.stages[0])
    return net


@pytest.fixture
def net(monkeypatch):
    """Makes the first stage of the network one that cannot be compiled."""
    monkeypatch.setitem(NETS._objects, "real", NETS.get("preactresnet18"))
    monkeypatch.setitem(NETS._objects, "preactresnet18", refusing)


# FAULTS row 41.
def test_what_cannot_be_compiled_runs_as_it_is_with_one_warning_and_is_recorded(
    runs, tiny, net, caplog
):
    with caplog.at_level(logging.WARNING, "mixbench"):
        record = run(compose([*tiny, "trainer.compile=true"]))
    assert record.status == "done"
    assert record.compiled is False
    told = [line for line in caplog.messages if "torch.compile failed" in line]
    assert len(told) == 1
    assert "the network runs as it is: Unsupported" in told[0]


def test_a_teacher_is_compiled_beside_its_network_and_stays_frozen(runs, tiny, monkeypatch):
    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda stage, **_: compiled.append(stage))
    record = run(compose([*tiny, "method=samix", "trainer.compile=true"]))
    assert record.compiled is True
    assert len(set(compiled)) == 8
    trained = [any(p.requires_grad for p in stage.parameters()) for stage in compiled]
    assert sorted(trained) == [False] * 4 + [True] * 4


def test_trying_changes_neither_weights_nor_statistics(tiny, monkeypatch):
    def compile_all_but_the_last(stage, **_):
        stage._compiled_call_impl = refuse if isinstance(stage, Refuses) else stage._call_impl

    def refuse(*_):
        raise RuntimeError("planted for the compiler")

    monkeypatch.setattr(nn.Module, "compile", compile_all_but_the_last)  # a real one takes long
    config = compose(tiny)
    method, _ = build(resolve(config), DATA.get("digits")(config.data).load())
    method.net.stages[-1] = Refuses(method.net.stages[-1])
    before = {name: value.clone() for name, value in method.state_dict().items()}
    x = torch.rand(4, method.info.channels, method.info.height, method.info.width)
    assert compile_stages(method.net, x, contextlib.nullcontext()) is False
    assert all(torch.equal(before[name], value) for name, value in method.state_dict().items())
    assert all(p.grad is None for p in method.parameters())
    assert method.net.training
    method(x)  # nothing of the attempt is left in the stages


def test_a_network_without_stages_stays_as_it_is(caplog):
    assert compile_stages(nn.Linear(2, 2), torch.rand(1, 2), contextlib.nullcontext()) is False
    assert "no stages" in caplog.text


@pytest.mark.slow
def test_a_compiled_run_goes_on_bit_by_bit_and_adds_no_graph(tmp_path, monkeypatch):
    words = (
        "data=digits data.limit=160 net.width=4 epochs=3 batch_size=32 wandb.mode=disabled "
        "eval.suites=[] "
    )
    words += "trainer.compile=true method=cutmix"

    whole, stopped, record = killing.crash_and_go_on(words, tmp_path, monkeypatch, 9, "cutmix")
    assert killing.differences(whole, stopped) == []
    assert record.compiled is True
    assert record.resumed_bit_exact is True
    torch._dynamo.utils.counters.clear()
    torch._dynamo.reset()
    assert run(compose(f"{words} seed=1")).compiled is True
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 4  # one for each stage


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_compiled_steps_of_samix_are_those_of_the_plain_ones_without_a_graph_for_each(
    runs, monkeypatch, backend
):
    whole = nn.Module.compile
    monkeypatch.setattr(
        nn.Module, "compile", lambda stage, **how: whole(stage, backend=backend, **how)
    )
    words = "data=digits data.limit=32 net.width=4 batch_size=32 wandb.mode=disabled method=samix "
    plain = run(compose(f"{words} epochs=1"))
    graphs = []
    for epochs in (1, 3):
        torch._dynamo.utils.counters.clear()
        torch._dynamo.reset()
        record = run(
            compose(f"{words} epochs={epochs} trainer.compile=true run.dir={runs}-compiled")
        )
        assert record.compiled is True
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
        assert torch._dynamo.utils.counters["graph_break"] == {}
        if epochs == 1:  # of one step, as rounding grows from step to step
            folders = runs / plain.id, Path(f"{runs}-compiled") / record.id
            one, two = (read_checkpoint(folder / LAST)["state_dict"] for folder in folders)
            for name, value in one.items():
                torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-4, msg=name)
    # Four stages of the network. The teacher passes clean images without a gradient through three
    # of its own and mixed ones, for a gradient to their masks, through all four.
    assert graphs == [11, 11]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "vit_tiny"])
def test_every_stage_of_a_network_compiles_whole(name):
    torch._dynamo.reset()
    net = small_net(name)
    x = torch.randn(4, 3, SIZE, SIZE)
    plain = net.eval()(x)
    assert compile_stages(net, x, contextlib.nullcontext()) is True
    torch.testing.assert_close(net(x), plain, rtol=1e-4, atol=1e-4)
    assert torch._dynamo.utils.counters["graph_break"] == {}


def looking_nets():
    """Methods that ask a network what it looks at, by what provides it."""
    vit = VisionTransformer(16, 4, 2, 4, (16, 16), 4)
    return [
        ("tdattenmix", {"switch_prob": 1.0}, vit),
        ("tdattenmix", {"switch_prob": 1.0}, small_net("preactresnet18", 16)),
        ("tlalign", {}, vit),
        ("transmix", {"mixup_alpha": 0.0}, vit),
    ]


def first_steps(method, steps):
    """Losses and gradients of some steps, from the same draws."""
    x, targets = sample_batch(6, 16, 16)
    losses, gradients = [], []
    for step in range(steps):
        method.reseed(0, step)
        logits, mixed = method.predict(method.mix(x, targets))
        terms = method.loss(logits, mixed)
        loss = sum(terms.values()) if isinstance(terms, dict) else terms
        method.zero_grad()
        loss.backward()
        losses.append(loss.detach())
        gradients.append([p.grad.clone() for p in method.net.parameters() if p.grad is not None])
    return losses, gradients


# Inductor makes code of its own and takes minutes; what is traced is the same.
@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("place", range(4), ids=["td-vit", "td-cnn", "tlalign", "transmix"])
def test_compiled_steps_of_methods_that_look_are_those_of_the_plain_ones(
    monkeypatch, backend, place
):
    name, settings, net = looking_nets()[place]
    cls, info = METHODS.get(name), DataInfo(4, 16, 16)
    run = RunConfig(method={"name": name}, batch_size=6)
    made = [cls(n, info, cls.Config(**settings), run).train() for n in (net, copy.deepcopy(net))]
    made[1].load_state_dict(made[0].state_dict())
    whole = nn.Module.compile
    monkeypatch.setattr(
        nn.Module, "compile", lambda stage, **how: whole(stage, backend=backend, **how)
    )
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    x = torch.randn(6, 3, 16, 16)
    assert compile_stages(made[1].net, x, contextlib.nullcontext()) is True
    plain, compiled = (first_steps(method, 2) for method in made)
    torch.testing.assert_close(compiled, plain, rtol=1e-3, atol=1e-5)
    # Windows of other sides, boxes of other places: nothing is traced again for them.
    counters = torch._dynamo.utils.counters
    graphs = counters["stats"]["unique_graphs"]
    if name == "tdattenmix":
        sides = {int((~mixed_at(made[1], step).kept[0]).sum()) for step in range(2, 10)}
        assert len(sides) > 2
    first_steps(made[1], 10)
    assert counters["stats"]["unique_graphs"] == graphs
    assert counters["graph_break"] == {}


def mixed_at(method, step):
    """Windows of a step."""
    method.reseed(0, step)
    return method.mix(*sample_batch(6, 16, 16)).aux.pasted


@pytest.mark.slow
def test_views_beside_their_images_add_no_graph_for_each_step(runs, monkeypatch):
    whole = nn.Module.compile
    monkeypatch.setattr(
        nn.Module, "compile", lambda stage, **how: whole(stage, backend="eager", **how)
    )
    words = "data=digits data.limit=32 net.width=4 batch_size=16 wandb.mode=disabled method=augmix "
    graphs = []
    for epochs in (1, 3):
        torch._dynamo.utils.counters.clear()
        torch._dynamo.reset()
        record = run(compose(f"{words} epochs={epochs} trainer.compile=true eval.suites=[]"))
        assert record.compiled is True
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
        assert torch._dynamo.utils.counters["graph_break"] == {}
    assert graphs[0] == graphs[1]
