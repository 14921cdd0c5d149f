from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

import mixbench.functional as mf
from mixbench.methods import METHODS
from mixbench.methods.base import Method
from mixbench.pictures.raster import raster
from mixbench.pictures.sheet import as_sheets
from mixbench.testing import contract
from mixbench.testing.contract import check_method, rules_of, the_host_never_waits
from mixbench.testing.device import HostWaitError
from mixbench.training.callbacks.average import EMA

VARIANTS: dict[str, list[dict[str, Any]]] = {
    "alignmix": [
        {"layers": [3], "solver": "scaled"},
        {"layers": ["embed"]},
        {"plan": "shuffled"},
        {"ae": True, "ae_clean": 1.0},
    ],
    "attentivemix": [
        {"top_k": 0, "per_sample": True, "partner": "derange"},
        {"top_k": 3, "grid": 5, "saliency": "loss_grad", "prob": 0.5},
    ],
    "augmix": [{"no_jsd": True}, {"all_ops": True, "depth": 4, "width": 1, "severity": 10.0}],
    "automix": [{"lam_concat": True}, {"switch_off": 0.0}],
    "samix": [
        {"lam_k": 0.25, "mask_adjust": 1.0, "dropout": 0.1},
        {"layer": 1, "mixer_loss": "pair_eta", "ema_warmup": False},
        {"mixer_loss": "bce_eta", "eta": 0.5, "mask_anneal": "official"},
    ],
    "moco": [{"blur": 1.0, "jitter": 1.0}],
    "mocosamix": [
        {"lam_k": 0.25, "dropout": 0.1, "official_bugs": True},
        {"mixer_loss": "bce", "aux_weight": 0.5, "layer": 1},
    ],
    "splicemix": [
        {"grids": ["2x2-1", "1x3"], "counts": [1, 2], "labels": "mean"},
        {"grids": ["3x2-5"], "counts": [0], "antialias": True, "mix_prob": 0.5},
    ],
    "splicemix_cl": [
        {"cl_detach": False, "kept_cells": True, "shared_grid": True},
        {"grids": ["2x2-3"], "counts": [2], "cl_weight": 0.5, "antialias": True},
    ],
    "tdattenmix": [
        {"switch_prob": 1.0, "label_ratio": "official", "map_norm": "sum"},
        {"switch_prob": 1.0, "attention": "random", "partner": "derange"},
        {"switch_prob": 1.0, "dst_tie": "random", "min_ratio": 0.0, "max_ratio": 1.0},
    ],
    "mixup": [{"per_sample": True}, {"partner": "derange"}, {"fold": True}],
    "cutmix": [{"per_sample": True}, {"box_rule": "inside"}, {"minmax": [0.2, 0.8]}],
    "fmix": [
        {"per_sample": True, "max_soft": 0.2, "partner": "derange"},
        {"spectrum": "official", "prob": 0.5},
    ],
    "gridmix": [
        {"per_sample": True, "official": True},
        {"holes": [1, 20], "hole_aspect": [0.1, 3.0], "partner": "flip"},
    ],
    "resizemix": [
        {"per_sample": True, "mode": "bilinear"},
        {"alpha": 2.0, "scope": [0.01, 1.0], "mode": "bilinear"},
    ],
    "saliencymix": [
        {"per_sample": True, "partner": "derange"},
        {"saliency": "cam", "prob": 0.5},
        {"saliency": "input_grad", "per_sample": True},
        {"saliency": "spectral"},
    ],
    "puzzlemix": [
        {"labels": 2, "per_sample": True, "cell": None, "partner": "derange"},
        {"solver": "exact", "blocks": [2, 4], "loss": "bce_softmax"},
        {"transport": False, "saliency": "cam", "official": True, "prob": 0.5},
    ],
    "guidedmixup": [
        {"saliency": "loss_grad", "prob": 1.0, "loss": "bce_softmax"},
        {"pairing": "random", "saliency": "cam"},
        {"part": 2, "prob": 1.0},
    ],
    "smoothmix": [{"per_sample": True, "spread": [0.01, 3.0]}, {"official": True, "prob": 0.5}],
    "snapmix": [
        {"per_sample": True, "same_label": "sum", "partner": "derange"},
        {"saliency": "auto", "alpha": 1.0, "prob": 0.5},
        {"saliency": "attention", "partner": "flip"},
        {"saliency": "input_grad", "alpha": 0.2},
    ],
    "bc": [{"plus": True}],
    "manifoldmixup": [{"layers": [0, -1]}, {"loss": "bce_softmax"}],
    "mixup2": [{"alpha": 0.2}],
    "tlalign": [
        {"partner": "random", "mixup_alpha": 0.8},
        {"residual": 0.2, "last": 1, "per_sample": True, "partner": "roll"},
    ],
    "smmix": [
        {"switch_prob": 1.0, "per_sample": True, "partner": "derange"},
        {"switch_prob": 1.0, "min_ratio": 0.0, "max_ratio": 1.0, "partner": "random"},
        {"switch_prob": 0.0, "alpha": 0.2, "tokens": 0.5, "consistency": 0.0},
    ],
    "mixpro": [
        {"prob": 1.0, "per_sample": True, "partner": "derange", "cell": 12},
        {"prob": 1.0, "detach_progress": False, "area": "cells", "cell": 12},
        {"prob": 0.0, "mixup_alpha": 0.0, "partner": "flip"},
        {"cutmix_alpha": 0.0, "hard_labels": False},
    ],
    "tokenmix": [
        {"switch_prob": 1.0, "per_sample": True, "partner": "derange", "alpha": 1.0},
        {"switch_prob": 1.0, "kind": "random", "saliency": "attention", "official": True},
        {"switch_prob": 1.0, "saliency": "none", "loss": "bce", "extra": 3},
        {"saliency": "input_grad", "mixup_alpha": 0.2},
    ],
    "transformmix_recon": [
        {"label": "saliency", "noise": 0.1, "saliency": "norm"},
        {"label": "half", "mpn": False, "saliency": "spectral"},
        {"label": "prior", "stn": False, "saliency": "input_grad", "prob": 0.5},
    ],
    "transformmix_search": [
        {"symmetric": False, "affine": "full", "noise": 0.1},
        {"stn_input": "image+saliency", "lam_input": False, "partner": "roll"},
        {"mpn": False, "saliency": "spectral"},
        {"stn": False, "saliency": "input_grad"},
    ],
    "transmix": [
        {"partner": "random", "mixup_alpha": 0.0, "ratio": 1.0},
        {"switch_prob": 1.0, "per_sample": True, "prob": 0.5, "partner": "derange"},
    ],
    "choice": [
        {"members": ["erm", "bc"], "probs": [0.2, 0.8]},
        {"members": ["transmix", "mixup"]},
    ],
    "hmix": [
        {"members": ["cutmix", "erm"], "omega": 0.0},
        {"members": ["alignmix"]},
        {"mode": "fixed", "rule": "linear", "share": 0.5},
    ],
    "demixgan": [
        {"preset": "robust", "loss": "hinge"},
        {"saturating": True, "d_act": "relu", "norm": "group", "d_width": 3},
    ],
    "denoisegan": [{"preset": "robust"}, {"r1": 1.0, "ema": 0.9}],
    "erm": [],  # has no keys
}


