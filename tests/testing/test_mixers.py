"""Mixing functions of anybody are held against their labels."""

import random

import numpy as np
import pytest
import torch
from timm.data.mixup import Mixup as TimmMixup
from torchvision.transforms import v2

import mixbench.functional as mf
from mixbench import cli
from mixbench.testing.mixers import MIXER_RULES, check_mixer


def right(x, targets):
    return mf.cutmix(x, targets)


def pairs(x, y):
    """As the scripts of many papers return it, for class indices."""
    assert y.ndim == 1
    lam, perm = float(np.random.beta(1, 1)), torch.randperm(len(x))  # noqa: NPY002
    return lam * x + (1 - lam) * x[perm], y, y[perm], lam


def clipped(x, targets):
    """Labels by the area that was drawn, and not by the one that was pasted."""
    lam, perm = mf.draw_lam(1, 1.0), mf.draw_perm(len(x))
    box = mf.cutmix_box(lam, torch.zeros(1, 2), *x.shape[2:])
    return mf.cutmix(x, targets, box=box, perm=perm).x, mf.mix_targets(targets, perm, lam)


def swapped(x, targets):
    lam, perm = mf.draw_lam(1, 1.0), mf.draw_perm(len(x))
    return mf.mixup(x, targets, lam=lam, perm=perm).x, mf.mix_targets(targets, perm, 1 - lam)


def other_partner(x, targets):
    lam, perm = mf.draw_lam(1, 1.0), mf.draw_perm(len(x), rule="roll")
    return mf.mixup(x, targets, lam=lam, perm=perm).x, mf.mix_targets(targets, perm.flip(0), lam)


def heavy(x, targets):
    return x, 1.5 * targets


def in_place(x, targets):
    return x.mul_(0.5).add_(0.5 * x.flip(0)), 0.5 * targets + 0.5 * targets.flip(0)


def unseeded(x, targets):
    return mf.mixup(x, targets, lam=torch.tensor([random.SystemRandom().random()]))


def even_only(x, targets):
    assert len(x) % 2 == 0, "an even batch please"
    return mf.mixup(x, targets)


def narrow(x, targets):
    mixed = mf.mixup(x, targets)
    return mixed.x, mixed.targets.to(x.dtype)


def waits(x, targets):
    return mf.mixup(x, targets) if x.sum().item() > 0 else (x, targets)


def alone(x, targets):
    return x


def failed(mixer):
    return {
        r.__name__ for r, found in zip(MIXER_RULES, check_mixer(mixer), strict=True) if found.error
    }


@pytest.mark.parametrize(
    "mixer",
    [
        right,
        mf.mixup,
        mf.Mixup(),
        mf.CutMix(),
        mf.BC(),
        mf.SpliceMix(labels="mean"),
        mf.GuidedMixup(),
    ],
)
def test_our_own_keep_all_rules(mixer):
    found = {result.rule: result.error for result in check_mixer(mixer) if result.error}
    assert found == {}


@pytest.mark.parametrize(
    ("mixer", "rule"),
    [
        (clipped, "label_follows_pixels"),
        (swapped, "label_follows_pixels"),
        (other_partner, "label_follows_pixels"),
        (heavy, "weights_of_labels_sum_to_one"),
        (in_place, "batch_is_left_alone"),
        (unseeded, "seeds_decide"),
        (even_only, "takes_any_batch"),
        (narrow, "precision_stays"),
        (waits, "needs_no_wait"),
        (alone, "returns_images_and_labels"),
    ],
)
def test_a_broken_one_fails_the_rule_that_it_breaks(mixer, rule):
    assert rule in failed(mixer)
    if rule != "label_follows_pixels" and mixer not in (alone, in_place, heavy):
        assert "label_follows_pixels" not in failed(mixer)


def test_others_labels_follow_their_pixels():
    timm = TimmMixup(mixup_alpha=1.0, cutmix_alpha=1.0, num_classes=3, label_smoothing=0)
    on_cpu = v2.CutMix(num_classes=3), v2.MixUp(num_classes=3), pairs
    for mixer in on_cpu:
        assert not failed(mixer) & {"label_follows_pixels", "returns_images_and_labels"}
    # It works in place, and wants an even batch.
    assert failed(lambda x, y: timm(x.clone(), y)) >= {"takes_any_batch"}
    assert "label_follows_pixels" not in failed(lambda x, y: timm(x.clone(), y))


def test_the_command_checks_functions_and_says_what_the_pixels_show(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "my_mixers.py").write_text(
        "import mixbench.functional as mf\n\n\n"
        "def good(x, targets):\n    return mf.mixup(x, targets)\n\n\n"
        "def bad(x, targets):\n    return x.flip(0), targets\n\n\nnumber = 3\n"
    )
    assert cli.main(["check", "my_mixers:good"]) == 0
    assert f"{len(MIXER_RULES)} of {len(MIXER_RULES)} rules kept" in capsys.readouterr().out
    assert cli.main(["check", "my_mixers:bad"]) == 3
    assert "and its label says" in capsys.readouterr().out
    assert cli.main(["check", "my_mixers:number"]) == 2
    assert "cannot be called" in capsys.readouterr().err
