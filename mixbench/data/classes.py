"""Labels as files store them, and the classes they stand for: one rule for every reader.

A label is a whole number or a text. Nothing is cut, guessed or left out: what is neither is refused
with its number and its first place.
"""

import ast
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mixbench.errors import UserError

MAX_CLASSES = 100_000  # without names; ImageNet-21k has 21,841
SHOWN_CLASSES = 10  # classes named in a message
_REMEDY = "number the classes 0, 1, 2, ..., or name the class of each image in text"
_MISSING = "give each image a label, or leave these images out"
_SEVERAL = (
    "packs have one class per image, and labels of several classes are not supported: give the "
    "index of one (N,), or a row with a single 1"
)


class Labels(NamedTuple):
    """Labels (N,) int64 of a file, and the names of their classes; empty where it has none.

    ``columns`` is the number of classes where labels were one-hot rows, else 0. Names that come
    ``from_text``, from the labels themselves, say nothing of the numbers of another file.
    """

    indices: Tensor
    names: list[str]
    columns: int = 0
    from_text: bool = False

    @property
    def classes(self) -> list[str]:
        """The names; where there are none, a number for each column or up to the largest label."""
        count = self.columns or int(self.indices.max()) + 1
        return self.names or [str(index) for index in range(count)]

    def fit(self, other: "Labels") -> bool:
        """Tell whether these labels without names can be numbers of the classes of `other`."""
        count = len(other.names)
        return not other.from_text and self.columns in (0, count) and len(self.classes) <= count


def stored_labels(values: np.ndarray, names: list[str], where: str, images: int) -> Labels:
    """Class indices from labels of any kind.

    Args:
        values: Whole numbers (N,) or (N, 1) of any type, one-hot rows (N, K), or texts (N,), which
            are class names and numbered in sorted order where ``names`` does not say otherwise.
        names: Class names that the file gives; empty if none.
        where: File, for the message.
        images: Number of images.

    Returns:
        Labels and class names.

    Raises:
        UserError: If their number differs, there are none, or some are missing, no whole numbers,
            or out of range.
    """
    if np.ndim(values) and len(values) != images:
        raise UserError(
            f"there are {images} images but {len(values)} labels",
            where,
            "give one label for each image",
        )
    values = _squeezed(_plain(np.asarray(values), where), where)
    if values.dtype.kind in "US":
        return _from_text(texts(values), names, where)
    if values.ndim == 2:
        indices = _from_one_hot(values, where)
        columns = values.shape[1]
        if names and len(names) != columns:
            what = f"labels have {columns} one-hot columns, and there are {len(names)} class names"
            raise UserError(what, where, "give a name for each column")
    else:
        indices, columns = whole_numbers(values, where), 0
    low, high = (int(end) for end in indices.aminmax())
    if names and high >= len(names):
        counted = low == 1 and high == len(names)
        raise UserError(
            f"labels run from {low} to {high} but there are {len(names)} class names",
            where,
            "they seem to count from 1: take 1 from each" if counted else "correct the labels",
        )
    if high >= MAX_CLASSES and not names:
        what = f"a label is {high}, which would make {high + 1:,} classes"
        raise UserError(what, where, _REMEDY)
    return Labels(indices, names, columns)


def whole_numbers(
    values: np.ndarray, where: str, of: str = "labels", todo: str | None = None
) -> Tensor:
    """Numbers that are whole and not negative.

    Args:
        values: (N,) numbers of any type, or (N, 1).
        where: File, for the message.
        of: Noun in the plural for them.
        todo: What to do about others; as for labels if None.

    Returns:
        (N,) int64.

    Raises:
        UserError: Otherwise, with how many are not and the first of them.
    """
    missing, todo = todo or _MISSING, todo or _REMEDY
    values = _squeezed(_plain(np.asarray(values), where, of, missing), where, of, todo)
    if values.dtype.kind not in "biuf" or values.ndim != 1:
        what = f"{of} must be whole numbers (N,), got {values.dtype} {values.shape}"
        raise UserError(what, where, todo)
    if values.dtype.kind == "f":
        _refuse(np.isnan(values), values, f"{of} are missing", where, missing)
        _refuse(values != np.floor(values), values, f"{of} are not whole numbers", where, todo)
    if values.dtype.kind != "b":
        _refuse(values < 0, values, f"{of} are negative", where, missing)
    if values.dtype.kind in "uf":
        wide = values.astype(np.float64)  # rounds 2**63 - 1 up, which is no class either
        _refuse(wide >= 2.0**63, values, f"{of} are out of range", where, todo)
    return torch.from_numpy(values.astype(np.int64))


