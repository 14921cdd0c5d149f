"""TL-Align and TransMix: what they paste, whose labels count, and what stays as it was."""

import argparse

import pytest
import torch
from small_nets import small_net

import mixbench.functional as mf
from mixbench import build_method, compose, run
from mixbench.backbones.attention import Capture
from mixbench.backbones.swin import Swin
from mixbench.backbones.vit import VisionTransformer
from mixbench.config.schema import DataInfo, RunConfig
from mixbench.errors import UserError
from mixbench.methods import METHODS
from mixbench.methods.pictures import tokens
from mixbench.pictures.sheet import Sheet
from mixbench.testing.samples import CLASSES, sample_batch

NAMES = ("tlalign", "transmix")
LAM, CENTER = torch.tensor([0.6]), torch.tensor([[0.4, 0.7]])
SIZE = (16, 24)


def vit(**settings):
    torch.manual_seed(1)
    net = VisionTransformer(16, 4, 2, 4, SIZE, CLASSES, **settings)
    for p in net.parameters():
        p.data += 0.3 * torch.randn_like(p)  # attention that is far from even
    return net


def swin():
    torch.manual_seed(1)
    net = Swin(8, (2, 2), (2, 4), 2, 4, (16, 32), CLASSES)
    for p in net.parameters():
        p.data += 0.3 * torch.randn_like(p)
    return net


def method_of(name, net=None, **settings):
    net = net or vit()
    return build_method(name, net, DataInfo(CLASSES, *net.size), **settings).train()


def step(method, rows=4, **decisions):
    x, targets = sample_batch(rows, *method.net.size)
    drawn = {"lam": LAM, "center": CENTER, "cutmix": True} | decisions
    mixed = method.mix(x, targets, **drawn)
    return x, targets, mixed, *method.predict(mixed)


@pytest.mark.parametrize("name", NAMES)
def test_the_label_weighs_own_and_partner_by_what_the_network_looks_at(name):
    _, targets, mixed, logits, after = step(method_of(name))
    assert torch.equal(mixed.targets, targets)
    assert mixed.perm.tolist() == [3, 2, 1, 0]
    assert after.lam.shape == (4,)
    assert after.lam.unique().numel() == 4  # of each image its own
    assert (after.lam - mixed.lam).abs().max() > 0.01
    torch.testing.assert_close(after.targets, mf.mix_targets(targets, mixed.perm, after.lam))
    assert not after.targets.requires_grad
    assert logits.requires_grad


def test_tlalign_carries_shares_through_all_layers_to_the_class_token():
    method = method_of("tlalign")
    _, _, mixed, _, after = step(method)
    capture = Capture({layer: "mean" for layer in range(4)})
    method.net.forward_stages(mixed.x, capture=capture)
    pasted = mf.pasted_tokens(mixed.aux.box, SIZE, (4, 6)).expand(4, -1, -1)
    weight = mf.token_weights(pasted, [capture.attention[layer] for layer in range(4)])
    torch.testing.assert_close(after.aux.weight, weight)
    torch.testing.assert_close(after.lam, 1 - weight[:, 0])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"residual": 0.2}, {"residual": 0.2}),
        ({"last": 1}, {"last": 1}),
        ({"last": 3, "residual": 0.8}, {"last": 3, "residual": 0.8}),
    ],
)
def test_residual_and_last_reach_the_labels(settings, expected):
    method = method_of("tlalign", **settings)
    _, _, mixed, _, after = step(method)
    capture = Capture({layer: "mean" for layer in range(4)})
    method.net.forward_stages(mixed.x, capture=capture)
    maps = [capture.attention[layer] for layer in range(4)]
    pasted = mf.pasted_tokens(mixed.aux.box, SIZE, (4, 6)).expand(4, -1, -1)
    torch.testing.assert_close(after.aux.weight, mf.token_weights(pasted, maps, **expected))
    assert (after.aux.weight - mf.token_weights(pasted, maps)).abs().max() > 1e-3
    assert method.fidelity == "variant"


def test_labels_of_dropped_attention_stay_only_where_asked_for():
    net = vit(drop_path=0.6)
    found = {}
    for respect in (False, True):
        method = method_of("tlalign", net, respect_drop_path=respect)
        torch.manual_seed(3)
        *_, logits, after = step(method, rows=8)
        found[respect] = (logits, after.aux.weight)
    assert torch.equal(found[False][0], found[True][0])  # the same branches were dropped
    assert not torch.equal(found[False][1], found[True][1])
    # A block that drops the attention of an image leaves its labels, and those of no other.
    block = net.stages[-1].blocks[0]
    h, weight = torch.randn(16, 25, 16), torch.rand(16, 25)
    torch.manual_seed(0)
    kept = torch.rand(16, 1, 1) >= block.drop.prob
    torch.manual_seed(0)
    _, carried, _ = block(h, weight, "", 0.5, True)
    _, moved, _ = block.eval()(h, weight)
    kept = kept.flatten()
    assert 0 < kept.sum() < 16
    torch.testing.assert_close(carried[kept], moved[kept])
    assert torch.equal(carried[~kept], weight[~kept])
    torch.manual_seed(0)
    _, always, _ = block.train()(h, weight)
    torch.testing.assert_close(always, moved)


