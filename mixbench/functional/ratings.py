"""From what people see in a mixed image to the weight in its label.

Collins et al., "Human-in-the-Loop Mixup", UAI 2023, arXiv:2211.01202; data
cambridge-mlg/hill-mixup.
"""

from typing import NamedTuple

import torch
from torch import Generator, Tensor

from mixbench.functional.mixed import readable

RATING_RULES = ("mean", "median", "conf_weighted", "shrink_half", "published_weighted")
RELABEL_RULES = ("smooth_uniform", "per_annotator", *RATING_RULES)


def rated_lam(ratings: Tensor, confidence: Tensor | None = None, *, rule: str = "mean") -> Tensor:
    """One weight for each image from the judgements of several people.

    Args:
        ratings: (N, R) weight of the first image as each person sees it, in [0, 1]; NaN where
            fewer than R people judged.
        confidence: (N, R) how sure each was, in [0, 1]; needed by the rules that use it.
        rule: ``mean``; ``median``; ``conf_weighted``, the mean weighted by confidence;
            ``shrink_half``, the mean after each rating is drawn towards 1/2 by what its confidence
            lacks; ``published_weighted``, the mean of confidence times rating, which is the field
            "Weighted Re-Label" of the published data.

    Returns:
        (N,) weights of the first image, NaN where nobody judged, or where nobody was sure at all
        under ``conf_weighted``.

    Raises:
        ValueError: If the rule is unknown, a needed confidence is missing, the shapes differ, or
            a value lies outside [0, 1].

    Note:
        ``published_weighted`` draws towards 0, that is towards the second image: swapping the pair
        does not swap the label. It serves to reproduce the published file, not to train.

    Example:
        >>> rated_lam(torch.tensor([[0.4, 0.6, 0.8]]), rule="median")
        tensor([0.6000])
        >>> rated_lam(torch.tensor([[1.0]]), torch.tensor([[0.5]]), rule="shrink_half")
        tensor([0.7500])
    """
    if rule not in RATING_RULES:
        raise ValueError(f"rule must be one of {', '.join(RATING_RULES)}, got {rule!r}")
    _check("ratings", ratings)
    if rule == "mean":
        return ratings.nanmean(dim=1)
    if rule == "median":
        return ratings.nanquantile(0.5, dim=1)
    if confidence is None:
        raise ValueError(f"{rule} needs the confidence of each rating; choose mean or median")
    _check("confidence", confidence)
    if confidence.shape != ratings.shape:
        shapes = f"{tuple(ratings.shape)} and {tuple(confidence.shape)}"
        raise ValueError(f"ratings and confidence must have one shape, got {shapes}")
    weight = confidence.where(~ratings.isnan(), torch.nan)
    if rule == "conf_weighted":
        return (weight * ratings).nansum(dim=1) / weight.nansum(dim=1)
    if rule == "shrink_half":
        return (weight * ratings + (1 - weight) / 2).nanmean(dim=1)
    return (weight * ratings).nanmean(dim=1)