def texts(values: Any) -> list[str]:
    """Texts from text, bytes, or text that is the Python spelling of bytes.

    Args:
        values: Any of them, in any order.

    Returns:
        Each as text.
    """
    return [_text(value) for value in values]


def class_names(values: np.ndarray, where: str, *, repeated: bool = False) -> list[str]:
    """Names of classes.

    Args:
        values: (K,) names.
        where: File, for the message.
        repeated: Whether two classes may share a name, as they have ids besides.

    Returns:
        The names as text.

    Raises:
        UserError: If they are no list, or two are equal.
    """
    if np.ndim(values) != 1:
        raise UserError(
            f"class names must be (K,), got {np.shape(values)}",
            where,
            "give one name for each class",
        )
    names = texts(values)
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice and not repeated:
        raise UserError(
            f"class names occur more than once: {first_names(twice)}",
            where,
            "give each class its own",
        )
    return names


def joined_classes(train: Labels, test: Labels, take: str, where: str) -> tuple[list[str], Tensor]:
    """The classes of a data set from those of its training and of its test images.

    Args:
        train: Of the training images.
        test: Of the test images.
        take: Value of ``data.classes``: ``both`` have to name the same classes in the same order,
            or those of ``train`` count and the test images may lack some. Names of one file serve
            both where the labels of the other are numbers that fit.
        where: Files or keys, for the message.

    Returns:
        Class names, and the labels (N,) of the test images as indices of these.

    Raises:
        UserError: If they differ, or a test image has a class that is unknown to training.
    """
    names, others = train.classes, test.classes
    if names == others:
        return names, test.indices
    if bool(train.names) != bool(test.names):
        named, bare = (train, test) if train.names else (test, train)
        if bare.fit(named):
            return named.names, test.indices
        has, lacks = ("training", "test") if named is train else ("test", "training")
        why = f"their {len(bare.classes)} numbers do not fit the {len(named.names)} names of the"
        why = "there are no numbers for the names of the" if named.from_text else why
        raise UserError(
            f"the {lacks} images have no class names, and {why} {has} images",
            where,
            "name the classes in both files (class_names)",
        )
    present = [others[index] for index in test.indices.unique().tolist()]
    place = {name: index for index, name in enumerate(names)}
    unknown = [name for name in present if name not in place]
    if unknown:
        raise UserError(
            f"the test images have {len(unknown)} classes that training lacks: "
            f"{first_names(unknown)}",
            where,
            "use training and test images of the same data set",
        )
    if take == "both" or len(place) < len(names):
        raise UserError(
            f"training and test images have different classes: {_difference(train, test)}",
            where,
            "use images of the same data set; data.classes=train takes the classes of the training "
            "images, where test images may lack some",
        )
    return names, torch.tensor([place.get(name, -1) for name in others])[test.indices]


def class_notices(train: Tensor, test: Tensor, names: Sequence[str]) -> list[str]:
    """Say which classes have no image.

    Args:
        train: (N,) labels of the training images, or (N, K) of multi-label data.
        test: The same of the test images.
        names: Of the K classes.

    Returns:
        Sentences; none where each class has an image in both parts.
    """
    empty = [class_counts(labels, len(names)) == 0 for labels in (train, test)]
    found = []
    for part, lacks in zip(("training", "test"), empty, strict=True):
        lost = [str(names[index]) for index in lacks.nonzero().flatten().tolist()]
        if lost:
            found.append(
                f"no {part} image of {len(lost)} of {len(names)} classes: {first_names(lost)}"
            )
    nowhere = (empty[0] & empty[1]).nonzero().flatten().tolist()
    if nowhere and list(names) == [str(index) for index in range(len(names))]:
        gap = "count from 1" if nowhere == [0] else f"leave out {len(nowhere)} numbers"
        found.append(
            f"labels {gap}: the network has {len(names)} outputs for {len(names) - len(nowhere)} "
            "classes; numbers from 0 on without a gap, or labels in text, avoid that"
        )
    return found


