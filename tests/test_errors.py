"""Messages on a terminal."""

import logging

import pytest

from mixbench import compose
from mixbench.cli.console import print_notice, print_result
from mixbench.errors import (
    FUSED,
    NATIVE,
    PrintableFormatter,
    UserError,
    counted,
    printable,
    switched_on,
)
from mixbench.training.job import resolve


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "plain, Ma\u00f1ana \u4f60\u597d \u26a0 a b",
            "plain, Ma\u00f1ana \u4f60\u597d \u26a0 a b",
        ),
        ("\x1b[2J\x07\x00", r"\x1b[2J\x07\x00"),
        ("a\nb\r\n\tc\u2028d\x85e\xa0f", "a b   c d e f"),
        ("\u202eevil\u2066\u200b\ufeff", r"\u202eevil\u2066\u200b\ufeff"),
        ("\udcff \x9b1m", r"\udcff \x9b1m"),
        ("\U000e0041", r"\U000e0041"),
    ],
)
def test_text_of_strangers_does_nothing_but_stand_there(text, shown):
    assert printable(text) == shown
    assert printable(text).isprintable()


def test_an_error_is_three_lines_whatever_stands_in_it():
    error = UserError("a\nb\x1b[0m", "x\ny", "z\n  to do: rm -rf /")
    assert str(error).splitlines() == [
        r"a b\x1b[0m",
        "  where: x y",
        "  to do: z   to do: rm -rf /",
    ]


def test_the_console_and_a_log_show_no_control_characters(capsys, caplog):
    print_result("one\ntwo\x1b[31m")
    print_notice("\u202ethree")
    found = capsys.readouterr()
    assert found.out == "one\ntwo\\x1b[31m\n"
    assert found.err == "mixbench: \\u202ethree\n"
    record = logging.makeLogRecord({"msg": "a\n%s", "args": ("\x1b",), "levelname": "INFO"})
    assert PrintableFormatter("%(message)s").format(record) == r"a \x1b"
    try:
        raise ValueError("inner")
    except ValueError as error:
        record.exc_info = (ValueError, error, error.__traceback__)
    assert "\n" in PrintableFormatter("%(message)s").format(record)  # a traceback keeps its lines


@pytest.mark.parametrize(
    ("number", "noun", "shown"),
    [
        (0, "image", "0 images"),
        (1, "optimiser step", "1 optimiser step"),
        (1, "class", "1 class"),
        (3, "class", "3 classes"),
        (1000, "epoch", "1,000 epochs"),
    ],
)
def test_a_noun_follows_its_number(number, noun, shown):
    assert counted(number, noun) == shown


@pytest.mark.parametrize(
    ("value", "on"),
    [(None, True), ("", True), ("1", True), ("On", True), ("0", False), ("no", False)],
)
def test_an_environment_variable_leaves_a_part_on_or_off(value, on, monkeypatch):
    monkeypatch.delenv(NATIVE, raising=False)
    if value is not None:
        monkeypatch.setenv(NATIVE, value)
    assert switched_on(NATIVE) is on


@pytest.mark.parametrize("name", [NATIVE, FUSED])
def test_a_switch_that_is_neither_on_nor_off_is_refused_before_a_run(name, monkeypatch):
    monkeypatch.setenv(name, "banana")
    with pytest.raises(UserError, match=f"{name}=banana is neither on nor off"):
        resolve(compose("data=digits"))