def test_the_variants_name_every_method_and_change_each_that_has_keys():
    assert sorted(VARIANTS) == METHODS.names()
    for name, variants in VARIANTS.items():
        assert bool(variants) == bool(fields(METHODS.get(name).Config)), name


@pytest.mark.parametrize(
    ("name", "rule"),
    [(name, rule) for name in METHODS.names() for rule in rules_of(METHODS.get(name))],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_every_registered_method_keeps_the_contract(name, rule):
    rule(METHODS.get(name))
    assert rule.__doc__


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        pytest.param(name, each, marks=[pytest.mark.slow] * bool(number))
        for name, many in VARIANTS.items()
        for number, each in enumerate(many)
    ],
)
def test_variants_keep_the_rules_of_mixing(name, settings):
    cls = METHODS.get(name)
    config = type("Config", (cls.Config,), {})
    changed = type(cls.__name__, (cls,), {"Config": lambda **given: config(**settings, **given)})
    by_name = {rule.__name__: rule for rule in rules_of(cls)}
    for rule in (
        "mix_returns_soft_targets",
        "labels_sum_to_one",
        "same_seed_same_batch",
        "any_batch",
        "reduced_precision",
        "the_picture_shows_what_was_mixed",
        "the_host_never_waits",
        "evaluation_is_plain",
        "each_parameter_in_one_group",
    ):
        if rule == "the_host_never_waits" and settings.get("solver") == "exact":
            with pytest.raises(HostWaitError, match="puzzle_cut"):  # SciPy cuts on the host
                by_name[rule](changed)
        elif rule in by_name:
            by_name[rule](changed)
    assert config(**settings) != cls.Config()


