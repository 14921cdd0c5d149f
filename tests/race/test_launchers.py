"""Where the runs of a race are timed and carried out: beside each other, on GPUs, on SLURM."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mixbench.errors import UserError
from mixbench.launch.local import LocalLauncher
from mixbench.launch.plan import PlannedRun
from mixbench.race.facts import RaceFacts
from mixbench.race.runs import SELECTION, TIMING_SEED
from mixbench.race.start import _seconds, _timed_runs, open_race, parse_request
from mixbench.race.state import RACE

WORDS = ["data=digits", "data.limit=260", "epochs=1", "net.width=4", "batch_size=64"]
WORDS += ["method=mixup,cutmix", "trainer.accelerator=cpu"]


def test_a_process_that_is_asked_sees_the_gpus_that_it_is_given(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "a,b,c,d")
    launcher = LocalLauncher(print)
    assert launcher.ask(os.getenv, "CUDA_VISIBLE_DEVICES", gpus=range(2, 4)) == "c,d"
    assert launcher.ask(os.getenv, "CUDA_VISIBLE_DEVICES") == "a,b,c,d"


@pytest.mark.parametrize(("gpus", "expected"), [(0, [None] * 3), (2, [[0, 1], [2, 3], [4, 5]])])
def test_runs_that_are_timed_beside_each_other_have_gpus_of_their_own(monkeypatch, gpus, expected):
    lines, seen = [], []

    def ask(function, runs, strict, gpus=None):
        seen.append(None if gpus is None else list(gpus))
        return list(runs), ["a note"], None

    launcher = LocalLauncher(lines.append)
    monkeypatch.setattr(launcher, "ask", ask)
    runs = [PlannedRun(["method=erm"])]
    assert launcher.measure(runs, 3, gpus) == [runs] * 3
    assert sorted(seen, key=str) == sorted(expected, key=str)
    assert [line for line in lines if "note" in line] == ["warning: a note"]


FACTS = RaceFacts("x", "x", "x", "x", "x", "top1", 5, 40, 200, 300, 20, 2)


def test_the_seconds_of_a_method_are_the_mean_over_all_that_were_timed():
    request = parse_request([*WORDS, "budget=1h"])
    runs = _timed_runs(request.arm_words, request, Path("runs"), FACTS)
    assert len(runs) == 1 + len(request.arm_words)
    assert all(f"seed={TIMING_SEED}" in run.words for run in runs)
    assert all(any(w.startswith("data.race_fold=") for w in run.words) for run in runs)

    def timed(times):  # an array of SLURM gives back copies
        return [PlannedRun(list(run.words), seconds=s) for run, s in zip(runs, times, strict=True)]

    found = _seconds(request.arm_words, set(), runs, [timed([99, 4, 5, 6]), timed([99, 6, 7, 8])])
    assert found == {"erm": 5, "mixup": 6, "cutmix": 7}
    lacking = [timed([99, 4, 5, 6]), timed([99, 6, 7, None])]
    assert _seconds(request.arm_words, {"cutmix"}, runs, lacking) == {"erm": 5, "mixup": 6}
    with pytest.raises(UserError, match="a few steps of cutmix could not be carried out"):
        _seconds(request.arm_words, set(), runs, lacking)


def test_a_cluster_needs_the_number_of_runs_at_a_time(tmp_path):
    request = parse_request([*WORDS, "budget=1h", f"run.dir={tmp_path}"])
    with pytest.raises(UserError, match="at a time is not known") as raised:
        open_race(request, LocalLauncher(print), pytest.fail, object())  # type: ignore[arg-type]
    assert "jobs=" in raised.value.todo


DRIVER = """
import sys
from fake_slurm import Quick
import mixbench.launch.slurm as slurm
import mixbench.race.start as start
slurm.SlurmLauncher.poll_s, slurm.SlurmLauncher.patience_s = Quick.poll_s, 30.0
seconds = start._seconds
# Times differ from one start to the next, and with them the plan: here all runs take 40 s.
start._seconds = lambda *given: dict.fromkeys(seconds(*given), 40.0)
from mixbench.cli.parser import main
if __name__ == "__main__":
    sys.exit(main(["race", *sys.argv[1:]]))
"""


@pytest.mark.slow
def test_each_round_of_a_race_is_an_array_of_slurm(tmp_path, fake):
    pytest.importorskip("submitit")
    root = Path(__file__).resolve().parents[2]
    (tmp_path / "driver.py").write_text(DRIVER)
    runs = tmp_path / "runs"
    places = {"MIXBENCH_RUNS": str(runs), "PYTHONPATH": f"{root}:{root / 'tests'}"}

    def start(*words):
        command = [sys.executable, str(tmp_path / "driver.py"), *WORDS, "jobs=2", *words]
        return subprocess.run(
            [*command, "--launcher", "slurm", "--slurm", "time=30"],
            env=os.environ | places, capture_output=True, text=True, timeout=1500,
        )  # fmt: skip

    done = start("budget=6min")
    told = done.stdout + done.stderr
    assert done.returncode == 0, told
    assert "points" in told
    assert "top1" not in told
    (path,) = runs.glob(f"race-*/{RACE}")
    state = json.loads(path.read_text())
    (look,) = state["looks"]
    rounds = [each for each in state["rounds"] if each["blocks"]]
    # An array of two tasks measures the time; each round is one more, and so is the look.
    arrays = [line for line in told.splitlines() if line.startswith("SLURM job")]
    sizes = [int(line.partition("tasks: ")[2].partition(",")[0]) for line in arrays]
    assert sizes == [2, *(len(e["survivors"]) * e["blocks"] for e in rounds), 2 * look["n"]]
    assert (runs / "slurm").is_dir()
    assert (path.parent / SELECTION / "slurm").is_dir()
    assert start().stdout.count("SLURM job") == 0  # it is over
