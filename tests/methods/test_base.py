import dataclasses
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import mixbench.functional as mf
from mixbench import build_method
from mixbench.config.schema import DataConfig, OptimConfig
from mixbench.data.augment.batches import draw_crop_flip, draw_erasing
from mixbench.data.images import Batch
from mixbench.data.sampling import BatchIndex
from mixbench.errors import UserError
from mixbench.methods import METHODS
from mixbench.methods.base import Method
from mixbench.methods.pictures import predicted
from mixbench.pictures import sheet
from mixbench.testing.samples import fit, sample_batch, sample_method, sample_splits
from mixbench.training.callbacks.samples import draw_batch


def batch_of(method, rows=6):
    images = sample_splits(method).train
    return method.wrap_dataset(images)[BatchIndex(torch.arange(rows), 3)]


def test_a_method_is_usable_in_three_lines():
    x, y = torch.rand(4, 3, 32, 32), torch.tensor([0, 1, 2, 3])
    method = build_method("cutmix", alpha=0.5)
    mixed = method.mix(method.normalize(x), mf.one_hot(y, 10))
    assert method.net(mixed.x).shape == mixed.targets.shape == (4, 10)


def test_equal_keys_give_equal_steps_whatever_came_before():
    method = sample_method(METHODS.get("cutmix"))
    batch = batch_of(method)

    def step():
        x, targets = method.prepare(batch)
        return method.mix(x, targets).x

    method.reseed(3, 5)
    first = step()
    method.reseed(0, 0)
    step()
    method.reseed(3, 5)
    assert torch.equal(first, step())
    method.reseed(3, 6)
    assert not torch.equal(first, step())


def test_ranks_share_one_generator_and_differ_in_the_other():
    methods = [sample_method(METHODS.get("mixup")) for _ in range(2)]
    methods[1].rank = 1
    for method in methods:
        method.reseed(2, 7)
    own = [torch.rand(4, generator=method.generator) for method in methods]
    shared = [torch.rand(4, generator=method.shared_generator) for method in methods]
    assert not torch.equal(*own)
    assert torch.equal(*shared)


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_the_share_of_batches_asked_for_is_mixed(name):
    x, targets = sample_batch()
    never = build_method(name, nn.Identity(), prob=0.0)
    assert all(never.mix(x, targets).x is x for _ in range(20))
    half = build_method(name, nn.Identity(), prob=0.5)
    mixed = 0
    for index in range(400):
        half.reseed(0, index)
        mixed += half.mix(x, targets).lam is not None
    assert abs(mixed - 200) < 40  # four standard deviations


def test_padding_is_black_before_or_mean_colour_after_normalisation():
    for pad, expected in (("black", -0.5), ("mean", 0.0)):
        method = sample_method(METHODS.get("erm"))
        method.run.data = dataclasses.replace(method.run.data, pad=pad, crop=4)
        method.mean.fill_(0.5)
        batch = batch_of(method)._replace(images=torch.full((6, 3, 16, 16), 255, dtype=torch.uint8))
        method.reseed(0, 1)
        x, _ = method.prepare(batch)
        assert set(x.unique().tolist()) == {expected, 0.5}


def test_alternating_mirrors_follow_image_and_epoch_and_leave_all_other_draws():
    method = sample_method(METHODS.get("erm"))
    batch = batch_of(method)

    def drawn(rule, epoch=0, place=1, rank=0, rows=batch):
        method.run.data, method.rank = DataConfig(crop=2, flip_rule=rule), rank
        method.reseed(epoch, place)
        return method.draw_augmentation(rows), torch.rand((), generator=method.generator)

    (found, after), (plain, same) = drawn("alternating"), drawn("random")
    assert torch.equal(found.offsets, plain.offsets)
    assert after == same
    assert 0 < found.flips.sum() < 6
    assert torch.equal(found.flips, drawn("alternating", place=9, rank=1)[0].flips)
    assert torch.equal(found.flips, ~drawn("alternating", epoch=1)[0].flips)
    turned = batch._replace(images=batch.images.flip(0), ids=batch.ids.flip(0))
    assert torch.equal(found.flips.flip(0), drawn("alternating", rows=turned)[0].flips)


