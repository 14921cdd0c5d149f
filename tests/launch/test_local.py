import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mixbench.launch.local import GridOutcome, LocalLauncher
from mixbench.launch.plan import PlannedRun, expand
from mixbench.launch.state import GridProgress
from mixbench.records.checkpoints import read_checkpoint
from mixbench.records.lock import LockWatch
from mixbench.records.record import Record, read_record, write_record


def record(**changes):
    words = ("id", "method", "data", "net", "recipe", "select", "config_hash", "recipe_hash")
    return Record(**(dict.fromkeys(words, "x") | {"seed": 0, "epochs": 1} | changes))


@pytest.fixture
def own_signals():
    """The launcher takes SIGTERM for the rest of its process."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.slow
@pytest.mark.usefixtures("own_signals")
def test_runs_follow_the_environment_and_the_folder_of_the_moment(tmp_path, monkeypatch, tiny):
    for name in ("first", "second"):  # the fork server knows only what was there at its start
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        monkeypatch.setenv("MIXBENCH_RUNS", f"{name}-runs")
        launcher = LocalLauncher(print)
        runs = launcher.prepare(expand(["method=erm", *tiny]))
        assert not runs[0].done
        assert not launcher.launch(runs, Path(f"{name}-runs")).failures
        assert (tmp_path / name / f"{name}-runs" / runs[0].id / "record.json").exists()


SLOW = ["data.limit=500", "epochs=3", "batch_size=16"]


def bench(folder, *words):
    command = [sys.executable, "-m", "mixbench", "bench", *words]
    return subprocess.Popen(
        command,
        env=os.environ | {"MIXBENCH_RUNS": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


# FAULTS row 39: of two benches over one plan, each run is carried out by one.
@pytest.mark.slow
def test_two_benches_share_a_plan(tmp_path, tiny):
    words = ["method=erm,mixup", *tiny, *SLOW]
    both = [bench(tmp_path, *words) for _ in range(2)]
    shown = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], shown
    assert "waiting for it" in "".join(shown)
    folders = sorted(path for path in tmp_path.iterdir() if (path / "record.json").exists())
    assert [len(read_record(folder).attempts) for folder in folders] == [1, 1]
    assert all("by another process" in text or "done in" in text for text in shown)


def wait_for_end(pid):
    deadline = time.monotonic() + 60
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < deadline:
            os.kill(pid, 0)
            time.sleep(0.1)
        pytest.fail(f"process {pid} goes on")


def lock_of(folder):
    return json.loads((folder / "lock.json").read_text())["pid"]


# FAULTS row 42: a bench that is killed leaves no run behind, and another one goes on with it.
@pytest.mark.slow
def test_a_killed_bench_ends_its_run_and_another_bench_goes_on(tmp_path, tiny):
    words = ["method=erm", *tiny, *SLOW, "epochs=200", "trainer.ckpt_steps=5"]
    first = bench(tmp_path, *words)
    deadline = time.monotonic() + 120
    while not (found := list(tmp_path.glob("*/last.ckpt"))):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    folder = found[0].parent
    second = bench(tmp_path, *words)
    for line in second.stdout:
        if "waiting for it" in line:
            break
    child = lock_of(folder)
    first.kill()
    first.wait()
    for line in second.stdout:
        if "going on with it" in line:
            break
    record = json.loads((folder / "record.json").read_text())
    assert record["attempts"][0]["status"] == "interrupted"
    assert read_checkpoint(folder / "last.ckpt")["mixbench_step"] > 0
    wait_for_end(child)
    second.terminate()
    second.communicate(timeout=120)
    assert second.returncode == 4
    first.stdout.close()
    attempts = read_record(folder).attempts
    assert len(attempts) == 2
    assert attempts[1]["from_step"] > 0


@pytest.fixture
def held(tmp_path):
    """A run in the hands of another process, and the file that lets go of it."""
    folder = tmp_path / "run"
    folder.mkdir()
    code = "import sys, time; from pathlib import Path\n"
    code += "from mixbench.records.lock import locked\n"
    code += "with locked(Path(sys.argv[1])):\n    print(flush=True); sys.stdin.read()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    process.stdout.readline()
    yield folder, process
    process.communicate()


@pytest.mark.parametrize(
    ("status", "said", "left", "failures"),
    [
        ("done", "by another process", 0, {}),
        ("diverged", "diverged in another process: planted", 0, {"run": 3}),
        ("running", "going on with it", 1, {}),
        (None, None, 1, {}),
    ],
)
def test_what_another_process_leaves_decides_what_is_left_to_do(held, status, said, left, failures):
    folder, process = held
    if status is not None:
        write_record(folder, record(id="run", status=status, message="planted"))
    watch = LockWatch(folder)
    assert not watch.gone
    process.communicate()
    watch.changes()
    assert watch.gone
    lines, outcome = [], GridOutcome({})
    run = PlannedRun([], id="run")
    grid = GridProgress([run], folder.parent)
    grid.start(run, elsewhere=True)
    found = LocalLauncher(lines.append)._is_left(run, folder.parent, grid, outcome)
    assert found == bool(left)
    state = grid.state()
    assert (state.done, state.failed) == (status == "done", len(failures))
    assert state.active == ()
    assert outcome.failures == failures
    assert [said in line for line in lines] == [True] * (said is not None)
