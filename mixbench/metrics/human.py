"""Predictions against the labels that many people gave each image, such as those of CIFAR-10H.

Peterson et al., ICCV 2019, arXiv:1908.07086 asked about fifty people for the class of each test
image of CIFAR-10; :func:`mixbench.data.labels.read_human` reads their answers.
"""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from mixbench.errors import UserError


class HumanLabels(NamedTuple):
    """Answers (N, K) float64 of people for the N original test images, and the true classes (N,).

    ``path`` is for messages.
    """

    counts: Tensor
    labels: Tensor | None
    path: Path


def human_cross_entropy(logits: Tensor, counts: Tensor) -> Tensor:
    """Mean cross-entropy of predictions to the distributions of people's answers.

    Args:
        logits: (N, K) network output.
        counts: (N, K) answers for each class, or any multiple of their shares; each row has some.

    Returns:
        Scalar float64 in nats, at least :func:`human_entropy` of the same answers.
    """
    shares = _shares(counts).to(logits.device)
    # A class that nobody chose adds nothing, also where it is impossible: 0 * -inf would be NaN.
    terms = (shares * logits.double().log_softmax(dim=1)).where((shares > 0) | logits.isnan(), 0)
    return -terms.sum(dim=1).mean()


def human_entropy(counts: Tensor) -> Tensor:
    """Mean entropy of people's answers: the cross-entropy that no prediction falls below.

    Args:
        counts: (N, K), as for :func:`human_cross_entropy`.

    Returns:
        Scalar float64 in nats.
    """
    return -torch.special.xlogy(_shares(counts), _shares(counts)).sum(dim=1).mean()


def human_scores(
    logits: Tensor, labels: Tensor, rows: Tensor, human: HumanLabels
) -> dict[str, float]:
    """Scores of a finished run against people's answers.

    Args:
        logits: (N, K) of test images.
        labels: (N,) their classes in the data set.
        rows: (N,) their places in the original test set: ``splits.test_rows[ids]`` of the run.
        human: The answers.

    Returns:
        ``ce_human`` and ``entropy_human``, its lower bound, both in nats.

    Raises:
        UserError: If the answers are not about these images.
    """
    where, todo = str(human.path), "use the answers for this test set"
    size, classes = human.counts.shape
    rows, labels = rows.cpu(), labels.cpu()
    if logits.shape[1] != classes or int(rows.max()) >= size or int(rows.min()) < 0:
        raise UserError(
            f"answers for {size} images in {classes} classes; the run has images up to row "
            f"{int(rows.max())} and {logits.shape[1]} classes",
            where,
            todo,
        )
    wrong = 0 if human.labels is None else int((human.labels[rows] != labels).sum())
    if wrong:
        raise UserError(f"the classes of {wrong} of {len(rows)} images differ", where, todo)
    counts = human.counts[rows]
    return {
        "ce_human": float(human_cross_entropy(logits, counts)),
        "entropy_human": float(human_entropy(counts)),
    }


def _shares(counts: Tensor) -> Tensor:
    counts = counts.double()
    return counts / counts.sum(dim=1, keepdim=True)
