"""Telling images of the training distribution (ID) from others (OOD) by a score.

A higher score means more in-distribution. Equal scores form one threshold. torchmetrics' measures
are not used: they pass scores outside of [0, 1] through a sigmoid, which makes large logits and
energies equal (76.1 % AUROC became 68.4 %), and they give float32.
"""

import torch
from torch import Tensor

TPR = 0.95
SCORES = ("msp", "maxlogit", "energy", "negentropy")


def ood_score(logits: Tensor, score: str = "msp") -> Tensor:
    """Likeness of each image to the training distribution, by one of four scores.

    Args:
        logits: (N, K) network output.
        score: ``msp`` largest probability (Hendrycks and Gimpel, ICLR 2017, arXiv:1610.02136),
            ``maxlogit`` largest logit, ``energy`` log-sum-exp of the logits (Liu et al., NeurIPS
            2020, arXiv:2010.03759), ``negentropy`` negative entropy in nats.

    Returns:
        (N,) float64, higher for more in-distribution.

    Raises:
        ValueError: If the score is unknown.
    """
    z = logits.double()
    if score == "msp":
        return z.softmax(dim=1).amax(dim=1)
    if score == "maxlogit":
        return z.amax(dim=1)
    if score == "energy":
        return z.logsumexp(dim=1)
    if score == "negentropy":
        logs = z.log_softmax(dim=1)
        return torch.special.xlogy(logs.exp(), logs.exp()).sum(dim=1)
    raise ValueError(f"ood score must be one of {', '.join(SCORES)}, got {score!r}")


def detection_scores(inside: Tensor, outside: Tensor) -> dict[str, float]:
    """Measures of how well a score separates ID from OOD images.

    Args:
        inside: (N,) scores of ID images.
        outside: (M,) scores of OOD images.

    Returns:
        In percent: ``auroc``; ``aupr_in`` (ID positive) and ``aupr_out`` (OOD positive), average
        precision by steps; ``fpr95``, the share of OOD images accepted at the highest threshold
        that accepts 95 % of the ID images, and ``fpr95_oodpos``, the same with OOD positive;
        ``det_acc``, 1 minus the smallest mean of the two error rates over all thresholds.

    Raises:
        ValueError: If either is empty or holds NaN.
    """
    for name, values in (("ID", inside), ("OOD", outside)):
        if not len(values) or values.isnan().any():
            raise ValueError(f"scores of {name} images must be one or more numbers without NaN")
    true, false = _rates(inside, outside)
    # From the stricter threshold to the laxer one, beginning where nothing is accepted.
    begin = true.new_zeros(1)
    x, y = torch.cat([begin, false]), torch.cat([begin, true])
    values = {
        "auroc": ((x[1:] - x[:-1]) * (y[1:] + y[:-1]) / 2).sum(),
        "aupr_in": _average_precision(true, false, len(inside), len(outside)),
        "fpr95": _false_rate(true, false, len(inside)),
        "det_acc": 1 - (x + 1 - y).amin() / 2,
    }
    found, missed = _rates(-outside, -inside)
    values["aupr_out"] = _average_precision(found, missed, len(outside), len(inside))
    values["fpr95_oodpos"] = _false_rate(found, missed, len(outside))
    return {name: 100 * float(value) for name, value in values.items()}


def _rates(positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    """True and false positive rates, (T,), at each distinct score from the highest down."""
    cuts = torch.cat([positive, negative]).unique().flip(0)
    rates = []
    for values in (positive, negative):
        below = torch.searchsorted(values.sort().values, cuts)
        rates.append((len(values) - below).double() / len(values))
    return rates[0], rates[1]


def _average_precision(true: Tensor, false: Tensor, positives: int, negatives: int) -> Tensor:
    hits, alarms = true * positives, false * negatives
    gained = true.diff(prepend=true.new_zeros(1))
    return (gained * hits / (hits + alarms)).sum()


def _false_rate(true: Tensor, false: Tensor, positives: int) -> Tensor:
    # Counted in whole images: 0.95 * N is no float that a rate can be compared with.
    enough = (true * positives).round() >= TPR * positives - 1e-9 * positives
    return false[enough.to(torch.uint8).argmax()]
