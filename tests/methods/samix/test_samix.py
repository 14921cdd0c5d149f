import dataclasses
import re

import pytest
import torch
import torch.nn.functional as F

import mixbench.functional as mf
from mixbench import build_method, compose, run
from mixbench.backbones.cifar import PreActResNet
from mixbench.backbones.vit import VisionTransformer
from mixbench.data import DATA
from mixbench.data.images import Batch
from mixbench.errors import UserError
from mixbench.methods import METHODS
from mixbench.methods.samix.base import CLEAN, MASK, MIX, MIXER
from mixbench.records.checkpoints import LAST
from mixbench.records.curves import read_curves
from mixbench.testing.samples import BATCH, fit, sample_batch, sample_method, sample_splits
from mixbench.training.build import build
from mixbench.training.callbacks.samples import draw_batch
from mixbench.training.job import resolve

NAMES = ("automix", "samix")
NEXT = torch.arange(BATCH).roll(1)
OTHERS = torch.arange(BATCH).roll(2)
GIVEN = {
    "lam": torch.tensor([0.3]),
    "perm": NEXT,
    "lam_mixer": torch.tensor([0.6]),
    "perm_mixer": OTHERS,
}


def learning(name="samix", **settings):
    """A method whose mixer and second head are not near their initialisation."""
    torch.manual_seed(0)
    method = sample_method(METHODS.get(name), **settings)
    for parameter in method.mixer.parameters():
        torch.nn.init.normal_(parameter)
    return method


def step(method, batch=None, **decisions):
    """Terms of the loss of a step, and its batch."""
    x, targets = batch or sample_batch()
    rows = len(x)
    given = GIVEN if rows == BATCH else {}
    mixed = method.mix(x, targets, **given | decisions)
    logits, mixed = method.predict(mixed)
    return method.loss(logits, mixed), mixed


# What a step mixes and learns.


@pytest.mark.parametrize("name", NAMES)
def test_network_and_mixer_learn_from_images_of_their_own(name):
    method = learning(name)
    x, targets = sample_batch()
    terms, mixed = step(method)
    h = method.teacher.net.forward_stages(x, stop=3)
    learned = method.mixer(h, GIVEN["lam_mixer"], OTHERS, x.shape[2:])
    torch.testing.assert_close(mixed.aux.mask, learned)
    own = mf.maskmix(x, targets, mask=learned, lam=GIVEN["lam_mixer"], perm=OTHERS)
    torch.testing.assert_close(mixed.aux.mixed.x, own.x)
    used = method.mixer(h, GIVEN["lam"], NEXT, x.shape[2:])
    torch.testing.assert_close(
        mixed.x, mf.maskmix(x, targets, mask=used, lam=GIVEN["lam"], perm=NEXT).x
    )
    assert not mixed.x.requires_grad
    assert torch.equal(mixed.targets[CLEAN], targets)
    assert torch.equal(mixed.targets[MIX], mf.mix_targets(targets, NEXT, GIVEN["lam"]))
    assert torch.equal(mixed.targets[MIXER], own.targets)
    logits = {
        CLEAN: method.net(x),
        MIX: method.mix_head(method.net.forward_stages(mixed.x)),
        MIXER: method.teacher.mix_head(method.teacher.net.forward_stages(own.x)),
    }
    for key, found in logits.items():
        expected = mf.soft_cross_entropy(found, mixed.targets[key])
        torch.testing.assert_close(terms[key], expected)
    mode = "L1" if name == "automix" else "L1+Variance"
    expected = 0.1 * mf.mask_loss(learned, GIVEN["lam_mixer"], mode=mode)
    torch.testing.assert_close(terms[MASK], expected)


def test_the_curves_of_a_mask_are_those_of_the_terms_of_its_loss():
    method = learning()
    _, mixed = step(method)
    mask = mixed.aux.mask
    found = method.diagnostics(mixed)
    torch.testing.assert_close(found["mask_mean"], mask.mean())
    torch.testing.assert_close(found["mask_variance"], mask.var(correction=0))
    torch.testing.assert_close(found["area_error"], (mask.mean() - 0.6).abs())


