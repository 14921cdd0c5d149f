"""H-Mix: what people see in mixed images of CIFAR-10's test set.

Collins et al., "Human-in-the-Loop Mixup", UAI 2023, arXiv:2211.01202; data
cambridge-mlg/hill-mixup. The folder ``h_mix`` of the release is read as it is, or an ``.npz`` with
the same judgements as arrays ``infer/*``, ``construct/*``, ``select/*`` and ``soft/*``.

A study of ``mixbench elicit`` is exported in the same layout. Its folder also holds
``study.json``, which names other classes than those of CIFAR-10, and the part of the data whose
images were judged.

The weight is that of the first image everywhere: the release's slider, which runs from all of the
first image at 0 to all of the second at 100, is turned round.
"""

import csv
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mixbench.data.files.arrays import Arrays
from mixbench.errors import UserError
from mixbench.files import read_json, read_text

CLASSES = (
    "Airplane", "Automobile", "Bird", "Cat", "Deer", "Dog", "Frog", "Horse", "Ship", "Truck"
)  # fmt: skip
TEST_SIZE = 10_000
SUMMED = ("mixup", "mixup2")  # methods whose images are weighted sums, and can be made again
FACTS_FILE = "study.json"  # beside the files of a study of ours
_PAIR = re.compile(r"^(?:mixed_(?P<lam>[0-9.]+)_)?([A-Za-z]+)_(\d+)_([A-Za-z]+)_(\d+)(?:\.png)?$")
RELEASE_FILES = {
    "infer": "hmix_infer_mixing_factor.csv",
    "construct": "hmix_construct_midpoint.csv",
    "select": "hmix_select_shuffled_midpoint.csv",
    "soft": "hmix_individ_soft_labels.json",
}


class JudgedImages(NamedTuple):
    """Images that were judged: the classes as file names have them, how many, and their split.

    ``method`` has mixed them. ``own`` is True for a study of ours, which counts the images of a run
    on the same data, and False where numbers are places in the original set.
    """

    classes: tuple[str, ...] = CLASSES
    images: int = TEST_SIZE
    split: str = "test"
    method: str = SUMMED[0]
    own: bool = False


class JudgedPairs(NamedTuple):
    """The two images behind each judgement: (N,) int64 rows of their set, and their classes."""

    first: Tensor
    first_class: Tensor
    second: Tensor
    second_class: Tensor


class Inferred(NamedTuple):
    """Judgements of how much of the first image a mixed image shows; see :class:`HumanJudgements`.

    ``true`` (N,) is its weight, ``rated`` (N,) the weight that a person saw and ``confidence`` (N,)
    how sure that person was, all float64 in [0, 1]. ``subject`` (N,) numbers the people, and
    ``repeated`` (N,) is True where a person judged the image for the second time.
    """

    pairs: JudgedPairs
    true: Tensor
    rated: Tensor
    confidence: Tensor
    subject: Tensor
    repeated: Tensor


class Midpoints(NamedTuple):
    """Weights (N,) of the first image at which people see as much of both.

    ``start`` (N,) is the weight at which a person began, NaN where all were shown at once;
    ``subject`` and ``repeated`` as in :class:`Inferred`.
    """

    pairs: JudgedPairs
    start: Tensor
    chosen: Tensor
    subject: Tensor
    repeated: Tensor


class SoftLabels(NamedTuple):
    """Labels (N, K) that people gave to mixed images without knowing their classes."""

    pairs: JudgedPairs
    true: Tensor
    labels: Tensor


