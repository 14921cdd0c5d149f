"""The notebooks hold no logic and no output, and run from top to bottom."""

import ast
import json
import os
import re
import subprocess
import sys

import pytest
import torch
from paths import ROOT

from mixbench import compose
from mixbench.errors import RunFailedError, UserError
from mixbench.notebook.__main__ import main
from mixbench.notebook.execute import execute
from mixbench.training.preview import first_batch

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LONGEST = 8  # lines of a cell of code
LOGIC = (
    ast.FunctionDef,
    ast.ClassDef,
    ast.Lambda,
    ast.For,
    ast.While,
    ast.If,
    ast.IfExp,
    ast.Try,
    ast.With,
    ast.comprehension,
)


def code(path):
    cells = json.loads(path.read_text())["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def notebook(path, *sources):
    import nbformat

    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    content = nbformat.v4.new_notebook(cells=cells)
    content.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(content, path)
    return path


def test_there_are_notebooks():
    assert [path.name[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04", "05"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_in_git_has_no_output(path):
    for cell in code(path):
        assert cell["outputs"] == []
        assert cell["execution_count"] is None
        assert cell["metadata"] == {}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_holds_no_logic(path):
    for cell in code(path):
        source = "".join(cell["source"])
        assert len(source.splitlines()) <= LONGEST, source
        for node in ast.walk(ast.parse(source)):
            assert not isinstance(node, LOGIC), source
            if isinstance(node, ast.ImportFrom):
                assert node.module.split(".")[0] in ("mixbench", "IPython"), source
            assert not isinstance(node, ast.Import), source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_says_what_to_see_and_what_not_to_conclude(path):
    cells = json.loads(path.read_text())["cells"]
    prose = " ".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    assert "What to see" in prose
    assert "What not to conclude" in prose


def test_an_executed_copy_is_written_elsewhere_with_the_runs_beside_it(tmp_path):
    path = notebook(tmp_path / "a.ipynb", "import os", "os.environ['MIXBENCH_RUNS']")
    before, said = path.read_bytes(), []
    (copy,) = execute([path], said.append, tmp_path / "out")
    assert path.read_bytes() == before
    assert str(tmp_path / "out") in code(copy)[1]["outputs"][0]["data"]["text/plain"][0]
    assert len(said) == 1
    assert said[0].startswith(f"{path}: done in")


def test_no_kernel_outlives_its_notebook(tmp_path):
    path = notebook(tmp_path / "a.ipynb", "import os", "os.getpid()")
    (copy,) = execute([path], print, tmp_path / "out")
    kernel = int(code(copy)[1]["outputs"][0]["data"]["text/plain"][0])
    with pytest.raises(ProcessLookupError):
        os.kill(kernel, 0)


def test_a_failing_cell_is_named_and_ends_with_exit_code_3(tmp_path, runs, capsys):
    sources = ("1 + 1", "fine = 1\nraise ValueError('planted\\n  to do: x')", "2 + 2")
    path = notebook(tmp_path / "bad.ipynb", *sources)
    with pytest.raises(RunFailedError, match=r"bad.ipynb, cell 2 failed: ValueError: planted"):
        execute([path], print, tmp_path / "out")
    assert code(tmp_path / "out" / "bad.ipynb")[0]["outputs"]
    assert main([str(path)]) == 3
    shown = capsys.readouterr().err
    assert "the cell begins with: fine = 1" in shown
    assert "Traceback" not in shown


def test_nothing_to_execute_and_a_missing_package_are_user_errors(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([]) == 2
    monkeypatch.setitem(__import__("sys").modules, "nbclient", None)
    with pytest.raises(UserError, match=r"mixbench\[notebooks\]"):
        execute(NOTEBOOKS, print, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(path, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    (copy,) = execute([path], print, tmp_path)
    assert all(cell["execution_count"] for cell in code(copy))


def test_make_notebooks_executes_them():
    makefile = (ROOT / "Makefile").read_text()
    assert "-m mixbench.notebook" in makefile
    ignored = subprocess.run(
        ["git", "check-ignore", "-q", "runs/notebooks/x.ipynb"], cwd=ROOT, timeout=60
    )
    assert ignored.returncode in (0, 128)  # 128: not a git checkout


@pytest.mark.parametrize("module", ["mixbench", "mixbench.perf", "mixbench.notebook"])
def test_every_command_of_the_package_explains_itself(module):
    words = [sys.executable, "-m", module, "--help"]
    found = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode == 0
    assert found.stdout.startswith("usage: ")
    assert not found.stderr
    entries = {path.parent.name for path in (ROOT / "mixbench").rglob("__main__.py")}
    assert entries == {"mixbench", "perf", "notebook"}


def test_a_file_that_is_no_notebook_is_named(tmp_path, capsys):
    (tmp_path / "text.ipynb").write_text("no JSON")
    for name in ("text.ipynb", "missing.ipynb"):
        assert main([str(tmp_path / name)]) == 2
        assert str(tmp_path / name) in capsys.readouterr().err


@pytest.mark.parametrize("name", ["bc", "cutmix", "mocosamix", "samix", "tdattenmix"])
def test_no_image_of_the_gallery_meets_itself(name):
    cells = "".join(code(NOTEBOOKS[2])[1]["source"])
    words = re.findall(r'"(\w[\w.]*=\w+)"', cells)
    assert "batch_size=4" in words
    method, batch = first_batch(compose(["data=digits", *words, f"method={name}"]))
    method.reseed(0, 0)
    with torch.no_grad():
        perm = method.mix_batch(batch).perm
    assert (perm != torch.arange(4)).all()
    assert len(perm.unique()) > 1
