"""Calibration and selective prediction of single-label predictions, from float32 logits.

torchmetrics' calibration error is not used: its bins are closed on the left, a confidence of
exactly 1 falls into an extra bin, and logits that all lie in [0, 1] are taken as probabilities.
Every function takes logits, so that the softmax is always the one of float32.

Scores that sort samples take the mean over all orders of equally confident ones, so that the order
of the files decides nothing. Logits that are not numbers give scores that are none.
"""

from typing import NamedTuple

import torch
from torch import Tensor

BINS = 15
REDRAWS = 200
TIE = 1e-12  # relative distance of log-odds below which two samples are equally confident
_ROWS = 8192  # logits that are held in float64 at a time


class Reliability(NamedTuple):
    """Bins of a reliability diagram, each (bins,) float64; an empty bin has means of 0."""

    counts: Tensor
    confidence: Tensor
    accuracy: Tensor


class Floor(NamedTuple):
    """The calibration error that perfect calibration would show, (), by chance alone."""

    mean: Tensor
    quantile: Tensor


def confidence_and_hit(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Probability of the predicted class, and whether that class is right.

    Args:
        logits: (N, K) network output.
        y: (N,) class indices.

    Returns:
        (N,) float64 confidence, the softmax of float32, and (N,) bool.
    """
    confidence = logits.float().softmax(dim=1).amax(dim=1).double()
    return confidence, logits.argmax(dim=1) == y  # probabilities can tie where logits do not


def log_odds(logits: Tensor) -> Tensor:
    """Logarithm of p / (1 - p) of the predicted class, which orders samples by their confidence.

    Neither a softmax of float32 nor one of float64 can order sure predictions: they round to 1 from
    differences of 17 and 37 between logits on.

    Args:
        logits: (N, K) network output.

    Returns:
        (N,) float64; infinite where no other class is possible, NaN where a logit is NaN.
    """
    found = []
    for part in logits.split(_ROWS):
        top, first = part.double().max(dim=1, keepdim=True)
        others = (part.double() - top).scatter(1, first, -torch.inf)
        found.append(0 * top[:, 0] - others.logsumexp(dim=1))  # 0 * NaN and 0 * inf are NaN
    return torch.cat(found)


def reliability(logits: Tensor, y: Tensor, bins: int = BINS) -> Reliability:
    """Confidence and accuracy in bins of equal width, closed on the right, ``(lo, hi]``.

    Args:
        logits: (N, K) network output.
        y: (N,) class indices.
        bins: Number of bins.

    Returns:
        The bins in the order of their confidence.
    """
    return _binned(*confidence_and_hit(logits, y), bins)


def ece(logits: Tensor, y: Tensor, bins: int = BINS) -> Tensor:
    """Expected calibration error: mean gap of confidence and accuracy over equal-width bins.

    The gap is absolute and weighted by the bin's share of the samples (Guo et al., ICML 2017,
    arXiv:1706.04599).

    Args:
        logits: (N, K) network output.
        y: (N,) class indices.
        bins: Number of bins.

    Returns:
        Scalar in [0, 1].
    """
    return ece_of_confidence(*confidence_and_hit(logits, y), bins)


def ece_of_confidence(confidence: Tensor, hit: Tensor, bins: int = BINS) -> Tensor:
    """Expected calibration error, of what :func:`confidence_and_hit` returns.

    Args:
        confidence: (N,) float64 probability of the predicted class.
        hit: (N,) bool, whether it is right.
        bins: Number of bins.

    Returns:
        Scalar in [0, 1].
    """
    counts, sure, right = _binned(confidence, hit, bins)
    return (counts * (sure - right).abs()).sum() / len(hit)


def maxce(logits: Tensor, y: Tensor, bins: int = BINS) -> Tensor:
    """Maximum calibration error (MCE of papers): the largest gap of a bin that holds samples.

    Args:
        logits: (N, K) network output.
        y: (N,) class indices.
        bins: Number of bins.

    Returns:
        Scalar in [0, 1].
    """
    return _gaps(logits, y, bins)[1].abs().amax()


def rmsce(logits: Tensor, y: Tensor, bins: int = BINS) -> Tensor:
    """Root of the mean squared gap, weighted by the bin's share of the samples.

    Args:
        logits: (N, K) network output.
        y: (N,) class indices.
        bins: Number of bins.

    Returns:
        Scalar in [0, 1].
    """
    counts, gap = _gaps(logits, y, bins)
    return ((counts * gap.square()).sum() / len(y)).sqrt()


def equal_mass_rmsce(logits: Tensor, y: Tensor, size: int = 100, legacy: bool = False) -> Tensor:
    """Root of the mean squared gap over bins of ``size`` samples each, the last one larger.

    After Hendrycks et al., CVPR 2022, arXiv:2112.05135, whose code leaves out the bin of the most
    confident samples. Equally confident samples are shared between bins as in
    :func:`adaptive_ece`.

    Args:
        logits: (N, K) network output.
        y: (N,) class indices.
        size: Samples of a bin; the last one takes what is left, too.
        legacy: Leave out the last bin, whose samples still count in N.

    Returns:
        Scalar in [0, 1]; with ``legacy`` 0 where there is one bin only.
    """
    confidence, hit = confidence_and_hit(logits, y)
    gaps = _ascending(hit.double() - confidence, log_odds(logits))
    bins = max(1, len(y) // size)
    parts = list(gaps[: (bins - 1) * size].split(size)) if bins > 1 else []
    parts += [] if legacy else [gaps[(bins - 1) * size :]]
    total = torch.stack([gaps.new_zeros(()), *(len(p) * p.mean().square() for p in parts)]).sum()
    return (total / len(y)).sqrt()


def overconfidence_error(logits: Tensor, y: Tensor, bins: int = BINS) -> Tensor:
    """Gaps of over-confident bins, weighted by their share of the samples and their confidence.

    After Thulasidasan et al., NeurIPS 2019, arXiv:1905.11001.

    Args:
        logits: (N, K) network output.
        y: (N,) class indices.
        bins: Number of bins.

    Returns:
        Scalar in [0, 1].
    """
    counts, confidence, accuracy = reliability(logits, y, bins)
    over = (confidence - accuracy).clamp(min=0)
    return (counts * confidence * over).sum() / len(y)


def adaptive_ece(logits: Tensor, y: Tensor, bins: int = BINS) -> Tensor:
    """Calibration error over bins of equal count, as even as N allows, the first ones larger.

    Nixon et al., CVPR Workshops 2019, arXiv:1904.01685. Where a border falls among equally
    confident samples, both sides take them in the same proportion of right and wrong ones: the gap
    of a bin is its mean over all orders of them.

    Args:
        logits: (N, K) network output.
        y: (N,) class indices.
        bins: Number of bins.

    Returns:
        Scalar in [0, 1].
    """
    confidence, hit = confidence_and_hit(logits, y)
    parts = _ascending(hit.double() - confidence, log_odds(logits)).tensor_split(bins)
    return torch.stack([part.sum().abs() for part in parts]).sum() / len(y)


def classwise_ece(logits: Tensor, y: Tensor, bins: int = BINS) -> Tensor:
    """Mean over the classes of the calibration error of "it is class k" with probability p_k.

    Args:
        logits: (N, K) network output.
        y: (N,) class indices.
        bins: Number of bins.

    Returns:
        Scalar in [0, 1].
    """
    classes = logits.shape[1]
    probs = logits.float().softmax(dim=1).double()
    gaps = torch.zeros(classes * bins, dtype=torch.float64, device=logits.device)
    place = _bin(probs, bins) + bins * torch.arange(classes, device=logits.device)
    gaps.scatter_add_(0, place.flatten(), probs.flatten())
    gaps.scatter_add_(0, place.gather(1, y[:, None])[:, 0], -torch.ones_like(probs[:, 0]))
    return gaps.abs().sum() / (len(y) * classes)


def signed_bias(logits: Tensor, y: Tensor) -> Tensor:
    """Mean confidence minus accuracy: positive for an over-confident network.

    Args:
        logits: (N, K) network output.
        y: (N,) class indices.

    Returns:
        Scalar in [-1, 1].
    """
    confidence, hit = confidence_and_hit(logits, y)
    return confidence.mean() - hit.double().mean()


def ece_openmixup(logits: Tensor, y: Tensor, bins: int = 10) -> Tensor:
    """The number that OpenMixup prints as ECE, for comparison with its tables only.

    It sorts the accuracies and the confidences of the bins apart from each other before it takes
    their gaps, so that it is no calibration error.

    Args:
        logits: (N, K) network output.
        y: (N,) class indices.
        bins: Number of bins; OpenMixup has 10.

    Returns:
        Scalar in [0, 1].
    """
    counts, confidence, accuracy = reliability(logits, y, bins)
    gap = confidence.sort().values - accuracy.sort().values
    return (counts * gap.abs()).sum() / len(y)


def ece_floor(
    logits: Tensor, bins: int = BINS, redraws: int = REDRAWS, seed: int = 0, level: float = 0.95
) -> Floor:
    """The calibration error that these confidences show by chance if they are all true.

    Whether a prediction is right is redrawn with its own confidence as probability. An error
    below the quantile is no sign of miscalibration.

    Args:
        logits: (N, K) network output.
        bins: Number of bins.
        redraws: Number of draws.
        seed: Seed of the draws; the result is the same on every device.
        level: Level of the quantile.

    Returns:
        Mean and quantile of the error over the draws.
    """
    confidence = logits.float().softmax(dim=1).amax(dim=1).double().cpu()
    generator = torch.Generator().manual_seed(seed)
    place, errors = _bin(confidence, bins), []
    for _ in range(redraws):
        hit = torch.rand(len(confidence), generator=generator, dtype=torch.float64) < confidence
        gaps = torch.zeros(bins, dtype=torch.float64)
        gaps.scatter_add_(0, place, hit.double() - confidence)
        errors.append(gaps.abs().sum() / len(confidence))
    values = torch.stack(errors)
    return Floor(values.mean(), values.quantile(level))


def aurc(logits: Tensor, y: Tensor) -> Tensor:
    """Area under the risk-coverage curve by the trapezoid rule, over coverage 1/N to 1.

    This is torch-uncertainty's definition: Geifman and El-Yaniv, NeurIPS 2017, arXiv:1705.08500,
    as its mean over all orders of equally confident samples. Of m of them, of which w are wrong,
    the first j hold j * w / m wrong ones on average, and the area is linear in these numbers.

    Args:
        logits: (N, K) network output.
        y: (N,) class indices.

    Returns:
        Scalar in [0, 1]; NaN for fewer than two samples.
    """
    return _area(_risks(logits, y))


def aurc_mean(logits: Tensor, y: Tensor) -> Tensor:
    """The plain definition of :func:`aurc`: the mean risk over all coverages.

    Args:
        logits: (N, K) network output.
        y: (N,) class indices.

    Returns:
        Scalar in [0, 1].
    """
    return _risks(logits, y).mean()


def augrc(logits: Tensor, y: Tensor) -> Tensor:
    """Area under the generalised risk-coverage curve: risk times coverage.

    Traub et al., NeurIPS 2024, arXiv:2407.01032; normalised as :func:`aurc`.

    Args:
        logits: (N, K) network output.
        y: (N,) class indices.

    Returns:
        Scalar in [0, 1]; NaN for fewer than two samples.
    """
    risks = _risks(logits, y)
    return _area(risks * torch.arange(1, len(y) + 1, device=risks.device) / len(y))


def _bin(values: Tensor, bins: int) -> Tensor:
    # float64 keeps a value that lies on a bin's border in the bin that ends there.
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64, device=values.device)
    return torch.bucketize(values, edges[1:-1].contiguous())


def _binned(confidence: Tensor, hit: Tensor, bins: int) -> Reliability:
    place = _bin(confidence, bins)
    sums = torch.zeros(3, bins, dtype=torch.float64, device=confidence.device)
    rows = torch.stack([torch.ones_like(confidence), confidence, hit.double()])
    sums.scatter_add_(1, place.expand(3, -1), rows)
    counts = sums[0]
    return Reliability(counts, *(sums[1:] / counts.clamp(min=1)))


def _gaps(logits: Tensor, y: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    counts, confidence, accuracy = reliability(logits, y, bins)
    return counts, confidence - accuracy


def _risks(logits: Tensor, y: Tensor) -> Tensor:
    """Share of wrong ones among the k most confident, for k = 1..N, on average over ties."""
    odds = log_odds(logits)
    wrong = (logits.argmax(dim=1) != y).double().where(~odds.isnan(), torch.nan)
    expected = _ascending(wrong, odds).flip(0).cumsum(0)
    return expected / torch.arange(1, len(y) + 1, device=y.device)


def _ascending(values: Tensor, key: Tensor) -> Tensor:
    """Values (N,) in the order of their keys (N,), those of equal keys replaced by their mean."""
    key, order = key.sort()
    apart = key.diff() > TIE * key[:-1].abs().clamp(min=1)
    group = torch.cat([apart.new_zeros(1), apart]).cumsum(0)
    means = values.new_zeros(len(values)).scatter_reduce_(
        0, group, values[order], "mean", include_self=False
    )
    return means[group]


def _area(values: Tensor) -> Tensor:
    return ((values[1:] + values[:-1]) / 2).mean()
