"""Test images and folds of a set that has no test images of its own, by the content of the files.

The images of each class are put in the order of a hash of their content. So the division is the
same on every machine and under any names, images that are added move few others, and equal files
never stand on both sides.
"""

import hashlib
from collections import defaultdict
from collections.abc import Sequence

DIVISION_SEED = 0  # the same for all methods and seeds
TEST_FRACTION = 0.2  # of a set that nobody says more of
SMALL_SET = 2_000  # images below which folds are worth their time
ADVISED_FOLDS = 5


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