class IntegerTargets(Method):
    def mix(self, x, targets, **decisions):
        return mf.Mixed(x, targets.argmax(1))


class HeavyLabels(Method):
    def mix(self, x, targets, **decisions):
        return mf.Mixed(x, 1.5 * targets)


class WritesInput(Method):
    def mix(self, x, targets, **decisions):
        return mf.Mixed(x.mul_(2), targets)


class GlobalRandom(Method):
    def mix(self, x, targets, **decisions):
        return mf.Mixed(x + torch.randn_like(x), targets)


class DrawsUnkeyed(Method):
    def predict(self, mixed):
        if not hasattr(self, "own"):
            self.own = torch.Generator()
        return self.net(mixed.x) * torch.rand((), generator=self.own), mixed


class WritesInPredict(Method):
    def predict(self, mixed):
        return self.net(mixed.x.mul_(2)), mixed


class NeedsSquare(Method):
    def mix(self, x, targets, **decisions):
        return mf.Mixed(x.transpose(2, 3), targets)


class Float32Only(Method):
    def mix(self, x, targets, **decisions):
        return mf.Mixed(x.float(), targets)


class RandomForward(Method):
    def forward(self, x):
        return super().forward(x + 0.1 * torch.randn_like(x))


class MixesInEvaluation(Method):
    def validation_step(self, batch, batch_idx):
        x = self.normalize(batch.images / 255)
        mixed = self.mix(x, torch.eye(4)[batch.labels])
        return {"logits": self.net(mixed.x)}


class ForgetsAGroup(Method):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.extra = torch.nn.Linear(2, 2)


class DetachesLoss(Method):
    def predict(self, mixed):
        return self.net(mixed.x).detach().requires_grad_(), mixed


class ObjectInCheckpoint(Method):
    def on_save_checkpoint(self, checkpoint):
        super().on_save_checkpoint(checkpoint)
        checkpoint["own"] = ForgetsAGroup


class UsesTrainer(Method):
    def mix(self, x, targets, **decisions):
        return mf.Mixed(x * (1 + self.trainer.current_epoch), targets)


class Returns(Method):
    """Mixup whose record has another field."""

    changes: ClassVar = {}

    def __init_subclass__(cls, **changes):
        super().__init_subclass__()
        cls.changes = changes

    def mix(self, x, targets, **decisions):
        mixed = mf.mixup(x, targets, generator=self.generator, **decisions)
        return mixed._replace(**{key: change(mixed) for key, change in self.changes.items()})


class FloatLam(Returns, lam=lambda mixed: 0.3):
    pass


class ScalarLam(Returns, lam=lambda mixed: mixed.lam[0]):
    pass


class ShortLam(Returns, lam=lambda mixed: mixed.lam.expand(6)[:2]):
    pass


class PercentLam(Returns, lam=lambda mixed: 100 * mixed.lam + 1):
    pass


class ListPerm(Returns, perm=lambda mixed: mixed.perm.tolist()):
    pass


class Int32Perm(Returns, perm=lambda mixed: mixed.perm.int()):
    pass


class PermOutside(Returns, perm=lambda mixed: mixed.perm + 1):
    pass


class NumpyTargets(Returns, targets=lambda mixed: mixed.targets.numpy()):
    pass


class WholeTargets(Returns, targets=lambda mixed: mixed.targets.round().long()):
    pass


