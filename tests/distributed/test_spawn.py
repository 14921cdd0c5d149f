"""One run on several devices through the command line, and what is said when a rank fails."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from paths import ROOT

from mixbench import cli
from mixbench.distributed.spawn import root_cause, write_error
from mixbench.errors import InterruptedRunError, RunFailedError, UserError
from mixbench.methods.base import Method
from mixbench.records.checkpoints import LAST, read_checkpoint
from mixbench.records.record import read_record

WORDS = [
    "data=digits",
    "data.limit=96",
    "net.width=4",
    "eval.suites=[calibration]",
    "epochs=2",
    "batch_size=16",
    "devices=2",
    "wandb.mode=disabled",
]


class FailsOnOneRank(Method):
    def after_step(self):
        if self.step == 8 and self.rank == 1:
            raise ValueError("planted on one rank")


class Waits(Method):
    """Leaves the ranks time to be killed."""

    def after_step(self):
        folder = Path(self.trainer.default_root_dir)
        if self.step == 8:
            (folder / f"pid{self.rank}").write_text(str(os.getpid()))
        if self.step >= 8 and not (folder / "go").exists():
            time.sleep(1)


def environment(runs):
    path = f"{ROOT}:{ROOT / 'tests'}:{Path(__file__).parent}"
    return os.environ | {"MIXBENCH_RUNS": str(runs), "PYTHONPATH": path}


def call(*words, runs):
    return subprocess.run(
        [sys.executable, "-m", "mixbench", *words],
        capture_output=True,
        text=True,
        timeout=200,
        env=environment(runs),
    )


def start_waiting(runs, **streams):
    """A run of the method that waits, and the process ids of its ranks by file name."""
    words = ["run", *WORDS, "method=test_spawn:Waits"]
    launcher = subprocess.Popen(
        [sys.executable, "-m", "mixbench", *words],
        env=environment(runs),
        stderr=subprocess.PIPE,
        **streams,
    )
    deadline = time.monotonic() + 90
    while len(pids := list(runs.glob("*/pid?"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return launcher, {path.name: int(path.read_text()) for path in pids}


def place(root: Path) -> Path:
    (folder,) = (path for path in root.iterdir() if path.is_dir())
    return folder


@pytest.mark.ddp
@pytest.mark.slow
def test_a_bench_on_two_devices_gives_one_run_and_one_row(tmp_path):
    done = call("bench", "method=erm", *WORDS, runs=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(": done in ") == 1
    record = read_record(place(tmp_path))
    assert (record.status, record.device_count, len(record.attempts)) == ("done", 2, 1)
    log = (place(tmp_path) / "log.txt").read_text()
    assert "Warning" not in log
    assert log.count("epoch 2/2") == 2  # the log's own line and the child's output
    rows = [line for line in done.stdout.splitlines() if line.startswith("erm ")]
    assert len(rows) == 1


# FAULTS row 43.
@pytest.mark.ddp
def test_the_root_cause_is_printed_last_and_once_with_its_rank(tmp_path, monkeypatch, capfd):
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.syspath_prepend(Path(__file__).parent)
    assert cli.main(["run", *WORDS, "method=test_spawn:FailsOnOneRank"]) == 3
    shown = capfd.readouterr().err
    assert shown.count("planted on one rank") == 1
    lines = shown.strip().splitlines()
    told = next(n for n, line in enumerate(lines) if "planted on one rank" in line)
    assert "mixbench: rank 1: " in lines[told]
    assert "1 other stopped with it" in lines[told]
    assert [line.strip().split(":")[0] for line in lines[told + 1 :]] == ["where", "to do"]
    assert "Traceback" not in shown
    folder = place(tmp_path)
    assert "planted on one rank" in (folder / "rank1.txt").read_text()
    record = read_record(folder)
    assert record.status == "failed"
    assert "rank 1" in record.message
    assert read_checkpoint(folder / LAST)["mixbench_step"] == 6


# FAULTS row 42.
@pytest.mark.ddp
@pytest.mark.slow
def test_a_killed_rank_stops_the_other_and_the_run_goes_on_later(tmp_path):
    first, numbers = start_waiting(tmp_path, text=True)
    started = time.monotonic()
    os.kill(numbers["pid1"], signal.SIGKILL)
    _, shown = first.communicate(timeout=60)
    assert first.returncode == 3, shown
    assert time.monotonic() - started < 30
    assert "rank 1 was killed by SIGKILL" in shown.strip().splitlines()[-3]
    for number in numbers.values():
        with pytest.raises(ProcessLookupError):
            os.kill(number, 0)
    folder = place(tmp_path)
    assert read_checkpoint(folder / LAST)["mixbench_step"] == 6
    assert read_record(folder).status == "failed"
    (folder / "go").touch()
    again = call("run", *WORDS, "method=test_spawn:Waits", runs=tmp_path)
    assert again.returncode == 0, again.stderr
    record = read_record(folder)
    assert (record.status, record.resumed_bit_exact) == ("done", True)


# FAULTS row 42.
@pytest.mark.ddp
@pytest.mark.slow
def test_ranks_of_a_killed_launcher_save_and_stop(tmp_path):
    launcher, numbers = start_waiting(tmp_path)
    launcher.kill()
    launcher.wait()
    launcher.stderr.close()
    deadline = time.monotonic() + 30
    for number in numbers.values():
        with contextlib.suppress(ProcessLookupError):
            while time.monotonic() < deadline:
                os.kill(number, 0)
                time.sleep(0.05)
            pytest.fail(f"rank {number} goes on")
    folder = place(tmp_path)
    assert read_checkpoint(folder / LAST)["mixbench_step"] >= 8
    record = read_record(folder)
    assert (record.status, record.attempts[-1]["status"]) == ("interrupted", "interrupted")
    assert not (folder / "lock.json").exists()
    (folder / "go").touch()
    again = call("run", *WORDS, "method=test_spawn:Waits", runs=tmp_path)
    assert again.returncode == 0, again.stderr
    assert read_record(folder).resumed_bit_exact


@pytest.mark.ddp
@pytest.mark.slow
def test_two_machines_are_joined_by_torchrun(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [word for word in WORDS if not word.startswith("devices")]
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    command += ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-id=x"]
    command += ["--local-addr=127.0.0.1", "-m", "mixbench", "run", *words, "num_nodes=2"]
    nodes = [
        subprocess.Popen(
            command, env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(2)
    ]
    shown = [node.communicate(timeout=200) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], shown
    assert sum(b"top1" in out for out, _ in shown) == 1
    record = read_record(place(tmp_path))
    assert (record.status, record.device_count) == ("done", 2)


# FAULTS row 46. A stale address of another job is no obstacle to ranks of this machine.
@pytest.mark.ddp
@pytest.mark.slow
def test_a_port_in_use_is_no_obstacle(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        env = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(taken.getsockname()[1])}
        done = subprocess.run(
            [sys.executable, "-m", "mixbench", "run", *WORDS],
            env=environment(tmp_path) | env,
            capture_output=True,
            text=True,
            timeout=90,
        )
    assert done.returncode == 0, done.stderr


class FailsEarly(Method):
    def __init__(self, *args, rank=0, **kwargs):
        super().__init__(*args, rank=rank, **kwargs)
        if rank == 0:
            raise RuntimeError("planted before anything began")


@pytest.mark.ddp
@pytest.mark.slow
def test_a_leading_rank_that_fails_early_keeps_nobody_waiting(tmp_path):
    started = time.monotonic()
    done = call("run", *WORDS, "method=test_spawn:FailsEarly", runs=tmp_path)
    assert time.monotonic() - started < 60
    assert done.returncode == 2
    assert done.stderr.startswith("mixbench: rank 0: ")
    assert "RuntimeError: planted before anything began" in done.stderr


@pytest.fixture
def tell(tmp_path, monkeypatch):
    """Has a rank leave word of an error."""

    def write(rank, error, at):
        path = tmp_path / "attempt_0" / str(rank) / "error.json"
        path.parent.mkdir(parents=True)
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(path))
        monkeypatch.setenv("RANK", str(rank))
        write_error(error)
        note = json.loads(path.read_text())
        assert note["message"]["message"]  # what torchrun itself prints
        path.write_text(json.dumps(note | {"time": at}))

    return write


def test_a_lost_connection_is_not_the_cause_even_if_it_is_told_first(tell, tmp_path):
    tell(0, RunFailedError("run failed: Connection closed by peer [127.0.0.1]"), 1.0)
    tell(1, RunFailedError("planted", "there", "do that"), 2.0)
    cause = root_cause(tmp_path, {0: 3}, 2)
    assert isinstance(cause, RunFailedError)
    assert cause.what == "rank 1: planted (1 other stopped with it)"
    assert (cause.where, cause.todo) == ("there", "do that")


def test_of_two_causes_the_earlier_is_told_with_its_exit_code(tell, tmp_path):
    tell(0, RunFailedError("later"), 2.0)
    tell(1, UserError("earlier"), 1.0)
    assert isinstance(root_cause(tmp_path, {1: 2}, 2), UserError)


def test_a_rank_that_was_told_to_stop_is_no_cause(tell, tmp_path):
    tell(0, InterruptedRunError("interrupted"), 1.0)
    cause = root_cause(tmp_path, {1: -9}, 3)
    assert "rank 1 was killed by SIGKILL (2 others stopped with it)" in cause.what
    assert cause.exit_code == 3


def test_ranks_that_were_all_told_to_stop_are_interrupted(tell, tmp_path):
    tell(0, InterruptedRunError("interrupted"), 1.0)
    assert root_cause(tmp_path, {0: 4}, 2).exit_code == 4


def test_a_rank_that_is_stopped_while_it_tells_leaves_no_half_of_a_note(monkeypatch, tmp_path):
    path = tmp_path / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(path))
    seen = []

    def stop(descriptor):
        seen.append(path.exists())
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", stop)
        with pytest.raises(KeyboardInterrupt):
            write_error(UserError("x"))
    assert seen == [False]
    assert list(tmp_path.iterdir()) == []
    write_error(UserError("x"))
    assert json.loads(path.read_text())["what"] == "x"


def test_without_a_launcher_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_ERROR_FILE", raising=False)
    monkeypatch.chdir(tmp_path)
    write_error(UserError("x"))
    assert list(tmp_path.iterdir()) == []