@pytest.mark.parametrize("name", NAMES)
def test_each_loss_reaches_what_it_is_for_and_nothing_else(name):
    method = learning(name)
    reached = {}
    for key in (CLEAN, MIX, MIXER, MASK):
        method.zero_grad()
        step(method)[0][key].backward()
        reached[key] = {
            part
            for part, module in {
                "stages": method.net.stages,
                "head": method.net.head,
                "mix_head": method.mix_head,
                "mixer": method.mixer,
                "teacher": method.teacher,
            }.items()
            if any(p.grad is not None and p.grad.any() for p in module.parameters())
        }
    assert reached == {
        CLEAN: {"stages", "head"},
        MIX: {"stages", "mix_head"},
        MIXER: {"mixer"},
        MASK: {"mixer"},
    }


@pytest.mark.parametrize("lam", [0.05, 0.08, 0.92, 1.0])
def test_weights_near_0_or_1_mix_as_input_mixup_does_and_the_mixer_learns_all_the_same(lam):
    method = learning(lam_margin=0.0801)
    x, targets = sample_batch()
    lam = torch.tensor([lam])
    terms, mixed = step(method, lam=lam, lam_mixer=lam)
    expected = mf.mixup(x, targets, lam=lam, perm=NEXT)
    torch.testing.assert_close(mixed.x, expected.x)
    assert torch.equal(mixed.targets[MIX], expected.targets)
    plain = mf.mixup(x, targets, lam=lam, perm=OTHERS).x
    assert (mixed.aux.mixed.x - plain).abs().max() > 0.1
    terms[MIXER].backward()
    assert method.mixer.query.weight.grad.any()
    away = step(method, lam=torch.tensor([0.1]))[1].x
    far = mf.mixup(x, targets, lam=torch.tensor([0.1]), perm=NEXT).x
    assert (away - far).abs().max() > 0.1


def test_a_weight_at_the_margin_itself_mixes_as_input_mixup_does():
    x, targets = sample_batch()
    for lam in (0.25, 0.75):
        lam = torch.tensor([lam])
        mixed = learning(lam_margin=0.25).mix(x, targets, **GIVEN | {"lam": lam})
        torch.testing.assert_close(mixed.x, mf.mixup(x, targets, lam=lam, perm=NEXT).x)


def test_weight_and_margin_of_the_mask_loss_are_those_of_the_settings():
    lam = torch.tensor([1.0])  # far from any mask
    terms, mixed = step(learning(mask_weight=0.7, mask_margin=0.02), lam_mixer=lam)
    expected = 0.7 * mf.mask_loss(mixed.aux.mask, lam, margin=0.02)
    torch.testing.assert_close(terms[MASK], expected)
    near = mf.mask_loss(mixed.aux.mask, lam, margin=0.1)
    assert (terms[MASK] - 0.7 * near).abs() > 0.01


@pytest.mark.parametrize("bugs", [False, True])
def test_masks_are_adjusted_to_the_weight_of_their_own_images_or_as_the_authors_do(bugs):
    method = learning(mask_adjust=1.0, official_bugs=bugs)
    x, targets = torch.zeros(BATCH, 3, 16, 16), sample_batch()[1]
    x[NEXT[NEXT]] += torch.arange(1.0, BATCH + 1)[:, None, None, None]  # constant images
    x = x + 0.001 * sample_batch()[0]
    mixed = method.mix(x, targets, **GIVEN)
    share = (mixed.x - x[NEXT]).mean(dim=(1, 2, 3)) / (x - x[NEXT]).mean(dim=(1, 2, 3))
    wanted = 0.6 if bugs else 0.3
    torch.testing.assert_close(share, torch.full((BATCH,), wanted), rtol=0, atol=5e-3)
    assert torch.equal(mixed.targets[MIX], mf.mix_targets(targets, NEXT, GIVEN["lam"]))


def test_the_mixer_is_left_alone_in_steps_that_switch_it_off():
    method = learning(switch_off=0.5)
    on, off = (step(method, learn=learn)[0] for learn in (True, False))
    assert on[MIXER] > 0
    assert off[MIXER] == off[MASK] == 0
    off[MIXER].backward()  # zero and not None, so that under DDP no process waits for it
    assert all(p.grad is not None and not p.grad.any() for p in method.mixer.parameters())
    drawn = []
    for batch in range(200):
        method.reseed(0, batch)
        drawn.append(method.mix(*sample_batch()).aux.learn)
    assert abs(sum(drawn) - 100) < 29  # four deviations


