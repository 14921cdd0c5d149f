"""Steps, test and messages of denoising-GAN and demixing-GAN."""

import json
import logging
from typing import Any

import killing
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mixbench import compose, run
from mixbench.data.sampling import BatchIndex
from mixbench.errors import RunFailedError, UserError
from mixbench.leaderboard.report.samples import embed_samples
from mixbench.leaderboard.rows import build_leaderboard, find_runs
from mixbench.methods import METHODS
from mixbench.methods.demix.base import COLLAPSED
from mixbench.metrics.images import psnr_of
from mixbench.records.curves import read_curves
from mixbench.records.predictions import read_predictions
from mixbench.tasks.demixing import FIGURES, RESIDUAL
from mixbench.testing.samples import fit, sample_method, sample_splits
from mixbench.training.build import build
from mixbench.training.export import export
from mixbench.training.job import resolve
from mixbench.training.predict import load
from mixbench.training.reevaluate import evaluate_run, verify_run

BOTH = ("demixgan", "denoisegan")
WORDS = (
    "data=digits data.size=12 data.limit=64 recipe=demix_small net.width=4 net.latent=6 epochs=2 "
    "batch_size=16 method.tested=12 method.search_steps=3 method.restarts=2 wandb.mode=disabled "
    "trainer.accelerator=cpu trainer.log_every=1"
)


def made(name: str, **settings: Any) -> Any:
    torch.manual_seed(0)
    return sample_method(METHODS.get(name), **settings)


def batch_of(method: Any, rows: int = 6) -> Any:
    return sample_splits(method).train[BatchIndex(torch.arange(rows), 0, 1)]


def hashes(module: nn.Module) -> list[float]:
    return [float(p.detach().double().sum()) for p in module.parameters()]


