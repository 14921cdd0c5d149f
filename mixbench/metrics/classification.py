"""Accuracy and calibration of single-label predictions, from float32 logits.

torchmetrics' calibration error is not used: its bins are closed on the left, a confidence of
exactly 1 falls into an extra bin, and logits that all lie in [0, 1] are taken as probabilities.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.classification import multiclass_accuracy

ECE_BINS = 15


def topk(logits: Tensor, y: Tensor, k: int = 1) -> Tensor:
    """Share of samples whose label is among the k largest logits.

    Args:
        logits: (N, K) network output.
        y: (N,) class indices.
        k: Number of guesses.

    Returns:
        Scalar in percent.
    """
    return 100 * multiclass_accuracy(logits, y, logits.shape[1], top_k=k, average="micro")


def nll(logits: Tensor, y: Tensor) -> Tensor:
    """Mean negative log-likelihood of the labels.

    Args:
        logits: (N, K) network output.
        y: (N,) class indices.

    Returns:
        Scalar in nats.
    """
    return F.cross_entropy(logits.float(), y)


def brier(logits: Tensor, y: Tensor) -> Tensor:
    """Mean squared distance between probabilities and one-hot labels, summed over classes.

    Args:
        logits: (N, K) network output.
        y: (N,) class indices.

    Returns:
        Scalar in [0, 2].
    """
    probs = logits.float().softmax(dim=1)
    return (probs - F.one_hot(y, logits.shape[1])).square().sum(dim=1).mean()


def ece(logits: Tensor, y: Tensor, bins: int = ECE_BINS) -> Tensor:
    """Expected calibration error: mean gap of confidence and accuracy over equal-width bins.

    Bins are closed on the right, ``(lo, hi]``; the gap is absolute and weighted by the bin's share
    of the samples (Guo et al., ICML 2017, arXiv:1706.04599).

    Args:
        logits: (N, K) network output.
        y: (N,) class indices.
        bins: Number of bins.

    Returns:
        Scalar in [0, 1].
    """
    confidence, hit = _confidence(logits, y)
    # float64 keeps a confidence that lies on a bin's border in the bin that ends there.
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64, device=logits.device)
    index = torch.bucketize(confidence.double(), edges[1:-1].contiguous())
    gaps = torch.zeros(bins, dtype=torch.float64, device=logits.device)
    gaps.scatter_add_(0, index, hit.double() - confidence.double())
    return (gaps.abs().sum() / len(y)).float()


def signed_bias(logits: Tensor, y: Tensor) -> Tensor:
    """Mean confidence minus accuracy: positive for an over-confident network.

    Args:
        logits: (N, K) network output.
        y: (N,) class indices.

    Returns:
        Scalar in [-1, 1].
    """
    confidence, hit = _confidence(logits, y)
    return (confidence.double().mean() - hit.double().mean()).float()


def scores(logits: Tensor, y: Tensor) -> dict[str, float]:
    """All of the above by the names of a leaderboard row.

    Args:
        logits: (N, K) network output.
        y: (N,) class indices.

    Returns:
        ``top1``, ``top5`` (with more than 5 classes) in percent, ``nll``, ``ece``, ``brier``,
        ``bias``.
    """
    values = {"top1": topk(logits, y)}
    if logits.shape[1] > 5:
        values["top5"] = topk(logits, y, 5)
    values |= {
        "nll": nll(logits, y),
        "ece": ece(logits, y),
        "brier": brier(logits, y),
        "bias": signed_bias(logits, y),
    }
    return {name: float(value) for name, value in values.items()}


def _confidence(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    confidence = logits.float().softmax(dim=1).amax(dim=1)
    return confidence, logits.argmax(dim=1) == y  # probabilities can tie where logits do not
