import contextlib
import copy
import dataclasses
import logging
from pathlib import Path

import killing
import pytest
import torch
from small_nets import SIZE, small_net
from torch import nn

import mixbench.training.attempt
from mixbench import compose, run
from mixbench.backbones import NETS
from mixbench.backbones.vit import VisionTransformer
from mixbench.config.schema import DataConfig, DataInfo, RunConfig, TrainerConfig
from mixbench.data import DATA
from mixbench.data.augment.epochs import EpochImages
from mixbench.data.sampling import BatchIndex, KeyedBatches
from mixbench.methods import METHODS
from mixbench.methods.base import Method
from mixbench.methods.image_mix import ImageMix
from mixbench.records.checkpoints import LAST, read_checkpoint
from mixbench.testing.samples import sample_batch, sample_method, sample_splits
from mixbench.training.build import build
from mixbench.training.compile import compile_input, compile_stages, wants_compiled_input
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
        "data=digits data.limit=160 data.size=16 net.width=4 epochs=3 batch_size=32 "
        "wandb.mode=disabled "
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
@pytest.mark.parametrize(
    "place",
    [
        pytest.param(0, marks=pytest.mark.slow, id="td-vit"),
        pytest.param(1, marks=pytest.mark.slow, id="td-cnn"),
        pytest.param(2, id="tlalign"),
        pytest.param(3, marks=pytest.mark.slow, id="transmix"),
    ],
)
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


INPUTS = [
    ("erm", {}, "black"),
    ("mixup", {"prob": 0.5}, "mean"),
    ("mixup", {"per_sample": True, "partner": "derange", "fold": True, "alpha": 0.3}, "black"),
    ("cutmix", {"prob": 0.5}, "black"),
    ("cutmix", {"per_sample": True, "partner": "flip", "box_rule": "timm", "alpha": 0.3}, "mean"),
    ("cutmix", {"minmax": [0.2, 0.8]}, "black"),
    ("bc", {"plus": True}, "mean"),
    ("fmix", {}, "black"),
]
# What is traced is the same for each compiler, and takes a second for each case.
COMPILED = [("eager", *INPUTS[3]), ("eager", *INPUTS[6])]
COMPILED += [pytest.param("inductor", *case, marks=pytest.mark.slow) for case in INPUTS]


def with_compiled_input(monkeypatch, backend, name, settings, augmented=False, **data):
    """A method with compiled input, the same without, and whether that was compiled."""
    whole = torch.compile
    monkeypatch.setattr(torch, "compile", lambda part, **how: whole(part, backend=backend, **how))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    made = [sample_method(METHODS.get(name), **settings) for _ in range(2)]
    for method in made:
        method.run = dataclasses.replace(method.run, data=DataConfig(crop=2, **data))
        method.mean.fill_(0.4)
        method.std.fill_(0.3)
    return *made, compile_input(made[0], 6, contextlib.nullcontext(), augmented)


