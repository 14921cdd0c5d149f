"""Methods whose masks follow maps: where the maps come from, and that they are found once."""

import dataclasses

import pytest
import torch

import mixbench.functional as mf
from mixbench.errors import UserError
from mixbench.functional.draws import Switch
from mixbench.methods import METHODS
from mixbench.methods.map_mix import MapMix
from mixbench.nn.saliency_kinds import find_maps
from mixbench.testing.samples import BATCH, sample_batch, sample_method

NAMES = [name for name in METHODS.names() if issubclass(METHODS.get(name), MapMix)]
PERM = torch.tensor([4, 3, 5, 0, 1, 2])


def made(name, **settings):
    torch.manual_seed(0)
    return sample_method(METHODS.get(name), **settings)


def kinds_of(name):
    fields = METHODS.get(name).Config.__dataclass_fields__
    return fields["saliency"].metadata["setting"].options


CASES = [(n, kind) for n in NAMES for kind in kinds_of(n) if kind not in ("auto", "attention")]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_maps_are_found_once_a_step_and_leave_no_trace(name, kind, monkeypatch):
    method = made(name, saliency=kind, prob=1.0)
    before = {key: value.clone() for key, value in method.state_dict().items()}
    modes = [module.training for module in method.modules()]
    calls = []
    finding = type(method).find_saliency
    monkeypatch.setattr(
        type(method), "find_saliency", lambda *args: calls.append(1) or finding(*args)
    )
    mixed = method.mix(*sample_batch())
    assert len(calls) == 1
    assert not mixed.x.requires_grad
    assert all(torch.equal(value, before[key]) for key, value in method.state_dict().items())
    assert [module.training for module in method.modules()] == modes
    assert all(p.grad is None and p.requires_grad for p in method.net.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_that_is_left_alone_needs_no_maps(name, monkeypatch):
    method = made(name, prob=0.0)
    monkeypatch.delattr(MapMix, "find_saliency")
    x, targets = sample_batch()
    assert method.mix(x, targets).x is x


def test_a_gradient_of_the_loss_is_that_of_finite_differences():
    method = made("attentivemix").double()
    x, targets = sample_batch()
    x, y = x[:2].double(), targets[:2].argmax(1)
    method.net.eval()
    found = find_maps(method.net.float(), "loss_grad", x.float(), y)
    net = method.net.double()
    loss = torch.nn.functional.cross_entropy
    for row, (i, j) in enumerate([(3, 4), (9, 12)]):
        slopes = []
        for channel in range(x.shape[1]):
            step = torch.zeros_like(x)
            step[row, channel, i, j] = 1e-5
            up, down = (loss(net(x + s * step), y, reduction="sum") for s in (1, -1))
            slopes.append((up - down).item() / 2e-5)
        expected = (sum(slope**2 for slope in slopes) / len(slopes)) ** 0.5
        assert found[row, i, j].item() == pytest.approx(expected, rel=1e-3, abs=1e-7)


def test_the_mean_of_a_feature_map_ranks_cells_and_attention_on_a_transformer():
    method = made("attentivemix")
    assert method.kind == "mean"
    x, targets = sample_batch()
    method.net.eval()
    h = method.net.forward_stages(x, stop=3)  # the last of 4 x 4 cells
    assert h.shape[2:] == (4, 4)
    torch.testing.assert_close(method.find_saliency(x, targets), h.mean(1))
    mixed = method.mix(x, targets, perm=PERM)
    maps = mf.resize_maps(h.mean(1).detach(), (7, 7))
    again = mf.attentivemix(x, targets, maps, top_k=6, perm=PERM)
    assert torch.equal(mixed.x, again.x)
    assert torch.equal(mixed.lam, again.lam)
    large = torch.nn.functional.interpolate(x, (32, 32))
    h = method.net.head.norm(method.net.forward_stages(large))
    torch.testing.assert_close(method.find_saliency(large, targets), h.mean(1))
    vit = made("attentivemix", saliency="attention")
    build = METHODS.get("attentivemix")
    assert build(vit.net, vit.info, vit.Config(), vit.run).kind == "attention"
    with pytest.raises(UserError, match="no such map"):
        build(vit.net, vit.info, vit.Config(saliency="mean"), vit.run)


def test_more_cells_than_the_grid_has_are_refused():
    with pytest.raises(ValueError, match="exceeds the 4 cells"):
        METHODS.get("attentivemix").Config(top_k=6, grid=2)


def test_guidedmixup_mixes_by_the_images_or_by_the_gradient_of_the_loss():
    x, targets = sample_batch()
    method = made("guidedmixup", prob=1.0)
    assert torch.equal(method.mix(x, targets).x, mf.guidedmixup(x, targets).x)
    method = made("guidedmixup", prob=1.0, saliency="loss_grad")
    maps = find_maps(method.net, "loss_grad", x, targets.argmax(1))
    assert torch.equal(method.mix(x, targets).x, mf.guidedmixup(x, targets, maps).x)


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_of_the_authors_is_the_binary_one_of_the_softmax(name):
    x, targets = sample_batch()
    losses = {kind: made(name, loss=kind, prob=1.0) for kind in ("ce", "bce_softmax")}
    mixed = losses["ce"].mix(x, targets)
    logits = torch.randn(len(x), targets.shape[1])
    found = {kind: method.loss(logits, mixed) for kind, method in losses.items()}
    torch.testing.assert_close(found["ce"], mf.soft_cross_entropy(logits, mixed.targets))
    binary = torch.nn.functional.binary_cross_entropy(logits.softmax(1), mixed.targets)
    torch.testing.assert_close(found["bce_softmax"], binary)
    assert losses["bce_softmax"].tasks_with(losses["bce_softmax"].config) == {"multiclass"}


def test_puzzlemix_compares_pixels_and_draws_blocks_for_all_ranks():
    x, targets = sample_batch()
    method = made("puzzlemix")
    maps = find_maps(method.net, "loss_grad", x, targets.argmax(1))
    given = {"perm": PERM, "lam": torch.tensor([0.5]), "blocks": 4}
    mixed = method.mix(x, targets, **given)
    pixels = method.to_pixels(x)
    assert torch.equal(mixed.x, mf.puzzlemix(x, targets, maps, pixels=pixels, **given).x)
    assert mixed.aux.x is None
    sizes = []
    for batch in range(8):
        method.reseed(0, batch)
        drawn = method.mix(x, targets).aux.puzzle.own.shape[1]
        method.rank = 1
        method.reseed(0, batch)
        assert method.mix(x, targets).aux.puzzle.own.shape[1] == drawn
        method.rank = 0
        sizes.append(drawn)
    assert len(set(sizes)) > 1


@pytest.mark.parametrize(
    ("size", "blocks", "message"),
    [(33, None, "neither 2, 4, 8 nor 16 square blocks"), (28, [4, 8], "8 square blocks")],
)
def test_images_that_blocks_do_not_divide_are_refused_before_the_training(size, blocks, message):
    method = made("puzzlemix")
    info = dataclasses.replace(method.info, height=size, width=size)
    config = method.Config(blocks=blocks)
    with pytest.raises(UserError, match=message) as error:
        METHODS.get("puzzlemix")(method.net, info, config, method.run)
    assert error.value.where.startswith("method.blocks")


def test_openmixup_s_second_share_is_kept_where_it_is_asked_for():
    x, targets = sample_batch()
    shares = []
    for official in (False, True):
        method = made("puzzlemix", official=official)
        method.reseed(0, 3)
        mixed = method.mix(x, targets, perm=PERM, blocks=4)
        shares.append(mixed.x)
    assert not torch.equal(*shares)


@pytest.mark.parametrize("loss", ["ce", "bce_softmax"])
def test_puzzlemix_also_learns_from_clean_images_by_the_weight_of_the_authors(loss):
    x, targets = sample_batch()
    method = made("puzzlemix", clean_lam=0.5, loss=loss)
    given = {"perm": PERM, "blocks": 4, "lam": torch.tensor([0.4])}
    logits, mixed = method.predict(method.mix(x, targets, **given))
    terms = method.loss(logits, mixed)
    other = made("puzzlemix", loss=loss)
    seen = [other.net(images) for images in (x, mixed.x)]  # in this order, as statistics move
    assert all(map(torch.equal, method.net.buffers(), other.net.buffers()))
    labels = targets.argmax(1)
    clean = torch.nn.functional.cross_entropy(seen[0], labels)
    if loss == "bce_softmax":  # as their code has it
        clean = 2 * clean / targets.shape[1]
    torch.testing.assert_close(terms["clean"], 0.5 * clean)
    torch.testing.assert_close(terms["ce"], other.loss(seen[1], mixed._replace(aux=None)))
    assert method.step_cost(method.config) == other.step_cost(other.config) + 1


@pytest.mark.parametrize("attacked", [(True, False), (False, True), (True, True)])
def test_puzzlemix_adds_the_authors_noise_to_images_and_partners_apart(attacked, monkeypatch):
    method, (x, targets) = made("puzzlemix", adv_prob=0.5, adv_eps=8.0), sample_batch()
    x = method.normalize(x.sigmoid())
    turns = iter(attacked)
    monkeypatch.setattr(Switch, "on", lambda self, probability: next(turns))
    method.reseed(0, 1)
    half = {"mask": torch.full((BATCH, 4, 4), 0.5), "transport": False}
    mixed = method.mix(x, targets, perm=PERM, blocks=4, **half)
    own, partner = (torch.where(torch.tensor(each), 1.0, 0.0) for each in attacked)
    method.reseed(0, 1)
    eps = 8 / 255
    start = eps * (2 * torch.rand(x.shape, generator=method.generator) - 1)
    share = torch.rand(1, generator=method.generator)
    pixels = method.to_pixels(x)
    begun = (pixels + start).clamp(0, 1)
    seen = method.normalize(begun).requires_grad_()
    method.net.eval()
    loss = torch.nn.functional.cross_entropy(method.net(seen), targets.argmax(1), reduction="sum")
    (slope,) = torch.autograd.grad(loss, seen)
    noise = share * (begun - pixels + 10 / 255 * slope.sign()).clamp(-eps, eps)
    noisy = method.normalize((pixels + noise).clamp(0, 1))
    first, second = torch.lerp(x, noisy, own), torch.lerp(x, noisy, partner)
    torch.testing.assert_close(mixed.x, (first + second[PERM]) / 2)
    assert (method.to_pixels(noisy) - pixels).abs().max() <= eps + 1e-6
    assert not torch.equal(noisy, x)


def test_noise_against_another_network_is_refused():
    with pytest.raises(ValueError, match=r"method\.adv_prob=0\.1 needs method\.saliency=loss_grad"):
        METHODS.get("puzzlemix").Config(adv_prob=0.1, saliency="cam")
