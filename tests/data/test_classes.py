"""Labels of every kind that files hold, and the classes of two files."""

import numpy as np
import pytest
import torch

from mixbench.data.classes import (
    Labels,
    class_names,
    class_notices,
    joined_classes,
    stored_labels,
    whole_numbers,
)
from mixbench.errors import UserError

EYE = np.eye(3)


def stored(values, names=(), images=None):
    values = np.asarray(values)
    return stored_labels(values, list(names), "f.npz", len(values) if images is None else images)


@pytest.mark.parametrize(
    ("values", "indices", "names"),
    [
        (np.array([2, 0, 1], np.uint8), [2, 0, 1], []),
        (np.array([2, 0, 1], np.uint64), [2, 0, 1], []),
        (np.array([2.0, 0.0, 1.0], np.float16), [2, 0, 1], []),
        (np.array([True, False, True]), [1, 0, 1], []),
        (np.array([[2], [0], [1]]), [2, 0, 1], []),
        (np.array([["b"], ["a"], ["b"]]), [1, 0, 1], ["a", "b"]),
        (EYE[[2, 0, 1]], [2, 0, 1], []),
        (EYE[[1, 1]].astype(bool), [1, 1], []),
        (np.array(["cat", "ant", "cat"]), [1, 0, 1], ["ant", "cat"]),
        (np.array([b"cat", b"b\xc3\xa9e", b"cat"]), [1, 0, 1], ["bée", "cat"]),
        (np.array(["b'cat'", "b'ant'", 'b"cat"']), [1, 0, 1], ["ant", "cat"]),
        (np.array([1, 0, 1], object), [1, 0, 1], []),
        (np.array(["10", "9"]), [0, 1], ["10", "9"]),
    ],
)
def test_labels_of_any_kind_become_class_indices(values, indices, names):
    found = stored(values)
    assert found.indices.dtype == torch.int64
    assert found.indices.tolist() == indices
    assert found.names == names


def test_class_names_of_the_file_give_texts_and_columns_their_numbers():
    found = stored(["ant", "cat"], ["cat", "ant"])
    assert (found.indices.tolist(), found.names) == ([1, 0], ["cat", "ant"])
    assert stored(EYE, "abc").names == ["a", "b", "c"]
    assert stored([0, 2], "abc").classes == ["a", "b", "c"]
    assert stored([0, 2]).classes == stored(EYE[[0, 1]]).classes == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("values", "names", "message"),
    [
        ([0, 0.7, 1.2], "", r"2 of 3 labels are not whole numbers \(the first: 0.7 of image 1\)"),
        ([0, np.nan, 0.5], "", r"1 of 3 labels are missing \(the first: nan of image 1\)"),
        ([0, np.inf], "", "1 of 2 labels are out of range"),
        (np.array([0, None, None], object), "", r"2 of 3 labels are missing.* image 1\)"),
        (np.array(["ant", None], object), "", "1 of 2 labels are missing"),
        (["ant", " ", ""], "", r"2 of 3 labels are missing \(the first: of image 1\)"),
        ([3, -1, -2], "", r"2 of 3 labels are negative \(the first: -1 of image 1\)"),
        (np.array([1, 2**63], np.uint64), "", "out of range"),
        ([0, 1e19], "", "out of range"),
        ([0, 10**6], "", "1,000,001 classes"),
        ([1, 2, 3], "abc", r"run from 1 to 3 but there are 3 class names(.|\n)*take 1 from each"),
        ([0, 3], "abc", r"run from 0 to 3 but there are 3 class names"),
        (["ant", "bee"], ["ant"], "not class names: bee"),
        (EYE, "ab", "3 one-hot columns, and there are 2 class names"),
        ([[1, 0], [0, 0], [1, 0]], "", r"1 of 3 labels are missing.*image 1\)"),
        ([[1, 0], [1, 1]], "", r"1 of 2 images have several classes \(the first: of image 1\)"),
        ([[0, 0], [1, 1]], "", r"several classes(.|\n)*several classes are not supported"),
        (np.array([[0], [1, 2]], object), "", r"lists of unequal lengths(.|\n)*not supported"),
        ([[1, 0], [0.3, 0.7]], "", r"1 of 2 rows of labels \(2, 2\) are not one-hot"),
        ([[1, 0], [np.nan, 0]], "", "1 of 2 labels are missing"),
        (np.zeros((2, 3, 4)), "", r"labels are float64 \(2, 3, 4\)"),
        ([["a", "b"], ["a", "b"]], "", r"labels are <U1 \(2, 2\)"),
        (np.array([1j]), "", "complex"),
        (np.array(["2020-01-01"], "M8[D]"), "", "datetime"),
        ([], "", "no labels"),
    ],
)
def test_what_is_no_label_is_refused_with_its_number_and_first_place(values, names, message):
    with pytest.raises(UserError, match=message) as caught:
        stored(values, names)
    assert "f.npz" in str(caught.value)


