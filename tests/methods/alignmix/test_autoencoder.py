import re

import pytest
import torch
import torch.nn.functional as F

import mixbench.functional as mf
from mixbench import build_method, compose, run
from mixbench.backbones.cifar import PreActResNet
from mixbench.data import DATA
from mixbench.data.images import Batch
from mixbench.methods import METHODS
from mixbench.methods.alignmix.autoencoder import CLEAN
from mixbench.records.checkpoints import read_checkpoint
from mixbench.records.curves import read_curves
from mixbench.testing.samples import BATCH, sample_batch, sample_method
from mixbench.training.build import build
from mixbench.training.job import resolve


def reconstructing(**settings):
    torch.manual_seed(0)
    return sample_method(METHODS.get("alignmix"), ae=True, **settings)


def step(method, **decisions):
    """Loss terms of a step, and the batch that it leaves."""
    method.reseed(0, 0)
    mixed = method.mix(*sample_batch(), **decisions)
    logits, mixed = method.predict(mixed)
    return method.loss(logits, mixed), mixed


# What a step learns.


@pytest.mark.parametrize("settings", [{}, {"post_align": "bn_relu"}])
def test_the_cross_entropy_of_a_clean_step_is_that_of_erm(settings):
    torch.manual_seed(0)
    net = PreActResNet((1, 1, 1), 8, 4, final_norm=not settings)
    method = build_method("alignmix", net, ae=True, **settings).train()
    x, targets = sample_batch()
    expected = mf.soft_cross_entropy(net(x), targets)
    terms, mixed = step(method, layer=CLEAN)
    assert torch.equal(terms["ce"], expected)
    assert torch.equal(mixed.targets, targets)
    assert (mixed.lam, mixed.perm) == (None, None)


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_the_error_of_the_decoded_last_features_is_weighed(weight):
    method = reconstructing(ae_weight=weight)
    terms, mixed = step(method, layer=CLEAN)
    decoded = method.decoder(method.net.forward_stages(mixed.x), mixed.x.shape[2:])
    error = (decoded - mixed.x).square().mean()
    assert set(terms) == {"ce", "reconstruction"}
    torch.testing.assert_close(terms["reconstruction"], weight * error)


def test_reconstruction_teaches_the_stages_and_the_decoder_on_clean_steps_alone():
    method = reconstructing()
    terms, _ = step(method, layer=CLEAN)
    terms["reconstruction"].backward()
    parts = {"stages": method.net.stages, "decoder": method.decoder}
    for name, part in parts.items():
        assert all(p.grad is not None and p.grad.norm() > 0 for p in part.parameters()), name
    assert all(p.grad is None for p in method.net.head.parameters())
    for layer in (0, 4):
        method.zero_grad()
        terms, _ = step(method, layer=layer)
        assert set(terms) == {"ce"}
        terms["ce"].backward()
        # Zero and not None, so that under DDP no process waits for it.
        assert all(p.grad is not None and not p.grad.any() for p in method.decoder.parameters())
        assert all(p.grad is not None for p in method.net.parameters())


def test_the_classifier_never_sees_a_decoded_image():
    method = reconstructing()
    before = step(method, layer=CLEAN)[0]
    for parameter in method.decoder.parameters():
        torch.nn.init.normal_(parameter)
    after = step(method, layer=CLEAN)[0]
    assert torch.equal(before["ce"], after["ce"])
    assert not torch.equal(before["reconstruction"], after["reconstruction"])


def test_a_mixed_step_is_that_of_plain_alignmix():
    method = reconstructing()
    plain = sample_method(METHODS.get("alignmix"))
    plain.net.load_state_dict(method.net.state_dict())
    decisions = {"lam": torch.tensor([0.3]), "perm": torch.arange(BATCH).roll(1), "side": 1}
    for layer in (0, 4):
        terms, mixed = step(method, layer=layer, **decisions)
        expected, other = step(plain, layer=layer, **decisions)
        assert torch.equal(terms["ce"], expected)
        assert torch.equal(mixed.targets, other.targets)