@pytest.mark.parametrize("ratio", [0.0, 0.3, 1.0])
def test_transmix_weighs_area_and_the_last_class_attention(ratio):
    method = method_of("transmix", ratio=ratio)
    _, _, mixed, _, after = step(method)
    capture = Capture({3: "class"})
    method.net.forward_stages(mixed.x, capture=capture)
    attn = capture.attention[3][:, 1:]
    pasted = mf.pasted_tokens(mixed.aux.box, SIZE, (4, 6)).flatten(1)
    own = (attn * (1 - pasted)).sum(1) / attn.sum(1)
    torch.testing.assert_close(after.lam, ratio * own + (1 - ratio) * mixed.lam)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_looking_at_attention_changes_no_bit_of_logits_and_gradients(name, dtype):
    method = method_of(name)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        _, _, mixed, logits, after = step(method)
        loss = method.loss(logits, after)
        loss.backward()
        grads = [p.grad.clone() for p in method.net.parameters()]
        method.zero_grad()
        plain = method.net(mixed.x)
        mf.soft_cross_entropy(plain, after.targets.clone()).backward()
    assert torch.equal(logits, plain)
    assert all(map(torch.equal, grads, (p.grad for p in method.net.parameters())))
    assert after.lam.dtype == after.aux.weight.dtype == torch.float32


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("lam", "kept"), [(1.0, 1.0), (0.0, 0.0)])
def test_a_batch_that_is_not_pasted_or_whole_has_the_label_of_one_image(name, lam, kept):
    middle = torch.tensor([[0.5, 0.5]])
    method = method_of(name)
    _, targets, _, _, after = step(method, lam=torch.tensor([lam]), center=middle)
    torch.testing.assert_close(after.lam, torch.full((4,), kept))
    torch.testing.assert_close(after.targets, targets if kept else targets.flip(0))


@pytest.mark.parametrize("name", NAMES)
def test_a_pair_of_one_class_keeps_its_label(name):
    method = method_of(name)
    x, _ = sample_batch(4, *SIZE)
    targets = torch.eye(CLASSES)[:1].expand(4, -1)
    _, after = method.predict(method.mix(x, targets, lam=LAM, center=CENTER, cutmix=True))
    torch.testing.assert_close(after.targets, targets)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rows", [1, 3])
def test_a_row_without_a_partner_stays_as_it_is(name, rows):
    x, targets, mixed, logits, after = step(method_of(name), rows)
    middle = rows // 2
    assert torch.equal(mixed.x[middle], x[middle])
    torch.testing.assert_close(after.targets[middle], targets[middle])
    assert logits.isfinite().all()
    assert after.lam.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_partners_may_be_drawn_and_boxes_may_differ(name):
    method = method_of(name, partner="roll", per_sample=True)
    x, targets = sample_batch(4, *SIZE)
    boxes = set()
    for index in range(5):
        method.reseed(0, index)
        mixed = method.mix(x, targets, cutmix=True)
        assert mixed.perm.tolist() == [3, 0, 1, 2]
        _, after = method.predict(mixed)
        boxes |= {tuple(box) for box in after.aux.box.tolist()}
        assert after.aux.box.shape == (4, 4)
    assert len(boxes) > 5
    assert method.fidelity == "variant"


def test_batches_are_pasted_interpolated_or_left_as_often_as_asked_for():
    method = method_of("transmix", prob=0.8, switch_prob=0.3)
    x, targets = sample_batch(4, *SIZE)
    kinds = []
    for index in range(300):
        method.reseed(0, index)
        mixed = method.mix(x, targets)
        kinds.append("left" if mixed.lam is None else "cut" if mixed.aux else "mixup")
    shares = {kind: kinds.count(kind) / 300 for kind in set(kinds)}
    assert shares == pytest.approx({"left": 0.2, "cut": 0.24, "mixup": 0.56}, abs=0.1)
    method.rank = 1
    for index in range(20):  # alike on all ranks
        method.reseed(0, index)
        mixed = method.mix(x, targets)
        assert kinds[index] == ("left" if mixed.lam is None else "cut" if mixed.aux else "mixup")