def test_a_label_is_asked_of_each_image():
    with pytest.raises(UserError, match="4 images but 3 labels"):
        stored([0, 1, 2], images=4)


def test_whole_numbers_are_exact_and_say_what_they_are():
    assert whole_numbers(np.array([2**62 + 1]), "f").tolist() == [2**62 + 1]
    with pytest.raises(UserError, match="1 of 2 offsets are not whole numbers"):
        whole_numbers(np.array([0.5, 1]), "f", "offsets")
    with pytest.raises(UserError, match=r"must be whole numbers \(N,\), got <U1"):
        whole_numbers(np.array(["1"]), "f")


@pytest.mark.parametrize(
    "values", [[-1, 2], [0.5, 1], [np.nan, 1], [2.0**63, 1], ["1", "2"], [[0, 1]]]
)
def test_the_remedy_for_numbers_is_that_of_what_they_are(values):
    with pytest.raises(UserError) as caught:
        whole_numbers(np.array(values), "f", "offsets", "give bounds in order")
    assert "give bounds in order" in caught.value.todo
    assert "label" not in str(caught.value)
    assert "class" not in str(caught.value)


def test_repeated_class_names_are_refused_unless_ids_tell_them_apart():
    names = np.array(["crane", "ant", "crane", b"ant".decode()])
    with pytest.raises(UserError, match="more than once: crane, ant"):
        class_names(names, "f")
    assert class_names(names, "f", repeated=True) == names.tolist()
    with pytest.raises(UserError, match="more than once: cat"):
        class_names(np.array(["cat", "b'cat'"]), "f")
    with pytest.raises(UserError, match=r"\(K,\)"):
        class_names(np.array([["a"]]), "f")


def labels(indices, names=""):
    return Labels(torch.tensor(indices), list(names))


def test_classes_of_two_files_that_agree_stay_as_they_are():
    names, indices = joined_classes(labels([0, 1], "ab"), labels([0, 0], "ab"), "both", "f")
    assert (names, indices.tolist()) == (["a", "b"], [0, 0])
    names, indices = joined_classes(labels([0, 2]), labels([2, 1]), "both", "f")
    assert (names, indices.tolist()) == (["0", "1", "2"], [2, 1])


@pytest.mark.parametrize(
    ("train", "test", "names", "indices"),
    [
        (labels([0, 1, 2], "abc"), labels([0, 1], "ac"), ["a", "b", "c"], [0, 2]),
        (labels([0, 1], "ab"), labels([0, 1], "ba"), ["a", "b"], [1, 0]),
        (labels([0, 1, 2]), labels([1, 0]), ["0", "1", "2"], [1, 0]),
        (labels([0, 1], "ab"), labels([0], "abz"), ["a", "b"], [0]),
    ],
)
def test_classes_of_training_alone_count_where_asked_for(train, test, names, indices):
    found, mapped = joined_classes(train, test, "train", "f")
    assert (found, mapped.tolist()) == (names, indices)
    with pytest.raises(UserError, match=r"different classes(.|\n)*data\.classes=train"):
        joined_classes(train, test, "both", "f")