def test_reduced_precision_is_compared_in_float32():
    method = reconstructing()
    with torch.autocast("cpu", torch.bfloat16):
        terms, mixed = step(method, layer=CLEAN)
    assert mixed.aux.images.dtype == torch.bfloat16
    assert terms["reconstruction"].dtype == torch.float32
    expected = F.mse_loss(mixed.aux.images.float(), mixed.x)
    assert torch.equal(terms["reconstruction"], expected)


@pytest.mark.parametrize(("height", "width"), [(16, 24), (24, 16)])
def test_images_that_are_not_square_are_decoded_too(height, width):
    method = reconstructing()
    x, targets = sample_batch(3, height, width)
    _, mixed = method.predict(method.mix(x, targets, layer=CLEAN))
    assert mixed.aux.images.shape == x.shape


def test_clean_and_mixed_steps_share_the_graphs_of_compiled_stages():
    torch.compiler.reset()
    graphs, kinds = [], set()

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    plain, method = reconstructing(), reconstructing()
    for stage in method.net.stages:
        stage.compile(backend=count, fullgraph=True)
    x, targets = sample_batch()
    for batch in range(20):
        losses = []
        for each in (plain, method):
            each.reseed(0, batch)
            logits, mixed = each.predict(each.mix(x, targets))
            losses.append(each.loss(logits, mixed))
            sum(losses[-1].values()).backward()
        kinds.add(tuple(losses[0]))
        torch.testing.assert_close(*losses)
    assert kinds == {("ce",), ("ce", "reconstruction")}
    assert len(graphs) == len(method.net.stages)
    torch.compiler.reset()


# What is drawn.


def places(method, batches):
    x, targets = sample_batch()
    found = []
    for batch in range(batches):
        method.reseed(0, batch)
        found.append(method.mix(x, targets))
    return found


@pytest.mark.parametrize("clean", [0.0, 0.25, 1.0])
def test_as_many_steps_are_clean_as_asked_for_and_the_same_on_all_ranks(clean):
    methods = [reconstructing(ae_clean=clean) for _ in range(2)]
    methods[1].rank = 1
    first, second = ([mixed.aux for mixed in places(method, 800)] for method in methods)
    assert first == second
    count = sum(place.layer == CLEAN for place in first)
    deviation = (800 * clean * (1 - clean)) ** 0.5
    assert abs(count - 800 * clean) <= 4 * deviation


def test_without_it_nothing_is_drawn_stored_or_returned_that_was_not_before():
    method = sample_method(METHODS.get("alignmix"))
    weights = torch.ones(2)
    for mixed, batch in zip(places(method, 20), range(20), strict=True):
        method.reseed(0, batch)
        layer = [0, 4][int(torch.multinomial(weights, 1, generator=method.shared_generator))]
        side = mf.draw_side(method.shared_generator)
        assert tuple(mixed.aux) == (layer, side, None)
        assert torch.equal(mixed.perm, mf.draw_perm(BATCH, method.generator))
        assert torch.equal(mixed.lam, mf.draw_lam(1, 2.0, method.generator))
    assert isinstance(step(method)[0], torch.Tensor)
    assert not [name for name in method.state_dict() if "decoder" in name]
    assert len(method.param_groups()) == 2


def test_a_given_layer_leaves_the_other_draws_as_they_were():
    method = reconstructing()
    for batch, drawn in enumerate(places(method, 20)):
        method.reseed(0, batch)
        given = method.mix(*sample_batch(), layer=2)
        assert given.aux == drawn.aux._replace(layer=2)
        assert torch.equal(given.perm, drawn.perm)
        assert torch.equal(given.lam, drawn.lam)


