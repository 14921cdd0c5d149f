"""Classes that a method harms: change of accuracy by class, with one band for all."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from mixbench.stats.intervals import LEVEL, t_quantile

_MANY = 10**6  # degrees of freedom from which t is normal


@dataclass(frozen=True)
class ClassChange:
    """Advantage of one method on a class, in points of accuracy.

    Attributes:
        label: Class index.
        images: Test images of the class.
        change: Mean accuracy of the one less that of the other.
        low: End of an interval that holds for all classes at once.
        high: Its other end.
    """

    label: int
    images: int
    change: float
    low: float
    high: float


def class_changes(mine: ArrayLike, other: ArrayLike, labels: ArrayLike) -> list[ClassChange]:
    """Change of accuracy of each class, with 95 % intervals that hold for all classes at once.

    For one network of each method the interval of a class is that of Bonett and Price (Journal of
    Educational and Behavioral Statistics 37(4), 2012) for the difference of paired proportions: a
    normal interval after one image has been added that each method alone gets right. Its level is
    1 - 0.05 / K for K classes (Bonferroni), so that the worst class may be looked for afterwards.
    With several seeds an image counts by the mean over them, and the variance that whole classes
    have between seeds is added: pooled over the classes in units of accuracy (1 - accuracy), as a
    class has few seeds, and with t in place of the normal quantile.

    Args:
        mine: (S, N) whether each seed's network is right on each image.
        other: (T, N) the same of the other method.
        labels: (N,) class indices.

    Returns:
        The classes that have images, in the order of their index.

    Raises:
        ValueError: If the arrays are not over the same images, or there is none.
    """
    x, y = (np.atleast_2d(np.asarray(value, dtype=float)) for value in (mine, other))
    classes = np.asarray(labels)
    if x.ndim != 2 or y.ndim != 2 or not x.shape[1] == y.shape[1] == len(classes) > 0:
        raise ValueError(
            "hits must be (seeds, images) on the images of the labels, got "
            f"{x.shape}, {y.shape} and {classes.shape}"
        )
    found = np.unique(classes)
    parts = [classes == label for label in found]
    sizes = np.array([part.sum() for part in parts])
    difference = x.mean(axis=0) - y.mean(axis=0)
    change = np.array([difference[part].mean() for part in parts])
    squares = np.array([(difference[part] ** 2).sum() for part in parts])
    # One image more that is +1 and one that is -1.
    middle = change * sizes / (sizes + 2)
    variance = ((squares + 2) / (sizes + 2) - middle**2) / (sizes + 2)
    freedom = len(found) * (len(x) + len(y) - 2)
    if freedom:
        spread, residual = np.zeros(len(found)), 0.0
        for hits in (x, y):
            scores = np.array([hits[:, part].mean(axis=1) for part in parts])
            right = (scores.mean(axis=1) * sizes + 1) / (sizes + 2)
            unit = right * (1 - right)
            around = ((scores - scores.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
            # What seeds change image by image is part of the variance over images already.
            single = hits.var(axis=0) * len(hits)
            single = np.array([single[part].mean() for part in parts]) / sizes
            residual += float(((around - single) / unit).sum())
            spread += unit / len(hits)
        variance = variance + spread * max(0.0, residual / freedom)
    level = 1 - (1 - LEVEL) / len(found)
    half = t_quantile(freedom or _MANY, level) * np.sqrt(variance)
    low, high = np.maximum(-1, middle - half), np.minimum(1, middle + half)
    return [
        ClassChange(int(label), int(size), *(100 * float(value) for value in values))
        for label, size, *values in zip(found, sizes, change, low, high, strict=True)
    ]
