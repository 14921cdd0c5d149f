"""The extensions of the documentation site; a slow test builds all of it."""

import argparse
import importlib.util
import inspect
import subprocess
import sys

import pytest
from paths import ROOT

EXTENSIONS = ROOT / "docs" / "_extensions"


def extension(name):
    spec = importlib.util.spec_from_file_location(name, EXTENSIONS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


reference, selfcontained = extension("reference"), extension("selfcontained")


def test_every_command_and_each_of_its_options_stands_on_the_page():
    from mixbench.cli.parser import _parser

    page = reference.commands_page()
    (commands,) = [a for a in _parser()._actions if isinstance(a, argparse._SubParsersAction)]
    for name, command in commands.choices.items():
        assert f"\n{name}\n{'-' * len(name)}\n" in page
        for action in command._actions:
            if action.help != argparse.SUPPRESS:
                assert all(option in page for option in action.option_strings), name


def test_every_key_and_score_is_described():
    from mixbench.config.schema import RunConfig
    from mixbench.config.settings import info_of, walk
    from mixbench.leaderboard.columns import COLUMNS

    page = reference.keys_page()
    assert all(f"``{key}``" in page and info_of(item).meaning for key, item in walk(RunConfig))
    page = reference.scores_page()
    assert all(f"``{name}``" in page and column.title for name, column in COLUMNS.items())


@pytest.mark.parametrize("name", reference.method_names())
def test_a_method_tells_its_paper_formula_and_cost(name):
    from mixbench.methods import METHODS

    cls = METHODS.get(name)
    page = reference.docstring_text(inspect.getdoc(cls))
    assert "**Paper:**" in page
    assert "**Cost:**" in page
    assert "**Formula:** " in page or name == "choice"
    assert cls.Config().fidelity in reference.FIDELITY
    assert page.count("arXiv:") == page.count("`arXiv:") == page.count("arxiv.org/abs")


def test_papers_code_and_thoughts_of_a_docstring_are_taken_apart():
    found = reference.docstring_text(
        "Mix.\n\nPaper: A et al., arXiv:1234.56789. Official code: a/b-c.\nA thought\nof two lines."
        "\nCost: 1."
    )
    assert found.split("\n\n") == [
        "Mix.",
        "**Paper:** A et al., `arXiv:1234.56789 <https://arxiv.org/abs/1234.56789>`__.",
        "**Official code:** `a/b-c <https://github.com/a/b-c>`__.",
        "A thought\nof two lines.",
        "**Cost:** 1.\n",
    ]


def test_a_page_that_need_not_be_there_leaves_the_contents_quietly(tmp_path):
    app = argparse.Namespace(srcdir=tmp_path)
    (tmp_path / "own-images.md").touch()
    source = ["tables\nown-images*\ngone*\nreference/*"]
    reference.drop_absent(app, "index", source)
    assert source == ["tables\nown-images*\nreference/*"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('<script src="https://a.b/c.js"></script>', "asks another server for https://a.b/c.js"),
        ('<link href="//a.b/c.css">', "asks another server for //a.b/c.css"),
        ('<p style="background: url(http://a.b/c.png)">', "asks another server"),
        ('<img src="gone.png">', "shows gone.png, which does not exist"),
        ('<a href="gone.html">x</a>', "links to gone.html, which does not exist"),
        ('<a href="other.html#gone">x</a>', "no such place"),
        ('<a href="#gone">x</a>', "no such place"),
        ('<a href="other.html#here">x</a> <a href="https://a.b">y</a> <a href="#">z</a>', None),
    ],
)
def test_requests_and_dead_links_are_found(tmp_path, text, told):
    (tmp_path / "index.html").write_text(text)
    (tmp_path / "other.html").write_text('<p id="here">')
    found = list(selfcontained.problems(tmp_path))
    assert found == [] if told is None else len(found) == 1 and told in found[0]


def test_a_style_sheet_may_not_ask_another_server_either(tmp_path):
    (tmp_path / "a.css").write_text("p { background: url('https://a.b/c.png') } i { url(d.png) }")
    assert list(selfcontained.problems(tmp_path)) == [
        "a.css asks another server for https://a.b/c.png"
    ]


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    for name in ("sphinx", "furo", "myst_parser", "latex2mathml"):
        pytest.importorskip(name, reason="make docs installs it")
    words = ["-m", "sphinx", "-W", "-q", "docs", str(tmp_path)]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "reference" / "methods" / "cutmix.html").exists()
