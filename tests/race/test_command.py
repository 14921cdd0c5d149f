"""The command as a user gives it, on real runs of a few steps."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from mixbench.leaderboard.rows import build_leaderboard, find_runs
from mixbench.race.state import RACE

WORDS = ["data=digits", "data.limit=260", "epochs=1", "net.width=4", "batch_size=64"]
WORDS += ["method=mixup,cutmix", "jobs=1", "budget=14min"]
# Times differ from one start to the next, and with them the plan: here they are given.
DRIVER = """
import sys
import mixbench.race.start as start
from mixbench.cli.parser import main
start.LocalLauncher.measure = lambda *_: []
start._seconds = lambda arms, *_: {n: 48.0 * (1.2 if n == "cutmix" else 1.0) for n in arms}
if __name__ == "__main__":
    sys.exit(main(["race", *sys.argv[1:]]))
"""


@pytest.fixture
def command(tmp_path):
    (tmp_path / "driver.py").write_text(DRIVER)
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

    def start(folder, *words):
        environment = os.environ | {"MIXBENCH_RUNS": str(folder), "PYTHONPATH": root}
        return subprocess.Popen(
            [sys.executable, str(tmp_path / "driver.py"), *WORDS, *words],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    return start


def content(folder):
    (path,) = folder.glob(f"race-*/{RACE}")
    found = json.loads(path.read_text())
    for budget in found["budgets"]:
        del budget["time"]
    del found["versions"]["commit"]  # of a tree that somebody may be at work on
    return found


@pytest.mark.slow
def test_a_race_whose_process_is_killed_ends_as_one_that_is_not(tmp_path, command):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    begun = time.monotonic()
    process = command(whole)
    text, _ = process.communicate(timeout=1200)
    took = time.monotonic() - begun
    assert process.returncode == 0, text
    assert "points" in text
    assert "top1" not in text
    rng, kills = random.Random(0), 0
    while kills < 10:
        process = command(killed)
        deadline = time.monotonic() + rng.uniform(0.1, 0.4) * took  # the start alone takes a part
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += 1
    text, _ = command(killed).communicate(timeout=1200)
    assert kills > 2
    assert "points" in text
    assert content(killed) == content(whole)


@pytest.mark.slow
def test_runs_that_confirmed_stand_in_the_leaderboard_and_those_that_chose_do_not(
    tmp_path, command
):
    process = command(tmp_path, "--report")
    text, _ = process.communicate(timeout=1200)
    assert process.returncode == 0, text
    (page,) = tmp_path.glob("race-*/report.html")
    assert str(page) in text
    assert "Blocks and methods" in page.read_text()
    look = content(tmp_path)["looks"][0]
    (group,) = build_leaderboard(find_runs([tmp_path])).groups
    assert {row.method: len(row.seeds) for row in group.rows} == dict.fromkeys(
        ("erm", look["winner"]), look["n"]
    )
    (folder,) = tmp_path.glob("race-*/selection")
    board = build_leaderboard(find_runs([folder]))
    assert board.groups == []
    assert all("stands in no table" in line for line in board.others)


@pytest.mark.slow
def test_a_dry_run_writes_nothing(tmp_path, command):
    process = command(tmp_path / "runs", "--dry-run")
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 0, text
    assert text.startswith("14min buy 13 runs of plain training: 3 methods, 5 runs to choose")
    assert not (tmp_path / "runs").exists()
