import pytest
import torch
import torch.nn.functional as F

import mixbench.functional as mf
from mixbench import build_method
from mixbench.backbones.cifar import PreActResNet
from mixbench.backbones.vit import VisionTransformer
from mixbench.data.augment.views import draw_view, make_view
from mixbench.data.images import Batch, ResidentImages
from mixbench.data.sampling import BatchIndex
from mixbench.errors import UserError
from mixbench.methods import METHODS
from mixbench.methods.moco.base import CONTRAST, Bank
from mixbench.methods.moco.mocosamix import MASK, MIX, MIXER
from mixbench.nn.contrast import projector
from mixbench.testing.samples import BATCH, CLASSES, fit, sample_batch, sample_method, sample_splits

NAMES = ("moco", "mocosamix")
NEXT, OTHERS = torch.arange(BATCH).roll(1), torch.arange(BATCH).roll(2)
GIVEN = {
    "lam": torch.tensor([0.3]),
    "perm": NEXT,
    "lam_mixer": torch.tensor([0.6]),
    "perm_mixer": OTHERS,
}


def learning(name, **settings):
    """A method whose mixer and momentum encoder are not near their initialisation."""
    torch.manual_seed(0)
    method = sample_method(METHODS.get(name), queue=16, **settings)
    for parameter in method.mixer.parameters() if name == "mocosamix" else ():
        torch.nn.init.normal_(parameter)
    other = PreActResNet((1, 1, 1, 1), 4, CLASSES)
    head = projector(other.head.fc.in_features, 128)
    method.teacher.update(other, head, 0.5)
    return method


def step(method, batch=None, **decisions):
    """Terms of the loss of a step, and its batch."""
    method.reseed(0, 0)
    x, targets = batch or sample_batch()
    given = GIVEN if len(x) == BATCH else {}
    mixed = method.mix(x, targets, **given | decisions)
    logits, mixed = method.predict(mixed)
    return method.loss(logits, mixed), mixed


def unit(net, head, x):
    h = net.forward_stages(x)
    return F.normalize(head(net.head.pool(net.head.norm(h))), dim=1)


# What both learn from.


