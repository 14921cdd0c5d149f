"""Labels from another source than the data set, such as people's of CIFAR-10N and CIFAR-10H.

A file is an ``.npz`` with arrays (N,) of class indices, one for each set of labels, in the order of
the original training images: Wei et al., ICLR 2022, arXiv:2110.12088 give the 50,000 labels of
CIFAR-10 as ``aggre_label``, ``worse_label`` and ``random_label1`` to ``random_label3``, beside
``clean_label``, by which the order is checked. Many answers to each test image (CIFAR-10H,
jcpeterson/cifar-10h) are ``counts`` (N, K) and the true classes ``labels`` (N,). Soft labels by a
few people each (CIFAR-10S: Collins, Bhatt and Weller, HCOMP 2022, arXiv:2207.00810, data
cambridge-mlg/cifar-10s) are ``soft_label`` (L, K) of the test images ``image_index`` (L,), or the
JSON file of the release, a list of labels by the number of the image.
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
from mixbench.files import read_json
from mixbench.metrics.human import HumanLabels

KEY, CLEAN, WORD = "data.labels", "clean_label", "_label"
SOFT = ("image_index", "soft_label")  # arrays of CIFAR-10S


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


class AnnotatorLabels(NamedTuple):
    """Soft labels (L, K) float64 of single people, and the places (L,) of their images.

    The places are those in the original test set; an image has as many labels as people gave one.
    """

    rows: Tensor
    labels: Tensor


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
        raise UserError(
            "the file of labels does not exist", str(path), f"correct {KEY}="
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(
            f"the file cannot be read as an .npz of labels: {error}", str(path), f"correct {KEY}="
        ) from error
    others = {name.replace(WORD, ""): name for name in sets if name != CLEAN}
    short = chosen.replace(WORD, "") or (next(iter(others), "") if len(others) == 1 else "")
    if short not in others:
        what = (
            f"the file has no set of labels {chosen!r}"
            if chosen
            else "the file holds several sets of labels"
        )
        hint = near_match(short, others) if chosen else ""
        todo = f"write {KEY}={path}:NAME with one of: {', '.join(others) or 'none'}"
        raise UserError(what + (f"; {hint}" if hint else ""), str(path), todo)
    name = others[short]
    where = f"{path}, {name}"
    clean = whole_numbers(sets[CLEAN], f"{path}, {CLEAN}") if CLEAN in sets else None
    labels = whole_numbers(sets[name], where)
    if clean is not None and len(clean) != len(labels):
        raise UserError(
            f"there are {len(labels)} labels but {len(clean)} in {CLEAN}",
            where,
            "give both for the same images",
        )
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
        raise UserError(
            "data.labels needs images with one class each", KEY, "leave it out, or use other data"
        )
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
        path: An ``.npz`` with ``counts`` (N, K) and optionally ``labels`` (N,), or the soft labels
            of CIFAR-10S, which count by their mean.

    Returns:
        The answers, one row per image of the original test set that people were asked about.

    Raises:
        UserError: If it is missing, not such a file, or nobody was asked about an image.
    """
    annotated = read_annotators(path)
    if annotated is not None:
        rows, place = annotated.rows.unique(return_inverse=True)
        sums = torch.zeros(len(rows), annotated.labels.shape[1], dtype=torch.float64)
        sums.index_add_(0, place, annotated.labels)
        return HumanLabels(sums / place.bincount()[:, None], None, Path(path), rows)
    found = _arrays_of(path, ("counts", "labels"))
    if (
        "counts" not in found
        or found["counts"].ndim != 2
        or found["counts"].dtype.kind not in "iuf"
    ):
        todo = "see cifar10h.npz; soft labels are image_index (L,) and soft_label (L, K)"
        raise UserError("people's answers need counts (N, K)", str(path), todo)
    counts = torch.from_numpy(found["counts"].astype(np.float64))
    if not bool(torch.isfinite(counts).all() and (counts >= 0).all() and (counts.sum(1) > 0).all()):
        raise UserError(
            "an image has negative counts, or no answer",
            str(path),
            "give each image at least one answer, and counts >= 0",
        )
    labels = found.get("labels")
    if labels is not None and labels.shape != counts.shape[:1]:
        raise UserError(
            f"there are labels {labels.shape} for counts {tuple(counts.shape)}",
            str(path),
            "give one label for each row of counts",
        )
    if labels is not None and (labels.dtype.kind not in "iuf" or (labels % 1 != 0).any()):
        raise UserError(
            "labels must be whole numbers",
            str(path),
            "give the index of the true class of each image",
        )
    known = None if labels is None else torch.from_numpy(labels.astype(np.int64))
    return HumanLabels(counts, known, Path(path))


def read_annotators(path: Path) -> AnnotatorLabels | None:
    """Read soft labels of single people, as of CIFAR-10S.

    Args:
        path: An ``.npz`` with ``image_index`` (L,) and ``soft_label`` (L, K), or the JSON file of
            the release.

    Returns:
        The labels; None if it is an ``.npz`` of another kind.

    Raises:
        UserError: If it is missing or cannot be read, or a label is none.
    """
    path, where = Path(path), str(path)
    if path.suffix == ".json":
        rows, labels = _release_labels(path)
    else:
        found = _arrays_of(path, SOFT)
        if len(found) < len(SOFT):
            return None
        rows, labels = (found[key] for key in SOFT)
    rows = whole_numbers(rows, where, SOFT[0], "give the place of each image, counted from 0")
    fits = labels.dtype.kind in "iuf" and labels.ndim == 2 and labels.shape[1] > 1
    if not fits or len(labels) != len(rows) or not len(rows):
        what = f"soft_label is {labels.dtype} {labels.shape} for {len(rows)} image_index"
        raise UserError(what, where, "give (L, K) numbers, one row for each label")
    soft = torch.from_numpy(labels.astype(np.float64))
    if not bool(((soft >= 0) & (soft <= 1 + 1e-6)).all()):
        raise UserError("soft labels must lie in [0, 1]", where, "divide by 100 if in percent")
    if bool(((soft.sum(dim=1) - 1).abs() > 1e-3).any()):
        row = int(((soft.sum(dim=1) - 1).abs() > 1e-3).to(torch.uint8).argmax())
        what = f"the soft label of image {int(rows[row])} sums to {float(soft[row].sum()):g}, not 1"
        raise UserError(what, where, "give probabilities of all classes")
    return AnnotatorLabels(rows, soft / soft.sum(dim=1, keepdim=True))


def _release_labels(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        content = read_json(path, limit=64 << 20)
        rows = [int(name) for name, labels in content.items() for _ in labels]
        return np.array(rows), np.array([label for each in content.values() for label in each])
    except FileNotFoundError as error:
        raise UserError(
            "the file of people's answers does not exist", str(path), "correct the path"
        ) from error
    except (OSError, ValueError, TypeError, AttributeError) as error:
        what = f"the file does not map numbers of images to soft labels: {error}"
        raise UserError(
            what, str(path), "give the published file cifar10s_t2clamp_redist10.json"
        ) from error


def _arrays_of(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    try:
        with Arrays(path) as archive:
            return {key: archive[key] for key in archive.names if key in names}
    except FileNotFoundError as error:
        raise UserError(
            "the file of people's answers does not exist", str(path), "correct the path"
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(
            f"the file cannot be read as an .npz of people's answers: {error}",
            str(path),
            "give another file, such as cifar10h.npz",
        ) from error
