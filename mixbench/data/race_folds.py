"""Folds of a training set that take turns as the hold-out of a race."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mixbench.data.images import HOLDOUT_LIMIT, SPLIT_SEED, stratified
from mixbench.errors import UserError

FOLDS, MANY_FOLDS = 5, 10
MANY_IMAGES = 10_000  # from which on there are more folds
FEWEST_IMAGES = 50  # of a fold
FEWEST_OF_CLASS = 2  # images of each class in a fold


@dataclass(frozen=True)
class RaceFolds:
    """Folds of a training set.

    Attributes:
        count: How many.
        images: Images of the smallest.
    """

    count: int
    images: int


def choose_folds(labels: Tensor) -> RaceFolds:
    """Number of folds that a training set is divided into.

    Args:
        labels: (N,) int64 classes, or (N, K) float32 with several labels per image.

    Returns:
        Five folds, or ten of a large set; fewer where a fold would be too small.

    Raises:
        UserError: If even two folds would be too small, with the counts.
    """
    most = MANY_FOLDS if len(labels) >= MANY_IMAGES else FOLDS
    image_counts: list[int] = []
    for count in range(most, 1, -1):
        folds = [fold_rows(labels, number, count) for number in range(count)]
        images = min(len(rows) for rows in folds)
        rarest = min(int(_class_counts(labels[rows], labels).min()) for rows in folds)
        if images >= FEWEST_IMAGES and rarest >= FEWEST_OF_CLASS:
            return RaceFolds(count, images)
        image_counts = [images, rarest]
    raise UserError(
        f"{len(labels):,} training images are too few for a race: of two halves one would have "
        f"{image_counts[0]} images, and {image_counts[1]} of the rarest class",
        "data",
        f"a hold-out needs {FEWEST_IMAGES} images and {FEWEST_OF_CLASS} of each class: add images, "
        "or leave out the classes that have hardly any",
    )


def fold_rows(labels: Tensor, number: int, count: int) -> Tensor:
    """Rows of one of several disjoint folds; they are the same for all methods and seeds.

    Args:
        labels: As of :func:`choose_folds`.
        number: The fold, from 0 on.
        count: Number of folds.

    Returns:
        (M,) int64 rows in ascending order, at most 5,000; each class has the same share in each
        fold, and so does the rarest class of images of several.
    """
    key = labels if labels.ndim == 1 else _rarest_class(labels)
    generator = torch.Generator().manual_seed(SPLIT_SEED)
    order = torch.randperm(len(key), generator=generator)
    order = order[key[order].argsort(stable=True)]
    rows = order[number::count].sort().values
    return rows[stratified(labels[rows], HOLDOUT_LIMIT)]


def training_rows(total: int, held_out: Tensor) -> Tensor:
    """Rows that are not held out, in ascending order.

    Args:
        total: Number of images.
        held_out: (M,) int64 rows.
    """
    rest = torch.ones(total, dtype=torch.bool)
    rest[held_out] = False
    return rest.nonzero().flatten()


def _class_counts(labels: Tensor, every: Tensor) -> Tensor:
    """Images of each class that the whole set has."""
    if labels.ndim > 1:
        present = (every == 1).any(dim=0)
        return (labels == 1).sum(dim=0)[present]
    counts = every.bincount()
    return labels.bincount(minlength=len(counts))[counts > 0]


def _rarest_class(labels: Tensor) -> Tensor:
    """The rarest class of each image; one more than there are where it shows none."""
    shown = labels == 1
    counts = shown.sum(dim=0)
    classes = labels.shape[1]
    ranked = counts.argsort(stable=True)  # rarest first
    rank = torch.empty_like(ranked)
    rank[ranked] = torch.arange(classes)
    first = torch.where(shown, rank, classes).min(dim=1).values
    return torch.where(first < classes, first, classes)
