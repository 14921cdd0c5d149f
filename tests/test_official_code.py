"""The page on official code: it covers all methods, and names tests and keys that exist."""

import ast
import dataclasses
import importlib.util
import json
import re
from functools import cache

import numpy as np
import pytest
import torch
import yaml
from paths import ROOT

from mixbench.config.names import METHODS as NAMES
from mixbench.config.schema import RunConfig
from mixbench.config.settings import walk
from mixbench.leaderboard.literature import figures
from mixbench.methods import METHODS

PAGE = (ROOT / "docs" / "official-code.md").read_text(encoding="utf-8")
PARTS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
OF = {name: title for title in PARTS for name in re.findall(r"`(\w+)`", title)}
ROWS = {
    cells[0]: cells[1:]
    for cells in re.findall(
        r"^\| \[`(\w+)`\]\(#[\w-]+\) \| (.*?) \| (.*?) \| (.*?) \|$", PAGE, re.MULTILINE
    )
}
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
KEY = re.compile(r"`([a-z_]+(?:\.\w+)*)=([^`]+)`")
CODE = re.compile(r"([\w-]+/[\w.-]+?)(?:, ([0-9a-f]{7}))?$")
WORDS = {"not said": "unknown", "median10": "median10", "median5": "median5"}
WORDS |= {"best10": "best10", "best": "best", "last": "last"}
FACTS = ("Code:", "Figures:", "Labels:")


def findings(text):
    """Numbered findings of a section: number and words."""
    return re.findall(r"^(\d+)\. (.*?)(?=^\d+\. |\Z)", text, re.MULTILINE | re.DOTALL)


EVERY = [(title, words) for title, text in PARTS.items() for _, words in findings(text)]


@cache
def functions_of(path):
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@cache
def selections():
    """How the epochs of the published figures of each method were chosen."""
    found = {}
    for figure in figures():
        found.setdefault(figure.method, set()).add(figure.select)
    return found


@cache
def recordings():
    """Source and commit of each golden file that has both."""
    found = []
    for path in sorted((ROOT / "tests" / "golden").glob("*.npz")):
        with np.load(path) as file:
            meta = json.loads(str(file["meta"])) if "meta" in file else {}
        if "commit" in meta:
            found.append((meta["source"], meta["commit"]))
    return found


def test_every_method_has_a_row_and_a_section_with_its_facts_and_findings():
    methods = set(NAMES.table)
    assert set(ROWS) == methods
    assert set(OF) == methods
    for name in methods:
        text = PARTS[OF[name]]
        assert findings(text), name
        facts = [line.split(" ")[0] for line in text.splitlines() if re.match(r"[A-Z]\w+: ", line)]
        assert facts == list(FACTS), name


def test_every_page_of_a_method_leads_to_its_section():
    path = ROOT / "docs" / "_extensions" / "reference.py"
    spec = importlib.util.spec_from_file_location("reference", path)
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    for name, place in re.findall(r"^\| \[`(\w+)`\]\(#([\w-]+)\)", PAGE, re.MULTILINE):
        assert f"official-code.html#{place}>" in reference.official_code(name)


@pytest.mark.parametrize("title", PARTS)
def test_findings_are_numbered_in_order(title):
    numbers = [int(number) for number, _ in findings(PARTS[title])]
    assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.parametrize(("title", "words"), EVERY)
def test_every_finding_names_tests_that_exist(title, words):
    named = TEST.findall(words)
    assert named, title
    assert not re.search(r"\b(KEY|TEST)\b", words), "a name that is still to be filled in"
    assert len(named) == words.count("tests/"), "a test whose name is not whole"
    for path, name in named:
        assert (ROOT / path).is_file(), path
        assert name in functions_of(path), f"{path} has no {name}"


def test_every_key_that_is_named_is_one_of_the_methods():
    for title, text in PARTS.items():
        classes = [METHODS.get(name) for name in re.findall(r"`(\w+)`", title) or NAMES.table]
        keys = {field.name for cls in classes for field in dataclasses.fields(cls.Config)}
        assert set(re.findall(r"method\.(\w+)", text)) <= keys, title


def test_python_numpy_and_pytorch_of_today_refuse_what_stops_old_code():
    assert not hasattr(np, "int")
    with pytest.raises(SyntaxError):
        compile("target.cuda(async=True)", "main.py", "exec")
    with pytest.raises(IndexError):
        torch.tensor(1.0).data[0]
    correct = torch.zeros(8, 5).t()  # of the five best classes of eight images
    with pytest.raises(RuntimeError, match="view"):
        correct[:5].view(-1)


def accepted(cls, given):
    """Whether settings of a method can have these values."""
    try:
        dataclasses.replace(cls.Config(), **given)
    except (TypeError, ValueError):
        return False
    return True


@pytest.mark.parametrize(("title", "words"), EVERY)
def test_every_key_of_a_finding_exists_and_takes_its_value(title, words):
    of_runs = {key for key, _ in walk(RunConfig)}
    classes = [METHODS.get(name) for name in re.findall(r"`(\w+)`", title) or NAMES.table]
    own = {}
    for key, value in KEY.findall(words):
        if key.startswith("method."):
            own[key.removeprefix("method.")] = yaml.safe_load(value)
        else:
            assert key in of_runs, key
    for key, value in own.items():
        having = [c for c in classes if key in {f.name for f in dataclasses.fields(c.Config)}]
        assert having, f"method.{key}"
        if value != "FILE":
            together = {k: v for k, v in own.items() if v != "FILE"}
            assert any(accepted(c, {key: value}) or accepted(c, together) for c in having), key


@pytest.mark.parametrize("name", sorted(ROWS))
def test_the_code_of_a_row_is_that_of_the_section_the_method_and_the_recording(name):
    code, _, _ = ROWS[name]
    text = re.sub(r"\s+", " ", PARTS[OF[name]])
    docstring = re.sub(r"\s+", " ", METHODS.get(name).__doc__ or "")
    match = CODE.match(code)
    if match is None:
        assert METHODS.get(name).Config().fidelity != "official-verified"
        assert not re.search(r"Official code: [\w-]+/", docstring)
        return
    repository, commit = match.groups()
    assert f"[{repository}](https://github.com/{repository})" in text
    assert f"Official code: {repository}" in docstring
    if commit is not None:
        assert f"at {commit}" in text
        assert any(repository in source and at.startswith(commit) for source, at in recordings())


@pytest.mark.parametrize("name", sorted(ROWS))
def test_the_epoch_of_figures_is_that_of_the_published_figures(name):
    _, found, told = ROWS[name]
    assert found
    words = {WORDS[word] for word in re.findall("|".join(WORDS), told)}
    assert words <= selections().get(name, set())
    assert words or told == "none"
