"""Scores of single runs from their stored predictions: of a fold, and by test image."""

from pathlib import Path

import numpy as np

from mixbench.records.predictions import read_outputs
from mixbench.stats.gain import image_groups, jackknife_values

SCORES = {"top1": "accuracy", "balanced": "balanced accuracy", "map": "mean average precision"}
UNEVEN = 3  # times the smallest class, from which on the largest makes accuracy a poor score


def score_of_labels(labels: np.ndarray) -> str:
    """The score that a race goes by, from the training labels alone.

    Args:
        labels: (N,) int classes, or (N, K) with several labels per image.

    Returns:
        ``map`` with several labels, ``balanced`` where the largest class has three times the
        images of the smallest, else ``top1``.
    """
    if labels.ndim > 1:
        return "map"
    counts = np.bincount(labels)
    counts = counts[counts > 0]
    return "balanced" if counts.max() >= UNEVEN * counts.min() else "top1"


def fold_score(path: Path, score: str) -> float:
    """Score of all predictions of a run, in points.

    Args:
        path: ``predictions.npz`` of the run.
        score: One of :data:`SCORES`.
    """
    outputs, _ = read_outputs(path)
    logits, labels = outputs["logits"], outputs["labels"]
    if score == "map":
        return 100 * _mean_average_precision(logits, labels)
    return float(100 * _right(logits, labels, score).mean())


def image_scores(path: Path, score: str) -> np.ndarray:
    """Values of single test images, or of groups of them, whose mean is a run's score.

    Args:
        path: ``predictions.npz`` of the run.
        score: One of :data:`SCORES`.

    Returns:
        (N,) shares by image; (20,) jackknife values of groups for a score that is no mean.
    """
    outputs, _ = read_outputs(path)
    logits, labels = outputs["logits"], outputs["labels"]
    if score != "map":
        return _right(logits, labels, score)
    groups = image_groups(_rarest(labels))
    return jackknife_values(
        lambda rows: _mean_average_precision(logits[rows], labels[rows]), groups
    )


def _right(logits: np.ndarray, labels: np.ndarray, score: str) -> np.ndarray:
    """1 where the first of the largest logits is the label, weighed by class if that is asked."""
    right = (logits.argmax(axis=1) == labels).astype(float)
    if score == "balanced":
        counts = np.bincount(labels)
        right *= len(labels) / ((counts > 0).sum() * counts[labels])
    return right


def _rarest(labels: np.ndarray) -> np.ndarray:
    """The rarest class of each image, and one more where it shows none."""
    shown = labels == 1
    order = shown.sum(axis=0).argsort(kind="stable")
    first = shown[:, order].argmax(axis=1)
    return np.where(shown.any(axis=1), first, labels.shape[1])


def _mean_average_precision(logits: np.ndarray, labels: np.ndarray) -> float:
    import torch

    from mixbench.metrics import mean_average_precision

    found = mean_average_precision(torch.from_numpy(logits), torch.from_numpy(labels))
    return float(found) / 100