class HumanJudgements(NamedTuple):
    """All judgements, ``path`` for messages; None where a file is not there."""

    path: Path
    infer: Inferred | None
    construct: Midpoints | None
    select: Midpoints | None
    soft: SoftLabels | None
    source: JudgedImages = JudgedImages()

    @property
    def _groups(self) -> list[Any]:
        found = (self.infer, self.construct, self.select, self.soft)
        return [group for group in found if group is not None]

    def fingerprint(self) -> str:
        """Content hash of the judgements, whichever layout they were read from."""
        # What a folder says of its images counts where they are not those of the release.
        facts, plain = self.source[2:], JudgedImages()[2:]
        found = hashlib.sha256(b"" if facts == plain else repr(facts).encode())
        for group in self._groups:
            for each in (*group.pairs, *group[1:]):
                found.update(each.numpy().tobytes())
        return found.hexdigest()

    @property
    def used_images(self) -> Tensor:
        """Rows (M,) of the test set that people have seen, which no test may count any more."""
        groups = self._groups if self.source.split == "test" else []
        rows = [rows for group in groups for rows in (group.pairs.first, group.pairs.second)]
        return torch.cat(rows).unique() if rows else torch.empty(0, dtype=torch.int64)


class Annotations(NamedTuple):
    """Judged images (S,) with the labels (S, R, K) of each, NaN where fewer people gave one."""

    pairs: JudgedPairs
    true: Tensor
    labels: Tensor


class Stimuli(NamedTuple):
    """Judged images (S,) with all ratings (S, R) of each, NaN where fewer people saw it."""

    pairs: JudgedPairs
    true: Tensor
    ratings: Tensor
    confidence: Tensor


def read_hmix(path: Path | str) -> HumanJudgements:
    """Read judgements.

    Args:
        path: The folder ``h_mix`` of the release, that of an exported study, or an ``.npz``.

    Returns:
        The judgements.

    Raises:
        UserError: If there are none, or a file is not what the release has.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(
            "no such file or folder of judgements",
            str(path),
            "give the folder h_mix of cambridge-mlg/hill-mixup, or an .npz of it",
        )
    source = _source_of(path / FACTS_FILE) if path.is_dir() else JudgedImages()
    groups = _groups_of_folder(path, source) if path.is_dir() else _groups_of_archive(path)
    if not groups:
        names = ", ".join(RELEASE_FILES.values())
        raise UserError("the folder holds no judgements", str(path), f"expected one of: {names}")
    return HumanJudgements(
        path, **{name: groups.get(name) for name in RELEASE_FILES}, source=source
    )  # type: ignore[arg-type]


def _source_of(path: Path) -> JudgedImages:
    """What the file of a study says of its images; those of CIFAR-10's test set without one."""
    if not path.exists():
        return JudgedImages()
    try:
        facts = read_json(path)
        classes, images, split = facts["classes"], facts["images"], facts["split"]
        method = str(facts.get("method", SUMMED[0]))
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"the file does not describe a study: {error!r}", str(path), "export the study again"
        ) from error
    named = isinstance(classes, list) and all(isinstance(each, str) for each in classes)
    if not named or not isinstance(images, int) or split not in ("train", "test"):
        raise UserError("the file does not describe a study", str(path), "export the study again")
    return JudgedImages(tuple(classes), images, split, method, own=True)


def stimuli(infer: Inferred, *, repeats: bool = False) -> Stimuli:
    """Judgements of weights by image.

    Args:
        infer: The judgements.
        repeats: Count a person's second judgement of an image as one more rating, as the authors'
            processed file does; left out otherwise.

    Returns:
        One row for each image that has a judgement, in the order of its first one.
    """
    rows = torch.arange(len(infer.true))
    rows = rows if repeats else rows[~infer.repeated]
    values = torch.stack([infer.rated, infer.confidence], dim=1)
    pairs, true, table = _by_image(infer.pairs, infer.true, values, rows)
    return Stimuli(pairs, true, *table.unbind(2))


def annotations(soft: SoftLabels) -> Annotations:
    """Whole labels by image.

    Args:
        soft: The labels.

    Returns:
        One row for each image that has a label, in the order of its first one.
    """
    rows = torch.arange(len(soft.true))
    return Annotations(*_by_image(soft.pairs, soft.true, soft.labels, rows))


