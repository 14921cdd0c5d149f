"""Test images and folds of a set that has no test images of its own, by the content of the files.

The images of each class are put in the order of a hash of their content. So the division is the
same on every machine and under any names, images that are added move few others, and equal files
never stand on both sides.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from mixbench.config.schema import DataConfig
from mixbench.errors import UserError, counted

DIVISION_SEED = 0  # the same for all methods and seeds
TEST_FRACTION = 0.2  # of a set that nobody says more of
SMALL_SET = 2_000  # images below which folds are worth their time
ADVISED_FOLDS = 5
DIVIDED_KEYS = "data.test_fraction, data.folds"


@dataclass
class Division:
    """Which images of a set are tested.

    Attributes:
        parts: Rows of each fold, or of both sides.
        tested: The part that is tested; all others are trained on.
        text: How they were set aside, with a hash of what stands where.
        notices: Sentences for the user.
    """

    parts: list[list[int]]
    tested: int
    text: str
    notices: list[str]

    @property
    def test(self) -> list[int]:
        """Rows of the test images."""
        return self.parts[self.tested]

    @property
    def train(self) -> list[int]:
        """Rows of the training images."""
        others = (rows for part, rows in enumerate(self.parts) if part != self.tested)
        return sorted(row for rows in others for row in rows)


def divide(
    config: DataConfig,
    labels: Sequence[int],
    contents: Sequence[bytes],
    names: Sequence[str],
    classes: Sequence[str],
    where: str,
) -> Division:
    """Set a share of each class aside for the test, or the fold that is asked for.

    Args:
        config: Reads ``test_fraction``, ``folds`` and ``fold``.
        labels: Class index of each image.
        contents: Hash of each image; equal ones are kept together.
        names: Of the images.
        classes: Names of the classes.
        where: File or folder, for messages.

    Returns:
        Which images are tested.

    Raises:
        UserError: If all images are of one class, no test image is left, or folds are too small.
    """
    counts = Counter(labels)
    if len(counts) < 2:
        raise UserError(
            f"all {len(names)} images are of one class, {classes[labels[0]]}",
            where,
            "training needs at least two classes",
        )
    single = [classes[label] for label, count in sorted(counts.items()) if count == 1]
    if config.folds is None:
        share = TEST_FRACTION if config.test_fraction is None else config.test_fraction
        sides = list(map(int, side_of_each(labels, contents, share)))
        tested, word = 1, f"{100 * share:g} % of each class"
    else:
        _check_folds(config, len(names), single)
        sides = fold_of_each(labels, contents, config.folds)
        tested, word = config.fold or 0, f"fold {config.fold} of {config.folds}"
    parts: list[list[int]] = [[] for _ in range(config.folds or 2)]
    for row, side in enumerate(sides):
        parts[side].append(row)
    if not parts[tested]:
        what = f"no test image is left of {len(names)} images by {word}"
        raise UserError(what, DIVIDED_KEYS, "add images, or set a larger share aside")
    how = f"seed {DIVISION_SEED}, {division_hash(names, sides)}"
    notices = [
        f"the data have no test images: {word}, {len(parts[tested]):,} of "
        f"{counted(len(names), 'image')}, are set aside ({how})"
    ]
    if config.folds is None:
        notices += _small(len(names), len(parts[tested]), single)
    return Division(parts, tested, f"{word}, {how}", notices)


def training_count(train: int, test: int, folds: int | None) -> int:
    """Number of training images, the same for all folds."""
    return train if folds is None else (train + test) * (folds - 1) // folds


def _check_folds(config: DataConfig, count: int, single: Sequence[str]) -> None:
    assert config.folds is not None
    if config.test_fraction is not None:
        what = "data.test_fraction has no effect beside data.folds, which tests every image"
        raise UserError(what, DIVIDED_KEYS, "leave one of the two keys out")
    if single:
        what = f"a class with a single image cannot be in two folds: {', '.join(single[:5])}"
        raise UserError(what, "data.folds", "add images to it, or leave the class out")
    if config.folds > count // 2:
        what = f"{config.folds} folds of {counted(count, 'image')} are too small"
        raise UserError(what, "data.folds", f"give data.folds={max(2, min(5, count // 4))}")
    if config.fold is None:
        raise UserError(
            f"data.folds={config.folds} does not say which fold is tested",
            "data.fold",
            f"give data.fold=0 to {config.folds - 1}; mixbench bench carries out all of them",
        )


def _small(images: int, tested: int, single: Sequence[str]) -> list[str]:
    """Notices on a small set of which a part is set aside."""
    notices = []
    if single:
        named = ", ".join(single[:5])
        notices.append(
            f"{counted(len(single), 'class')} with a single image, which stays in training: {named}"
        )
    if images < SMALL_SET:
        notices.append(
            f"a test on {counted(tested, 'image')} cannot show small differences; with "
            f"data.folds={ADVISED_FOLDS}, mixbench bench tests each of the {images:,} once"
        )
    return notices


def side_of_each(labels: Sequence[int], contents: Sequence[bytes], fraction: float) -> list[bool]:
    """Which images are set aside for the test, about the same share of each class.

    A class keeps an image for training, and gives one to the test where it has two.

    Args:
        labels: Class index of each image.
        contents: Hash of each file; equal ones are kept together.
        fraction: Share of the test images, in (0, 1).

    Returns:
        True for a test image.

    Example:
        >>> side_of_each([0] * 4 + [1], [b"a", b"b", b"a", b"c", b"d"], 0.5)
        [False, True, False, True, False]
    """
    side: dict[bytes, bool] = {}
    for groups in _by_class(labels, contents):
        count = sum(len(rows) for _, rows in groups)
        wanted = min(max(1, round(count * fraction)), count - 1)
        taken = sum(len(rows) for content, rows in groups if side.get(content))
        for content, rows in groups:
            if content not in side:
                left = wanted if taken else count - 1  # the first may be many equal files
                side[content] = taken < wanted and taken + len(rows) <= left
                taken += len(rows) * side[content]
    return [side[content] for content in contents]


def fold_of_each(labels: Sequence[int], contents: Sequence[bytes], folds: int) -> list[int]:
    """The fold of each image; folds are of equal size in each class, as near as may be.

    Args:
        labels: Class index of each image.
        contents: Hash of each file; equal ones share a fold.
        folds: Number of folds.

    Returns:
        Numbers from 0 to ``folds`` - 1.

    Example:
        >>> fold_of_each([0, 0, 0, 1, 1], [b"a", b"b", b"a", b"c", b"d"], 2)
        [1, 0, 1, 0, 1]
    """
    place: dict[bytes, int] = {}
    sizes = [0] * folds
    for groups in _by_class(labels, contents):
        own = [0] * folds
        for content, rows in groups:
            if content not in place:
                place[content] = min(range(folds), key=lambda fold: (own[fold], sizes[fold]))
            own[place[content]] += len(rows)
            sizes[place[content]] += len(rows)
    return [place[content] for content in contents]


def division_hash(names: Sequence[str], sides: Sequence[int]) -> str:
    """Short hash of what stands where.

    Args:
        names: Of the images.
        sides: Side or fold of each.

    Returns:
        ``sha256:`` and 16 hexadecimal digits.
    """
    lines = (f"{side} {name}\n" for name, side in zip(names, sides, strict=True))
    text = "".join(lines).encode(errors="surrogateescape")
    return "sha256:" + hashlib.sha256(text).hexdigest()[:16]


def _by_class(
    labels: Sequence[int], contents: Sequence[bytes]
) -> list[list[tuple[bytes, list[int]]]]:
    """Rows of equal content, class by class in the order that decides."""
    classes: dict[int, dict[bytes, list[int]]] = defaultdict(lambda: defaultdict(list))
    for row, (label, content) in enumerate(zip(labels, contents, strict=True)):
        classes[label][content].append(row)
    return [
        sorted(classes[label].items(), key=lambda item: _place(item[0]))
        for label in sorted(classes)
    ]


def _place(content: bytes) -> bytes:
    return hashlib.sha256(f"mixbench {DIVISION_SEED} ".encode() + content).digest()
