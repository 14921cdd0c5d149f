"""Which images are set aside for the test, and which fold each is in."""

import hashlib
from collections import Counter

import pytest

from mixbench.data.division import division_hash, fold_of_each, side_of_each


def contents(count, start=0):
    return [hashlib.sha256(str(number).encode()).digest() for number in range(start, start + count)]


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.5])
def test_each_class_gives_its_share(fraction):
    labels = [0] * 100 + [1] * 20 + [2] * 7 + [3] * 2 + [4]
    side = side_of_each(labels, contents(len(labels)), fraction)
    given = Counter(label for label, tested in zip(labels, side, strict=True) if tested)
    for label, count in Counter(labels).items():
        wanted = 0 if count == 1 else max(1, round(count * fraction))
        assert given[label] == wanted


def test_the_division_is_that_of_the_content_whatever_the_order():
    labels, files = [0, 1] * 30, contents(60)
    side = dict(zip(files, side_of_each(labels, files, 0.2), strict=True))
    turned = side_of_each(labels[::-1], files[::-1], 0.2)
    assert [side[content] for content in files[::-1]] == turned
    # Known numbers, so that the division is the same in every version and on every machine.
    found = side_of_each([0] * 20, contents(20), 0.2)
    assert [row for row, tested in enumerate(found) if tested] == [3, 7, 10, 17]


def test_images_that_are_added_move_few_others():
    before = side_of_each([0] * 200, contents(200), 0.2)
    after = side_of_each([0] * 220, contents(220), 0.2)[:200]
    assert sum(a != b for a, b in zip(before, after, strict=True)) < 20


@pytest.mark.parametrize(
    "divide", [lambda *a: side_of_each(*a, 0.3), lambda *a: fold_of_each(*a, 3)]
)
def test_equal_files_stand_on_one_side_also_under_two_classes(divide):
    files = contents(30) * 2
    labels = [0] * 30 + [row % 2 for row in range(30)]
    side = divide(labels, files)
    assert side[:30] == side[30:]


def test_a_class_of_equal_files_stays_in_training():
    assert side_of_each([0, 0, 1, 1], [b"a", b"a", b"b", b"c"], 0.5)[:2] == [False, False]


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_folds_are_of_equal_size_in_each_class(folds):
    labels = [0] * 23 + [1] * 11 + [2] * 4
    fold = fold_of_each(labels, contents(len(labels)), folds)
    for label, count in Counter(labels).items():
        sizes = Counter(f for f, own in zip(fold, labels, strict=True) if own == label)
        assert max(sizes.values()) - min(sizes[k] for k in range(folds)) <= 1
        assert sum(sizes.values()) == count
    sizes = Counter(fold)
    assert max(sizes.values()) - min(sizes.values()) <= 1


def test_the_hash_tells_who_stands_where():
    first = division_hash(["a", "b"], [0, 1])
    assert first.startswith("sha256:")
    assert division_hash(["a", "b"], [0, 1]) == first
    assert len({first, division_hash(["a", "b"], [1, 0]), division_hash(["a", "c"], [0, 1])}) == 3