class ListTargets(Returns, targets=lambda mixed: mixed.targets.tolist()):
    pass


class FloatTerm(Method):
    def loss(self, logits, mixed):
        return {"ce": super().loss(logits, mixed), "extra": 0.5}


class FloatDiagnostics(Method):
    def diagnostics(self, mixed):
        return {"share": 0.5}


class WiderHead(Method):
    def forward(self, x):
        return torch.nn.functional.pad(super().forward(x), (0, 1))


class WritesImages(Method):
    def prepare(self, batch):
        batch.images.clamp_(max=100)
        return super().prepare(batch)


class NoPicture(Method):
    def picture(self, x, targets, mixed):
        return x


class NarrowLabels(Method):
    def mix(self, x, targets, **decisions):
        mixed = mf.mixup(x, targets, generator=self.generator, **decisions)
        return mixed._replace(targets=mixed.targets.to(x.dtype))


class NeedsTwoRows(Method):
    def loss(self, logits, mixed):
        return super().loss(logits[1:], mixed._replace(targets=mixed.targets[1:]))


class ReadsLam(Method):
    def mix(self, x, targets, **decisions):
        mixed = mf.mixup(x, targets, generator=self.generator, **decisions)
        return mixed if float(mixed.x.abs().max()) < 100 else mf.Mixed(x, targets)


class IndexesByMask(Method):
    def loss(self, logits, mixed):
        sure = mixed.targets.amax(1) > 0
        return super().loss(logits[sure], mixed._replace(targets=mixed.targets[sure]))


class BlockingCopy(Method):
    def mix(self, x, targets, **decisions):
        lam = torch.rand(1, generator=self.generator).to(x.device)
        return mf.mixup(x, targets, lam=lam, generator=self.generator)


class LeftOnTheHost(Method):
    def mix(self, x, targets, **decisions):
        mask = torch.rand(1, 1, *x.shape[2:], generator=self.generator)
        return mf.Mixed(x * mask, targets)


class ReadsAfterStep(Method):
    def after_step(self):
        if float(self.net.head.fc.bias.abs().max()) > 100:
            raise ValueError("weights explode")


class HostTensorAfterStep(Method):
    def after_step(self):
        with torch.no_grad():
            self.net.head.fc.bias.mul_(torch.full((4,), 0.9))


class CountsClasses(Method):
    def loss(self, logits, mixed):
        seen = mixed.targets.argmax(1).unique()
        return super().loss(logits, mixed) * (len(seen) / 4)


class RepeatsRows(Method):
    def mix(self, x, targets, **decisions):
        counts = targets.sum(1).long()
        return mf.Mixed(x.repeat_interleave(counts, 0), targets.repeat_interleave(counts, 0))


class ReadsWhilePreparing(Method):
    def prepare(self, batch, drawn=None):
        x, targets = super().prepare(batch, drawn)
        return x / max(1, int(batch.images.max())), targets


class ReadsLearningRate(Method):
    def optimizer_of(self, groups):
        made = super().optimizer_of(groups)
        for group in made["optimizer"].param_groups:
            group["weight_decay"] = torch.zeros((), device=self.device) + 0.1
        return made


class TakesGradient(Method):
    def mix(self, x, targets, **decisions):
        x = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(self.net(x).sum(), x)
        return mf.Mixed(x.detach() + 0.1 * slope.sign(), targets)


class ReadsGradient(TakesGradient):
    def mix(self, x, targets, **decisions):
        mixed = super().mix(x, targets)
        return mixed if bool(mixed.x.isfinite().all()) else mf.Mixed(x, targets)


class ReadsWhilePlaying(METHODS.get("demixgan")):
    def discriminator_loss(self, y, made):
        terms = super().discriminator_loss(y, made)
        return terms if terms["d"].item() > 0.1 else {"d": 0.5 * terms["d"]}


class ShowsUnmixed(Method):
    def mix(self, x, targets, **decisions):
        return mf.mixup(x, targets, generator=self.generator, **decisions)

    def picture(self, x, targets, mixed):
        return super().picture(x, targets, mixed._replace(x=x))


