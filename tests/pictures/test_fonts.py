import pytest

from mixbench.pictures import fonts
from mixbench.pictures.fonts import BUILT_IN, font_file, load_font, plot_font, text_width

GREEK = "0.70  \u03b3\u03ac\u03c4\u03b1"


@pytest.fixture(autouse=True)
def fresh():
    font_file.cache_clear()
    yield
    font_file.cache_clear()


def test_the_font_that_is_preferred_is_used_where_it_has_all_signs():
    assert font_file("0.70  cat") == BUILT_IN
    assert font_file("0.70  cat", plot_font()) == plot_font()


def test_signs_that_the_font_lacks_are_taken_from_another():
    arabic = "0.70  \u0642\u0637\u0629"
    assert not fonts._has(BUILT_IN, arabic[-1])
    name = font_file(arabic)
    assert name != BUILT_IN
    assert all(fonts._has(name, sign) for sign in arabic if sign != " ")
    assert load_font(name, 12).getmask(arabic).getbbox() is not None


def test_a_missing_sign_is_told_from_a_blank_one():
    assert not fonts._has(BUILT_IN, "\U000f0000")
    assert fonts._has(BUILT_IN, "a")


def test_a_text_that_no_font_has_is_written_by_the_one_with_most_signs(monkeypatch):
    monkeypatch.setattr(fonts, "SYSTEM", ("no such font.ttf",))
    assert font_file("\u03b3\U000f0000") in ("", plot_font())
    assert text_width("\U000f0000", 12) > 0


def test_signs_that_no_font_has_are_counted_aloud_once(recwarn):
    fonts.warn_of_boxes(["cat", GREEK])
    assert not recwarn
    with pytest.warns(UserWarning, match="2 signs"):
        fonts.warn_of_boxes(["\U000f0000 cat", "\U000f0001\U000f0000"])


def test_without_matplotlib_the_built_in_font_remains(monkeypatch):
    monkeypatch.setattr(fonts.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(fonts, "SYSTEM", ())
    assert plot_font() == ""
    assert font_file(GREEK) == BUILT_IN
