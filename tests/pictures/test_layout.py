import pytest
from PIL import Image

from mixbench.pictures.layout import (
    ELLIPSIS,
    Style,
    broken,
    drawn_block,
    fitted_label,
    lay_out,
)
from mixbench.pictures.sheet import CELL, Label, Panel, Sheet, enlarge

STYLE = Style(cell=60, margin=10, line=10, size=8, heading=10)


def measure(text, size):
    return len(text) * size / 2


def page_of(*rows, notes=(), title="", style=STYLE):
    sheet = Sheet([(0, 1)], lambda *_: rows, notes, title=title)
    return lay_out([drawn_block(sheet, CELL, enlarge)], style, measure)


def panel(title="", lines=(), width=1):
    return Panel(title, Image.new("RGB", (CELL * width, CELL)), lines)


def overlapping(page):
    boxes = [(i.left, i.top, i.left + i.width, i.top + i.height) for i in page.images]
    for text in page.texts:
        right = text.left + measure(text.text, text.size)
        boxes.append((text.left, text.top, right, text.top + text.size))
    return [
        (one, other)
        for number, one in enumerate(boxes)
        for other in boxes[:number]
        if one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
    ]


LONG = Label(0.7, "American Staffordshire terrier")


@pytest.mark.parametrize("style", [STYLE, STYLE._replace(cell=20), STYLE._replace(cell=200)])
def test_nothing_overlaps_or_leaves_the_page(style):
    words = ["a sentence of several words", "deviation 0.25"]
    rows = [
        [panel("a title of many words", [LONG]), panel("unbreakabletitle", words, width=2)],
        [panel("", [LONG, LONG]), panel("", words * 2, width=2), panel("", ["third"])],
    ]
    page = page_of(*rows, notes=["note " * 20, "x" * 90], title="heading " * 9, style=style)
    assert overlapping(page) == []
    for text in page.texts:
        assert 0 <= text.left <= text.left + measure(text.text, text.size) <= page.width
        assert 0 <= text.top <= text.top + text.size <= page.height
    for image in page.images:
        assert image.left + image.width <= page.width
        assert image.top + image.height <= page.height


def test_a_title_is_never_cut():
    page = page_of([panel("labels of tokens at first"), panel("manifoldmixupandmore")])
    shown = " ".join(text.text for text in page.texts)
    assert "labels of tokens at first" in shown
    assert "manifoldmixupandmore" in shown
    assert page.images[1].left + measure("manifoldmixupandmore", 8) <= page.width


def test_a_long_name_is_shortened_and_its_weight_kept():
    assert fitted_label(Label(0.7, "cat"), 60, 8, measure) == "0.70  cat"
    assert fitted_label(LONG, 60, 8, measure) == f"0.70  American{ELLIPSIS}"
    for width in (60, 48, 40, 30, 24, 1):
        shown = fitted_label(LONG, width, 8, measure)
        assert shown.startswith("0.70")
        assert ELLIPSIS in shown or shown == "0.70"


def test_a_text_is_broken_at_spaces_and_a_longer_word_anywhere():
    assert broken("one two three", 32, 8, measure) == ["one two", "three"]
    assert broken("abcdefghijkl no", 20, 8, measure) == ["abcde", "fghij", "kl no"]
    assert broken("", 20, 8, measure) == []
    assert broken("ab", 0, 8, measure) == ["a", "b"]


def test_a_drawing_is_made_for_the_cell_and_a_finished_picture_is_not():
    asked = []

    def drawing(cell):
        asked.append(cell)
        return Image.new("RGB", (2 * cell, cell))

    sheet = Sheet([(0, 1)], lambda *_: [[Panel("a", drawing), panel("b", width=2)]])
    block = drawn_block(sheet, 512, enlarge)
    assert asked == [512]
    assert [(shown.width, shown.height) for shown in block.rows[0]] == [(2, 1), (2, 1)]