def test_a_part_of_the_normalised_images_becomes_noise():
    shares = []
    for erasing in (0.0, 1.0):
        method = sample_method(METHODS.get("erm"))
        method.run.data = dataclasses.replace(method.run.data, erasing=erasing, crop=0)
        method.mean.fill_(0.5)
        white = torch.full((6, 3, 16, 16), 255, dtype=torch.uint8)
        method.reseed(0, 1)
        x, _ = method.prepare(batch_of(method)._replace(images=white))
        shares.append((x != 0.5).double().mean(dim=(1, 2, 3)))
        method.reseed(0, 1)
        again, _ = method.prepare(batch_of(method)._replace(images=white))
        assert torch.equal(x, again)
    assert not shares[0].any()
    assert (shares[1] > 0).all()
    assert (shares[1] < 0.4).all()


def test_smoothing_is_applied_before_mixing():
    method = sample_method(METHODS.get("mixup"))
    method.run.optim = OptimConfig(label_smoothing=0.2)
    method.reseed(0, 0)
    x, targets = method.prepare(batch_of(method))
    torch.testing.assert_close(targets.max(1).values, torch.full((6,), 0.85))
    mixed = method.mix(x, targets)
    expected = mf.mix_targets(targets, mixed.perm, mixed.lam)
    torch.testing.assert_close(mixed.targets, expected)


def test_bc_uses_the_kl_divergence_and_bc_plus_its_own_normalisation():
    method = sample_method(METHODS.get("bc"))
    x, targets = sample_batch()
    logits, mixed = method.predict(method.mix(x, targets))
    torch.testing.assert_close(method.loss(logits, mixed), mf.soft_kl(logits, mixed.targets))
    plus = sample_method(METHODS.get("bc"), plus=True)
    plus.mean.fill_(0.1)
    plus.std.fill_(0.5)
    pixels = torch.rand(4, 3, 8, 8)
    own_mean = pixels.mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(plus.normalize(pixels), (pixels - own_mean - 0.1) / 0.5)
    brighter = plus.normalize(pixels + 0.2)
    torch.testing.assert_close(brighter, plus.normalize(pixels), rtol=0, atol=1e-5)


def test_bc_keeps_its_normalisation_in_the_checkpoint():
    from mixbench.config.schema import DataInfo
    from mixbench.methods.bc import BC

    info = DataInfo(4, 8, 8, residual_mean=[0.1, 0.2, 0.3], residual_std=[0.4, 0.5, 0.6])
    state = BC(nn.Identity(), info, BC.Config(plus=True)).state_dict()
    torch.testing.assert_close(state["mean"].flatten(), torch.tensor([0.1, 0.2, 0.3]))
    torch.testing.assert_close(state["std"].flatten(), torch.tensor([0.4, 0.5, 0.6]))


def test_bc_with_pairs_of_the_data_set_mixes_two_halves_of_different_classes():
    method = sample_method(METHODS.get("bc"), pairing="dataset")
    batch = batch_of(method, rows=6)
    assert len(batch.images) == 12
    assert not torch.equal(batch.labels[:6], batch.labels[6:])
    assert (batch.labels[:6] != batch.labels[6:]).all()
    method.reseed(0, 0)
    x, targets = method.prepare(batch)
    mixed = method.mix(x, targets)
    assert mixed.x.shape[0] == 6
    ratio = mixed.lam[:, None]
    torch.testing.assert_close(mixed.targets, ratio * targets[:6] + (1 - ratio) * targets[6:])


def test_a_batch_of_one_class_is_paired_with_itself_and_counted():
    method = sample_method(METHODS.get("bc"))
    x, _ = sample_batch()
    mixed = method.mix(x, mf.one_hot(torch.zeros(6, dtype=torch.long), 4))
    torch.testing.assert_close(mixed.x, x)
    assert method.diagnostics(mixed)["alone"] == 1