def _by_image(
    pairs: JudgedPairs, true: Tensor, values: Tensor, rows: Tensor
) -> tuple[JudgedPairs, Tensor, Tensor]:
    """Pairs (S,), weights (S,) and values (S, R, V) of images, from judgements at ``rows``."""
    keys = torch.stack([pairs.first, pairs.second, (true * 1e6).round().long()])
    _, place = keys[:, rows].unique(dim=1, return_inverse=True)
    # Numbered in the order of the first judgement, and judgements in that of the file.
    first = torch.full((int(place.max()) + 1,), len(rows)).scatter_reduce_(
        0, place, torch.arange(len(rows)), "amin"
    )
    order = first.argsort()
    place = order.argsort()[place]
    sort = place.argsort(stable=True)
    counts = place.bincount()
    column = torch.arange(len(rows)) - (counts.cumsum(0) - counts)[place[sort]]
    shape = (len(counts), int(counts.max()), values.shape[1])
    table = torch.full(shape, torch.nan, dtype=torch.float64)
    table[place[sort], column] = values[rows[sort]]
    of = rows[first[order]]
    return JudgedPairs(*(each[of] for each in pairs)), true[of], table


def _groups_of_archive(path: Path) -> dict[str, Any]:
    try:
        with Arrays(path) as archive:
            found = {name: archive[name] for name in archive.names if "/" in name}
    except (OSError, ValueError) as error:
        raise UserError(
            f"the file cannot be read as an .npz of judgements: {error}",
            str(path),
            "export the study again, or give another file",
        ) from error
    groups = {}
    for name in RELEASE_FILES:
        own = {k.partition("/")[2]: v for k, v in found.items() if k.startswith(f"{name}/")}
        if own:
            groups[name] = _group(name, own, f"{path}, {name}")
    return groups


def _group(
    name: str,
    arrays: Mapping[str, np.ndarray],
    where: str,
    source: JudgedImages = JudgedImages(),  # noqa: B008 - cannot be changed
) -> Any:
    """A group from arrays by the names of the ``.npz``."""

    def column(key: str, share: bool = False) -> Tensor:
        values = arrays.get(key)
        if values is None:
            raise UserError(
                f"the file has no array {key}", where, "give the whole release of H-Mix"
            )
        if values.dtype.kind not in "biuf" or values.shape[:1] != arrays["index1"].shape:
            raise UserError(f"{key} has {values.dtype} {values.shape}", where)
        # Weights of a tenth in float32 are no tenths any more.
        exact = torch.from_numpy(values.astype(np.float64)).round(decimals=7)
        if share and not bool(((exact >= 0) & (exact <= 1)).all()):
            raise UserError(f"{key} must lie in [0, 1]", where, "divide by 100 if it is in percent")
        return exact

    if "index1" not in arrays:
        raise UserError("the file has no array index1", where, "give the whole release of H-Mix")
    whole = [column(key).long() for key in ("index1", "class1", "index2", "class2")]
    pairs = _checked(JudgedPairs(*whole), where, source)
    if name == "soft":
        labels = _soft(column("soft_label"), where, len(source.classes))
        return SoftLabels(pairs, column("true_lambda", True), labels)
    people = (column("subject").long(), column("is_repeat").bool())
    if name == "infer":
        true, rated = column("true_lambda", True), column("inferred_lambda", True)
        return Inferred(pairs, true, rated, column("confidence", True), *people)
    chosen = column("chosen_lambda", True)
    start = column("start_lambda", True) if name == "construct" else chosen * torch.nan
    return Midpoints(pairs, start, chosen, *people)


def _groups_of_folder(path: Path, source: JudgedImages) -> dict[str, Any]:
    readers: dict[str, Callable[[Path, Sequence[str]], dict[str, np.ndarray]]] = {
        "infer": _infer_arrays,
        "construct": _construct_arrays,
        "select": _select_arrays,
        "soft": _soft_arrays,
    }
    groups = {}
    for name, file in RELEASE_FILES.items():
        if (path / file).is_file():
            try:
                arrays = readers[name](path / file, source.classes)
            except (KeyError, ValueError, TypeError) as error:
                what = f"this is not the file of the release: {error!r}"
                raise UserError(
                    what, str(path / file), "give the unchanged files of the release"
                ) from error
            groups[name] = _group(name, arrays, str(path / file), source)
    return groups


