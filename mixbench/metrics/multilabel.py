"""Scores of predictions with several labels per image."""

from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics.functional.classification import multilabel_average_precision

UNKNOWN = -1


def mean_average_precision(logits: Tensor, targets: Tensor) -> Tensor:
    """Average precision of each class, averaged over the classes that have a positive image.

    Average precision is the sum of precisions at each recall step, as VOC counts since 2010 but
    without its envelope; VOC 2007's own eleven points are coarser.

    Args:
        logits: (N, K) network output; only its order counts, and equal ones form one threshold.
        targets: (N, K) 1 for present, 0 for absent, NaN for unknown, which is left out.

    Returns:
        Scalar in percent; NaN where no class has a positive image, or a logit is NaN.
    """
    known = targets.nan_to_num(UNKNOWN).long()
    present = (known == 1).any(dim=0)
    if logits.isnan().any() or not present.any():
        return logits.new_tensor(float("nan"), dtype=torch.float64)
    picked = logits[:, present], known[:, present]
    count = int(present.sum())
    if count == 1:  # torchmetrics wants two labels at least
        picked = tuple(value.expand(-1, 2) for value in picked)
    # Sigmoids of float32 logits tie beyond 17, so their ranks stand in for them.
    columns = picked[0].t().contiguous()
    ranks = torch.searchsorted(columns.sort(dim=1).values, columns).t().double() / len(logits)
    values = multilabel_average_precision(
        ranks, picked[1], num_labels=max(count, 2), average="none", ignore_index=UNKNOWN
    )
    return 100 * values.mean()


class F1(NamedTuple):
    """Scalars in percent, over all labels of all images and as means over the classes."""

    overall_precision: Tensor
    overall_recall: Tensor
    of1: Tensor
    class_precision: Tensor
    class_recall: Tensor
    cf1: Tensor


def f1_scores(logits: Tensor, targets: Tensor, top: int | None = None) -> F1:
    """Precision, recall and F1 of the labels that a network gives.

    A label is given where its logit is at least 0. ``cf1`` is the harmonic mean of the classes'
    mean precision and mean recall, as papers on several labels have it, and not the mean of the
    classes' F1, which torchmetrics calls macro F1. A class that is never predicted has precision
    0; a class without a positive image is left out of both means.

    Args:
        logits: (N, K) network output.
        targets: (N, K), as for :func:`mean_average_precision`.
        top: Give at most this many labels to an image, those of the largest logits; of equal ones
            the lower class.

    Returns:
        The scores; NaN where no class has a positive image, or a logit is NaN.
    """
    positive, known = targets == 1, ~targets.isnan()
    given = logits >= 0
    if top is not None:
        best = logits.argsort(dim=1, descending=True, stable=True)[:, :top]
        given &= torch.zeros_like(given).scatter_(1, best, True)
    given &= known
    right, predicted, present = (
        value.sum(dim=0).double() for value in (positive & given, given, positive)
    )
    right = right.where(~logits.isnan().any(), torch.nan)
    kept = present > 0
    overall = right.sum() / predicted.sum().clamp(min=1), right.sum() / present.sum()
    per_class = (right / predicted.clamp(min=1))[kept].mean(), (right / present)[kept].mean()
    return F1(*_with_harmonic(*overall), *_with_harmonic(*per_class))


def multilabel_scores(logits: Tensor, targets: Tensor) -> dict[str, float]:
    """All scores by the names of a leaderboard row.

    Args:
        logits: (N, K) network output.
        targets: (N, K), as for :func:`mean_average_precision`.

    Returns:
        ``map``, ``cf1`` and ``of1`` in percent.
    """
    f1 = f1_scores(logits, targets)
    return {
        "map": float(mean_average_precision(logits, targets)),
        "cf1": float(f1.cf1),
        "of1": float(f1.of1),
    }


def _with_harmonic(precision: Tensor, recall: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    total = (precision + recall).where(precision + recall != 0, 1.0)  # NaN stays NaN
    return 100 * precision, 100 * recall, 200 * precision * recall / total
