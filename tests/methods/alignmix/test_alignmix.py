import dataclasses
import re
from collections import Counter

import pytest
import torch
from torch import nn

import mixbench.functional as mf
from mixbench import build_method, compose, run
from mixbench.backbones import NETS
from mixbench.backbones.cifar import PreActResNet
from mixbench.data import DATA
from mixbench.errors import UserError
from mixbench.methods import METHODS
from mixbench.methods.alignmix.steps import EMBED, Place
from mixbench.records.curves import read_curves
from mixbench.testing.samples import BATCH, CLASSES, SIZE, sample_batch, sample_method
from mixbench.training.build import build
from mixbench.training.job import resolve

NEXT = torch.arange(BATCH).roll(-1)  # every row gets another one as partner
LAM = torch.tensor([0.3])


def aligning(final_norm=False, **settings):
    """The method around a network whose last features go straight into pooling."""
    torch.manual_seed(0)
    net = PreActResNet((1, 1, 1), 8, CLASSES, final_norm=final_norm)
    method = sample_method(METHODS.get("alignmix"))
    config = type(method).Config(**settings)
    return type(method)(net, method.info, config, method.run).train()


def outcome(method, layer, side=0):
    """Logits and gradients of a step."""
    x, targets = sample_batch()
    method.zero_grad()
    method.reseed(0, 0)
    mixed = method.mix(x, targets, layer=layer, side=side, lam=LAM, perm=NEXT)
    logits, mixed = method.predict(mixed)
    method.loss(logits, mixed).backward()
    grads = torch.cat([p.grad.flatten() for p in method.net.parameters() if p.grad is not None])
    return logits.detach(), grads, mixed


# What the docstring says about pooling.


@pytest.mark.parametrize("fast_path", ["auto", "none"])
def test_behind_pooling_side_0_is_mixing_the_pooled_vectors(fast_path):
    method = aligning(fast_path=fast_path)
    logits, grads, mixed = outcome(method, 3)
    pooled, pooled_grads, _ = outcome(method, EMBED)
    torch.testing.assert_close(logits, pooled, rtol=0, atol=1e-6)
    torch.testing.assert_close(grads, pooled_grads, rtol=1e-4, atol=1e-6)
    assert (mixed.aux.plan is None) == (fast_path == "auto")


def test_behind_pooling_side_1_differs_as_far_as_the_plan_is_not_converged():
    pooled = outcome(aligning(), EMBED)[0]
    rough = outcome(aligning(iters=1, eps=0.001), 3, side=1)[0]
    assert (rough - pooled).abs().max() > 1e-3
    fine = outcome(aligning(solver="scaled", fast_path="none", iters=300), 3, side=1)[0]
    torch.testing.assert_close(fine, pooled, rtol=0, atol=1e-3)


@pytest.mark.parametrize("side", [0, 1])
def test_at_an_earlier_layer_alignment_is_real(side):
    method = aligning(solver="scaled")
    aligned = outcome(method, 2, side)[0]
    straight = outcome(aligning(plan="identity"), 2, side)[0]
    assert (aligned - straight).abs().max() > 1e-3
    assert (aligned - outcome(method, EMBED)[0]).abs().max() > 1e-3


def test_a_last_normalisation_makes_alignment_real_and_is_tested_too():
    method = aligning(post_align="bn_relu", solver="scaled")
    assert isinstance(method.net.head.norm[0], nn.BatchNorm2d)
    aligned, _, mixed = outcome(method, 3)
    assert mixed.aux.plan is not None
    assert (aligned - outcome(method, EMBED)[0]).abs().max() > 1e-4
    x, _ = sample_batch()
    method.eval()
    before = method(x)
    nn.init.constant_(method.net.head.norm[0].bias, 1.0)
    assert not torch.equal(before, method(x))
    grouped = [p for group in method.param_groups() for p in group["params"]]
    assert any(p is method.net.head.norm[0].weight for p in grouped)


def test_a_network_that_normalises_already_is_told_what_to_change():
    with pytest.raises(UserError, match=r"net\.final_norm=false"):
        aligning(final_norm=True, post_align="bn_relu")


