"""Accuracy and likelihood of single-label predictions, and all scores by their names."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mixbench.metrics import calibration as cal
from mixbench.metrics.temperature import cross_fit, fit_temperature


def topk(logits: Tensor, y: Tensor, k: int = 1) -> Tensor:
    """Share of samples whose label is among the k largest logits.

    Of equal logits the class of the lowest index comes first; torchmetrics leaves their order to
    the sort of the device.

    Args:
        logits: (N, K) network output.
        y: (N,) class indices.
        k: Number of guesses.

    Returns:
        Scalar in percent; NaN where a logit is NaN.
    """
    own = logits.gather(1, y[:, None])
    earlier = torch.arange(logits.shape[1], device=y.device) < y[:, None]
    ahead = ((logits > own) | ((logits == own) & earlier)).sum(dim=1)
    # A logit that is not a number beats nothing, which must not count as a hit.
    hit = (ahead < k).double().where(~logits.isnan().any(dim=1), torch.nan)
    return 100 * hit.mean()


def worst_class_accuracy(logits: Tensor, y: Tensor) -> Tensor:
    """Accuracy of the class whose samples are recognised least often.

    Args:
        logits: (N, K) network output.
        y: (N,) class indices; classes without a sample do not count.

    Returns:
        Scalar in percent; NaN where a logit is NaN.
    """
    hit = (logits.argmax(dim=1) == y).double().where(~logits.isnan().any(dim=1), torch.nan)
    counts = y.bincount(minlength=logits.shape[1])
    hits = torch.zeros(len(counts), dtype=torch.float64, device=y.device).index_add_(0, y, hit)
    return 100 * (hits / counts)[counts > 0].amin()


def two_class_hits(logits: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Whether the two best guesses for each mixed image are its two classes.

    Args:
        logits: (N, K) network output, of at least two classes.
        first: (N,) class of one image.
        second: (N,) class of its partner.

    Returns:
        (N,) bool; where both are of one class, whether it is the best guess.

    Example:
        >>> logits = torch.tensor([[2.0, 1.0, 0.0]]).expand(3, 3)
        >>> two_class_hits(logits, torch.tensor([1, 0, 1]), torch.tensor([0, 2, 1]))
        tensor([ True, False, False])
    """
    best = logits.topk(2, dim=1).indices
    both = ((best == first[:, None]) | (best == second[:, None])).sum(dim=1) == 2
    return torch.where(first == second, best[:, 0] == first, both)


def nll(logits: Tensor, y: Tensor) -> Tensor:
    """Mean negative log-likelihood of the labels.

    Args:
        logits: (N, K) network output.
        y: (N,) class indices.

    Returns:
        Scalar in nats.
    """
    return F.cross_entropy(logits.float(), y, reduction="none").double().mean()


def brier(logits: Tensor, y: Tensor) -> Tensor:
    """Mean squared distance between probabilities and one-hot labels, summed over classes.

    Args:
        logits: (N, K) network output.
        y: (N,) class indices.

    Returns:
        Scalar in [0, 2].
    """
    probs = logits.float().softmax(dim=1)
    return (probs - F.one_hot(y, logits.shape[1])).square().sum(dim=1).double().mean()


def curve_scores(logits: Tensor, y: Tensor) -> dict[str, float]:
    """The scores that are worth a curve over epochs.

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
        "ece": cal.ece(logits, y),
        "brier": brier(logits, y),
        "bias": cal.signed_bias(logits, y),
    }
    return {name: float(value) for name, value in values.items()}


def scores(
    logits: Tensor, y: Tensor, holdout: tuple[Tensor, Tensor] | None = None
) -> dict[str, float]:
    """Accuracy, likelihood and calibration by the names of a leaderboard row.

    Args:
        logits: (N, K) network output.
        y: (N,) class indices.
        holdout: (M, K) logits and (M,) labels of a part of the training set, where there is one.

    Returns:
        :func:`curve_scores`; ``maxce``, ``rmsce``, ``aece``, ``cwece``, ``oe``; ``ece_floor`` and
        ``ece_floor_95``, see :func:`mixbench.metrics.ece_floor`; ``ece_openmixup``. With two
        samples or more ``aurc``, ``augrc``, and after cross-fitted temperature scaling ``nll_cf``,
        ``ece_cf``, ``aece_cf``, ``oe_cf``, ``brier_cf``, with ``T``, the geometric mean of the two
        temperatures. With a hold-out the five again with ``_ts``, scaled by its temperature
        ``T_ts``.
    """
    floor = cal.ece_floor(logits)
    values = {
        "maxce": cal.maxce(logits, y),
        "rmsce": cal.rmsce(logits, y),
        "aece": cal.adaptive_ece(logits, y),
        "cwece": cal.classwise_ece(logits, y),
        "oe": cal.overconfidence_error(logits, y),
        "ece_floor": floor.mean,
        "ece_floor_95": floor.quantile,
        "ece_openmixup": cal.ece_openmixup(logits, y),
    }
    if len(y) > 1:
        values |= {"aurc": cal.aurc(logits, y), "augrc": cal.augrc(logits, y)}
        scaled, temperatures = cross_fit(logits, y)
        values |= _scaled(scaled, y, "cf")
        values["T"] = temperatures.log().mean().exp()
    if holdout is not None:
        temperature = fit_temperature(*holdout)
        values |= _scaled((logits.double() / temperature).float(), y, "ts")
        values["T_ts"] = temperature
    return curve_scores(logits, y) | {name: float(value) for name, value in values.items()}


def _scaled(logits: Tensor, y: Tensor, suffix: str) -> dict[str, Tensor]:
    return {
        f"nll_{suffix}": nll(logits, y),
        f"ece_{suffix}": cal.ece(logits, y),
        f"aece_{suffix}": cal.adaptive_ece(logits, y),
        f"oe_{suffix}": cal.overconfidence_error(logits, y),
        f"brier_{suffix}": brier(logits, y),
    }
