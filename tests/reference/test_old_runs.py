"""A folder of runs of the first year is still listed, compared, verified, judged and resumed."""

import json
import lzma
import shutil
import tarfile
from pathlib import Path

import pytest
import torch
from paths import SHARED

from mixbench import cli, compose
from mixbench.records.record import cpu_name, read_record
from mixbench.training.job import resolve

HERE = Path(__file__).parent
DATA = SHARED / "data" / "voc2012_sample.zip"


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """The folder as it is packed; a test works on a copy."""
    root = tmp_path_factory.mktemp("old")
    with lzma.open(HERE / "runs.tar.xz") as file, tarfile.open(fileobj=file) as archive:
        archive.extractall(root, filter="data")
    return root


@pytest.fixture
def old(kept, tmp_path, monkeypatch):
    shutil.copytree(kept / "runs", tmp_path / "runs")
    if DATA.exists():
        shutil.copy(DATA, tmp_path / "voc.zip")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MIXBENCH_RUNS", "runs")
    monkeypatch.setenv("MIXBENCH_DATA", str(tmp_path / "data"))
    return tmp_path / "runs"


def one(old, start, status="done"):
    """The first run whose id begins so and which has that status."""
    return next(
        path
        for path in sorted(old.glob(f"{start}*"))
        if json.loads((path / "record.json").read_text())["status"] == status
    )


def names():
    with lzma.open(HERE / "runs.tar.xz") as file, tarfile.open(fileobj=file) as archive:
        return sorted(
            Path(name).parent.name for name in archive.getnames() if name.endswith("record.json")
        )


NAMES = names()
UNFINISHED = [name for name in NAMES if name.startswith("mixup-")]
# Where an attack ends may hang on the last bit of a gradient, which another machine computes
# otherwise.
ATTACKED = {"erm-digits-preactresnet18-69c06800-s1"}


@pytest.mark.parametrize("name", NAMES)
def test_a_configuration_of_then_has_the_same_id_today(old, name):
    if "voc" in name and not DATA.exists():
        pytest.skip("../shared/data is not here")
    config = compose("", base=old / name / "config.yaml")
    identity = resolve(config).identity
    record = read_record(old / name)
    found = (identity.id, identity.config_hash, identity.recipe_hash, identity.row_hash)
    assert found == (name, record.config_hash, record.recipe_hash, record.row_hash)


@pytest.mark.parametrize("name", [n for n in NAMES if n not in {*UNFINISHED, *ATTACKED}])
def test_a_finished_run_of_then_verifies(old, name, capsys):
    if "voc" in name and not DATA.exists():
        pytest.skip("../shared/data is not here")
    code, said = cli.main(["verify", f"runs/{name}"]), capsys.readouterr().err
    if read_record(old / name).device == f"{cpu_name()} (CPU)":
        assert code == 0, said
        assert read_record(old / name).verified
    elif code:  # other kernels may add in another order: the scores differ, but no fact does
        assert all(fact not in said for fact in ("data_hash", "config_hash", "its checkpoint"))


def test_all_are_in_the_leaderboard(old, capsys):
    assert cli.main(["leaderboard", "runs", "--format", "json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    rows = [row for group in shown["groups"] for row in group["rows"]]
    assert sum(len(row["seeds"]) for row in rows) == len(NAMES) - len(UNFINISHED)


def test_methods_are_compared(old, capsys):
    assert cli.main(["compare", "runs", "--mine", "cutmix", "--with", "erm"]) == 0
    assert "cutmix" in capsys.readouterr().out


def test_a_stopped_run_goes_on(old):
    (name,) = UNFINISHED
    assert cli.main(["resume", f"runs/{name}"]) == 0
    record = read_record(old / name)
    assert (record.status, record.id, len(record.attempts)) == ("done", name, 2)


@pytest.mark.parametrize("name", [n for n in NAMES if n not in UNFINISHED and "voc" not in n])
def test_the_weights_are_exported(old, name):
    assert cli.main(["export", f"runs/{name}", "-o", "weights.pt"]) == 0
    assert torch.load("weights.pt", weights_only=True)


def test_suites_are_added(old):
    name = one(old, "cutmix").name
    words = ["eval", f"runs/{name}", "--suite", "calibration,adversarial,occlusion,linearity"]
    assert cli.main([*words, "eval.adv_n=8", "eval.attacks=[fgsm_8]"]) == 0
    record = read_record(old / name)
    assert {"adversarial", "occlusion", "linearity"} <= set(record.evaluations)