def test_both_weights_and_partners_are_drawn_apart():
    method = learning()
    own, mixers = [], []
    for batch in range(200):
        method.reseed(0, batch)
        mixed = method.mix(*sample_batch())
        own.append(mixed.lam[0].item())
        mixers.append(mixed.aux.mixed.lam[0].item())
        assert len(set(mixed.lam.tolist())) == 1
    pair = torch.tensor([own, mixers])
    assert pair.corrcoef()[0, 1].abs() < 0.28
    torch.testing.assert_close(pair.var(dim=1), torch.full((2,), 0.05), rtol=0.4, atol=0)
    assert not torch.equal(mixed.perm, mixed.aux.mixed.perm)


@pytest.mark.parametrize("rule", ["bce_eta", "pair_eta"])
def test_losses_with_eta_are_used_if_asked_for(rule):
    eta = 0.3
    method, plain = learning(mixer_loss=rule, eta=eta), learning(eta=eta)
    terms, mixed = step(method)
    logits = method.teacher.mix_head(method.teacher.net.forward_stages(mixed.aux.mixed.x))
    targets, lam = mixed.targets[MIXER], GIVEN["lam_mixer"]
    if rule == "bce_eta":
        expected = mf.eta_binary_cross_entropy(logits, targets, eta)
    else:
        own = mixed.targets[CLEAN]
        expected = mf.pair_cross_entropy(logits, targets, own, perm=OTHERS, lam=lam, eta=eta)
    torch.testing.assert_close(terms[MIXER], expected)
    others = step(plain)[0]
    assert terms[MIXER] != others[MIXER]
    assert terms[MIX] == others[MIX]
    # The official loss does not know eta.
    assert torch.equal(others[MIXER], step(learning(eta=0.0))[0][MIXER])


def test_the_mask_loss_is_annealed_with_the_steps_of_the_run():
    method = learning(mask_anneal="cosine")
    method.total_steps = 4
    values = []
    for method.step in range(4):
        values.append(step(method)[0][MASK].item())
    ratios = [value / values[0] for value in values]
    assert ratios == pytest.approx([1.0, 0.8536, 0.5, 0.1464], rel=0.05)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 16, 24), (5, 24, 16)])
def test_batches_of_any_size_and_images_that_are_not_square_train(name, shape):
    method = learning(name)
    terms, mixed = step(method, sample_batch(*shape))
    sum(terms.values()).backward()
    assert mixed.aux.mask.shape == (shape[0], 1, *shape[1:])
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.mixer.parameters())


@pytest.mark.parametrize("layer", [1, 2])
def test_tokens_are_laid_out_as_the_grid_of_their_patches(layer):
    torch.manual_seed(0)
    net = VisionTransformer(8, 2, 2, 4, (16, 24), 4)
    method = build_method("samix", net, layer=layer).train()
    x, targets = sample_batch(3, 16, 24)
    tokens = net.forward_stages(x, stop=layer)
    shared = method.share(x)
    assert shared.grid == (4, 6)
    expected = method.mixer.share(tokens[:, 1:].reshape(3, 4, 6, 8).permute(0, 3, 1, 2))
    assert torch.equal(shared.own, expected.own)
    terms, _ = step(method, (x, targets))
    sum(terms.values()).backward()
    assert method.mixer.query.weight.grad.any()


def test_a_network_whose_features_are_on_no_grid_is_refused():
    net = PreActResNet((1, 1, 1), 4, 4)
    net.provides = frozenset({"stages"})
    with pytest.raises(UserError, match="features of PreActResNet are on no grid"):
        build_method("samix", net)


@pytest.mark.parametrize("name", NAMES)
def test_under_autocast_the_mask_stays_in_float32(name):
    method = learning(name)
    wide = step(method)[1].aux.mask
    with torch.autocast("cpu", torch.bfloat16):
        terms, mixed = step(method)
    assert mixed.aux.mask.dtype == torch.float32
    assert (mixed.aux.mask - wide).abs().mean() < 0.05
    sum(terms.values()).backward()
    assert all(p.grad.isfinite().all() for p in method.mixer.parameters())