def test_half_of_transmix_is_pasted_as_the_share_in_the_authors_file_is_never_read():
    """Their file of settings spells the option with hyphens, and a parser knows underscores."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--mixup-switch-prob", type=float, default=0.5)
    parser.set_defaults(**{"mixup-switch-prob": 0.8})
    theirs = parser.parse_args([]).mixup_switch_prob
    method = method_of("transmix")
    x, targets = sample_batch(4, *SIZE)
    pasted = 0
    for index in range(300):
        method.reseed(0, index)
        pasted += method.mix(x, targets).aux is not None
    assert pasted / 300 == pytest.approx(theirs, abs=0.12)  # four deviations


@pytest.mark.parametrize(("name", "switches"), [("tlalign", False), ("transmix", True)])
def test_tlalign_never_interpolates_unless_asked_and_transmix_does(name, switches):
    x, targets = sample_batch(4, *SIZE)
    for settings in ({}, {"mixup_alpha": 0.8 if name == "tlalign" else 0.0}):
        method = method_of(name, **settings)
        cut = set()
        for index in range(30):
            method.reseed(0, index)
            cut.add(method.mix(x, targets).aux is not None)
        assert cut == ({True, False} if switches != bool(settings) else {True})


@pytest.mark.parametrize("name", NAMES)
def test_an_interpolated_batch_has_the_plain_label(name):
    method = method_of(name, mixup_alpha=0.8)
    x, targets = sample_batch(4, *SIZE)
    mixed = method.mix(x, targets, cutmix=False, lam=LAM)
    logits, after = method.predict(mixed)
    expected = mf.mixup(x, targets, lam=LAM, perm=torch.tensor([3, 2, 1, 0]))
    assert torch.equal(after.x, expected.x)
    assert torch.equal(after.targets, expected.targets)
    assert torch.equal(logits, method.net(expected.x))
    assert "lam_shift" not in method.diagnostics(after)


@pytest.mark.parametrize("name", NAMES)
def test_the_curves_show_how_far_labels_are_from_the_area(name):
    method = method_of(name)
    *_, mixed, _, after = step(method)
    figures = method.diagnostics(after)
    off = after.lam - mixed.lam
    torch.testing.assert_close(figures["lam_shift"], off.abs().mean())
    torch.testing.assert_close(figures["lam_spread"], off.std(correction=0))
    torch.testing.assert_close(figures["lam"], after.lam.mean())


# Networks.


def test_on_swin_the_mean_over_the_last_tokens_counts():
    method = method_of("tlalign", swin())
    *_, mixed, logits, after = step(method)
    capture = Capture(weight=mf.pasted_tokens(mixed.aux.box, (16, 32), (8, 16)).expand(4, -1, -1))
    method.net.forward_stages(mixed.x, capture=capture)
    torch.testing.assert_close(after.lam, 1 - capture.weight.mean((1, 2)))
    assert torch.equal(logits, method.net(mixed.x))
    assert method.config.fidelity == "official-verified"
    assert method.fidelity == "variant"


def test_on_swin_transmix_asks_how_much_each_token_is_looked_at():
    method = method_of("transmix", swin())
    *_, mixed, logits, after = step(method)
    capture = Capture({-1: "received"})
    method.net.forward_stages(mixed.x, capture=capture)
    pasted = mf.pasted_tokens(mixed.aux.box, (16, 32), (4, 8))
    expected = mf.attention_lam(capture.attention[-1], pasted, mixed.lam)
    torch.testing.assert_close(after.lam, expected)
    assert torch.equal(logits, method.net(mixed.x))
    assert method.fidelity == "variant"


def test_patches_to_paste_may_be_larger_than_those_of_the_network():
    method = method_of("tlalign", patch=8)
    x, targets = sample_batch(4, *SIZE)
    for index in range(10):
        method.reseed(0, index)
        mixed = method.mix(x, targets)
        assert (mixed.aux.box % 8 == 0).all()
    with pytest.raises(UserError, match="not a whole number of patches of the network") as error:
        method_of("tlalign", patch=6)
    assert error.value.todo == "use a multiple of net.patch=4, or leave it out"
    with pytest.raises(ValueError, match="whole patches of 16x16"):
        method_of("tlalign", patch=16).mix(x, targets)


@pytest.mark.parametrize("name", NAMES)
def test_flipped_pairs_of_odd_batches_are_refused_before_training(name):
    cls, info = METHODS.get(name), DataInfo(CLASSES, *SIZE)
    for odd in (RunConfig(batch_size=33), RunConfig(batch_size=66, devices=2)):
        with pytest.raises(UserError, match="flip pairing needs an even batch, got B=33") as caught:
            cls(vit(), info, cls.Config(), odd)
        assert "method.partner=random" in caught.value.todo
        cls(vit(), info, cls.Config(partner="random"), odd)


@pytest.mark.usefixtures("runs")
@pytest.mark.parametrize("name", NAMES)
def test_a_network_without_attention_is_refused_before_data_is_read(name, tmp_path):
    words = f"method={name} net=resnet18 data=pack data.train={tmp_path}/a data.test={tmp_path}/b"
    for file in ("a", "b"):
        (tmp_path / file).write_bytes(b"no archive")
    with pytest.raises(UserError, match=f"method {name} needs attention") as error:
        run(compose(words))
    assert error.value.where == "net=resnet18"
    assert "deit_small, deit_tiny, swin_tiny, vit_tiny" in error.value.todo


@pytest.mark.parametrize(
    ("name", "settings", "text"),
    [
        ("tlalign", {"alpha": 0.0}, "method.alpha must be > 0"),
        ("tlalign", {"mixup_alpha": -1.0}, "method.mixup_alpha must be >= 0"),
        ("tlalign", {"residual": 1.2}, "method.residual must lie"),
        ("tlalign", {"last": 0}, "method.last must be >= 1"),
        ("tlalign", {"patch": 0}, "method.patch must be >= 1"),
        ("tlalign", {"box_rule": "exact"}, "method.box_rule must be one of official, timm"),
        ("transmix", {"ratio": -0.1}, "method.ratio must lie"),
        ("transmix", {"switch_prob": 2.0}, "method.switch_prob must lie"),
        ("transmix", {"prob": 2.0}, "method.prob must lie"),
        ("transmix", {"partner": "next"}, "method.partner must be one of random, flip"),
    ],
)
def test_settings_out_of_range_are_refused(name, settings, text):
    with pytest.raises(ValueError, match=text):
        method_of(name, **settings)


# Pictures.


class Counts(torch.nn.Module):
    """Writes down that something passed, as batch normalisation does."""

    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, h):
        self.count += 1
        return h


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("net", [vit, swin])
def test_a_picture_shows_tokens_before_and_after_and_changes_nothing(name, net, monkeypatch):
    seen = {}

    def keep(pairs, rows, *sentences):
        seen.update(rows=[row for pair in pairs for row in rows(*pair)])
        return Sheet(pairs, rows, *sentences)

    monkeypatch.setattr(tokens, "Sheet", keep)
    drawn = []

    def tinted(image, colours, grid):
        drawn.append((colours, grid))
        return image

    monkeypatch.setattr(tokens, "tinted", tinted)
    method = method_of(name, net())
    method.net.head.pool = torch.nn.Sequential(method.net.head.pool, Counts())
    x, targets, mixed, _, after = step(method)
    before = {key: value.clone() for key, value in method.state_dict().items()}
    assert before["net.head.pool.1.count"] == 1
    method.picture(x, targets, mixed)
    assert all(torch.equal(before[key], value) for key, value in method.state_dict().items())
    row = {panel.title: panel for panel in seen["rows"][1]}
    assert len(seen["rows"]) == 4
    for panel in list(row.values())[2:4]:
        panel.image(64)
    area = mf.mix_targets(targets, mixed.perm, mixed.lam)
    names = method.info.names
    assert list(list(row.values())[2].lines) == tokens.label_text(area[1], names)
    assert list(list(row.values())[-1].lines) == tokens.label_text(after.targets[1], names)
    grid = drawn[0][1]
    pasted = mf.pasted_tokens(mixed.aux.box, method.net.size, grid)[0]
    torch.testing.assert_close(drawn[0][0], tokens.heat(pasted).flatten(1).t())
    weight = after.aux.weight[1]
    weight = weight if weight.ndim == 2 else weight[1:].view(grid)
    weight = weight / weight.max() if name == "transmix" else weight
    torch.testing.assert_close(drawn[1][0], tokens.heat(weight).flatten(1).t())


@pytest.mark.parametrize("name", NAMES)
def test_an_interpolated_batch_is_drawn_as_such(name):
    method = method_of(name, mixup_alpha=0.8)
    x, targets = sample_batch(4, *SIZE)
    picture = method.picture(x, targets, method.mix(x, targets, cutmix=False))
    assert [panel.title for panel in picture[0].drawn()[0]] == ["image", "partner", "mixed"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_compiled_stages_are_met_with_and_without_a_record_and_need_no_graph_per_step(name):
    net = small_net("vit_tiny", patch=16)
    method = build_method(name, net, DataInfo(4, 32, 32), run=RunConfig()).train()
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    for stage in net.stages:
        stage.compile(backend="eager", fullgraph=True)
    x, targets = sample_batch(4, 32, 32)
    counts = []
    for index in range(12):
        method.reseed(0, index)
        logits, mixed = method.predict(method.mix(x, targets))
        method.loss(logits, mixed).backward()
        counts.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert counts[-1] == counts[5] <= 8
