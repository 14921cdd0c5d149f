import pytest

from mixbench.leaderboard.plots.style import (
    COLOURS,
    ELLIPSIS,
    fitted,
    looks,
    printed_width,
    signed,
    wrapped,
)


def test_a_text_with_room_stays_whole():
    assert fitted("manifoldmixup", 2.0) == "manifoldmixup"


@pytest.mark.parametrize("text", ["alpha " * 10, "x" * 10**6, "a$b" * 50])
def test_a_text_without_room_is_cut_with_an_ellipsis(text):
    found = fitted(text, 1.0).replace(r"\$", "$")
    assert found.endswith(ELLIPSIS)
    assert text.startswith(found[:-1])
    assert 0.8 < printed_width(found, 7.0) <= 1.0


def test_wrapped_text_keeps_all_words_in_lines_with_room():
    text = "Lines are intervals that hold for all rows of a table at once."
    lines = wrapped(text, 1.2)
    assert " ".join(lines) == text
    assert all(printed_width(line, 7.0) <= 1.2 for line in lines)


def test_text_that_goes_on_and_on_is_cut_after_some_lines():
    lines = wrapped("word " * 10**5, 1.2, most=3)
    assert len(lines) == 3
    assert lines[-1].endswith(ELLIPSIS)


def test_rows_differ_in_colour_and_without_it():
    found = looks([f"row{number}" for number in range(12)], "row3")
    assert len({(look.marker, look.linestyle) for look in found.values()}) == 12
    first = list(found.values())[:8]
    assert len({look.color for look in first}) == 8


def test_the_reference_is_black():
    assert looks(["a", "erm"], "erm")["erm"].color == "#000000"
    assert looks(["a"], "erm")["a"].color in COLOURS


@pytest.mark.parametrize(
    ("value", "text"), [(1.25, "+1.2"), (-3.0, "-3.0"), (0.0, "0.0"), (-0.04, "0.0")]
)
def test_a_difference_bears_its_sign_unless_it_is_shown_as_zero(value, text):
    assert signed(value, 1) == text.replace("-", "\N{MINUS SIGN}")


def test_rows_of_several_panels_never_share_a_look():
    first = looks(["erm", "mixup"], "erm")
    both = looks(["bc", "cutmix", "erm", "mixup"], "bc", first)
    assert first.items() <= both.items()
    assert len({tuple(vars(look).values()) for look in both.values()}) == 4