def test_a_mask_that_is_no_number_is_refused_on_the_first_step_and_not_looked_at_later():
    method = learning()
    method.mixer.query.bias.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="mask of step 0 holds NaN"):
        step(method)
    method.step = 1
    assert step(method)[0][MIX].isnan()


# The teacher.


@pytest.mark.parametrize("warmup", [False, True])
def test_the_teacher_follows_after_every_step_and_by_its_schedule(warmup):
    method = learning(ema=0.5, ema_end=0.9, ema_hold=0.5, ema_warmup=warmup)
    seen = []
    update = method.teacher.update
    method.teacher.update = lambda *parts: (seen.append(parts[2]), update(*parts))[0]
    trained = [p.clone() for p in method.teacher.parameters()]
    after = method.after_step

    def check():
        after()
        pairs = [*method.net.parameters(), *method.mix_head.parameters()]
        for index, (own, other) in enumerate(zip(trained, pairs, strict=True)):
            trained[index] = own.lerp(other.detach(), 1 - seen[-1])
        for own, other in zip(trained, method.teacher.parameters(), strict=True):
            assert torch.equal(own, other)

    method.after_step = check
    fit(method)
    plain = [0.5, 0.5, 0.7, 0.7 + 0.2 * 2**-0.5]
    short = [(1 + t) / (10 + t) for t in range(4)]
    wanted = [min(a, b) for a, b in zip(plain, short, strict=True)] if warmup else plain
    assert seen == pytest.approx(wanted)


def test_accumulated_batches_move_the_teacher_once():
    method = learning()
    before = [p.clone() for p in method.teacher.parameters()]
    counts = []
    update = method.teacher.update
    method.teacher.update = lambda *parts: (counts.append(method.step), update(*parts))[0]
    fit(method, accumulate_grad_batches=2)
    assert counts == [1, 2]
    assert not torch.equal(before[0], next(method.teacher.parameters()))


def test_the_teacher_gathers_statistics_of_its_own_and_no_gradient():
    method = learning()
    fit(method)
    first = method.teacher.net.stages[0][1].norm1.num_batches_tracked
    last = method.teacher.net.stages[3][0].norm1.num_batches_tracked
    assert (first, last) == (8, 4)  # clean images pass up to the layer of the mixer only
    assert all(p.grad is None for p in method.teacher.parameters())
    assert method.mixer.norm.num_batches_tracked == 8


def test_what_is_tested_is_the_teacher_with_the_head_for_clean_images():
    method = learning().eval()
    for p in (*method.net.parameters(), *method.mix_head.parameters()):
        torch.nn.init.normal_(p, std=0.1)
    pixels = torch.rand(3, 3, 16, 16)
    x = method.normalize(pixels)
    torch.testing.assert_close(method(pixels), method.teacher.net(x))
    found = method.extra_logits(pixels)
    h, other = method.teacher.net.forward_stages(x), method.net.forward_stages(x)
    expected = {
        "k_mix": method.teacher.mix_head(h),
        "q_one": method.net(x),
        "q_mix": method.mix_head(other),
    }
    assert found.keys() == expected.keys()
    for name, logits in expected.items():
        torch.testing.assert_close(found[name], logits)
        assert not torch.allclose(logits, method.teacher.net(x), atol=1e-3)


def test_the_teacher_is_in_no_parameter_group_and_the_mixer_has_rates_of_its_own():
    method = learning(mixer_lr=0.03, mixer_min_lr=0.001, mixer_momentum=0.0)
    own = {id(p) for p in method.mixer.parameters()}
    fixed = {id(p) for p in method.teacher.parameters()}
    for group in method.param_groups():
        names = {id(p) for p in group["params"]}
        assert not names & fixed
        assert names <= own or not names & own
        rates = {key: group.get(key) for key in ("lr", "min_lr", "momentum")}
        wanted = {"lr": 0.03, "min_lr": 0.001, "momentum": 0.0} if names & own else {}
        assert rates == dict.fromkeys(rates) | wanted
    plain = {key for group in learning().param_groups() for key in group}
    assert plain == {"params", "weight_decay"}