class Terms(Method):
    """Loss of several terms over several passes, with a head of its own."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.second = nn.Linear(4, 4)
        self.seen = []

    def predict(self, mixed):
        logits = self.net(mixed.x)
        targets = {"clean": mixed.targets, "second": mixed.targets}
        return {"clean": logits, "second": self.second(logits)}, mixed._replace(targets=targets)

    def param_groups(self):
        own = {"params": self.second.parameters(), "lr": 0.01, "min_lr": 0.001}
        return [*super().param_groups(), {**own, "params": list(own["params"])}]

    def after_step(self):
        self.seen.append(self.step)

    def extra_logits(self, x):
        return {"second": self.second(self(x))}


def test_terms_are_summed_groups_keep_their_rates_and_steps_are_counted():
    method = sample_method(Terms, epochs=2)
    x, targets = sample_batch()
    logits, mixed = method.predict(method.mix(x, targets))
    terms = method.loss(logits, mixed)
    assert set(terms) == {"clean", "second"}
    trainer = fit(method)
    assert method.seen == list(range(1, 9)) == list(range(1, method.total_steps + 1))
    rates = [group["lr"] for group in trainer.optimizers[0].param_groups]
    assert rates == [0.05, 0.05, 0.01]


def test_accumulation_flushes_its_last_window_and_counts_optimiser_steps():
    method = sample_method(METHODS.get("erm"), epochs=2)
    method.run.optim = OptimConfig(accumulate=3, schedule="cosine")
    trainer = fit(method, accumulate_grad_batches=3)
    # 24 images in micro-batches of 2: 12 a epoch, 4 steps.
    assert method.step == method.total_steps == trainer.global_step == 8
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)


def test_epochs_see_their_own_order_under_lightning():
    seen = {}

    class Watch(Method):
        def training_step(self, batch, batch_idx):
            seen.setdefault(self.current_epoch, []).append(batch.ids)
            return super().training_step(batch, batch_idx)

    fit(sample_method(Watch, epochs=2))
    first, second = (torch.cat(seen[epoch]) for epoch in range(2))
    assert first.unique().numel() == second.unique().numel() == 24
    assert not torch.equal(first, second)


def test_evaluation_normalises_pixels_and_ignores_autocast():
    method = sample_method(METHODS.get("erm")).eval()
    batch = batch_of(method)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = method.test_step(batch, 0)
    assert outputs["logits"].dtype == torch.float32
    with torch.no_grad():
        expected = method.net(method.normalize(batch.images / 255))
    torch.testing.assert_close(outputs["logits"], expected)


def test_unknown_settings_and_values_are_refused():
    with pytest.raises(UserError, match="unknown key alhpa of method mixup; did you mean 'alpha'"):
        build_method("mixup", alhpa=1.0)
    with pytest.raises(UserError, match="its keys: none"):
        build_method("erm", alpha=1.0)
    with pytest.raises(TypeError, match="got int"):
        build_method("mixup", 3)
    with pytest.raises(ValueError, match="alpha must be > 0"):
        build_method("mixup", alpha=0.0)


def test_a_subclass_may_have_settings_of_its_own():
    @dataclass
    class Config(Method.Config):
        noise: float = 0.5

    cls = type("Noisy", (Method,), {"Config": Config})
    assert sample_method(cls, noise=0.1).config.noise == 0.1


class _MixesPixelsInPredict(Method):
    def mix(self, x, targets, **decisions):
        return mf.Mixed(x, targets, perm=torch.arange(len(x)).roll(1), lam=torch.full((1,), 0.25))

    def predict(self, mixed):
        made = mf.mixup(mixed.x, mixed.targets, lam=mixed.lam, perm=mixed.perm)
        return self.net(made.x), made


class _MixesFeatures(_MixesPixelsInPredict):
    def predict(self, mixed):
        h = self.net.forward_stages(mixed.x, stop=2)
        made = mf.mixup(h, mixed.targets, lam=mixed.lam, perm=mixed.perm)
        return self.net.head(self.net.forward_stages(made.x, start=2)), made


class _MixesNothing(Method):
    def predict(self, mixed):
        return self.net(mixed.x), mixed


@pytest.mark.parametrize(
    ("cls", "mixed_image", "words"),
    [
        (_MixesPixelsInPredict, "mixture", "Mixed by predict"),
        (_MixesFeatures, "grey", "no mixed image"),
        (_MixesNothing, "own", ""),
    ],
)
def test_the_picture_never_shows_an_image_as_mixed_that_is_not(
    cls, mixed_image, words, monkeypatch
):
    seen = {}

    def note(pixels, targets, mixed, names, notes=()):
        seen.update(pixels=pixels, targets=targets, mixed=mixed, notes=notes)
        return sheet.mixed_sheet(pixels, targets, mixed, names, notes)

    monkeypatch.setattr(predicted, "mixed_sheet", note)
    method = sample_method(cls)
    batch = sample_splits(method).train[BatchIndex(torch.arange(6), 3)]
    before = {key: value.clone() for key, value in method.state_dict().items()}
    draw_batch(method, batch)
    assert all(torch.equal(before[key], value) for key, value in method.state_dict().items())
    pixels, mixed = seen["pixels"], seen["mixed"]
    expected = {
        "mixture": torch.lerp(pixels.roll(1, 0), pixels, 0.25),
        "grey": torch.full_like(pixels, sheet.GREY),
        "own": pixels,
    }[mixed_image]
    torch.testing.assert_close(mixed.x, expected, rtol=1e-4, atol=1e-4)
    share = 1.0 if cls is _MixesNothing else 0.25
    assert (mixed.targets.gather(1, seen["targets"].argmax(1, keepdim=True)) == share).all()
    assert words in " ".join(seen["notes"])
    assert bool(seen["notes"]) == bool(words)


def test_where_to_erase_is_drawn_for_each_rank_and_place_and_the_noise_by_torch():
    method = sample_method(METHODS.get("erm"))
    method.run = dataclasses.replace(method.run, data=DataConfig(crop=0, flip=False, erasing=1.0))
    images = torch.full((6, 3, 16, 16), 200, dtype=torch.uint8)
    batch = Batch(images, torch.arange(6) % 4, torch.arange(6))

    def erased(rank=0, keyed=7, noise=1):
        method.rank = rank
        method.reseed(0, keyed)
        torch.manual_seed(noise)
        return method.prepare(batch)[0]

    plain = method.normalize(images / 255)
    first, other_noise = erased(), erased(noise=2)
    places = first != plain
    assert places.flatten(1).any(dim=1).all()
    assert torch.equal(places, other_noise != plain)  # no place comes from torch's generator
    assert not torch.equal(first, other_noise)
    for other in (erased(rank=1), erased(keyed=8)):
        assert not torch.equal(other != plain, places)
    method.reseed(0, 7)
    boxes = draw_erasing(6, 1.0, 16, 16, after_crops(method.generator))
    for row, (top, left, bottom, right) in enumerate(boxes.tolist()):
        expected = torch.zeros(16, 16, dtype=torch.bool)
        expected[top:bottom, left:right] = True
        assert torch.equal(places[row].any(dim=0), expected)


def after_crops(generator):
    """The generator, once offsets and flips of six images are drawn from it."""
    draw_crop_flip(6, 0, False, generator)
    return generator


def test_what_was_drawn_to_augment_can_be_given_and_draws_nothing_more():
    method = sample_method(METHODS.get("erm"))
    method.run.data.erasing = 1.0
    crops = torch.rand(6, 4)
    batch = batch_of(method)._replace(crops=crops)
    method.reseed(0, 5)
    drawn = method.draw_augmentation(batch)
    state = method.generator.get_state()
    given = method.prepare(batch, drawn)[0]
    assert torch.equal(method.generator.get_state(), state)
    method.reseed(0, 5)
    assert torch.equal(method.prepare(batch)[0], given)
    assert torch.equal(method.generator.get_state(), state)
    assert drawn.crops is crops
    assert drawn.offsets.shape == (6, 2)
    still = drawn._replace(offsets=torch.full((6, 2), 2), flips=torch.zeros(6, dtype=torch.bool))
    unmoved = method.prepare(batch, still._replace(erased=None))[0]
    assert torch.equal(unmoved, method.normalize(batch.images / 255))
