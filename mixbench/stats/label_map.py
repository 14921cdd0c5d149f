"""A map from the weight of an image to the weight that people see, by isotonic regression.

Barlow and others, "Statistical Inference under Order Restrictions", 1972; scipy computes it.
"""

from typing import NamedTuple

import numpy as np


class FittedMap(NamedTuple):
    """Knots (M,) from 0 to 1, and at each the rated weight and the confidence, all float64."""

    knots: np.ndarray
    rated: np.ndarray
    confidence: np.ndarray


def fit_label_map(true: np.ndarray, rated: np.ndarray, confidence: np.ndarray) -> FittedMap:
    """Fit what people see to what was mixed.

    Which image is called the first means nothing, so that each judgement counts from both sides:
    the map h has h(0) = 0, h(1) = 1 and h(w) + h(1 - w) = 1, and never falls. The confidence
    depends on the distance from 1/2 alone, and never falls with it.

    Args:
        true: (N,) weight of the first image in each judged image, in [0, 1].
        rated: (N,) weight that a person saw, in [0, 1].
        confidence: (N,) how sure the person was, in [0, 1].

    Returns:
        The map, with knots at 0, 1, and the weights that occur, mirrored ones too.

    Raises:
        ValueError: If there is no judgement, the shapes differ, or a value is not in [0, 1].
    """
    from scipy.optimize import isotonic_regression

    arrays = [np.asarray(values, dtype=np.float64) for values in (true, rated, confidence)]
    if not len(arrays[0]) or any(each.shape != arrays[0].shape for each in arrays):
        raise ValueError("the map needs judgements: a weight, a rating and a confidence of each")
    if any(not ((each >= 0) & (each <= 1)).all() for each in arrays):
        raise ValueError("weights, ratings and confidence must be numbers in [0, 1]")
    true, rated, confidence = arrays
    # Rounded, as 1 - 0.9 is not 0.1 in binary and would be a knot of its own.
    both = np.concatenate([true, 1 - true]).round(9)
    knots, place = np.unique(both, return_inverse=True)
    counts = np.bincount(place)
    means = [
        np.bincount(place, np.concatenate(pair)) / counts
        for pair in ((rated, 1 - rated), (confidence, confidence))
    ]
    fitted = isotonic_regression(means[0], weights=counts).x
    # By the distance from 1/2, whose two sides are equal already.
    right = knots >= 0.5
    sure = isotonic_regression(means[1][right], weights=counts[right]).x
    sure = np.interp(np.abs(knots - 0.5), knots[right] - 0.5, sure)
    inside = (knots > 0) & (knots < 1)
    ends = [np.interp([0.0, 1.0], knots, values) for values in (fitted, sure)]
    return FittedMap(
        np.concatenate([[0.0], knots[inside], [1.0]]),
        np.concatenate([[0.0], fitted[inside], [1.0]]),
        np.concatenate([ends[1][:1], sure[inside], ends[1][1:]]),
    )
