"""The checks for a machine whose GPU time is short, as far as a CPU can carry them out."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from paths import ROOT

from mixbench.config.compose import compose_text
from mixbench.errors import UserError
from mixbench.launch.plan import expand
from mixbench.perf import gpu

SLEEP = "import os, subprocess, sys, time; print('begun', flush=True); "
SLEEP += "child = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(60)']); "
SLEEP += "print(child.pid, flush=True); time.sleep(60)"


def carried_out(monkeypatch, tmp_path, parts=("tests", "perf", "quick"), outputs=None, cut=True):
    """Exit code, and the seconds if every command takes its limit and, where cut, the grace."""
    now = [0.0]

    def carry_out(words, limit, log):
        seconds = limit + gpu.GRACE_S if cut else 1.0
        now[0] += seconds
        name = words[1] if words[0] == "mixbench" else words[0]
        code, output = (outputs or {}).get(name, (0, ""))
        return gpu.Ended([*words], code, seconds, cut, output)

    monkeypatch.setattr(gpu, "carry_out", carry_out)
    monkeypatch.setattr(gpu, "PATIENCE", 1)
    monkeypatch.setattr(gpu.time, "monotonic", lambda: now[0])
    return gpu.check("cpu", parts, tmp_path, []), now[0]


@pytest.mark.parametrize("parts", [("tests", "perf", "quick"), ("perf", "quick"), ("quick",)])
def test_the_parts_take_less_than_eight_minutes_with_their_tables(parts, tmp_path, monkeypatch):
    code, seconds = carried_out(monkeypatch, tmp_path, parts)
    assert code == 0
    assert seconds <= sum(gpu.LIMITS[part] for part in parts) + gpu.GRACE_S <= 480


SUMMARY = "=== short test summary info ===\n%s tests/test_a.py::test_a - assert 1 == 2"


@pytest.mark.parametrize(
    ("cut", "output", "failed"),
    [
        (True, SUMMARY % "FAILED", True),
        (True, SUMMARY % "ERROR", True),
        (True, "..s.F.", True),  # killed, before it could tell more
        (True, "..s...   [ 50%]\n.E.. [100%]\n", True),
        (True, "..s.x.   [ 50%]\n....\n!!! KeyboardInterrupt !!!\n6 passed, 1 skipped", False),
        (False, "no tests ran", True),
    ],
)
def test_tests_that_failed_before_the_limit_are_told(cut, output, failed, tmp_path, monkeypatch):
    code, _ = carried_out(monkeypatch, tmp_path, ["tests"], {"pytest": (2, output)}, cut)
    assert code == (gpu.PART_FAILED if failed else 0)


@pytest.mark.parametrize(
    ("command", "failed"),
    [("bench", False), ("mixbench.perf", False), ("leaderboard", True), ("report", True)],
)
def test_what_is_interrupted_fails_by_its_tables_alone(command, failed, tmp_path, monkeypatch):
    code, _ = carried_out(monkeypatch, tmp_path, outputs={command: (130, "")})
    assert code == (gpu.PART_FAILED if failed else 0)


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.default_int_handler], ids=str)
def test_a_part_is_stopped_at_its_limit_with_its_processes_and_its_output_stays(handler, tmp_path):
    before = signal.signal(signal.SIGINT, handler)  # a shell's background has it ignored
    try:
        ended = gpu.carry_out(["timeit", "-n1", "-r1", SLEEP], 1.0, tmp_path / "log")
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended.cut
    assert ended.text.startswith("interrupted at its limit")
    assert ended.code != -signal.SIGKILL  # it had the time to end by itself
    word, child = ended.output.split()[:2]
    assert word == "begun"
    time.sleep(0.1)
    state = Path(f"/proc/{child}/stat")
    assert not state.exists() or state.read_text().split()[2] == "Z"


def test_a_part_that_ends_tells_its_code(tmp_path):
    ended = gpu.carry_out(["timeit", "--unknown"], 60, tmp_path / "log")
    assert (ended.code, ended.cut) == (2, False)


def test_the_quick_tier_is_ten_methods_of_two_seeds_on_cifar10(tmp_path, monkeypatch):
    monkeypatch.setenv("MIXBENCH_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"(?s)no cifar10_train30k.*ARGS='data=cifar10"):
        gpu._runs("cuda", [])
    for name in gpu.PACKS:
        (tmp_path / name).touch()
    for words, data in (([], "pack"), (["data=cifar10"], "cifar10")):
        planned = expand(gpu._runs("cuda", words))
        assert len(planned) == 20
        first, last = (compose_text(planned[n].words).config for n in (0, -1))
        assert (first.data.kind, first.epochs, first.precision) == (data, 16, "bf16")
        assert (first.data.crop, first.data.flip, first.net.width) == (4, True, 64)
        assert (first.seed, last.seed) == (0, 1)  # every method once before any twice


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_nothing_starts(tmp_path):
    with pytest.raises(UserError, match="DEVICE=cpu"):
        gpu.check("cuda", ["tests"], tmp_path, [])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_dry_run_on_the_cpu_carries_out_all_three_parts(tmp_path):
    out, scratch = tmp_path / "out", tmp_path / "runs"
    command = [sys.executable, "-m", "mixbench.perf.gpu", "--device", "cpu", "--out", str(out)]
    environment = os.environ | {"MIXBENCH_RUNS": str(scratch)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = {path.stem.rpartition("-")[2]: path.read_text() for path in out.glob("*-*.md")}
    assert {"tests", "perf", "quick"} < pages.keys()
    assert "skipped" in pages["tests"]
    assert "| erm |" in pages["quick"].replace("*", "")
    content = json.loads(next(out.glob("*.json")).read_text())
    assert {row["part"] for row in content["rows"]} == {"P1", "P2", "P3", "P4", "P5", "P6"}
    assert content["dry_run"]
    assert list((scratch / "gpu").glob("*.html"))
    for page in ("tests", "perf", "quick"):
        assert "commit" in pages[page]
        assert "python -m" in pages[page]
