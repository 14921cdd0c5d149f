"""From what people see in a mixed image to the weight in its label.

Collins et al., "Human-in-the-Loop Mixup", UAI 2023, arXiv:2211.01202; data
cambridge-mlg/hill-mixup.
"""

import torch
from torch import Tensor

RATING_RULES = ("mean", "median", "conf_weighted", "shrink_half", "published_weighted")


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


def _check(name: str, values: Tensor) -> None:
    if values.ndim != 2:
        raise ValueError(f"{name} must be (N, R), got {tuple(values.shape)}")
    if ((values < 0) | (values > 1)).any():
        raise ValueError(f"{name} must lie in [0, 1]; divide by 100 if they are percent")