# FAULTS row 18.
@pytest.mark.parametrize("take", ["both", "train"])
@pytest.mark.parametrize(
    ("train", "test", "unknown"),
    [
        (labels([0, 1], "ab"), labels([0, 2], "abz"), "1 classes that training lacks: z"),
        (labels([0, 1]), labels([3, 2]), "2 classes that training lacks: 2, 3"),
    ],
)
def test_a_test_class_that_training_lacks_is_always_refused(train, test, unknown, take):
    with pytest.raises(UserError, match=unknown):
        joined_classes(train, test, take, "f")


@pytest.mark.parametrize("take", ["both", "train"])
@pytest.mark.parametrize(
    "bare",
    [labels([0, 2, 1]), labels([1, 0]), stored(EYE[[1, 0]])],
    ids=["all", "some", "one-hot"],
)
def test_names_of_one_file_serve_both_where_the_labels_of_the_other_fit(bare, take):
    named = labels([2, 0], "cab")
    names, indices = joined_classes(named, bare, take, "f")
    assert (names, indices.tolist()) == (["c", "a", "b"], bare.indices.tolist())
    names, indices = joined_classes(bare, named, take, "f")
    assert (names, indices.tolist()) == (["c", "a", "b"], [2, 0])


@pytest.mark.parametrize("take", ["both", "train"])
@pytest.mark.parametrize(
    ("named", "bare"),
    [
        (labels([0, 1], "ab"), labels([0, 2])),
        (labels([0, 1, 2, 3], "abcd"), stored(EYE[[1, 0]])),
        (stored(["cat", "ant"]), labels([0, 1])),
    ],
    ids=["out of range", "other columns", "text"],
)
def test_a_file_without_names_that_does_not_fit_those_of_the_other_is_named(named, bare, take):
    for train, test, lacks in ((named, bare, "test"), (bare, named, "training")):
        with pytest.raises(UserError, match=f"the {lacks} images have no class names") as caught:
            joined_classes(train, test, take, "f")
        assert "class_names" in caught.value.todo


def test_names_that_occur_twice_cannot_be_matched():
    with pytest.raises(UserError, match="another order"):
        joined_classes(labels([0, 1, 2], "aab"), labels([2], "baa"), "train", "f")


# FAULTS row 18.
def test_classes_without_an_image_are_named_with_their_part():
    def said(train, test, names):
        return class_notices(torch.tensor(train), torch.tensor(test), names)

    assert said([0, 1], [1, 0], ["a", "b"]) == []
    assert said([0, 1], [1, 1], ["a", "b"]) == ["no test image of 1 of 2 classes: a"]
    assert said([0, 0], [1, 0], ["a", "b"]) == ["no training image of 1 of 2 classes: b"]
    assert said([0, 1], [1, 1], ["0", "1"]) == ["no test image of 1 of 2 classes: 0"]
    many = [str(n) for n in range(101)]
    gaps = said([0, 50, 100], [0, 50, 100], many)
    assert gaps[0].startswith("no training image of 98 of 101 classes: 1, 2, 3,")
    assert gaps[1].startswith("no test image of 98 of 101 classes: 1, 2, 3,")
    assert "101 outputs for 3 classes" in gaps[2]
    shifted = said([1, 2], [2, 1], ["0", "1", "2"])
    assert "count from 1" in shifted[2]
    assert len(said([1, 2], [2, 1], ["a", "b", "c"])) == 2  # names say what was meant
    several = torch.tensor([[1.0, 0, float("nan")], [1, 0, 0]])
    assert class_notices(several, several[:, [0, 2, 1]], ["a", "b", "c"]) == [
        "no training image of 2 of 3 classes: b, c",
        "no test image of 2 of 3 classes: b, c",
    ]