# The shares of initial weights that a long memory leaves would make both near chance.
@pytest.mark.slow
def test_a_short_run_has_a_teacher_as_good_as_its_network(runs):
    words = (
        "method=samix data=digits data.limit=480 net.width=4 epochs=6 batch_size=32 lr=0.1 "
        "eval.suites=[] "
    )
    record = run(compose(f"{words} wandb.mode=disabled"))
    tested = record.metrics
    assert tested["top1"] > 60
    assert abs(tested["top1"] - tested["top1_q_one"]) < 3
    rows, _ = read_curves(runs / record.id / "metrics.csv")
    names = ("loss_mixer", "loss_mask", "mask_mean", "mask_variance", "area_error")
    assert {f"train/{name}" for name in names} <= set(rows[0])


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_the_recipe_for_digits_trains_network_and_teacher_alike(runs, seed):
    words = f"method=samix data=digits net.width=8 seed={seed} wandb.mode=disabled"
    tested = run(compose(words)).metrics
    assert tested["top1"] > 90
    assert abs(tested["top1"] - tested["top1_q_one"]) < 3


def test_looking_at_a_batch_changes_no_statistics():
    method = learning()
    images = sample_splits(method).train
    rows = torch.arange(BATCH)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    with torch.no_grad():
        draw_batch(method, Batch(images.images[rows], images.labels[rows], rows))
    for name, value in method.state_dict().items():
        assert torch.equal(value, before[name]), name


# A mixer that was trained before.


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """What a short run leaves."""
    folder = tmp_path_factory.mktemp("trained")
    words = (
        "method=samix data=digits data.limit=64 net.width=4 epochs=1 batch_size=32 eval.suites=[]"
    )
    record = run(compose(f"{words} wandb.mode=disabled run.dir={folder}"))
    return folder / record.id / LAST


FROZEN = (
    "data=digits data.limit=64 net.width=4 epochs=2 batch_size=32 wandb.mode=disabled "
    "eval.suites=[]"
)


@pytest.mark.parametrize("statistics", ["batch", "running"])
def test_a_trained_mixer_and_its_teacher_stay_bit_by_bit(checkpoint, runs, statistics):
    words = f"method=samix method.mixer_ckpt={checkpoint} method.mixer_bn={statistics}"
    record = run(compose(f"{FROZEN} {words}"))
    before = torch.load(checkpoint, weights_only=True)["state_dict"]
    after = torch.load(runs / record.id / LAST, weights_only=True)["state_dict"]
    for name, value in before.items():
        if name.startswith(("mixer.", "teacher.")):
            assert torch.equal(value, after[name]), name
    assert not torch.equal(before["net.head.fc.weight"], after["net.head.fc.weight"])
    assert set(record.metrics) >= {"top1", "top1_q_mix"}
    assert "top1_k_mix" not in record.metrics


def frozen(checkpoint, **settings):
    run_config = compose(f"{FROZEN} method=samix")
    method = build(resolve(run_config), DATA.get("digits")(run_config.data).load())[0]
    config = dataclasses.replace(method.config, mixer_ckpt=str(checkpoint), **settings)
    torch.manual_seed(5)
    return type(method)(method.net, method.info, config, run_config).train()


def test_a_step_with_a_trained_mixer_trains_the_network_alone_and_tests_it(checkpoint):
    method = frozen(checkpoint)
    x = torch.randn(4, 3, 32, 32)
    targets = torch.eye(10)[:4]
    terms, mixed = step(method, (x, targets))
    assert set(terms) == {CLEAN, MIX}
    assert mixed.aux.mask is None
    sum(terms.values()).backward()
    frozen_parts = [*method.mixer.parameters(), *method.teacher.parameters()]
    assert all(p.grad is None and not p.requires_grad for p in frozen_parts)
    grouped = {id(p) for group in method.param_groups() for p in group["params"]}
    assert not grouped & {id(p) for p in frozen_parts}
    method.eval()
    pixels = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(method(pixels), method.net(method.normalize(pixels)))


def test_statistics_of_the_batch_or_running_ones_are_used_as_asked_for(checkpoint):
    x, targets = torch.randn(4, 3, 32, 32), torch.eye(10)[:4]
    lam, perm = torch.tensor([0.3]), torch.tensor([1, 2, 3, 0])
    masks = {}
    for statistics in ("batch", "running"):
        method = frozen(checkpoint, mixer_bn=statistics)
        method.mix(x, targets, lam=lam, perm=perm)
        masks[statistics] = method.mixer.draw(method.share(x), lam, perm, (32, 32))
        few = method.mixer.draw(method.share(x[:2]), lam, torch.tensor([1, 0]), (32, 32))
        alone = method.mixer.draw(method.share(x), lam, torch.tensor([1, 0, 2, 3]), (32, 32))
        same = torch.allclose(few, alone[:2], atol=1e-6)
        assert same == (statistics == "running")
        assert method.net.training
    assert not torch.equal(masks["batch"], masks["running"])