@pytest.mark.parametrize("settings", [{}, {"post_align": "bn_relu"}])
def test_embed_mixes_what_the_classifier_reads(settings):
    method = aligning(**settings)
    logits, _, mixed = outcome(method, EMBED)
    x, targets = sample_batch()
    head = method.net.head
    pooled = head.pool(head.norm(method.net.forward_stages(x)))
    expected = mf.mixup(pooled, targets, lam=LAM, perm=NEXT)
    torch.testing.assert_close(logits, head.fc(expected.x))
    assert torch.equal(mixed.targets, expected.targets)


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize(
    "settings",
    [
        {"eps": 2.0},
        {"iters": 2},
        {"cost_scale": "dim"},
        {"solver": "scaled"},
        {"finalize": "row", "iters": 2},
        {"stop": "official", "cost_scale": "mean"},
    ],
    ids=str,
)
def test_the_settings_of_the_plan_reach_it(settings, side):
    method = aligning(**settings)
    plan = outcome(method, 2, side)[2].aux.plan
    h = method.net.forward_stages(sample_batch()[0], stop=2).detach()
    wanted = {**settings, "stop": 0.1} if "stop" in settings else settings
    torch.testing.assert_close(plan, mf.position_plan(h, h[NEXT], side=side, **wanted))
    if side == 0 or "finalize" not in settings:  # which is for side 0 only
        others = dict(list(settings.items())[1:])
        without = mf.position_plan(h, h[NEXT], side=side, **others)
        assert (plan - without).abs().max() > 1e-4


# What is drawn.


def test_layer_0_is_input_mixup():
    method = aligning()
    logits, _, mixed = outcome(method, 0)
    x, targets = sample_batch()
    expected = mf.mixup(x, targets, lam=LAM, perm=NEXT)
    assert torch.equal(logits, method.net(expected.x))
    assert torch.equal(mixed.targets, expected.targets)


def test_layers_and_sides_are_drawn_alike_on_all_ranks_and_as_often_as_asked_for():
    x, targets = sample_batch()
    methods = [aligning(layers=[0, 2, EMBED], layer_weights=[1.0, 2.0, 1.0]) for _ in range(2)]
    methods[1].rank = 1
    drawn = []
    for batch in range(800):
        places = []
        for method in methods:
            method.reseed(0, batch)
            places.append(method.mix(x, targets).aux)
        assert places[0] == places[1]
        drawn.append(places[0])
    counts = Counter(place.layer for place in drawn)
    assert abs(counts[2] - 400) < 57  # four deviations
    assert abs(counts[EMBED] - 200) < 49
    assert abs(sum(place.side for place in drawn) - 400) < 57


@pytest.mark.parametrize("side", [0, 1])
def test_one_side_alone_is_drawn_if_asked_for_and_leaves_the_other_draws_as_they_were(side):
    both, one = aligning(layers=[0, 3]), aligning(layers=[0, 3], sides=[side])
    x, targets = sample_batch()
    for batch in range(30):
        both.reseed(0, batch)
        one.reseed(0, batch)
        drawn, alone = both.mix(x, targets), one.mix(x, targets)
        assert alone.aux == drawn.aux._replace(side=side)
        assert torch.equal(alone.perm, drawn.perm)
        assert torch.equal(alone.lam, drawn.lam)


def test_the_last_layer_can_be_counted_from_the_end():
    assert aligning(layers=[0, -1]).layers == [0, 3]
    assert aligning(layers=[EMBED, -2]).layers == [EMBED, 2]


def test_evaluation_is_that_of_the_network_alone():
    method = aligning().eval()
    pixels = torch.rand(2, 3, SIZE, SIZE)
    assert torch.equal(method(pixels), method.net(method.normalize(pixels)))


@pytest.mark.parametrize("plan", ["shuffled", "identity", "weights"])
def test_controls_run_and_are_no_transport(plan):
    method = aligning(plan=plan, fast_path="none")
    logits = outcome(method, 2)[0]
    assert logits.isfinite().all()
    assert method.config.fidelity == "variant"
    assert not torch.equal(logits, outcome(aligning(), 2)[0])
    assert torch.equal(logits, outcome(method, 2)[0])  # drawn by the keyed generator
    mixed, before = method.mix(*sample_batch(), layer=2), torch.get_rng_state()
    method.predict(mixed)
    assert torch.equal(torch.get_rng_state(), before)