@pytest.mark.parametrize(("backend", "name", "settings", "pad"), COMPILED)
def test_compiled_input_is_the_plain_one_without_a_graph_for_each_step(
    monkeypatch, backend, name, settings, pad
):
    method, plain, compiled = with_compiled_input(monkeypatch, backend, name, settings, pad=pad)
    assert compiled
    fused = name in ("mixup", "cutmix") and "minmax" not in settings
    assert (getattr(method, "compiled_mix", None) is not None) == fused
    counters = torch._dynamo.utils.counters
    mixed_shares, graphs = set(), []
    for step in range(8):
        batch = sample_splits(plain).train[BatchIndex(torch.arange(6 - step // 6 * 2), 3)]
        for each in (method, plain):
            each.reseed(1, step)
        found, expected = method.mix_batch(batch), plain.mix_batch(batch)
        for value, wanted in zip(found, expected, strict=True):
            torch.testing.assert_close(value, wanted, rtol=1e-5, atol=1e-5)
        assert found.x.stride() == expected.x.stride()
        assert torch.equal(method.generator.get_state(), plain.generator.get_state())
        mixed_shares.add(expected.lam is None)
        graphs.append(counters["stats"]["unique_graphs"])
    assert len(mixed_shares) == 1 + (settings.get("prob", 1) < 1)
    assert graphs[0] == graphs[5] == 1 + fused  # none for another step, one for another batch size
    assert graphs[6] == graphs[7] <= 2 * graphs[0]
    assert counters["graph_break"] == {}


def test_input_that_cannot_be_compiled_is_made_as_it_is_with_one_warning(monkeypatch, caplog):
    def refuse(graph, inputs):
        raise NotImplementedError("planted for the compiler")

    method, plain, compiled = with_compiled_input(monkeypatch, refuse, "cutmix", {})
    assert compiled is False
    assert "augmentation runs as it is" in caplog.text
    assert method.compiled_mix is None
    batch = sample_splits(plain).train[BatchIndex(torch.arange(6), 3)]
    for each in (method, plain):
        each.reseed(0, 0)
    assert torch.equal(method.mix_batch(batch).x, plain.mix_batch(batch).x)


def brighter_before_mixing(self, x, targets, **decisions):
    return ImageMix.mix(self, x + 1, targets, **decisions)


def brighter_when_prepared(self, batch, drawn=None):
    x, targets = Method.prepare(self, batch, drawn)
    return x + 1, targets


@pytest.mark.parametrize(
    "hooks", [{"mix": brighter_before_mixing}, {"prepare": brighter_when_prepared}], ids=list
)
def test_what_a_derived_method_does_to_a_batch_is_not_passed_over(monkeypatch, hooks):
    derived = type("Derived", (METHODS.get("cutmix"),), hooks)
    monkeypatch.setitem(METHODS._objects, "cutmix", derived)
    method, plain, compiled = with_compiled_input(monkeypatch, "eager", "cutmix", {})
    assert compiled
    batch = sample_splits(plain).train[BatchIndex(torch.arange(6), 3)]
    for each in (method, plain):
        each.reseed(0, 0)
    assert torch.equal(method.mix_batch(batch).x, plain.mix_batch(batch).x)


def test_noise_in_place_of_parts_stays_between_compiled_augmentation_and_mixing(monkeypatch):
    method, plain, _ = with_compiled_input(monkeypatch, "eager", "cutmix", {}, erasing=1.0)
    assert method.compiled_mix is None
    batch = sample_splits(plain).train[BatchIndex(torch.arange(6), 3)]
    seen = []
    for each in (method, plain):
        each.reseed(0, 0)
        seen.append(each.mix_batch(batch).x)
    assert torch.equal(*seen)


def test_what_follows_the_augmentation_of_an_epoch_is_compiled(monkeypatch):
    made = with_compiled_input(monkeypatch, "eager", "cutmix", {}, augmented=True)
    method, plain, compiled = made
    assert compiled
    train = sample_splits(plain).train
    batches = KeyedBatches(len(train), 6, plain.run.seed)
    whole, counters = EpochImages(train, batches, plain.run.data), torch._dynamo.utils.counters
    for number, draw in enumerate(batches):
        seen = []
        for each, images in ((method, whole), (plain, train)):
            each.reseed(0, number)
            seen.append(each.mix_batch(images[draw]))
        assert torch.equal(seen[0].x, seen[1].x)
        assert torch.equal(seen[0].targets, seen[1].targets)
    assert counters["stats"]["unique_graphs"] == 2  # those that were there before the first step


def test_input_that_pillow_makes_is_not_compiled():
    for backend in ("pil", "tensor"):
        method = sample_method(METHODS.get("augmix"), backend=backend)
        method.run = dataclasses.replace(method.run, trainer=TrainerConfig(compile_input="always"))
        assert wants_compiled_input(method, torch.device("cpu")) is (backend == "tensor")


@pytest.mark.parametrize(
    ("word", "device", "steps", "wanted"),
    [
        ("auto", "cuda", 20_000, True),
        ("auto", "cuda", 19_999, False),
        ("auto", "cpu", 10**6, False),
        ("always", "cpu", 1, True),
        ("never", "cuda", 10**6, False),
    ],
)
def test_input_is_compiled_where_the_key_and_the_length_of_the_run_say_so(
    word, device, steps, wanted
):
    method = sample_method(METHODS.get("erm"))
    method.total_steps = steps
    method.run = dataclasses.replace(method.run, trainer=TrainerConfig(compile_input=word))
    assert wants_compiled_input(method, torch.device(device)) is wanted


@pytest.mark.parametrize("by", ["batch", "epoch"])
def test_input_is_compiled_for_images_as_they_come(runs, tiny, monkeypatch, by):
    seen = []
    monkeypatch.setattr(
        mixbench.training.attempt, "compile_input", lambda *given: bool(seen.append(given[3]))
    )
    record = run(compose([*tiny, f"data.augment_by={by}", "trainer.compile_input=always"]))
    assert seen == [by == "epoch"]
    assert (record.augment_by, record.compiled_input) == (by, False)
