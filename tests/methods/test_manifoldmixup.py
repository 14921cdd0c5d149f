import csv
from itertools import pairwise

import pytest
import torch
from scipy import stats
from torch import nn

import mixbench.functional as mf
from mixbench import build_method, compose, run
from mixbench.backbones.base import Head, StagedNet
from mixbench.backbones.cifar import PreActResNet
from mixbench.errors import UserError
from mixbench.methods import METHODS
from mixbench.testing.samples import BATCH, CLASSES, SIZE, sample_batch, sample_method

LAYERS = [0, 1, 2, 3, 4]  # of the sample network
NEXT = torch.arange(BATCH).roll(-1)  # every row gets another one as partner


class Chain(StagedNet):
    """Stages without normalisation, in which no row meets another."""

    def __init__(self, activation=nn.Identity) -> None:
        super().__init__()
        widths = [3, 4, 5, 4]
        pairs = pairwise(widths)
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(*pair, 3, padding=1), activation()) for pair in pairs
        )
        self.channels = tuple(widths)
        self.head = Head(4, CLASSES)


def manifold(net=None, **settings):
    method = sample_method(METHODS.get("manifoldmixup"), **settings)
    if net is not None:
        method.net = net
    return method


def mixing_at(layer, lam, perm=NEXT):
    return {"layer": layer, "lam": torch.as_tensor(lam).reshape(-1), "perm": perm}


def outcome(method, x, targets, **decisions):
    logits, mixed = method.predict(method.mix(x, targets, **decisions))
    return logits, mixed.targets, method.loss(logits, mixed)


# What is mixed.


def test_layer_0_is_input_mixup_with_the_same_decisions():
    x, targets = sample_batch()
    method = manifold(layers=[0])
    other = build_method("mixup", method.net, method.info, alpha=2.0)
    for batch in range(5):
        for each in (method, other):
            each.reseed(0, batch)
        (logits, labels, loss), expected = outcome(method, x, targets), outcome(other, x, targets)
        assert torch.equal(logits, expected[0])
        assert torch.equal(labels, expected[1])
        assert torch.equal(loss, expected[2])


@pytest.mark.parametrize("layer", LAYERS)
def test_weight_one_is_the_plain_forward_to_the_bit(layer):
    x, targets = sample_batch()
    method = manifold()
    logits, labels, _ = outcome(method, x, targets, **mixing_at(layer, 1.0))
    assert torch.equal(logits, method.net(x))
    assert torch.equal(labels, targets)