def states(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


# Losses.


def test_with_a_component_that_is_always_zero_the_losses_are_those_of_a_plain_gan():
    method = made("denoisegan")
    batch = batch_of(method)
    batch = batch._replace(added=torch.zeros_like(batch.added))
    method.reseed(0, 0)
    mixed = method.mix_batch(batch)
    with torch.no_grad():
        made_images, parts = method.make(mixed.aux)
        terms = method.discriminator_loss(mixed.x, made_images)
        terms |= method.generator_loss(made_images, parts, mixed.aux.latents)

    method.reseed(0, 0)
    z = 2 * torch.rand(1, 6, method.net[0].latent, generator=method.generator)[0] - 1
    judge = method.discriminator
    with torch.no_grad():
        fake, real = method.net[0](z), batch.images / 255
        d = nn.functional.softplus(-judge(real)).mean() + nn.functional.softplus(judge(fake)).mean()
        g = nn.functional.softplus(-judge(fake)).mean()
    assert torch.equal(mixed.x, real)
    assert torch.equal(terms["d"], d)
    assert torch.equal(terms["g"], g)


def test_the_losses_of_demixing_do_not_change_when_generators_and_latents_change_places():
    method = made("demixgan")
    mixed = method.mix_batch(batch_of(method))

    def losses(aux):
        with torch.no_grad():
            images, parts = method.make(aux)
            terms = method.discriminator_loss(mixed.x, images)
            return terms | method.generator_loss(images, parts, aux.latents)

    first = losses(mixed.aux)
    method.net = nn.ModuleList([method.net[1], method.net[0]])
    second = losses(mixed.aux._replace(latents=mixed.aux.latents[::-1]))
    assert first == second
    third = losses(mixed.aux)  # latents alone do not change places
    assert third != first


def test_a_made_observation_is_the_sum_by_its_known_weights():
    for name in BOTH:
        method = made(name)
        method.run.data.weights = [0.5, 2.0]
        aux = method.mix_batch(batch_of(method)).aux
        with torch.no_grad():
            images, parts = method.make(aux)
        second = aux.fresh if name == "denoisegan" else parts[1]
        torch.testing.assert_close(images, 0.5 * parts[0] + 2 * second)


def test_noise_of_a_made_image_is_not_that_of_an_observed_one():
    method = made("denoisegan")
    aux = method.mix_batch(batch_of(method)).aux
    assert not torch.equal(aux.fresh, aux.second)


def test_clipping_holds_for_observed_and_made_images_of_denoising_alone():
    method = made("denoisegan")
    method.run.data.clip = True
    mixed = method.mix_batch(batch_of(method))
    with torch.no_grad():
        images, _ = method.make(mixed.aux)
    assert mixed.x.max() == 1
    assert images.max() == 1
    with pytest.raises(UserError, match="no longer the sum of two components") as error:
        build_run("method=demixgan data.clip=true")
    assert error.value.where == "data.clip=true"


# Phases.


class Watched:
    """An optimiser that notes what its step has changed."""

    def __init__(self, method: Any, optimizer: Any, notes: list[tuple[bool, bool]]) -> None:
        self.method, self.optimizer, self.notes = method, optimizer, notes

    def zero_grad(self) -> None:
        self.optimizer.zero_grad()

    def step(self) -> None:
        sides = self.method.net, self.method.discriminator
        before = [hashes(side) for side in sides]
        self.optimizer.step()
        changed = [hashes(side) != old for side, old in zip(sides, before, strict=True)]
        self.notes.append((changed[0], changed[1]))


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("preset", ["paper", "robust"])
def test_each_phase_changes_the_parameters_of_its_own_side_only(name, preset, monkeypatch):
    method, notes = made(name, preset=preset), []
    optimizers = [entry["optimizer"] for entry in method.configure_optimizers()]
    watched = [Watched(method, optimizer, notes) for optimizer in optimizers]
    monkeypatch.setattr(method, "optimizers", lambda: watched)
    monkeypatch.setattr(method, "lr_schedulers", list)
    monkeypatch.setattr(method, "manual_backward", lambda loss: loss.backward())
    monkeypatch.setattr(method, "follow_loss", lambda *args: None)
    monkeypatch.setattr(type(method), "current_epoch", 0)
    frozen, of_class = [], type(method).generator_loss

    def noted(*args):
        frozen.append(not any(p.requires_grad for p in method.discriminator.parameters()))
        return of_class(method, *args)

    monkeypatch.setattr(method, "generator_loss", noted)
    method.training_step(batch_of(method), 0)
    assert frozen == [True]  # no gradient is computed for the side that waits
    assert notes == [(False, True), (True, False)]
    assert all(p.requires_grad for p in method.discriminator.parameters())


def test_the_discriminator_s_phase_sees_the_generators_before_their_step(monkeypatch):
    """One step of each a batch, the discriminator's in front."""
    method = made("demixgan")
    order = []
    monkeypatch.setattr(
        type(method), "_phase", lambda self, optimizer, terms: order.append(list(terms)) or terms
    )
    monkeypatch.setattr(method, "optimizers", lambda: [None, None])
    monkeypatch.setattr(method, "lr_schedulers", list)
    monkeypatch.setattr(method, "follow_loss", lambda *args: None)
    monkeypatch.setattr(type(method), "current_epoch", 0)
    method.training_step(batch_of(method), 0)
    assert order == [["d"], ["g"]]
    assert method.step == 1


def test_the_robust_preset_adds_terms_that_single_keys_can_take_back():
    assert set(terms_of(made("demixgan", preset="robust"))) == {"d", "r1", "g", "diversity"}
    plain = made("demixgan", preset="robust", r1=0.0, diversity=0.0, ema=0.0, spectral=False)
    assert set(terms_of(plain)) == {"d", "g"}
    assert plain.averages is None
    assert made("demixgan", loss="hinge").config.chosen("loss") == "hinge"
    with pytest.raises(ValueError, match=r"saturating needs method\.loss=log"):
        made("demixgan", saturating=True, loss="hinge")


def terms_of(method: Any) -> dict[str, torch.Tensor]:
    mixed = method.mix_batch(batch_of(method))
    images, parts = method.make(mixed.aux)
    terms = method.discriminator_loss(mixed.x, images.detach())
    return terms | method.generator_loss(images, parts, mixed.aux.latents)


# Generators for others.


@pytest.mark.parametrize(("name", "count"), [("demixgan", 2), ("denoisegan", 1)])
def test_frozen_generators_are_copies_that_do_not_train(name, count):
    method = made(name)
    frozen = method.frozen_generators()
    assert len(frozen) == len(method.generators) == count
    before = states(method.net)
    for own, net in zip(frozen, method.generators, strict=True):
        assert not own.training
        assert net.training
        assert not any(p.requires_grad for p in own.parameters())
        assert all(p.requires_grad for p in net.parameters())
        with torch.no_grad():
            for p in own.parameters():
                p.zero_()
    assert not killing.differences(before, states(method.net))


def test_averages_are_what_is_frozen_and_follow_each_step():
    method = made("demixgan", ema=0.5)
    first = states(method.net)
    fit(method)
    last = states(method.net)
    frozen = states(nn.ModuleList(method.frozen_generators()))
    name = "0.layers.0.weight"
    assert not torch.equal(frozen[name], last[name])
    assert not torch.equal(frozen[name], first[name])
    assert torch.equal(frozen["0.layers.2.running_mean"], last["0.layers.2.running_mean"])


# The test.


def planted(method: Any) -> Any:
    """A batch whose observations the generators of a method make almost exactly."""
    batch = sample_splits(method).test[BatchIndex(torch.arange(8), 0)]
    for net in method.net:
        net.eval()
    z = torch.rand(2, 8, method.net[0].latent, generator=torch.Generator().manual_seed(3)) * 2 - 1
    with torch.no_grad():
        for net in method.net:
            net.layers[-1].weight.mul_(400)  # so that images differ
        method.net[-1].layers[-1].bias.sub_(2)  # and components, too
        images = (method.net[0](z[0]) * 255).round()
        second = method.net[-1](z[1])
    return batch._replace(images=images.to(torch.uint8), added=second[:, None])


@pytest.mark.parametrize("swap", [False, True])
def test_figures_are_of_both_orders_and_of_the_trivial_estimate(swap):
    method = made("demixgan", restarts=2, search_steps=150)
    batch = planted(method)
    if swap:
        method.net = nn.ModuleList([method.net[1], method.net[0]])
    found = method.validation_step(batch, 0)
    assert found["logits"].shape == found["y"].shape == (8, RESIDUAL + 1)
    first, second = batch.images / 255, batch.added[:, 0]
    half = ((first + second) / 2).expand_as(first)
    torch.testing.assert_close(found["y"][:, 0], psnr_of(half, first))
    torch.testing.assert_close(found["y"][:, 3], psnr_of(half, second))
    right, wrong = (found["logits"][:, place] for place in ((4, 0) if swap else (0, 4)))
    assert right.mean() > wrong.mean() + 5
    assert right.mean() > found["y"][:, 0].mean() + 5
    parts = method.separated.parts[::-1] if swap else method.separated.parts
    torch.testing.assert_close(right, psnr_of(parts[0], first))
    assert bool((found["logits"][:, RESIDUAL] < 0.02).all())


def test_denoising_has_one_order_and_what_is_left_is_the_second_component():
    method = made("denoisegan", restarts=2, search_steps=30)
    batch = planted(method)
    found = method.validation_step(batch, 0)
    assert bool(found["logits"][:, len(FIGURES) : RESIDUAL].isnan().all())
    (image,) = method.separated.parts
    y = batch.images / 255 + batch.added[:, 0]
    torch.testing.assert_close(found["logits"][:, 3], psnr_of(y - image, batch.added[:, 0]))
    torch.testing.assert_close(found["y"][:, 0], psnr_of(y, batch.images / 255))


def test_the_same_images_are_tested_each_time_and_as_many_as_are_asked_for():
    method = made("demixgan", tested=5, restarts=1, search_steps=1)
    splits = sample_splits(method)
    method.info = splits.info
    seen = [
        method.validation_step(splits.test[BatchIndex(rows, 0)], 0)["ids"].tolist()
        for rows in (torch.arange(24), torch.arange(12), torch.arange(12, 24))
    ]
    assert len(seen[0]) == 5
    assert seen[0] == seen[1] + seen[2]
    assert seen[0] != [0, 1, 2, 3, 4]


@pytest.mark.parametrize("fraction", ["0.25", "0.02"])
def test_as_many_images_of_a_hold_out_decide_as_are_asked_for(fraction, tmp_path):
    words = f"{WORDS} epochs=1 select=val data.val_fraction={fraction} run.dir={tmp_path}"
    record = run(compose(f"{words} method=demixgan method.restarts=1 method.search_steps=1"))
    found = read_predictions(tmp_path / record.id / "predictions.npz")
    assert found.holdout is not None
    assert [len(found.ids), len(found.holdout[2])] == [12, 12 if fraction == "0.25" else 1]
    assert bool(found.holdout[0][:, RESIDUAL].isfinite().all())


def test_a_separation_depends_neither_on_the_batch_nor_on_the_mode_of_the_networks():
    method = made("demixgan", restarts=2, search_steps=5)
    batch = planted(method)
    y = method.observe(batch.images / 255, batch.added[:, 0])
    whole = method.eval().separate(y, batch.ids)
    few = method.train().separate(y[2:4], batch.ids[2:4])
    for one, other in zip(whole, few, strict=True):
        torch.testing.assert_close(one[2:4], other, rtol=0, atol=1e-4)


def test_a_fixed_classifier_judges_both_estimates(tmp_path, monkeypatch):
    monkeypatch.setenv("MIXBENCH_RUNS", str(tmp_path))
    words = "data=digits data.size=12 data.limit=64 net.width=4 epochs=1 wandb.mode=disabled "
    judge = run(compose(f"{words} batch_size=32 eval.suites=[] trainer.accelerator=cpu"))
    words = f"{WORDS} epochs=1 method=denoisegan method.classifier={tmp_path / judge.id}"
    record = run(compose(words))
    assert {"top1_fixed", "top1_observed"} <= record.metrics.keys()
    job = resolve(compose(words))
    method: Any = build(job, job.read_data())[0]
    method.judge = lambda x: torch.full((len(x),), 3)  # says 3 of every image
    batch = planted(method)
    hits = 100.0 * (batch.labels == 3)
    found = method.validation_step(batch, 0)
    assert torch.equal(found["logits"][:, 2], hits[method._tested(batch)])
    assert not any(name.startswith("judge") for name in method.state_dict())


# Whole runs.


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished run of each method."""
    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIXBENCH_RUNS", str(root))
        return {name: (run(compose(f"{WORDS} method={name}")), root) for name in BOTH}


@pytest.mark.parametrize("name", BOTH)
def test_a_run_has_scores_curves_and_pictures_and_verifies(done, name):
    record, root = done[name]
    assert (record.status, record.task, record.net) == ("done", "demix", "dcgan")
    assert {"psnr", "psnr_gain", "ssim", "psnr_second", "residual"} <= record.metrics.keys()
    assert "top1" not in record.metrics
    assert record.evaluations == {}
    folder = root / record.id
    rows, _ = read_curves(folder / "metrics.csv")
    for place in range(1, 3 if name == "demixgan" else 2):
        epochs = [row for row in rows if f"train/mean_{place}" in row]
        assert len(epochs) == 2
        assert all(
            {f"train/var_{place}", f"train/collapsed_{place}"} <= row.keys() for row in epochs
        )
    assert sum("train/loss_d" in row and "train/loss_g" in row for row in rows) == 8
    for picture in ("samples.png", "separated.png"):
        assert (folder / picture).stat().st_size > 1000
    assert verify_run(folder).record.verified is True


@pytest.mark.parametrize("name", BOTH)
def test_a_run_is_not_loaded_to_name_classes(done, name):
    record, root = done[name]
    with pytest.raises(UserError, match="task=demix and does not classify"):
        load(root / record.id)


def test_the_page_shows_what_was_separated(done):
    record, root = done["demixgan"]
    shown = embed_samples(root / record.id, 1 << 20)
    with Image.open(root / record.id / "separated.png") as image:
        assert (shown.width, shown.height) == image.size
    board = build_leaderboard(find_runs([root]))
    (group,) = board.groups
    assert (group.task, group.score) == ("demix", "psnr")
    assert {row.method for row in group.rows} == set(BOTH)


def test_a_suite_of_classifiers_says_why_it_has_nothing_to_judge(done):
    record, root = done["demixgan"]
    with pytest.raises(UserError, match="counts right classes, and task=demix names none"):
        evaluate_run(root / record.id, suites=["occlusion"])


def test_generators_are_exported_as_they_are_and_are_no_classifier(done, tmp_path):
    record, root = done["demixgan"]
    export(root / record.id, tmp_path / "weights.pth")
    state = torch.load(tmp_path / "weights.pth", weights_only=True)
    net = made("demixgan").net[0].like("batch", (0.0, 1.0))
    assert {name.split(".")[0] for name in state} == {"0", "1"}
    assert {name.partition(".")[2] for name in state} == set(net.state_dict())
    for words in (
        "method.classifier=RUN method=denoisegan",
        "method=demixgan method.classifier=RUN",
    ):
        with pytest.raises(UserError, match="dcgan, the network of the run, makes images"):
            build_run(words.replace("RUN", str(root / record.id)))
    for name in ("net.onnx", "net.pt2"):
        with pytest.raises(UserError, match="task=demix and does not classify"):
            export(root / record.id, tmp_path / name)


def test_an_epoch_can_be_chosen_on_a_hold_out_which_then_decides_the_order(runs):
    record = run(compose(f"{WORDS} method=demixgan select=val data.val_fraction=0.25"))
    assert {"val_psnr", "best_epoch", "psnr"} <= record.metrics.keys()


def test_a_killed_run_goes_on_bit_by_bit(tmp_path, monkeypatch):
    words = f"{WORDS} epochs=3 method=demixgan method.preset=robust trainer.ckpt_steps=3"
    whole, stopped, record = killing.crash_and_go_on(words, tmp_path, monkeypatch, 7, "demixgan")
    assert record.attempts[1]["from_step"] == 6
    assert record.resumed_bit_exact is True
    assert killing.differences(whole, stopped) == []


def test_a_loss_that_is_no_number_stops_the_run(runs, monkeypatch):
    class Breaks(METHODS.get("demixgan")):
        def generator_loss(self, made, components, latents):
            terms = super().generator_loss(made, components, latents)
            return {"g": terms["g"] * (float("nan") if self.step == 5 else 1.0)}

    monkeypatch.setitem(METHODS._objects, "demixgan", Breaks)
    with pytest.raises(RunFailedError, match="diverged: the loss is not finite, first in epoch 2"):
        run(compose(f"{WORDS} method=demixgan"))
    (folder,) = runs.iterdir()
    assert json.loads((folder / "record.json").read_text())["status"] == "diverged"


def test_a_collapse_is_counted_and_told(runs, monkeypatch, caplog):
    class Flat(METHODS.get("demixgan")):
        def make(self, observed):
            images, (first, second) = super().make(observed)
            return images, (
                first * 0 + first[:1],
                second + torch.arange(len(second))[:, None, None, None],
            )

    monkeypatch.setitem(METHODS._objects, "demixgan", Flat)
    with caplog.at_level(logging.WARNING, logger="mixbench"):
        record = run(compose(f"{WORDS} method=demixgan"))
    told = [r.getMessage() for r in caplog.records if "collapsed" in r.getMessage()]
    assert len(told) == 2
    assert "component 1 collapsed in 4 of 4 steps of epoch 2" in told[1]
    assert f"{COLLAPSED:g}" in told[1]
    rows, _ = read_curves(runs / record.id / "metrics.csv")
    found = [
        (row["train/collapsed_1"], row["train/collapsed_2"])
        for row in rows
        if "train/mean_1" in row
    ]
    assert found == [(4.0, 0.0), (4.0, 0.0)]


def test_means_and_variances_are_those_of_the_components():
    method = made("demixgan")
    values = [
        torch.full((6, 1, 2, 2), 0.25),
        torch.arange(6.0)[:, None, None, None].expand(6, 1, 2, 2),
    ]
    method._look(values)
    method._look(values)
    mean, variance, collapsed, steps = method.watch.unbind(1)
    torch.testing.assert_close(mean / steps, torch.tensor([0.25, 2.5]))
    torch.testing.assert_close(variance / steps, torch.stack([v.var() for v in values]))
    assert collapsed.tolist() == [2.0, 0.0]


def test_another_seed_is_of_the_same_row(done):
    first = resolve(compose(f"{WORDS} method=demixgan seed=1")).identity
    assert first.row_hash == done["demixgan"][0].row_hash


# Messages.


def build_run(words: str) -> Any:
    job = resolve(compose(f"{WORDS} {words}"))
    return build(job, job.read_data())[0]


def test_denoising_without_a_known_component_names_the_remedy():
    with pytest.raises(UserError, match="needs samples or a sampler for the known component; use "
                       "demixing-GAN if you have none") as error:  # fmt: skip
        build_run("method=denoisegan data.second=none")
    assert "method=demixgan" in error.value.todo


def test_samples_of_a_file_stand_for_the_known_component(tmp_path):
    images = np.full((3, 12, 12), 51, np.uint8)
    np.savez(tmp_path / "noise.npz", images=images)
    words = f"method=denoisegan data.second=none method.component={tmp_path / 'noise.npz'}"
    method = build_run(words)
    job = resolve(compose(f"{WORDS} {words}"))
    batch = job.read_data().train[BatchIndex(torch.arange(4), 0, 1)]
    mixed = method.mix_batch(batch)
    torch.testing.assert_close(mixed.aux.fresh, torch.full((4, 1, 12, 12), 0.2))
    assert torch.equal(mixed.x, batch.images / 255)  # the images are observations already


@pytest.mark.parametrize(
    ("arrays", "what"),
    [
        ({"images": np.zeros((3, 8, 8), np.uint8)}, r"the samples are \(3, 8, 8\)"),
        ({"other": np.zeros(3)}, "the samples of the known component cannot be read"),
    ],
)
def test_a_file_without_fitting_samples_is_refused(tmp_path, arrays, what):
    np.savez(tmp_path / "noise.npz", **arrays)
    with pytest.raises(UserError, match=what) as error:
        build_run(f"method=denoisegan method.component={tmp_path / 'noise.npz'}")
    assert "method.component=" in error.value.where


def test_images_that_the_layers_cannot_make_are_refused_with_the_size(tmp_path):
    with pytest.raises(UserError, match="such as 28x28, got 30x30") as error:
        build_run("method=demixgan data.size=30")
    assert "data.size=28" in error.value.todo


def test_several_processes_without_gpus_need_group_normalisation():
    words = f"{WORDS} method=demixgan devices=2"
    job = resolve(compose(words))
    with pytest.raises(UserError, match="on GPUs only") as error:
        build(job, job.read_data(), 0, 2)
    assert "method.norm=group" in error.value.todo
    job = resolve(compose(f"{words} method.norm=group"))
    method: Any = build(job, job.read_data(), 0, 2)[0]
    assert not [m for m in method.modules() if isinstance(m, nn.BatchNorm2d)]


def test_a_step_needs_second_components_beside_the_images():
    method = made("demixgan")
    with pytest.raises(ValueError, match="got images alone"):
        method.mix_batch(batch_of(method)._replace(added=None))
