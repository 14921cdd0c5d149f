"""Files that `mixbench new` writes work as they are."""

import importlib
import sys

import pytest

from mixbench import cli
from mixbench.launch.sweep import read_sweep
from mixbench.testing.new import KINDS, class_of

OWN = {"method": "fresh_mix", "suite": "fresh_suite", "data": "fresh_data"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in OWN.values():
        assert cli.main(["new", next(k for k in KINDS if OWN[k] == name), name]) == 0
    yield tmp_path
    for name in [n for n in sys.modules if n.removeprefix("test_") in OWN.values()]:
        del sys.modules[name]


@pytest.mark.parametrize(
    "kind", [pytest.param("method", marks=pytest.mark.slow), "suite", "data"]
)  # the rules of a method take seconds, and its other test stands below
def test_the_tests_that_are_written_pass(folder, kind):
    module = importlib.import_module(f"test_{OWN[kind]}")
    tests = [value for name, value in vars(module).items() if name.startswith("test_")]
    assert tests
    for test in tests:
        test()


def test_a_new_method_mixes_and_its_test_sees_another_mixture(folder):
    test = importlib.import_module("test_fresh_mix").test_it_mixes_as_its_paper_says
    test()
    module = sys.modules["fresh_mix"]
    module.mf.mixup, kept = lambda x, targets, **_: module.mf.Mixed(x, targets), module.mf.mixup
    try:
        with pytest.raises(AssertionError):
            test()
    finally:
        module.mf.mixup = kept


def test_the_plans_are_read_where_their_code_is_typed(folder):
    trusted = ["fresh_mix:FreshMix"]
    assert len(read_sweep("fresh_mix.yaml", trusted=trusted).runs) == 3
    assert len(read_sweep("fresh_suite.yaml", ["eval.suites=[fresh_suite:FreshSuite]"]).runs) == 2
    assert len(read_sweep("fresh_data.yaml", ["data=fresh_data:FreshData"]).runs) == 2


def test_nothing_is_left_of_the_template(folder):
    for path in folder.iterdir():
        text = path.read_text()
        assert "NAME" not in text.replace("NAMES", "")
        assert "CLASS" not in text.replace("CLASSES", "")


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("fresh_mix", "fresh_mix.py exists"),
        ("torch", "installed module"),
        ("json", "installed module"),
        ("class", "cannot be the name"),
        ("../up", "cannot be the name"),
        ("Own", "small letters"),
    ],
)
def test_a_name_that_is_taken_or_none_is_refused_and_nothing_written(folder, name, match, capsys):
    before = {path: path.read_bytes() for path in folder.rglob("*")}
    assert cli.main(["new", "method", name]) == 2
    assert match in capsys.readouterr().err
    assert {path: path.read_bytes() for path in folder.rglob("*")} == before
    assert class_of("own_mix2") == "OwnMix2"