@pytest.mark.parametrize("layer", LAYERS)
def test_features_are_mixed_at_the_layer_asked_for_and_nowhere_else(layer):
    x, targets = sample_batch()
    lam, method = 0.3, manifold(layers=LAYERS)
    logits, labels, _ = outcome(method, x, targets, **mixing_at(layer, lam))
    h = x
    for number, stage in enumerate([*method.net.stages, method.net.head]):
        h = stage(lam * h + (1 - lam) * h[NEXT] if number == layer else h)
    torch.testing.assert_close(logits, h, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(labels, lam * targets + (1 - lam) * targets[NEXT])


def test_in_a_linear_network_every_layer_gives_the_same_logits():
    x, targets = sample_batch()
    method = manifold(Chain())
    found = [outcome(method, x, targets, **mixing_at(k, 0.3))[0] for k in range(4)]
    for logits in found[1:]:
        torch.testing.assert_close(logits, found[0], rtol=1e-4, atol=1e-6)
    bent = manifold(Chain(nn.ReLU))
    first, second = (outcome(bent, x, targets, **mixing_at(k, 0.3))[0] for k in (0, 3))
    assert not torch.allclose(first, second, rtol=1e-3)


@pytest.mark.parametrize("layer", [1, 2, 3])
@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
def test_the_gradient_reaches_what_lies_before_the_layer_from_both_partners(layer, lam):
    x, targets = sample_batch()
    x.requires_grad_()
    net = Chain(nn.Tanh)
    mixed = manifold(net).mix(x, targets, **mixing_at(layer, lam))
    logits, _ = manifold(net).predict(mixed)
    weight = net.stages[0][0].weight
    own, grad = torch.autograd.grad(logits[0].sum(), [x, weight])
    reached = (own.flatten(1) != 0).any(1)
    assert reached.tolist() == [lam > 0, lam < 1, False, False, False, False]
    assert grad.norm() > 0
    if lam in (0.0, 1.0):  # as if the image that stays had been alone
        (alone,) = torch.autograd.grad(net(x[1:2] if lam == 0 else x[:1]).sum(), weight)
        torch.testing.assert_close(grad, alone, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("layer", LAYERS)
def test_batch_statistics_are_of_clean_images_before_the_layer_and_of_mixed_ones_after(layer):
    x, targets = sample_batch()
    torch.manual_seed(1)
    nets = [PreActResNet((1, 1, 1, 1), 4, CLASSES) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    nets[0](x)
    outcome(manifold(nets[1]), x, targets, **mixing_at(layer, 0.5))
    for number, (plain, mixed) in enumerate(zip(nets[0].stages, nets[1].stages, strict=True)):
        pairs = zip(plain.state_dict().items(), mixed.state_dict().values(), strict=True)
        same = [torch.equal(a, b) for (name, a), b in pairs if name.endswith("running_var")]
        assert all(same) if number < layer else not any(same)


def test_every_stage_and_the_head_run_once_per_step():
    method = manifold(layers=LAYERS)
    parts, calls = [*method.net.stages, method.net.head], []
    for part in parts:
        part.register_forward_hook(lambda part, *_: calls.append(part))
    x, targets = sample_batch()
    for layer in LAYERS:
        calls.clear()
        outcome(method, x, targets, layer=layer)
        assert calls == parts


def test_evaluation_is_the_plain_forward():
    pixels = torch.rand(2, 3, SIZE, SIZE)
    method = manifold().eval()
    with torch.no_grad():
        assert torch.equal(method(pixels), method.net(method.normalize(pixels)))


def test_features_of_reduced_precision_are_rounded_once():
    x, targets = sample_batch()
    method = manifold(Chain())
    with torch.autocast("cpu", torch.bfloat16):
        h = method.net.forward_stages(x, stop=2)
        logits, mixed = method.predict(method.mix(x, targets, **mixing_at(2, 0.9995)))
    assert h.dtype == mixed.x.dtype == torch.bfloat16  # in which the weight itself would be 1
    wide = torch.lerp(h[NEXT].float(), h.float(), 0.9995)
    assert torch.equal(mixed.x, wide.bfloat16())
    assert logits.isfinite().all()


# Which layer.


def drawn_layers(method, batches):
    layers = []
    x, targets = torch.zeros(2, 3, 4, 4), torch.eye(2)
    for batch in range(batches):
        method.reseed(0, batch)
        layers.append(method.mix(x, targets).aux.layer)
    return layers


@pytest.mark.parametrize("layers", [[0, 1, 2], [0, -1], [3]])
def test_layers_are_drawn_uniformly_from_those_named(layers):
    method = manifold(layers=layers)
    wanted = [layer % 5 for layer in layers]
    found = drawn_layers(method, 900)
    assert set(found) == set(wanted)
    if len(wanted) > 1:
        assert stats.chisquare([found.count(layer) for layer in wanted]).pvalue > 1e-3


def test_all_ranks_draw_one_layer_and_each_its_own_partners():
    methods = [manifold(layers=LAYERS) for _ in range(2)]
    methods[1].rank = 1
    assert drawn_layers(methods[0], 50) == drawn_layers(methods[1], 50)
    x, targets = sample_batch(64)
    for method in methods:
        method.reseed(0, 3)
    first, second = (method.mix(x, targets) for method in methods)
    assert not torch.equal(first.perm, second.perm)
    assert not torch.equal(first.lam, second.lam)


def test_decisions_are_drawn_in_mix_alone_and_handed_on_by_the_record():
    x, targets = sample_batch()
    method = manifold(layers=LAYERS)
    method.reseed(0, 0)
    attributes = {name: id(value) for name, value in vars(method).items()}
    first, second = (method.mix(x, targets) for _ in range(2))
    states = [each.get_state() for each in (method.generator, method.shared_generator)]
    before = torch.get_rng_state()
    once = method.predict(first)[0]
    method.predict(second)
    again = method.predict(first)[0]
    assert torch.equal(once, again)
    assert {name: id(value) for name, value in vars(method).items()} == attributes
    assert torch.equal(before, torch.get_rng_state())
    for source, state in zip((method.generator, method.shared_generator), states, strict=True):
        assert torch.equal(source.get_state(), state)


@pytest.mark.parametrize("key", ["layer", "lam", "perm"])
def test_a_given_decision_leaves_the_other_draws_as_they_were(key):
    def mixed(**decisions):
        method.reseed(0, 1)
        result = method.mix(*sample_batch(), **decisions)
        values = {"layer": result.aux.layer, "lam": result.lam, "perm": result.perm}
        return {name: torch.as_tensor(value) for name, value in values.items()}

    method = manifold()
    given = {key: mixing_at(4, 0.125)[key]}
    expected = mixed() | {key: torch.as_tensor(given[key])}
    found = mixed(**given)
    assert all(torch.equal(found[name], expected[name]) for name in found)
    assert not torch.equal(mixed()[key], found[key])


@pytest.mark.parametrize(
    "layers", [[5], [0, 7], [-6], [], [1, 1], [4, -1]], ids=lambda layers: str(layers)
)
def test_layers_that_the_network_does_not_have_are_refused_with_those_that_it_has(layers):
    with pytest.raises(UserError, match="layers of 0 to 4, at least one and each once") as error:
        manifold(layers=layers)
    text = str(error.value)
    assert text.startswith("method.layers must")
    assert f"got {layers}" in text
    for name in ("0 (the image)", "1 (after stages.0)", "4 (after stages.3)", "-1 is 4"):
        assert name in text


def test_a_run_with_such_a_layer_is_refused_and_leaves_nothing(runs, tiny):
    with pytest.raises(UserError, match="layers of 0 to 4"):
        run(compose([*tiny, "method=manifoldmixup", "method.layers=[0,9]"]))
    assert not runs.exists()


def test_a_layer_given_as_a_decision_is_checked_as_well():
    x, targets = sample_batch()
    method = manifold()
    with pytest.raises(ValueError, match="0 <= start <= stop <= 4, got 0, 5"):
        outcome(method, x, targets, layer=5)
    last, counted = (outcome(method, x, targets, **mixing_at(k, 0.5))[0] for k in (4, -1))
    assert torch.equal(last, counted)


def test_a_network_without_stages_is_refused_with_what_it_lacks():
    with pytest.raises(UserError, match=r"(?s)Linear cannot be cut.*forward_stages\(h, start"):
        build_method("manifoldmixup", nn.Linear(2, 2))
    assert METHODS.get("manifoldmixup").Config().requires == {"stages"}


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"alpha": 0.0}, "method.alpha must be > 0"),
        ({"alpha": -2.0}, "method.alpha must be > 0"),
        ({"alpha": float("nan")}, "method.alpha must be > 0"),
        ({"loss": "bce"}, "method.loss must be one of ce, bce_softmax"),
    ],
)
def test_settings_out_of_range_are_refused_by_their_key(settings, match):
    with pytest.raises(ValueError, match=match):
        build_method("manifoldmixup", **settings)


