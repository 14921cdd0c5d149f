"""The wheel works in an empty environment, without the checkout that it was built from."""

import email
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
import torch
from paths import ROOT

import mixbench

TINY = ["data=digits", "data.limit=64", "net.width=4", "epochs=1", "batch_size=16"]
TINY += ["wandb.mode=disabled", "eval.suites=[calibration]"]
pytestmark = pytest.mark.slow  # it is built, installed, and trains


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    pytest.importorskip("hatchling", reason="hatchling, which builds the wheel, is not installed")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Calls a program of an environment that holds the wheel, in an empty folder."""
    folder = tmp_path_factory.mktemp("empty")
    venv.create(folder / "venv", with_pip=True)
    programs, work = folder / "venv" / "bin", folder / "work"
    work.mkdir()
    install = [programs / "python", "-m", "pip", "install", "--no-deps", "--no-index", wheel]
    subprocess.run(install, check=True, capture_output=True)
    # What it needs is there already; a path adds no checkout that is installed beside it.
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    (site / "needed.pth").write_text(f"{Path(torch.__file__).parents[1]}\n")

    def call(program, *words):
        env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "MIXBENCH"))}
        command = [programs / program, *words]
        return subprocess.run(command, cwd=work, env=env, capture_output=True, text=True)

    return call


def test_it_says_what_it_is(wheel):
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
        (place,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        told = email.message_from_string(file.read(place).decode())
        scripts = file.read(place.replace("METADATA", "entry_points.txt")).decode()
    assert told["Name"] == "mixbench"
    assert told["Version"] == mixbench.__version__
    assert told["License-Expression"] == "Apache-2.0"
    assert told["Requires-Python"] == ">=3.11"
    assert told["Description-Content-Type"] == "text/markdown"
    assert "# mixbench" in told.get_payload()
    for key in ("Summary", "Author", "Keywords", "License-File"):
        assert told[key], key
    assert "mixbench = mixbench.cli:main" in scripts
    extras = {"onnx", "timm", "plots", "eval", "cluster", "elicit", "parquet", "tensorboard"}
    assert extras <= set(told.get_all("Provides-Extra", []))
    tracked = (ROOT / "experiments").rglob("*.yaml")
    wanted = {f"mixbench/_experiments/{path.relative_to(ROOT / 'experiments')}" for path in tracked}
    assert wanted <= set(names)
    assert "mixbench/native/augmix.c" in names
    parts = {"py", "c", "txt", "yaml", "js", "css", "html", "md", "csv", "json", "npz", "ttf"}
    parts |= {"jinja"}
    assert {name.rsplit(".", 1)[-1] for name in names if "dist-info" not in name} <= parts
    assert not [name for name in names if "__pycache__" in name or name.startswith("tests")]


def test_it_lists_trains_and_predicts_where_nothing_else_is(installed, tmp_path):
    where = installed("python", "-c", "import mixbench; print(mixbench.__file__)").stdout
    assert "site-packages" in where
    assert str(ROOT) not in where
    for words in (
        ["--version"],
        ["list"],
        ["info", "alignmix"],
        ["doctor"],
        ["new", "method", "own_mix"],
        ["sweep", "manifold_layers", "seeds=0", *TINY, "--dry-run"],
        ["run", "method=cutmix", *TINY],
        ["leaderboard"],
        ["report", "-o", "page.html"],
        ["show", "method=cutmix", *TINY, "-o", "mixed.png"],
    ):
        done = installed("mixbench", *words)
        assert done.returncode == 0, (words, done.stderr)
    (run,) = installed("mixbench", "completion", "words", "--", "predict", "").stdout.split()
    done = installed("mixbench", "predict", run, "mixed.png")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("mixed.png")
