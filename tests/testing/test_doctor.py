"""What a machine lacks is said in one line, with what to do, and by the exit code."""

import os
import shutil
from collections import namedtuple
from importlib import metadata

import pytest

from mixbench import cli
from mixbench.native.library import cache_folder, missing_reason
from mixbench.testing import doctor


@pytest.fixture
def machine(tmp_path, monkeypatch, runs):
    """A working directory without data, runs or a key of W&B."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MIXBENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def lines(capsys, code):
    assert cli.main(["doctor"]) == code
    return capsys.readouterr().out.splitlines()


def line_of(found, subject, number=0):
    return [line for line in found if line.split()[1] == subject][number]


def test_a_fresh_machine_is_fine_in_a_line_each(machine, capsys):
    found = lines(capsys, 0)
    assert [line.split()[1] for line in found] == [
        *("python", "packages", "extras", "device", "compiler"),
        *("W&B", "data", "disk", "runs", "disk"),
    ]
    assert "torch " in line_of(found, "packages")
    assert "offline, no API key" in line_of(found, "W&B")
    assert "is made when it is needed" in line_of(found, "runs")
    assert not list(machine.iterdir())  # it has made nothing


def test_folders_are_counted(machine, runs, capsys):
    (machine / "data" / "imagenet").mkdir(parents=True)
    for name in ("a", "b"):
        (runs / name).mkdir(parents=True)
    (runs / "a" / "record.json").write_text("{}")
    (machine / "data" / "hashes").mkdir()
    found = lines(capsys, 0)
    assert line_of(found, "runs").endswith("1 run")
    assert line_of(found, "data").endswith(": imagenet")


def test_a_key_and_the_mode_of_w_and_b_are_told_apart(machine, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    assert "online, an API key is there" in line_of(lines(capsys, 0), "W&B")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    text = line_of(lines(capsys, 0), "W&B")
    assert "disabled, by WANDB_MODE" in text
    assert "kkk" not in text
    monkeypatch.setenv("WANDB_MODE", "onlin")
    assert line_of(lines(capsys, 2), "W&B").startswith("BAD")


def test_it_says_by_what_augmix_runs(machine, monkeypatch, capsys):
    monkeypatch.setenv("MIXBENCH_NATIVE", "0")
    text = line_of(lines(capsys, 0), "compiler")
    assert text.startswith("note")
    assert text.endswith("left to torch, several times slower and equal: MIXBENCH_NATIVE=0 is set")
    for name in ("MIXBENCH_NATIVE", "MIXBENCH_FUSED"):
        monkeypatch.setenv(name, "banana")
        assert line_of(lines(capsys, 2), name).startswith("BAD")
        monkeypatch.delenv(name)
    reason = missing_reason()
    assert line_of(lines(capsys, 0), "compiler").endswith(reason or f"in {cache_folder()}")


def test_what_stops_runs_is_bad(machine, monkeypatch, capsys):
    (machine / "runs").write_text("a file")
    assert "is not a folder; set MIXBENCH_RUNS" in line_of(lines(capsys, 2), "runs")
    (machine / "runs").unlink()
    version = metadata.version
    monkeypatch.setattr(metadata, "version", lambda n: "1.0" if n == "torch" else version(n))
    monkeypatch.setattr(metadata, "requires", lambda name: ["torch>=2.10", "rich>=1"])
    assert "too old: torch>=2.10" in line_of(lines(capsys, 2), "packages")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_cannot_be_written_is_bad(machine, runs, capsys):
    runs.mkdir()
    runs.chmod(0o500)
    assert "MIXBENCH_RUNS" in line_of(lines(capsys, 2), "runs")


def test_extras_and_a_full_disk_are_told(machine, monkeypatch, capsys):
    monkeypatch.setattr(
        metadata, "requires", lambda name: ["rich>=1", "none-such>=3; extra == 'odd'"]
    )
    usage = namedtuple("usage", "total used free")(10**12, 10**12, 10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage)
    found = lines(capsys, 0)
    assert "not installed: odd (pip install 'mixbench[odd]')" in line_of(found, "extras")
    assert line_of(found, "disk").startswith("note")
    assert doctor._numbers("2.15.0+cpu") == (2, 15, 0)