# Loss, records, speed.


@pytest.mark.parametrize(
    ("loss", "function"),
    [("ce", mf.soft_cross_entropy), ("bce_softmax", mf.softmax_binary_cross_entropy)],
)
def test_the_loss_asked_for_is_used(loss, function):
    x, targets = sample_batch()
    logits, labels, value = outcome(manifold(loss=loss), x, targets)
    assert torch.equal(value, function(logits, labels))


@pytest.mark.parametrize(
    ("settings", "fidelity"),
    [
        ({"loss": "bce_softmax"}, "official-verified"),
        ({"loss": "bce_softmax", "layers": [2, 1, 0], "alpha": 0.2}, "official-verified"),
        ({}, "paper"),
        ({"layers": [0]}, "variant"),
        ({"layers": [0, 1, 2, 3], "loss": "bce_softmax"}, "variant"),
    ],
)
def test_only_the_authors_layers_and_loss_count_as_official(settings, fidelity):
    assert METHODS.get("manifoldmixup").Config(**settings).fidelity == fidelity


def test_curves_hold_the_layer_beside_the_loss_of_the_same_step(runs, tiny):
    words = [*tiny, "method=manifoldmixup", "trainer.log_every=1", "epochs=4"]
    run(compose(words))
    (folder,) = runs.iterdir()
    with (folder / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("train/layer")]
    assert len(rows) == 16
    assert {float(row["train/layer"]) for row in rows} == {0, 1, 2}
    assert all(float(row["train/loss"]) > 0 for row in rows)


@pytest.mark.parametrize("layers", [[0, 1, 2], LAYERS])
def test_a_random_layer_adds_no_graph_to_compiled_stages(layers):
    torch.compiler.reset()
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    plain, method = manifold(layers=layers), manifold(layers=layers)
    method.net.load_state_dict(plain.net.state_dict())
    for stage in method.net.stages:
        stage.compile(backend=count, fullgraph=True)
    x, targets = sample_batch()
    seen = set()
    for step in range(30):
        found = []
        for each in (plain, method):
            each.reseed(0, step)
            mixed = each.mix(x, targets)
            logits, mixed = each.predict(mixed)
            each.loss(logits, mixed).backward()
            found.append(logits)
        seen.add(mixed.aux.layer)
        torch.testing.assert_close(*found)
    assert seen == set(layers)
    assert len(graphs) == len(method.net.stages)
    torch.compiler.reset()
