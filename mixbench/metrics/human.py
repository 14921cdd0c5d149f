"""Predictions against the labels that many people gave each image, such as those of CIFAR-10H.

Peterson et al., ICCV 2019, arXiv:1908.07086 asked about fifty people for the class of each test
image of CIFAR-10; their answers (jcpeterson/cifar-10h) are read from an ``.npz`` with ``counts``
(N, K), and ``labels`` (N,), the true classes, by which the order is checked.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mixbench.data.files.arrays import Arrays
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


def read_human(path: Path) -> HumanLabels:
    """Read people's answers.

    Args:
        path: An ``.npz`` with ``counts`` (N, K) and optionally ``labels`` (N,).

    Returns:
        The answers, one row per image of the original test set.

    Raises:
        UserError: If it is missing, not such a file, or nobody was asked about an image.
    """
    try:
        with Arrays(path) as archive:
            found = {key: archive[key] for key in archive.names if key in ("counts", "labels")}
    except FileNotFoundError as error:
        raise UserError("no such file of people's answers", str(path)) from error
    except (OSError, ValueError) as error:
        raise UserError(f"not a readable .npz of people's answers: {error}", str(path)) from error
    if (
        "counts" not in found
        or found["counts"].ndim != 2
        or found["counts"].dtype.kind not in "iuf"
    ):
        raise UserError("people's answers need counts (N, K)", str(path), "see cifar10h.npz")
    counts = torch.from_numpy(found["counts"].astype(np.float64))
    if not bool(torch.isfinite(counts).all() and (counts >= 0).all() and (counts.sum(1) > 0).all()):
        raise UserError("an image has negative counts, or no answer", str(path))
    labels = found.get("labels")
    if labels is not None and labels.shape != counts.shape[:1]:
        raise UserError(f"labels {labels.shape} for counts {tuple(counts.shape)}", str(path))
    if labels is not None and (labels.dtype.kind not in "iuf" or (labels % 1 != 0).any()):
        raise UserError("labels must be whole numbers, the true classes", str(path))
    known = None if labels is None else torch.from_numpy(labels.astype(np.int64))
    return HumanLabels(counts, known, Path(path))


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