# Settings.


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"alpha": 0.0}, "method.alpha must be > 0"),
        ({"alpha": float("nan")}, "method.alpha must be > 0"),
        ({"alpha": float("inf")}, "method.alpha must be > 0"),
        ({"eps": 0.0}, "method.eps must be > 0"),
        ({"eps": -0.1}, "method.eps must be > 0"),
        ({"eps": float("nan")}, "method.eps must be > 0"),
        ({"iters": 0}, "method.iters must be >= 1"),
        ({"solver": "sinkhorn"}, "one of compat, scaled, pot"),
        ({"cost_scale": "max"}, "one of none, mean, dim, cosine"),
        ({"finalize": "column"}, "method.finalize must be one of"),
        ({"plan": "random"}, "method.plan must be one of"),
        ({"post_align": "bn"}, "method.post_align must be one of"),
        ({"fast_path": "on"}, "method.fast_path must be one of"),
        ({"stop": "official", "solver": "scaled"}, "needs method.solver=compat"),
        ({"layers": []}, "method.layers must list"),
        ({"layers": ["pool"]}, "method.layers must list"),
        ({"layers": [1.5]}, "method.layers must list"),
        ({"layers": [True, 0]}, "method.layers must list"),
        ({"layers": [EMBED, 0, EMBED]}, "at least one and each once"),
        ({"sides": []}, "must be [0], [1] or [0, 1]"),
        ({"sides": [2]}, "must be [0], [1] or [0, 1]"),
        ({"layer_weights": [1.0]}, "each of 2 layers"),
        ({"layer_weights": [0.0, 0.0]}, "not all of them 0"),
        ({"layer_weights": [-1.0, 2.0]}, "a finite share >= 0"),
        ({"layer_weights": [float("nan"), 1.0]}, "a finite share >= 0"),
        ({"layer_weights": [1.0, float("inf")]}, "a finite share >= 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, match):
    with pytest.raises(ValueError, match=re.escape(match)):
        build_method("alignmix", **settings)


@pytest.mark.parametrize("layers", [[4], [-5], [1, 1]])
def test_layers_that_are_not_there_are_refused_with_those_that_are(layers):
    with pytest.raises(UserError, match="layers of 0 to 3"):
        aligning(layers=layers)


@pytest.mark.parametrize("settings", [{}, {"layers": [EMBED]}, {"ae": True}])
def test_a_network_without_stages_is_refused_with_what_it_lacks(settings):
    with pytest.raises(UserError, match=r"(?s)Linear cannot be cut.*forward_stages\(h, start"):
        build_method("alignmix", nn.Linear(2, 2), **settings)


# FAULTS row 7.
def test_a_run_on_a_network_without_stages_names_those_that_have_them(monkeypatch):
    class Flat(nn.Linear):
        provides = frozenset()

    monkeypatch.setitem(NETS._objects, "flat", lambda config, info: Flat(2, 2))
    monkeypatch.setitem(NETS._objects, "broken", lambda config, info: Flat("two", 2))
    config = compose("method=alignmix data=digits data.limit=16")
    config = dataclasses.replace(config, net=dataclasses.replace(config.net, name="flat"))
    with pytest.raises(UserError, match="alignmix needs maps, stages") as error:
        build(resolve(config), DATA.get("digits")(config.data).load())
    assert "net=flat" in str(error.value)
    assert "have what it needs: preactresnet18" in str(error.value)


@pytest.mark.parametrize("layer", [0, 2, EMBED])
def test_features_that_are_no_numbers_are_refused_on_the_first_step_and_not_looked_at_later(layer):
    method = aligning()
    x, targets = sample_batch()
    x[1, 0, 3, 3] = float("nan")
    mixed = method.mix(x, targets, layer=layer)
    with pytest.raises(ValueError, match="hold NaN or infinity"):
        method.predict(mixed)
    method.step = 1
    logits, _ = method.predict(mixed)  # the loss tells
    assert not logits.isfinite().all()


def test_the_settings_of_the_authors_are_marked_as_theirs():
    official = METHODS.get("alignmix").Config()
    assert official.fidelity == "official-verified"
    for change in ({"eps": 0.5}, {"stop": "official"}, {"alpha": 1.0}):
        assert dataclasses.replace(official, **change).fidelity == "official-verified"
    other = {"layers": [0, 3], "sides": [0], "solver": "scaled", "cost_scale": "mean"}
    for change in ({key: value} for key, value in other.items()):
        assert dataclasses.replace(official, **change).fidelity == "variant"


def test_the_figures_of_a_step_are_those_of_its_plan():
    method = aligning(iters=2)
    mixed = outcome(method, 2)[2]
    figures = method.diagnostics(mixed)
    plan = mixed.aux.plan
    torch.testing.assert_close(figures["row_error"], (plan.sum(dim=2) - 1).abs().mean())
    assert figures["row_error"] > 1e-3 > (plan.sum(dim=1) - 1).abs().max()
    torch.testing.assert_close(figures["plan_entropy"], mf.plan_entropy(plan).mean())
    assert set(method.diagnostics(outcome(method, 0)[2])) == {"lam"}


@pytest.mark.slow  # runs of several plans
def test_a_run_logs_how_far_plans_are_from_their_marginals(runs):
    words = (
        "method=alignmix data=digits data.limit=128 net.width=4 epochs=2 batch_size=32 "
        "eval.suites=[] "
    )
    words += "wandb.mode=disabled trainer.log_every=1 method.layers=[2,-1] net.final_norm=false"
    record = run(compose(words))
    assert record.status == "done"
    rows, _ = read_curves(runs / record.id / "metrics.csv")
    errors = [row["train/row_error"] for row in rows if "train/row_error" in row]
    entropies = [row["train/plan_entropy"] for row in rows if "train/plan_entropy" in row]
    assert 0 < len(errors) == len(entropies) < 8
    assert min(errors) >= 0
    assert Place(2, 0).plan is None
