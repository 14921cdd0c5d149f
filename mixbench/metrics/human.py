"""Predictions against the labels that many people gave each image, such as those of CIFAR-10H.

Peterson et al., ICCV 2019, arXiv:1908.07086 asked about fifty people for the class of each test
image of CIFAR-10; :func:`mixbench.data.labels.read_human` reads their answers.
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from mixbench.errors import UserError


class HumanLabels(NamedTuple):
    """Answers (N, K) float64 of people for N original test images, and the true classes (N,).

    ``path`` is for messages. ``rows`` (N,) are the places of the images in the original test set,
    ascending; None where these are all images in their order.
    """

    counts: Tensor
    labels: Tensor | None
    path: Path
    rows: Tensor | None = None

    def fingerprint(self) -> str:
        """Content hash of the answers, wherever they lie."""
        found = hashlib.sha256()
        for each in (self.counts, self.rows):
            found.update(b"" if each is None else each.numpy().tobytes())
        return found.hexdigest()


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
        human: The answers; images without any do not count.

    Returns:
        Those of :func:`answer_scores`.

    Raises:
        UserError: If the answers are not about these images.
    """
    place, shares = answers_of(human, rows, labels, logits.shape[1])
    return answer_scores(logits[place.to(logits.device)], shares)


def answers_of(
    human: HumanLabels, rows: Tensor, labels: Tensor, classes: int
) -> tuple[Tensor, Tensor]:
    """People's answers for the images of a test set.

    Args:
        human: The answers.
        rows: (N,) places of the images in the original test set.
        labels: (N,) their classes in the data set.
        classes: Number of classes K of the data set.

    Returns:
        Numbers (M,) of the images among the N that people answered for, ascending, and the shares
        (M, K) float64 of their answers.

    Raises:
        UserError: If the answers are not about these images.
    """
    where, todo = str(human.path), "use the answers for this test set"
    rows, labels = rows.cpu(), labels.cpu()
    size = len(human.counts) if human.rows is None else int(human.rows.max()) + 1
    if human.counts.shape[1] != classes or int(rows.min()) < 0:
        raise UserError(_other_images(human, size, rows, classes), where, todo)
    if human.rows is None:
        if int(rows.max()) >= size:
            raise UserError(_other_images(human, size, rows, classes), where, todo)
        place, answers = torch.arange(len(rows)), rows
    else:
        found = torch.full((max(size, int(rows.max()) + 1),), -1)
        found[human.rows] = torch.arange(len(human.rows))
        place = (found[rows] >= 0).nonzero()[:, 0]
        answers = found[rows[place]]
        if not len(place):
            raise UserError("none of its images is tested on", where, todo)
    if human.labels is not None:
        wrong = int((human.labels[answers] != labels[place]).sum())
        if wrong:
            raise UserError(f"the classes of {wrong} of {len(rows)} images differ", where, todo)
    return place, _shares(human.counts[answers])


def _other_images(human: HumanLabels, size: int, rows: Tensor, classes: int) -> str:
    return (
        f"answers for {size} images in {human.counts.shape[1]} classes; the run has images up to "
        f"row {int(rows.max())} and {classes} classes"
    )


def answer_scores(logits: Tensor, shares: Tensor) -> dict[str, float]:
    """Distances of predictions from people's answers, as means over images.

    Args:
        logits: (N, K) network output.
        shares: (N, K) people's answers, in any multiple of their shares.

    Returns:
        In nats ``ce_human`` and ``entropy_human``, its lower bound; ``l1_human``, in [0, 2];
        ``w1_human``, see :func:`sorted_distance`; and ``entropy_corr``, the correlation (Pearson)
        of the entropies of predictions and of answers, NaN where either never changes.
    """
    shares = _shares(shares).to(logits.device)
    probs = logits.double().softmax(dim=1)
    predicted, answered = (-torch.special.xlogy(p, p).sum(dim=1) for p in (probs, shares))
    return {
        "ce_human": float(human_cross_entropy(logits, shares)),
        "entropy_human": float(human_entropy(shares)),
        "l1_human": float((probs - shares).abs().sum(dim=1).mean()),
        "w1_human": float(sorted_distance(probs, shares).mean()),
        "entropy_corr": float(_correlation(predicted, answered)),
    }


def sorted_distance(first: Tensor, second: Tensor) -> Tensor:
    """Wasserstein distance of the probabilities themselves, whichever classes they belong to.

    The evaluation of CIFAR-10S (cambridge-mlg/cifar-10s) takes the K probabilities of a label for K
    observations: the distance is the mean gap of the sorted probabilities, and 0 for any
    permutation of the classes. It compares how peaked labels are, not what they say.

    Args:
        first: (N, K) probabilities.
        second: (N, K) probabilities.

    Returns:
        (N,) distances.
    """
    return (first.sort(dim=1).values - second.sort(dim=1).values).abs().mean(dim=1)


def _correlation(first: Tensor, second: Tensor) -> Tensor:
    first, second = first - first.mean(), second - second.mean()
    scale = (first.square().sum() * second.square().sum()).sqrt()
    # By rounding a constant entropy differs from its mean.
    constant = min(float(first.abs().max()), float(second.abs().max())) < 1e-12
    return scale * torch.nan if constant else (first * second).sum() / scale


def _shares(counts: Tensor) -> Tensor:
    counts = counts.double()
    return counts / counts.sum(dim=1, keepdim=True)
