import numpy as np
import pytest
from drawn import all_axes, notes, overlapping, texts

from mixbench.errors import UserError
from mixbench.leaderboard.plots.draw import draw
from mixbench.stats.class_changes import class_changes

LABELS = np.repeat(np.arange(4), 50)
NAMES = ["ant", "bee", "cat", "dog"]


def logits(*wrong):
    """Outputs of which so many of each class are wrong."""
    found = np.eye(4)[LABELS] * 5
    for label, count in enumerate(wrong):
        rows = np.flatnonzero(label == LABELS)[:count]
        found[rows] = np.roll(found[rows], 1, axis=1)
    return found


def dots(axes):
    lines = [line for line in axes.get_lines() if line.get_marker() == "o"]
    return [(line.get_ydata()[0], line.get_markerfacecolor()) for line in lines]


@pytest.fixture
def harmed(runs):
    runs.predict(runs.add("erm"), logits(0, 0, 0, 30), LABELS, NAMES)
    runs.predict(runs.add("mixup"), logits(1, 40, 0, 0), LABELS, NAMES)
    return runs


def test_classes_are_sorted_by_their_change_and_the_worst_is_named(harmed):
    figure = draw("harm", harmed.board())
    (axes,) = all_axes(figure)
    assert [change for change, _ in dots(axes)] == pytest.approx([-80, -2, 0, 60])
    assert any("worst: bee" in text for text in texts(figure))
    assert "1 of 4 lose beyond chance" in texts(figure)


def test_intervals_and_marks_are_those_of_the_comparison(harmed):
    (axes,) = all_axes(draw("harm", harmed.board()))
    right = [logits(0, 0, 0, 30).argmax(1) == LABELS, logits(1, 40, 0, 0).argmax(1) == LABELS]
    known = sorted(class_changes(right[1], right[0], LABELS), key=lambda item: item.change)
    ends = [tuple(line.get_ydata()) for line in axes.get_lines() if line.get_marker() == "None"]
    assert ends[1:] == [(item.low, item.high) for item in known]
    assert [face != "white" for _, face in dots(axes)] == [True, False, False, True]


def test_the_reference_stays_where_rows_are_named(harmed):
    assert len(all_axes(draw("harm", harmed.board(), rows=["mixup"]))) == 1


def test_a_hundred_classes_do_not_overlap(runs):
    labels = np.repeat(np.arange(100), 5)
    outputs = np.eye(100)[labels] * 5
    runs.predict(runs.add("erm"), outputs, labels)
    for number in range(4):
        runs.predict(runs.add(f"method{number}"), np.roll(outputs, number, 0), labels)
    figure = draw("harm", runs.board())
    assert len(all_axes(figure)) == 4
    assert overlapping(figure) == []


def test_rows_tested_on_other_images_are_left_out_and_named(harmed):
    harmed.predict(harmed.add("cutmix"), logits(0)[:100], LABELS[:100])
    harmed.add("bc")
    figure = draw("harm", harmed.board())
    assert len(all_axes(figure)) == 1
    assert "cutmix: it was not tested on the images of erm" in notes(figure)
    assert "bc: the run has no stored predictions" in notes(figure)


@pytest.mark.parametrize("methods", [["erm"], ["mixup", "cutmix"]])
def test_without_reference_or_another_row_it_is_said_what_to_train(runs, methods):
    for method in methods:
        runs.predict(runs.add(method), logits(0), LABELS)
    with pytest.raises(UserError) as raised:
        draw("harm", runs.board())
    assert "erm" in raised.value.todo