def _infer_arrays(path: Path, classes: Sequence[str]) -> dict[str, np.ndarray]:
    rows = _rows(path)
    answers = [json.loads(row["responses"]) for row in rows]
    slider, sure = (
        np.array([float(answer[key]) / 100 for answer in answers])
        for key in ("mixingcoeff", "confidence")
    )
    return (
        _pair_arrays((row["filename"] for row in rows), classes)
        | _people(rows)
        | {
            "inferred_lambda": 1 - slider,
            "confidence": sure,
        }
    )


def _construct_arrays(path: Path, classes: Sequence[str]) -> dict[str, np.ndarray]:
    rows = _rows(path)
    return (
        _pair_arrays((row["class_pair"] for row in rows), classes)
        | _people(rows)
        | {
            "start_lambda": np.array([float(row["starting_value"]) for row in rows]),
            "chosen_lambda": np.array([float(row["final_value"]) for row in rows]),
        }
    )


def _select_arrays(path: Path, classes: Sequence[str]) -> dict[str, np.ndarray]:
    rows = _rows(path)
    words = [json.loads(row["response"])["select"] for row in rows]
    return (
        _pair_arrays((row["class_pair"] for row in rows), classes)
        | _people(rows)
        | {"chosen_lambda": np.array([float(word.removeprefix("select")) for word in words])}
    )


def _soft_arrays(path: Path, classes: Sequence[str]) -> dict[str, np.ndarray]:
    found = read_json(path, limit=64 << 20)
    names = [name for name, labels in found.items() for _ in labels]
    labels = [label for each in found.values() for label in each]
    return _pair_arrays(names, classes) | {"soft_label": np.array(labels, dtype=np.float64)}


def _rows(path: Path) -> list[dict[str, str]]:
    """Rows of a file that are judgements, and not consent or instructions."""
    rows = list(csv.DictReader(read_text(path, limit=64 << 20).splitlines()))
    return [row for row in rows if row["class_pair"]]


def _people(rows: list[dict[str, str]]) -> dict[str, np.ndarray]:
    numbers = {
        name: number for number, name in enumerate(dict.fromkeys(r["subject"] for r in rows))
    }
    return {
        "subject": np.array([numbers[row["subject"]] for row in rows]),
        "is_repeat": np.array([row["task"].startswith("rerun_") for row in rows]),
    }


def _pair_arrays(names: Iterable[str], classes: Sequence[str]) -> dict[str, np.ndarray]:
    """What file names such as ``mixed_0.25_Cat_1121_Frog_891.png`` say."""
    found: list[tuple[int, ...]] = []
    weights: list[float] = []
    for name in names:
        match = _PAIR.match(name)
        if match is None:
            raise ValueError(f"{name!r} does not name two images")
        words = match.groups()
        for word in (words[1], words[3]):
            if word not in classes:
                raise ValueError(f"unknown class {word!r}; the classes are {', '.join(classes)}")
        one, other = classes.index(words[1]), classes.index(words[3])
        found.append((int(words[2]), one, int(words[4]), other))
        weights.append(float(words[0] or "nan"))
    keys = ("index1", "class1", "index2", "class2")
    arrays: dict[str, np.ndarray] = dict(zip(keys, np.array(found).T, strict=True))
    known = np.array(weights)
    return arrays if np.isnan(known).any() else arrays | {"true_lambda": known}


def _checked(pairs: JudgedPairs, where: str, source: JudgedImages) -> JudgedPairs:
    for rows, size, noun in (
        (pairs.first, source.images, "images"),
        (pairs.second, source.images, "images"),
        (pairs.first_class, len(source.classes), "classes"),
        (pairs.second_class, len(source.classes), "classes"),
    ):
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < size:
            what = f"{noun} must be numbered from 0 to {size - 1}, got {rows.min()} to {rows.max()}"
            raise UserError(what, where, "use the images that were judged")
    return pairs


def _soft(labels: Tensor, where: str, classes: int) -> Tensor:
    fits = labels.shape[1:] == (classes,) and not bool((labels < 0).any())
    if not fits or bool(((labels.sum(dim=1) - 1).abs() > 1e-3).any()):
        raise UserError(f"soft labels must be (N, {classes}), not negative, with sums of 1", where)
    return labels / labels.sum(dim=1, keepdim=True)