def test_checkpoints_that_hold_no_mixer_or_one_of_another_size_are_refused(
    checkpoint, runs, tmp_path
):
    words = f"{FROZEN} epochs=1"
    other = runs / run(compose(f"{words} method=erm")).id / LAST
    with pytest.raises(UserError, match=r"holds no mixer: mixer\.query\.weight, .*are missing"):
        run(compose(f"{words} method=samix method.mixer_ckpt={other}"))
    with pytest.raises(UserError, match=r"query\.weight is \(8, 32\), wanted \(16, 64\)"):
        run(compose(f"{words} method=samix net.width=8 method.mixer_ckpt={checkpoint}"))
    with pytest.raises(UserError, match="no such file or folder"):
        run(compose(f"{words} method=samix method.mixer_ckpt={tmp_path / 'none.ckpt'}"))


# Settings.


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"alpha": 0.0}, "method.alpha must be > 0"),
        ({"lam_k": 11.0}, r"method.lam_k must lie in [0, 10] or be -1"),
        ({"lam_k": -0.5}, r"method.lam_k must lie in [0, 10] or be -1"),
        ({"eta": 1.5}, "method.eta must lie in [0, 1]"),
        ({"ema": 1.5}, "method.ema must lie in [0, 1]"),
        ({"switch_off": -0.1}, "method.switch_off must lie in [0, 1]"),
        ({"dropout": 1.0}, "method.dropout must lie in [0, 1)"),
        ({"layer": 0}, "method.layer=0 is the image"),
        ({"mask_weight": -1.0}, "method.mask_weight must be >= 0"),
        ({"mask_loss": "L2"}, "method.mask_loss must be one of L1, L1+Variance"),
        ({"mask_anneal": "linear"}, "method.mask_anneal must be one of"),
        ({"mixer_loss": "eta"}, "method.mixer_loss must be one of soft_ce, bce_eta, pair_eta"),
        ({"mixer_bn": "eval"}, "method.mixer_bn must be one of batch, running"),
        ({"mixer_lr": 0.0}, "method.mixer_lr must be > 0"),
        ({"upsampling": "bicubic"}, "method.upsampling must be one of bilinear, nearest"),
    ],
)
def test_settings_out_of_range_are_refused(settings, match):
    with pytest.raises(ValueError, match=re.escape(match)):
        build_method("samix", **settings)


def test_a_layer_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(UserError, match="layers of 0 to 4"):
        learning(layer=5)
    assert learning(layer=-1).mixer.channels == 32
    assert learning(layer=-2).layer == 3


def test_the_settings_of_the_authors_are_marked_as_theirs():
    official = METHODS.get("samix").Config(ema_warmup=False)
    assert official.fidelity == "official-verified"
    for change in ({"mask_anneal": "official"}, {"lam_k": 0.25}, {"official_bugs": True}):
        assert dataclasses.replace(official, **change).fidelity == "official-verified"
    own = {"ema_warmup": True, "mixer_loss": "pair_eta", "mixer_ckpt": "x", "mask_adjust": 0.5}
    for change in ({key: value} for key, value in own.items()):
        assert dataclasses.replace(official, **change).fidelity == "variant"


def test_the_control_sums_a_clean_and_a_mixed_pass():
    torch.manual_seed(0)
    method = sample_method(METHODS.get("mixup2"))
    x, targets = sample_batch()
    lam = torch.tensor([0.3])
    logits, mixed = method.predict(method.mix(x, targets, lam=lam, perm=NEXT))
    terms = method.loss(logits, mixed)
    expected = mf.mixup(x, targets, lam=lam, perm=NEXT)
    found = {CLEAN: (x, targets), MIX: (expected.x, expected.targets)}
    assert terms.keys() == found.keys()
    for key, (images, labels) in found.items():
        torch.testing.assert_close(terms[key], F.cross_entropy(method.net(images), labels))
