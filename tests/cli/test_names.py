import ast
import re
import sys

import pytest

from mixbench import cli
from mixbench.cli import names
from mixbench.config.compose import compose
from mixbench.methods import METHODS


@pytest.mark.parametrize("data", ["digits", "imagenet", "cifar100"])
@pytest.mark.parametrize("name", METHODS.names())
def test_info_shows_the_values_that_a_run_uses(name, data, capsys):
    assert cli.main(["info", name]) == 0
    shown = dict(re.findall(r"^  method\.(\w+)=(.*)", capsys.readouterr().out, re.MULTILINE))
    used = compose(f"method={name} data={data}").method
    assert shown.keys() == {key for key in used if not isinstance(used[key], dict)} - {"name"}
    for key, text in shown.items():
        value = text.split("  (")[0]
        for other, sets in re.findall(r"(\[[^][]*\]|[^][ ]+) with data=([\w,]+)", text):
            if data in sets.split(","):
                value = other
        assert ast.literal_eval(value) == used[key], f"method.{key}"


def listed(capsys, *words):
    assert cli.main(["list", *words]) == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("kind", names.KINDS)
def test_a_list_for_programs_has_a_line_for_each_name_and_cuts_nothing(kind, capsys):
    lines = listed(capsys, kind)
    shown = [re.fullmatch(r"  (\S+)  +(\S.*)", line) for line in lines]
    assert all(shown)
    column = {
        line.index(match[2], len(match[1]) + 2) for line, match in zip(lines, shown, strict=True)
    }
    assert len(column) == 1
    assert not [line for line in lines if line.endswith("...")]
    assert [match[1] for match in shown] == names._names(kind, "*")
    assert not [match[1] for match in shown if match[2].startswith("Not verified")]


@pytest.mark.parametrize("width", [80, 200])
def test_a_list_on_a_terminal_fits_it_and_says_the_same(width, capsys, monkeypatch):
    whole = listed(capsys, "recipes")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(width))
    lines = listed(capsys, "recipes")
    assert max(map(len, lines)) <= width
    assert (len(lines) > len(whole)) or width == 200
    assert " ".join(" ".join(lines).split()) == " ".join(" ".join(whole).split())
    column = whole[0].index("The")
    assert all(line[:column].strip() or line[column] != " " for line in lines)
