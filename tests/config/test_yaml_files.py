"""YAML of strangers costs nothing and breaks nothing."""

import itertools
import os
import sys
import tracemalloc

import pytest
import yaml

from mixbench.config import yaml_files
from mixbench.config.yaml_files import MAX_BYTES, MAX_NODES, parse, read
from mixbench.errors import UserError
from mixbench.launch.sweep import read_sweep

LEVELS = "".join(
    f"{b}: &{b} [{','.join(['*' + a] * 9)}]\n" for a, b in itertools.pairwise("abcdef")
)


@pytest.fixture
def events(monkeypatch):
    """How much of a text was parsed."""
    seen = []
    real = yaml.SafeLoader.get_event
    monkeypatch.setattr(yaml.SafeLoader, "get_event", lambda self: seen.append(1) or real(self))
    return seen


@pytest.mark.parametrize(
    "text",
    [
        "[" + "1," * 400_000 + "1]",
        "[" * 400_000,
        "".join(" " * depth + "a:\n" for depth in range(900)),
        "a: &a [x,x,x,x,x,x,x,x,x]\n" + LEVELS,
        "a: &a {x: 1}\nb: {<<: [" + ",".join(["*a"] * 9000) + "]}",
        "a: " + "9" * 20_000,
        "a: " + ":".join(["1"] * 20_000),
    ],
    ids=["wide", "deep", "deep map", "aliases", "merges", "number", "sexagesimal"],
)
def test_what_is_too_large_is_refused_before_it_is_read_to_its_end(text, events):
    with pytest.raises(UserError, match="too large or too deeply nested"):
        parse(text, "here")
    assert len(events) < 2.1 * MAX_NODES


def test_a_name_never_leads_out_of_the_folder_of_its_group(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for group in ("data", "recipe"):
        (tmp_path / "experiments" / group).mkdir(parents=True)
    for name in ("data/own", "data/.own"):
        (tmp_path / "experiments" / f"{name}.yaml").touch()
    assert yaml_files.find("data", "own") is not None
    assert yaml_files.find("data", ".own") is None
    assert yaml_files.find("recipe", "../data/own") is None


def test_lists_of_thirty_levels_are_read_and_deeper_ones_refused():
    assert parse("a: " + "[" * 30 + "]" * 30, "here")
    with pytest.raises(UserError, match="too deeply nested"):
        parse("a: " + "[" * 31 + "]" * 31, "here")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("&a [*a]", "contains itself"),
        ("a: \x00", "not valid YAML"),
        ("a: \ud800", "not valid YAML"),
        ("a: 2001-13-45", "not a plain YAML value"),
        ("a: *b", "undefined alias"),
        ("a: 1\n---\nb: 2", "another document"),
    ],
)
def test_what_is_no_plain_yaml_is_refused_in_one_line(text, match):
    with pytest.raises(UserError, match=match) as error:
        parse(text, "here")
    assert "\n" not in error.value.what


def test_moderate_aliases_and_merges_are_read():
    assert parse("a: &a {b: 1}\nc: {<<: *a, d: 2}\ne: [*a, *a]", "here")[0] == {
        "a": {"b": 1},
        "c": {"b": 1, "d": 2},
        "e": [{"b": 1}, {"b": 1}],
    }
    assert len(parse("[" + "1," * (MAX_NODES - 3) + "1]", "here")[0]) == MAX_NODES - 2


def test_every_key_is_a_word(tmp_path):
    assert parse("~: 1\n2: 3\n1.50: 4\n2001-01-01: 5", "here")[0] == {
        "~": 1,
        "2": 3,
        "1.50": 4,
        "2001-01-01": 5,
    }
    path = tmp_path / "plan.yaml"
    path.write_text("~: 1\n")
    with pytest.raises(UserError, match="unknown key '~'"):
        read_sweep(str(path))


@pytest.mark.skipif(sys.platform == "win32", reason="no pipes by name")
def test_a_file_is_read_up_to_its_limit_and_a_pipe_not_at_all(tmp_path):
    path = tmp_path / "large.yaml"
    with path.open("wb") as file:
        file.write(b"a: 1\n")
        file.truncate(10**11)  # takes no place on the disk
    tracemalloc.start()
    with pytest.raises(UserError, match=f"{MAX_BYTES:,}"):
        read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 * MAX_BYTES
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(UserError, match=r"pipe\.yaml"):
        read(tmp_path / "pipe.yaml")
