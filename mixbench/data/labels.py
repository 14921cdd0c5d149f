"""Labels from another source than the data set, such as people's of CIFAR-10N and CIFAR-10H.

A file is an ``.npz`` with arrays (N,) of class indices, one for each set of labels, in the order of
the original training images: Wei et al., ICLR 2022, arXiv:2110.12088 give the 50,000 labels of
CIFAR-10 as ``aggre_label``, ``worse_label`` and ``random_label1`` to ``random_label3``, beside
``clean_label``, by which the order is checked. Many answers to each test image (CIFAR-10H,
jcpeterson/cifar-10h) are ``counts`` (N, K) and the true classes ``labels`` (N,).
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mixbench.data.classes import whole_numbers
from mixbench.data.files.arrays import Arrays
from mixbench.errors import UserError, near_match
from mixbench.metrics.human import HumanLabels

KEY, CLEAN, WORD = "data.labels", "clean_label", "_label"


class OtherLabels(NamedTuple):
    """One set of labels: its name, (N,) int64 classes, and the true ones where the file has them.

    ``where`` names file and set in messages.
    """

    name: str
    labels: Tensor
    clean: Tensor | None
    where: str

    def fingerprint(self) -> str:
        """Content hash of the labels, wherever they lie."""
        return hashlib.sha256(self.labels.numpy().astype("<i8").tobytes()).hexdigest()


def read_labels(given: str) -> OtherLabels:
    """Read a set of labels.

    Args:
        given: Value of ``data.labels``: a file, and behind a colon which of its sets, whose name
            may leave out ``_label``: ``worse``, ``random1``.

    Returns:
        The labels.

    Raises:
        UserError: If the file is missing or unreadable, or has no such set.
    """
    path, chosen = _divided(given)
    try:
        with Arrays(path) as archive:
            sets = {name: archive[name] for name in archive.names}
    except FileNotFoundError as error:
        raise UserError("no such file of labels", str(path), f"correct {KEY}=") from error
    except (OSError, ValueError) as error:
        raise UserError(
            f"not a readable .npz of labels: {error}", str(path), f"correct {KEY}="
        ) from error
    others = {name.replace(WORD, ""): name for name in sets if name != CLEAN}
    short = chosen.replace(WORD, "") or (next(iter(others), "") if len(others) == 1 else "")
    if short not in others:
        what = f"it has no labels {chosen!r}" if chosen else "it holds several sets of labels"
        hint = near_match(short, others) if chosen else ""
        todo = f"write {KEY}={path}:NAME with one of: {', '.join(others) or 'none'}"
        raise UserError(what + (f"; {hint}" if hint else ""), str(path), todo)
    name = others[short]
    where = f"{path}, {name}"
    clean = whole_numbers(sets[CLEAN], f"{path}, {CLEAN}") if CLEAN in sets else None
    labels = whole_numbers(sets[name], where)
    if clean is not None and len(clean) != len(labels):
        raise UserError(f"{len(labels)} labels but {len(clean)} in {CLEAN}", where)
    return OtherLabels(short, labels, clean, where)


def labels_of(
    other: OtherLabels, labels: Tensor, rows: Tensor | None, class_names: list[str]
) -> Tensor:
    """The other labels of a training set.

    Args:
        other: As read.
        labels: (N,) int64 of the data set itself.
        rows: (N,) place of each image in the original training set; None: they are all there, in
            the original order.
        class_names: Of the data set.

    Returns:
        (N,) int64.

    Raises:
        UserError: If they are not labels of these images.
    """
    if labels.ndim > 1:
        raise UserError("only images of one class each can take other labels", KEY)
    same_set = "use labels of the same data set"
    count = len(other.labels)
    if rows is None and count != len(labels):
        raise UserError(
            f"{count} labels for {len(labels)} training images",
            other.where,
            "use all original images, or a pack with original_index",
        )
    rows = torch.arange(count) if rows is None else rows
    low, high = _ends(rows)
    if low < 0 or high >= count:
        raise UserError(
            f"{count} labels, and the images are rows {low} to {high} of the original ones",
            other.where,
            same_set,
        )
    taken = other.labels[rows]
    low, high = _ends(taken)
    if low < 0 or high >= len(class_names):
        raise UserError(
            f"labels run from {low} to {high} and there are {len(class_names)} classes",
            other.where,
            same_set,
        )
    wrong = 0 if other.clean is None else int((other.clean[rows] != labels).sum())
    if wrong:
        raise UserError(
            f"{CLEAN} differs from the data set for {wrong} of {len(labels)} images: they are "
            "others, or in another order",
            other.where,
            f"{same_set}, and a pack with original_index",
        )
    return taken


def _ends(values: Tensor) -> tuple[int, int]:
    low, high = values.aminmax()
    return int(low), int(high)


def _divided(given: str) -> tuple[Path, str]:
    path, colon, name = given.rpartition(":")
    return (Path(path), name) if colon and not Path(given).exists() else (Path(given), "")


def read_human(path: Path) -> HumanLabels:
    """Read people's answers.

    Args:
        path: An ``.npz`` with ``counts`` (N, K) and optionally ``labels`` (N,).

    Returns:
        The answers, one row per image of the original test set.

    Raises:
        UserError: If it is missing, not such a file, or nobody was asked about an image.
    """
    try:
        with Arrays(path) as archive:
            found = {key: archive[key] for key in archive.names if key in ("counts", "labels")}
    except FileNotFoundError as error:
        raise UserError("no such file of people's answers", str(path)) from error
    except (OSError, ValueError) as error:
        raise UserError(f"not a readable .npz of people's answers: {error}", str(path)) from error
    if (
        "counts" not in found
        or found["counts"].ndim != 2
        or found["counts"].dtype.kind not in "iuf"
    ):
        raise UserError("people's answers need counts (N, K)", str(path), "see cifar10h.npz")
    counts = torch.from_numpy(found["counts"].astype(np.float64))
    if not bool(torch.isfinite(counts).all() and (counts >= 0).all() and (counts.sum(1) > 0).all()):
        raise UserError("an image has negative counts, or no answer", str(path))
    labels = found.get("labels")
    if labels is not None and labels.shape != counts.shape[:1]:
        raise UserError(f"labels {labels.shape} for counts {tuple(counts.shape)}", str(path))
    if labels is not None and (labels.dtype.kind not in "iuf" or (labels % 1 != 0).any()):
        raise UserError("labels must be whole numbers, the true classes", str(path))
    known = None if labels is None else torch.from_numpy(labels.astype(np.int64))
    return HumanLabels(counts, known, Path(path))
