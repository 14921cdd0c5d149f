"""Demixing: two components from their sum, judged by the components of test images."""

from typing import Any

import torch
from torch import Tensor

import mixbench.functional as mf
from mixbench.config.schema import OptimConfig, RunConfig
from mixbench.data.images import Splits
from mixbench.data.mixtures import observe_splits
from mixbench.errors import UserError
from mixbench.tasks.base import Holdout, Task

# What is found of each image, first as the components come out and then with the two swapped.
FIGURES: tuple[str, ...] = ("psnr", "ssim", "top1_fixed", "psnr_second")
RESIDUAL = 2 * len(FIGURES)  # place of the squared error of the sum, per pixel
DECIDING = 64  # test images, at most a quarter, that say which generator makes which component


class Demixing(Task):
    """Images that are seen in sums only; labels serve a fixed classifier that judges the result.

    An evaluation leaves behind a row of figures for each image in the place of logits, and the
    same figures of the trivial estimate in the place of labels.
    """

    name = "demix"
    kind = "multiclass"
    labelled = False
    classifies = False
    monitor = "psnr"

    def refuse(self, config: RunConfig) -> None:
        """Refuse keys of a classifier's step and of its augmentation."""
        data, optim = config.data, config.optim
        for key, given, why in (
            ("optim.accumulate", optim.accumulate > 1, "two networks take turns at each batch"),
            ("optim.clip", optim.clip is not None, "two networks take turns at each batch"),
            ("optim.ema", optim.ema is not None, "method.ema averages the generators alone"),
            ("distill", config.distill is not None, "there is no classifier to teach"),
            ("trainer.compile", config.trainer.compile, "generators have no stages to compile"),
            ("data.auto_augment", data.auto_augment is not None, "observations stay as they are"),
            ("data.jitter", bool(data.jitter), "observations stay as they are"),
            ("data.lighting", bool(data.lighting), "observations stay as they are"),
        ):
            if given:
                todo = f"leave {key} out"
                raise UserError(f"{key} has no place in task=demix: {why}", key, todo)

    def view(self, splits: Splits, config: RunConfig) -> Splits:
        """Observations in place of images."""
        return observe_splits(splits, config.data)

    def targets(self, labels: Tensor, num_classes: int, optim: OptimConfig) -> Tensor:
        """The classes of the first components, for pictures."""
        del optim
        return mf.one_hot(labels, num_classes)

    def criterion(self, logits: Tensor, targets: Tensor) -> Tensor:
        """None: each of the networks has a loss of its own, which the method computes."""
        raise TypeError("task=demix has no loss of outputs against targets")

    def epoch_scores(self, logits: Tensor, labels: Tensor) -> dict[str, Any]:
        """Scores of the hold-out, which also decides which generator makes which component."""
        return _scores(logits, labels, swapped(logits))

    def peek_score(self, logits: Tensor, labels: Tensor) -> Tensor:
        """PSNR of the first component in dB."""
        return torch.tensor(self.epoch_scores(logits, labels).get(self.monitor, torch.nan))

    def scores(self, logits: Tensor, labels: Tensor, holdout: Holdout) -> dict[str, float]:
        """Means over test images.

        Which generator makes the first component is decided once for a model, by the hold-out;
        where there is none, by the first test images, which then count for nothing else.
        """
        if holdout is not None:
            return _scores(logits, labels, swapped(holdout[0]))
        first = min(DECIDING, len(logits) // 4)
        decided = swapped(logits[:first]) if first else False
        return _scores(logits[first:], labels[first:], decided)


def swapped(figures: Tensor) -> bool:
    """Whether the second generator makes the first component, by the mean PSNR of both.

    Args:
        figures: (N, 9) rows of images, as :class:`Demixing` keeps them.

    Returns:
        False where there is one generator only, or nothing to compare with.
    """
    half = len(FIGURES)
    psnr = figures[:, : 2 * half].unflatten(1, (2, half))
    means = psnr[:, :, [0, half - 1]].double().mean(dim=(0, 2))
    return bool(means[1] > means[0])


def _scores(figures: Tensor, trivial: Tensor, swap: bool) -> dict[str, float]:
    half = len(FIGURES)
    start = half * swap
    found = figures[:, start : start + half].double().mean(dim=0)
    plain = trivial[:, start : start + half].double().mean(dim=0)
    values = dict(zip(FIGURES, found.tolist(), strict=True))
    values["psnr_gain"] = float(found[0] - plain[0])
    values["top1_observed"] = float(plain[2])
    values["residual"] = float(figures[:, RESIDUAL].double().mean())
    values["swapped"] = float(swap)
    # What there is no truth or no classifier for is left out.
    return {name: value for name, value in values.items() if value == value}