def test_evaluation_is_that_of_the_network_alone():
    method = reconstructing().eval()
    x, _ = sample_batch()
    states = [each.get_state() for each in (method.generator, method.shared_generator)]
    with torch.no_grad():
        plain = build_method("erm", method.net, method.info, run=method.run).eval()
        assert torch.equal(method(x), plain(x))
    for source, state in zip((method.generator, method.shared_generator), states, strict=True):
        assert torch.equal(source.get_state(), state)


# Settings.


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"ae_clean": -0.1}, "method.ae_clean must lie in [0, 1]"),
        ({"ae_clean": 1.5}, "method.ae_clean must lie in [0, 1]"),
        ({"ae_clean": float("nan")}, "method.ae_clean must lie in [0, 1]"),
        ({"ae_weight": -1.0}, "method.ae_weight must be >= 0"),
        ({"ae_weight": float("inf")}, "method.ae_weight must be >= 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, match):
    with pytest.raises(ValueError, match=re.escape(match)):
        build_method("alignmix", ae=True, **settings)


def test_it_is_off_by_default_and_marked_as_a_variant():
    cls = METHODS.get("alignmix")
    assert cls.Config().ae is False
    assert cls.Config().fidelity == "official-verified"
    assert cls.Config(ae=True).fidelity == "variant"
    with pytest.warns(UserWarning, match="truth value"):
        assert compose("method=alignmix method.ae=off").method["ae"] is False
    assert "not the paper's" in cls.__doc__


# Training.


def test_weights_of_the_decoder_decay_and_its_normalisation_does_not():
    method = reconstructing()
    decayed = {id(p): "weight_decay" not in g for g in method.param_groups() for p in g["params"]}
    for name, parameter in method.decoder.named_parameters():
        assert decayed[id(parameter)] == (parameter.ndim > 1), name


@pytest.mark.slow  # trains a decoder
def test_the_error_falls_on_digits():
    words = "data=digits data.limit=128 net.width=8 batch_size=64 method=alignmix method.ae=true"
    config = compose(words)
    splits = DATA.get("digits")(config.data).load()
    method, _ = build(resolve(config), splits)
    optimizer = method.configure_optimizers()["optimizer"]
    images = splits.train.images[:64]
    batch = Batch(images, splits.train.labels[:64], torch.arange(64))
    errors = []
    for number in range(40):
        method.reseed(0, number)
        x, targets = method.prepare(batch)
        logits, mixed = method.predict(method.mix(x, targets, layer=CLEAN))
        terms = method.loss(logits, mixed)
        optimizer.zero_grad()
        sum(terms.values()).backward()
        optimizer.step()
        errors.append(terms["reconstruction"].item())
    assert errors[-1] < 0.5 * errors[0]


def test_a_run_keeps_the_decoder_and_logs_both_terms(runs, tiny):
    words = [*tiny, "method=alignmix", "method.ae=true", "epochs=4", "trainer.log_every=1"]
    record = run(compose([*words, "optim.ema=0.5"]))
    assert record.status == "done"
    folder = runs / record.id
    rows, _ = read_curves(folder / "metrics.csv")
    clean = [row for row in rows if "train/loss_reconstruction" in row]
    mixed = [row for row in rows if "train/lam" in row]
    assert len(clean) + len(mixed) == 16
    assert len(clean) > 2 < len(mixed)
    assert not any("train/lam" in row for row in clean)
    for row in clean:
        whole = row["train/loss_ce"] + row["train/loss_reconstruction"]
        assert row["train/loss"] == pytest.approx(whole, rel=1e-5)
    saved = read_checkpoint(folder / "last.ckpt")
    names = {name for name in saved["state_dict"] if name.startswith("decoder.")}
    assert names
    start = build(resolve(compose(words)), DATA.get("digits")(compose(words).data).load())[
        0
    ].state_dict()
    assert all(not torch.equal(saved["state_dict"][name], start[name]) for name in names)
    trained = saved["current_model_state"]  # beside their averages
    weights = [name for name in names if name.endswith("weight")]
    assert all(not torch.equal(saved["state_dict"][name], trained[name]) for name in weights)