class DrawsUnmixed(ShowsUnmixed):
    def picture(self, x, targets, mixed):
        return raster(as_sheets(super().picture(x, targets, mixed)))


class OneShare(Returns):
    def pixel_weights(self, x, mixed):
        return mixed.lam, mixed.lam


# FAULTS row 69: the broken rule is named.
@pytest.mark.parametrize(
    ("cls", "rule"),
    [
        (IntegerTargets, "soft targets"),
        (HeavyLabels, "sum to 1"),
        (WritesInput, "does not change the batch"),
        (WritesInPredict, "does not change the batch"),
        (GlobalRandom, "global generator"),
        (DrawsUnkeyed, "equal steps"),
        (NeedsSquare, "not square"),
        (Float32Only, "bfloat16"),
        (RandomForward, "neither mixes"),
        (MixesInEvaluation, "neither mixes"),
        (ForgetsAGroup, "exactly one parameter group"),
        (DetachesLoss, "gets a gradient"),
        (ObjectInCheckpoint, "checkpoint"),
        (UsesTrainer, "without a Trainer"),
        (FloatLam, "of their type"),
        (ScalarLam, "of their type"),
        (ShortLam, "of their type"),
        (PercentLam, "of their type"),
        (ListPerm, "of their type"),
        (Int32Perm, "of their type"),
        (PermOutside, "of their type"),
        (NumpyTargets, "of their type"),
        (WholeTargets, "of their type"),
        (ListTargets, "of their type"),
        (FloatTerm, "of their type"),
        (FloatDiagnostics, "of their type"),
        (WiderHead, "neither mixes"),
        (WritesImages, "can be drawn"),
        (NoPicture, "can be drawn"),
        (OneShare, "can be drawn"),
        (NarrowLabels, "labels stay float32"),
        (NeedsTwoRows, "Steps of 1"),
        (ReadsLam, "read nothing from the device"),
        (IndexesByMask, "read nothing from the device"),
        (BlockingCopy, "read nothing from the device"),
        (LeftOnTheHost, "read nothing from the device"),
        (ReadsAfterStep, "read nothing from the device"),
        (HostTensorAfterStep, "read nothing from the device"),
        (CountsClasses, "read nothing from the device"),
        (RepeatsRows, "read nothing from the device"),
        (ReadsWhilePreparing, "read nothing from the device"),
        (ReadsLearningRate, "read nothing from the device"),
        (ReadsGradient, "read nothing from the device"),
        (ReadsWhilePlaying, "read nothing from the device"),
        (ShowsUnmixed, "A picture shows"),
        (DrawsUnmixed, "A picture shows"),
    ],
)
def test_a_broken_method_fails_the_rule_that_it_breaks(cls, rule, monkeypatch):
    asked = [each for each in rules_of(cls) if rule in str(each.__doc__)]
    monkeypatch.setattr(contract, "rules_of", lambda cls: asked)  # the others take their time
    failed = [result.rule for result in check_method(cls) if result.error]
    assert any(rule in name for name in failed), failed


def test_the_wrong_field_is_named():
    errors = {result.error for result in check_method(FloatLam)}
    assert "mix: lam is float, expected a tensor of floating type" in errors
    assert not [result for result in check_method(Returns) if result.error]


def test_a_wait_is_named_with_the_line_that_asks_for_it():
    lines = Path(__file__).read_text().splitlines()
    (line,) = (n for n, text in enumerate(lines, 1) if text.strip().startswith("if float("))
    with pytest.raises(HostWaitError, match=rf"test_contract\.py, line {line}$"):
        the_host_never_waits(ReadsAfterStep)


def test_a_gradient_may_be_taken_within_a_step():
    found = [r.error for r in check_method(TakesGradient) if "read nothing from" in r.rule]
    assert found == [""]


def test_the_average_that_lightning_would_keep_makes_the_host_wait(monkeypatch):
    def follow(self, method):
        self._average_model.update_parameters(method)

    the_host_never_waits(Method)
    monkeypatch.setattr(EMA, "follow", follow)
    with pytest.raises(HostWaitError, match="copied to or from the device"):
        the_host_never_waits(Method)