def class_counts(labels: Tensor, classes: int) -> Tensor:
    """Images of each class.

    Args:
        labels: (N,) int64, or (N, K) of multi-label data.
        classes: K.

    Returns:
        (K,) int64.
    """
    return (labels == 1).sum(0) if labels.ndim > 1 else labels.bincount(minlength=classes)


def first_names(names: Sequence[str]) -> str:
    """The first few names, for a message."""
    return ", ".join(names[:SHOWN_CLASSES]) + (" ..." if len(names) > SHOWN_CLASSES else "")


def _plain(values: np.ndarray, where: str, of: str = "labels", todo: str = _MISSING) -> np.ndarray:
    """Without Python objects: an array of numbers or of text."""
    if not values.size:
        raise UserError(f"there are no {of}", where, _MISSING)
    if values.dtype.kind != "O":
        return values
    missing = np.array([value is None for value in values.ravel()]).reshape(values.shape)
    _refuse(missing, values, f"{of} are missing", where, todo)
    try:
        return np.array([_text(v) if isinstance(v, bytes) else v for v in values.tolist()])
    except ValueError as error:  # NumPy says it in words of its own
        raise UserError(f"{of} are lists of unequal lengths", where, _SEVERAL) from error


def _squeezed(
    values: np.ndarray, where: str, of: str = "labels", todo: str = _REMEDY
) -> np.ndarray:
    values = values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
    kind = values.dtype.kind
    if kind not in "biufUS" or values.ndim not in ((1,) if kind in "US" else (1, 2)):
        what = f"{of} are {values.dtype} {values.shape}"
        raise UserError(what, where, f"expected numbers or text (N,); {todo}")
    return values


def _from_text(values: list[str], names: list[str], where: str) -> Labels:
    empty = np.array([not value.strip() for value in values])
    _refuse(empty, None, "labels are missing", where, _MISSING)
    found = names or sorted(set(values))
    place = {name: index for index, name in enumerate(found)}
    strange = sorted(set(values) - set(place))
    if strange:
        raise UserError(
            f"some labels are not class names: {first_names(strange)}",
            where,
            "correct these labels, or add their names to class_names",
        )
    return Labels(torch.tensor([place[value] for value in values]), found, from_text=not names)


def _from_one_hot(values: np.ndarray, where: str) -> Tensor:
    if values.dtype.kind == "f":
        _refuse(np.isnan(values).any(axis=1), None, "labels are missing", where, _MISSING)
    whole = ((values == 0) | (values == 1)).all(axis=1)
    _refuse(~whole, None, f"rows of labels {values.shape} are not one-hot", where, _SEVERAL)
    count = values.astype(np.int64).sum(axis=1)
    # Before rows without a 1, which are no fault where an image may have several classes or none.
    _refuse(count > 1, None, "images have several classes", where, _SEVERAL)
    _refuse(count == 0, None, "labels are missing: their rows hold no 1", where, _MISSING)
    return torch.from_numpy(values.argmax(axis=1).astype(np.int64))


def _refuse(
    wrong: Any, values: np.ndarray | None, what: str, where: str, todo: str = _REMEDY
) -> None:
    """Raise if any entry is wrong, with how many and the first."""
    rows = np.flatnonzero(wrong)
    if len(rows):
        shown = "" if values is None else f"{values.ravel()[rows[0]]!s} "
        first = f"the first: {shown}of image {rows[0]}"
        raise UserError(f"{len(rows)} of {len(wrong)} {what} ({first})", where, todo)


def _text(value: Any) -> str:
    if isinstance(value, str) and value[:2] in ("b'", 'b"') and value[-1:] == value[1]:
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            return value
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return value.decode("latin-1")
    return str(value)


def _difference(train: Labels, test: Labels) -> str:
    names, others = dict.fromkeys(train.classes), dict.fromkeys(test.classes)
    parts = [
        f"{first_names(only)} only in {part}"
        for part, own, other in (("training", names, others), ("test", others, names))
        if (only := [name for name in own if name not in other])
    ]
    return "; ".join(parts) or "the same names in another order"