@pytest.mark.parametrize("name", NAMES)
def test_training_does_not_look_at_labels(name):
    states = []
    for labels in (torch.arange(24) % CLASSES, torch.arange(24).flip(0) // 6):
        torch.manual_seed(0)
        method = sample_method(METHODS.get(name), epochs=2, queue=16)
        method.wrap_dataset = lambda images, labels=labels: ResidentImages(images.images, labels)
        fit(method)
        states.append(method.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize("name", NAMES)
def test_views_are_made_of_whole_pixels_and_are_the_step_s_own(name):
    method = learning(name)
    method.mean += 0.4
    method.std *= 0.3
    x, targets = sample_batch()
    draws = [draw_view(BATCH, 16, 16, generator=torch.Generator().manual_seed(n)) for n in (1, 2)]
    mixed = method.mix(x, targets, views=draws)
    for view, draw in zip(mixed.aux[:2], draws, strict=True):
        pixels = make_view(method.to_pixels(x), draw)
        torch.testing.assert_close(view, method.normalize(pixels))
    drawn = []
    for batch in (0, 0, 1):
        method.reseed(0, batch)
        drawn.append(method.mix(x, targets).aux)
    assert torch.equal(drawn[0].query, drawn[1].query)
    assert not torch.equal(drawn[0].query, drawn[2].query)
    assert not torch.equal(drawn[0].query, drawn[0].key)


@pytest.mark.parametrize("flip", [True, False])
def test_views_are_mirrored_only_where_images_may_be(flip):
    method = learning("moco")
    method.run.data.flip = flip
    flips = [draws.flips for draws in method.draw_views(torch.zeros(200, 3, 8, 8))]
    assert all(bool(part.any()) == flip for part in flips)


def test_settings_of_views_reach_the_draws():
    method = learning("moco", crop_area=0.9, jitter=0.0, grey=1.0, blur=1.0)
    for draws in method.draw_views(torch.zeros(200, 3, 20, 20)):
        assert (draws.boxes[:, 2] * draws.boxes[:, 3]).min() > 0.8 * 400
        assert not draws.jittered.any()
        assert draws.grey.all()
        assert (draws.sigma > 0).all()


def test_images_come_as_they_are_and_are_cropped_by_the_views_only():
    method = learning("moco")
    images = sample_splits(method).train
    batch = images[BatchIndex(torch.arange(BATCH), 0)]
    x, targets = method.prepare(Batch(*batch))
    torch.testing.assert_close(x, method.normalize(batch.images / 255))
    assert torch.equal(targets.argmax(dim=1), batch.labels)


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_of_moco_finds_the_other_view_s_key_in_the_queue(name):
    method = learning(name, temperature=0.3)
    terms, mixed = step(method)
    keys = unit(method.teacher.net, method.teacher.mix_head, mixed.aux.key)
    torch.testing.assert_close(mixed.aux.keys, keys)
    z = unit(method.net, method.projector, mixed.aux.query)
    expected = mf.info_nce(z, keys, method.queue.keys, 0.3).mean()
    torch.testing.assert_close(terms[CONTRAST], expected)
    assert not mixed.aux.keys.requires_grad


@pytest.mark.parametrize("name", NAMES)
def test_keys_enter_the_queue_after_the_gradient_of_their_step(name):
    method = learning(name)
    before = method.queue.keys.clone()
    terms, mixed = step(method)
    sum(terms.values()).backward()  # a queue that has changed would be refused here
    assert torch.equal(method.queue.keys, before)
    method.on_after_backward()
    assert torch.equal(method.queue.keys[:, :BATCH], mixed.aux.keys.t())
    assert torch.equal(method.queue.keys[:, BATCH:], before[:, BATCH:])


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_under_lightning_every_batch_enters_the_queue_and_every_step_moves_the_teacher(
    name, accumulate
):
    method = learning(name)
    seen, followed = [], []
    enqueue, follow = method.queue.enqueue, method.teacher.update

    def noted():
        seen.append(method.queue._waiting)
        enqueue()

    method.queue.enqueue = noted
    method.teacher.update = lambda *parts: (followed.append(parts[2]), follow(*parts))
    fit(method, accumulate_grad_batches=accumulate)
    assert len(seen) == 4
    assert int(method.queue.place) == 4 * BATCH % 16
    newest = torch.cat(seen)[-16:]
    assert torch.equal(method.queue.keys.roll(-(4 * BATCH % 16), dims=1), newest.t())
    assert followed == [method.config.ema] * (4 // accumulate)


def test_the_momentum_encoder_is_that_of_a_step_which_begins_by_moving_it():
    torch.manual_seed(0)
    method = sample_method(METHODS.get("moco"), queue=16, ema=0.7)
    slow = [p.clone() for p in method.teacher.parameters()]
    checked = []
    encode = method.encode

    def check(*given):
        trained = [*method.net.parameters(), *method.projector.parameters()]
        for own, q in zip(slow, trained, strict=True):
            own.copy_(0.7 * own + 0.3 * q.detach())  # the official step begins with this
        for own, k in zip(slow, method.teacher.parameters(), strict=True):
            torch.testing.assert_close(own, k)
        checked.append(float((slow[0] - trained[0]).abs().max().detach()))
        return encode(*given)

    method.encode = check
    fit(method)
    assert len(checked) == 4
    assert checked[0] < 1e-6
    assert checked[1] > 1e-4


# Batch normalisation.


def test_parts_are_normalised_apart_and_come_back_in_the_order_of_the_batch():
    method = learning("moco", bn_groups=3)
    x = torch.randn(12, 3, 16, 16)
    order = torch.randperm(12)
    found = method.encode(x, order, 0).keys
    net, head = method.teacher.net, method.teacher.mix_head
    for rows in order.split(4):
        torch.testing.assert_close(found[rows], unit(net, head, x[rows]))
    whole = unit(net, head, x)
    assert (found - whole).abs().max() > 1e-3
    z = method.query(x)
    for rows in torch.arange(12).split(4):
        torch.testing.assert_close(z[rows], unit(method.net, method.projector, x[rows]))


@pytest.mark.parametrize(("rows", "groups"), [(1, 1), (7, 1), (8, 2), (30, 4), (64, 4)])
def test_no_part_is_smaller_than_four_images(rows, groups):
    method, sizes = learning("moco", bn_groups=4), []
    x = torch.arange(rows).float()[:, None]
    (found,) = method.in_groups(lambda part: (sizes.append(len(part)) or part,), x)
    assert torch.equal(found, x)
    assert len(sizes) == groups
    assert min(sizes) >= min(4, rows)


def test_keys_meet_other_images_than_their_queries_do():
    method = learning("moco", bn_groups=2)
    orders = []
    encode = method.encode
    method.encode = lambda *given: (orders.append(given[1]), encode(*given))[1]
    for batch in range(3):
        method.reseed(0, batch)
        method.mix(*sample_batch(10))
    assert all(sorted(order.tolist()) == list(range(10)) for order in orders)
    assert len({tuple(order.tolist()) for order in orders}) == 3


# What SAMix mixes and learns.


def test_encoder_and_mixer_learn_from_views_of_their_own():
    method = learning("mocosamix", mask_within=1.0)
    terms, mixed = step(method)
    taught, queue = mixed.aux, method.queue.keys
    net, head = method.teacher.net, method.teacher.mix_head
    h = [net.forward_stages(view, stop=3) for view in (taught.query, taught.key)]
    shared, partner = (method.mixer.share(part) for part in h)
    size = taught.query.shape[2:]
    mask = method.mixer.draw(shared, GIVEN["lam_mixer"], OTHERS, size, partner=partner)
    torch.testing.assert_close(taught.mask, mask)
    torch.testing.assert_close(taught.made, mask * taught.query + (1 - mask) * taught.key[OTHERS])
    other = method.mixer.draw(shared, GIVEN["lam"], NEXT, size, partner=partner)
    torch.testing.assert_close(mixed.x, other * taught.query + (1 - other) * taught.key[NEXT])
    assert not mixed.x.requires_grad
    own = unit(net, head, taught.query)
    torch.testing.assert_close(taught.own, own)
    expected = {
        MIX: (method.net, method.projector, mixed.x, NEXT, GIVEN["lam"]),
        MIXER: (net, head, taught.made, OTHERS, GIVEN["lam_mixer"]),
    }
    for key, (encoder, top, images, perm, lam) in expected.items():
        z = unit(encoder, top, images)
        loss = mf.mixed_info_nce(z, taught.keys, own[perm], queue, lam, 0.1)
        torch.testing.assert_close(terms[key], loss)
    torch.testing.assert_close(terms[MASK], 0.1 * mf.mask_loss(mask, GIVEN["lam_mixer"]))


def test_each_loss_reaches_what_it_is_for_and_nothing_else():
    method = learning("mocosamix")
    reached = {}
    for key in (CONTRAST, MIX, MIXER, MASK):
        method.zero_grad()
        step(method)[0][key].backward()
        reached[key] = {
            part
            for part, module in {
                "stages": method.net.stages,
                "head": method.net.head,
                "projector": method.projector,
                "mixer": method.mixer,
                "teacher": method.teacher,
            }.items()
            if any(p.grad is not None and p.grad.any() for p in module.parameters())
        }
    encoder = {"stages", "projector"}
    assert reached == {CONTRAST: encoder, MIX: encoder, MIXER: {"mixer"}, MASK: {"mixer"}}


@pytest.mark.parametrize("lam", [0.05, 0.08, 0.92, 1.0])
def test_weights_near_0_or_1_mix_without_the_mixer_which_learns_all_the_same(lam):
    method = learning("mocosamix", lam_margin=0.0801)
    lam = torch.tensor([lam])
    terms, mixed = step(method, lam=lam, lam_mixer=lam)
    view, key = mixed.aux.query, mixed.aux.key
    torch.testing.assert_close(mixed.x, lam * view + (1 - lam) * key[NEXT])
    assert (mixed.aux.made - (lam * view + (1 - lam) * key[OTHERS])).abs().max() > 0.05
    terms[MIXER].backward()
    assert method.mixer.query.weight.grad.any()


@pytest.mark.parametrize(("within", "close"), [(0.0, 1e-5), (0.1, 0.1001)])
def test_masks_far_from_their_weight_are_rescaled_to_it(within, close, monkeypatch):
    method = learning("mocosamix", mask_within=within)
    masks = []
    blend = mf.blend
    monkeypatch.setattr(mf, "blend", lambda *given: (masks.append(given[2]), blend(*given))[1])
    step(method, lam=torch.tensor([0.85]))
    off = (masks[1].mean(dim=(1, 2, 3)) - 0.85).abs()
    assert bool((off <= close).all())
    if within:
        raw = learning("mocosamix", mask_within=1.0)
        step(raw, lam=torch.tensor([0.85]))
        assert (masks[3].mean(dim=(1, 2, 3)) - 0.85).abs().max() > 0.1


@pytest.mark.parametrize("bugs", [False, True])
def test_the_mixer_s_masks_are_of_the_partners_of_its_images_or_as_the_authors_have_it(bugs):
    method = learning("mocosamix", official_bugs=bugs)
    seen = []
    draw = method.mixer.draw
    method.mixer.draw = lambda *given, **more: (seen.append(given[2]), draw(*given, **more))[1]
    step(method)
    assert torch.equal(seen[0], NEXT[OTHERS] if bugs else OTHERS)
    assert torch.equal(seen[1], NEXT)


@pytest.mark.parametrize(("main", "weight"), [("infonce", 0.5), ("bce", 0.5), ("bce", 0.0)])
def test_the_mixer_learns_by_its_main_loss_and_a_fading_part_of_the_other(main, weight):
    method = learning("mocosamix", mixer_loss=main, aux_weight=weight)
    method.total_steps, method.step = 2, 1  # half of the cosine
    terms, mixed = step(method)
    taught = mixed.aux
    z = unit(method.teacher.net, method.teacher.mix_head, taught.made)
    pair = (z, taught.keys, taught.own[OTHERS])
    lam = GIVEN["lam_mixer"]
    losses = {
        "infonce": mf.mixed_info_nce(*pair, method.queue.keys, lam, 0.1),
        "bce": mf.two_way_nce(*pair, lam, 0.1),
    }
    other = "bce" if main == "infonce" else "infonce"
    torch.testing.assert_close(terms[MIXER], losses[main] + 0.5 * weight * losses[other])
    mask = mf.mask_loss(taught.mask, lam)
    torch.testing.assert_close(terms[MASK], 0.1 * 0.5 * mask)


def test_both_weights_and_partners_are_drawn_apart():
    method, drawn = learning("mocosamix"), []
    for batch in range(200):
        method.reseed(0, batch)
        use = method._draw(torch.zeros(BATCH, 3, 8, 8))
        drawn.append([use["lam"].item(), use["lam_mixer"].item()])
    pair = torch.tensor(drawn).t()
    assert pair.corrcoef()[0, 1].abs() < 0.28
    torch.testing.assert_close(pair.var(dim=1), torch.full((2,), 0.05), rtol=0.4, atol=0)
    assert not torch.equal(use["perm"], use["perm_mixer"])
    assert not torch.equal(*use["orders"])


def test_the_mixer_has_a_rate_of_its_own_and_the_classifier_is_in_no_group():
    method = learning("mocosamix", mixer_lr=0.03)
    mixer = {id(p) for p in method.mixer.parameters()}
    outside = {id(p) for p in (*method.teacher.parameters(), *method.net.head.fc.parameters())}
    for group in method.param_groups():
        names = {id(p) for p in group["params"]}
        assert not names & outside
        assert group.get("lr") == (0.03 if names <= mixer else None)
        assert names <= mixer or not names & mixer
    assert {key for g in learning("mocosamix").param_groups() for key in g} == {
        "params",
        "weight_decay",
    }


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("layer", [1, 2])
def test_transformers_learn_by_their_class_token_and_are_mixed_on_the_grid_of_their_patches(
    name, layer
):
    torch.manual_seed(0)
    net = VisionTransformer(8, 2, 2, 4, (16, 24), 4)
    settings = {"layer": layer} if name == "mocosamix" else {}
    method = build_method(name, net, queue=16, **settings).train()
    terms, mixed = step(method, sample_batch(3, 16, 24))
    sum(terms.values()).backward()
    assert all(p.grad is not None for p in net.parameters() if p.requires_grad)
    if name == "mocosamix":
        assert mixed.aux.mask.shape == (3, 1, 16, 24)


def test_a_network_whose_features_are_on_no_grid_is_refused():
    net = PreActResNet((1, 1, 1, 1), 4, 4)
    net.provides = frozenset({"stages"})
    build_method("moco", net)
    with pytest.raises(UserError, match="features of PreActResNet are on no grid"):
        build_method("mocosamix", net)


@pytest.mark.parametrize("name", NAMES)
def test_under_autocast_keys_and_loss_stay_in_float32(name):
    method = learning(name)
    wide = step(method)[0][CONTRAST]
    with torch.autocast("cpu", torch.bfloat16):
        terms, mixed = step(method)
    assert mixed.aux.keys.dtype == torch.float32
    torch.testing.assert_close(mixed.aux.keys.norm(dim=1), torch.ones(BATCH))
    assert abs(terms[CONTRAST] - wide) < 0.3
    sum(terms.values()).backward()
    assert all(p.grad.isfinite().all() for p in method.net.parameters() if p.grad is not None)


# What is judged.


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_the_classifier_and_the_neighbours_vote_once_they_are_known(name):
    method = learning(name).eval()
    pixels = torch.rand(5, 3, 16, 16)
    features = method.features(pixels)
    torch.testing.assert_close(method(pixels), method.net.head.fc(features))
    assert method.extra_logits(pixels) == {}
    method.bank = Bank(F.normalize(features.detach(), dim=1), torch.tensor([0, 1, 2, 3, 0]))
    found = method.extra_logits(pixels)["knn"].argmax(dim=1)
    method.config.knn_k = 1
    assert torch.equal(method.extra_logits(pixels)["knn"].argmax(dim=1), method.bank.labels)
    assert found.shape == (5,)
    assert not any("bank" in key for key in method.state_dict())


def test_a_collapse_of_the_keys_shows():
    method = learning("moco")
    _, mixed = step(method)
    spread = method.diagnostics(mixed)["key_spread"]
    keys = mixed.aux.keys
    torch.testing.assert_close(spread, (1 - keys.mean(dim=0).square().sum()).sqrt())
    flat = mixed._replace(aux=mixed.aux._replace(keys=keys[:1].expand(BATCH, -1)))
    assert method.diagnostics(flat)["key_spread"] < 1e-3


@pytest.mark.parametrize(
    ("name", "settings", "match"),
    [
        ("moco", {"queue": 0}, "method.queue must be >= 1"),
        ("moco", {"dim": 0}, "method.dim must be >= 1"),
        ("moco", {"temperature": 0.0}, "method.temperature must be > 0"),
        ("moco", {"ema": 1.1}, "method.ema must lie in"),
        ("moco", {"crop_area": 0.0}, "method.crop_area must lie in"),
        ("moco", {"crop_area": 1.5}, "method.crop_area must lie in"),
        ("moco", {"jitter": -0.1}, "method.jitter must lie in"),
        ("moco", {"bn_groups": 0}, "method.bn_groups must be >= 1"),
        ("moco", {"knn_k": 0}, "method.knn_k must be >= 1"),
        ("moco", {"knn_temperature": -1.0}, "method.knn_temperature must be > 0"),
        ("moco", {"probe_decay": -1.0}, "method.probe_decay must be >= 0"),
        ("mocosamix", {"queue": 0}, "method.queue must be >= 1"),
        ("mocosamix", {"alpha": 0.0}, "method.alpha must be > 0"),
        ("mocosamix", {"layer": 0}, "method.layer=0 is the image"),
        ("mocosamix", {"lam_k": 11.0}, "method.lam_k must lie in"),
        ("mocosamix", {"dropout": 1.0}, "method.dropout must lie in"),
        ("mocosamix", {"mask_within": 2.0}, "method.mask_within must lie in"),
        ("mocosamix", {"mask_loss": "L3"}, "method.mask_loss must be one of"),
        ("mocosamix", {"mask_anneal": "step"}, "method.mask_anneal must be one of"),
        ("mocosamix", {"mixer_loss": "ce"}, "method.mixer_loss must be one of infonce, bce"),
        ("mocosamix", {"upsampling": "cubic"}, "method.upsampling must be one of"),
        ("mocosamix", {"aux_weight": -1.0}, "method.aux_weight must be >= 0"),
        ("mocosamix", {"mixer_lr": 0.0}, "method.mixer_lr must be > 0"),
    ],
)
def test_settings_out_of_range_are_refused(name, settings, match):
    with pytest.raises(ValueError, match=match):
        METHODS.get(name).Config(**settings)