def relabel(
    first: Tensor,
    second: Tensor,
    ratings: Tensor,
    confidence: Tensor | None = None,
    *,
    rule: str = "smooth_uniform",
    omega: float = 0.5,
    rater: Tensor | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """Soft labels of mixed images by what people see in them.

    Args:
        first: (N, K) labels of the first images.
        second: (N, K) labels of the second images.
        ratings: (N, R), as for :func:`rated_lam`; each image has one at least.
        confidence: (N, R), as for :func:`rated_lam`; needed by ``smooth_uniform``, too.
        rule: One of :func:`rated_lam`; ``smooth_uniform``, their mean with :func:`smooth_label` by
            the mean confidence; or ``per_annotator``, the rating of one person alone.
        omega: Weight of the uniform label where nobody is sure, in [0, 1], of ``smooth_uniform``.
        rater: (N,) which of an image's own ratings ``per_annotator`` takes, counted from 0 without
            those that are NaN; drawn if None.
        generator: Draws them.

    Returns:
        (N, K) soft labels, whose sums are those of the labels.

    Raises:
        ValueError: As :func:`rated_lam`; if the labels do not fit, an image was judged by nobody,
            or ``omega`` or ``rater`` is out of range.

    Example:
        >>> first, second = torch.eye(4)[:1], torch.eye(4)[1:2]
        >>> relabel(first, second, torch.tensor([[0.4, 0.8]]), rule="mean")
        tensor([[0.6000, 0.4000, 0.0000, 0.0000]])
        >>> relabel(first, second, torch.tensor([[1.0]]), torch.tensor([[0.0]]))
        tensor([[0.6250, 0.1250, 0.1250, 0.1250]])
    """
    if rule not in RELABEL_RULES:
        raise ValueError(f"rule must be one of {', '.join(RELABEL_RULES)}, got {rule!r}")
    _check("ratings", ratings)
    if first.shape != second.shape or first.ndim != 2 or len(first) != len(ratings):
        shapes = f"{tuple(first.shape)}, {tuple(second.shape)} and {tuple(ratings.shape)}"
        raise ValueError(f"labels (N, K) of both images and ratings (N, R) must fit, got {shapes}")
    present = ~ratings.isnan()
    if readable(ratings) and not bool(present.any(dim=1).all()):
        row = int((~present.any(dim=1)).to(torch.uint8).argmax())
        raise ValueError(f"image {row} was judged by nobody; leave it out")
    if rule == "per_annotator":
        lam = _one_rating(ratings, present, rater, generator)
    else:
        smooth = rule == "smooth_uniform"
        if smooth and confidence is None:
            raise ValueError(
                "smooth_uniform needs the confidence of each rating; choose mean or median"
            )
        lam = rated_lam(ratings, confidence, rule="mean" if smooth else rule)
    weight = lam.to(first.dtype)[:, None]
    label = weight * first + (1 - weight) * second
    if rule != "smooth_uniform" or confidence is None:
        return label
    _check("confidence", confidence)
    sure = confidence.where(present, torch.nan).nanmean(dim=1)
    return smooth_label(label, sure, omega=omega)


def smooth_label(targets: Tensor, confidence: Tensor, *, omega: float = 0.5) -> Tensor:
    """Labels drawn towards the uniform one by what people's confidence lacks.

    Args:
        targets: (N, K) soft labels.
        confidence: (N,) or (1,) in [0, 1].
        omega: Weight of the uniform label where the confidence is 0, in [0, 1].

    Returns:
        (N, K) soft labels with the same sums.

    Raises:
        ValueError: If ``omega`` is not in [0, 1].

    Note:
        Ours: that the paper smooths in this form is not known.

    Example:
        >>> smooth_label(torch.tensor([[1.0, 0.0]]), torch.tensor([0.0]), omega=1.0)
        tensor([[0.5000, 0.5000]])
    """
    if not 0 <= omega <= 1:
        raise ValueError(f"omega must lie in [0, 1], got {omega}")
    weight = (omega * (1 - confidence.to(targets.dtype))).reshape(-1, 1)
    return (1 - weight) * targets + weight * targets.mean(dim=1, keepdim=True)


class LabelMap(NamedTuple):
    """What people see at each weight of the first image, piecewise linear between knots.

    ``knots`` (M,) ascend from 0 to 1; at each, ``rated`` (M,) is the weight that people see and
    ``confidence`` (M,) how sure they are. See :func:`mixbench.stats.label_map.fit_label_map`.
    """

    knots: Tensor
    rated: Tensor
    confidence: Tensor

    def lam(self, lam: Tensor) -> Tensor:
        """Weight (N,) of the label at the weight (N,) of the image."""
        return _interpolate(lam, self.knots, self.rated)

    def sureness(self, lam: Tensor) -> Tensor:
        """Confidence (N,) at the weight (N,) of the image."""
        return _interpolate(lam, self.knots, self.confidence)


def top2_clamp(
    first: Tensor,
    share: Tensor,
    second: Tensor,
    second_share: Tensor,
    impossible: Tensor,
    *,
    redistribution: float = 0.1,
) -> Tensor:
    """Soft labels from the two most probable classes that a person names, and those ruled out.

    What the two leave of 1 goes to the classes that are neither named nor ruled out, in equal
    parts. Where they leave nothing, their shares are divided by their sum, ``redistribution`` goes
    to those classes, and the whole is divided by its sum again.

    Collins, Bhatt and Weller, "Eliciting and Learning with Soft Labels from Every Annotator",
    HCOMP 2022, arXiv:2207.00810.

    Args:
        first: (N,) int64 most probable class.
        share: (N,) its probability in [0, 1].
        second: (N,) int64 second class, -1 for none.
        second_share: (N,) its probability in [0, 1]; that of no class is not read.
        impossible: (N, K) bool, True for a class that is ruled out.
        redistribution: Probability that other classes share where the two have all.

    Returns:
        (N, K) soft labels.

    Raises:
        ValueError: If a probability is not in [0, 1], or both classes have probability 0.

    Example:
        >>> one, none = torch.tensor([0]), torch.tensor([-1])
        >>> ruled_out = torch.tensor([[False, False, True]])
        >>> top2_clamp(one, torch.tensor([0.75]), none, torch.tensor([0.0]), ruled_out)
        tensor([[0.7500, 0.2500, 0.0000]])
    """
    named = second >= 0
    shares = torch.stack([share, second_share.where(named, 0)], dim=1)
    if readable(shares) and bool(((shares < 0) | (shares > 1) | shares.isnan()).any()):
        raise ValueError("probabilities must lie in [0, 1]; divide by 100 if they are percent")
    places = torch.stack([first, second.where(named, first)], dim=1)
    label = torch.zeros(impossible.shape, dtype=shares.dtype, device=shares.device)
    label = label.scatter_add(1, places, shares)
    total = label.sum(dim=1, keepdim=True)
    free = (label == 0) & ~impossible
    if readable(label) and bool(((total == 0) & ~free.any(dim=1, keepdim=True)).any()):
        raise ValueError(
            "a label has no class: both have probability 0 and all others are ruled out"
        )
    # In float64 0.7 + 0.3 is less than 1 by rounding, and means that nothing is left.
    whole = total >= 1 - 1e-6
    rest = torch.where(whole, torch.full_like(total, redistribution), 1 - total)
    parts = rest * free / free.sum(dim=1, keepdim=True).clamp(min=1)
    label = torch.where(whole, label / total.clamp(min=1e-12), label) + parts
    return label / label.sum(dim=1, keepdim=True)


def _one_rating(
    ratings: Tensor, present: Tensor, rater: Tensor | None, generator: Generator | None
) -> Tensor:
    """One of the ratings (N, R) of each image, (N,)."""
    counts = present.sum(dim=1)
    if rater is None:
        drawn = torch.rand(len(ratings), generator=generator, dtype=torch.float64)
        rater = (drawn.to(ratings.device) * counts).long()
    elif readable(rater) and bool(((rater < 0) | (rater >= counts)).any()):
        raise ValueError("rater must be at least 0 and below the number of ratings of its image")
    place = ((present.cumsum(dim=1) == rater[:, None] + 1) & present).to(torch.uint8).argmax(dim=1)
    return ratings.gather(1, place[:, None])[:, 0]


def _interpolate(x: Tensor, knots: Tensor, values: Tensor) -> Tensor:
    knots, values = (each.to(x.device, x.dtype, non_blocking=True) for each in (knots, values))
    right = torch.searchsorted(knots, x.contiguous()).clamp(1, len(knots) - 1)
    left = right - 1
    share = (x - knots[left]) / (knots[right] - knots[left])
    return values[left] + share * (values[right] - values[left])


def _check(name: str, values: Tensor) -> None:
    if values.ndim != 2:
        raise ValueError(f"{name} must be (N, R), got {tuple(values.shape)}")
    if ((values < 0) | (values > 1)).any():
        raise ValueError(f"{name} must lie in [0, 1]; divide by 100 if they are percent")
