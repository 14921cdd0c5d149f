"""Signals, locks and clusters: how a run is told to stop, and what it leaves."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import killing
import pytest
from paths import ROOT

from mixbench import compose, run
from mixbench.distributed.signals import StopSignals
from mixbench.errors import InterruptedRunError, UserError
from mixbench.methods import METHODS
from mixbench.methods.base import Method
from mixbench.records.checkpoints import LAST, read_checkpoint
from mixbench.records.lock import LOCK, is_live
from mixbench.records.record import read_record

WORDS = [
    "data=digits",
    "data.limit=160",
    "data.size=16",
    "net.width=4",
    "eval.suites=[calibration]",
    "epochs=4",
    "batch_size=32",
    "wandb.mode=disabled",
    "method=killing:Slow",
]


def place(root: Path) -> Path:
    (folder,) = (path for path in root.iterdir() if path.is_dir())
    return folder


def wait_for_step(root: Path, step: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = list(root.glob("*/step"))
        if found and (text := found[0].read_text()) and int(text) >= step:
            return
        time.sleep(0.01)
    raise AssertionError("training did not get there")


# FAULTS rows 11 and 31.
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1"])
def test_one_signal_saves_and_exits_4(tmp_path, name):
    process, reader = killing.start(WORDS, tmp_path)
    wait_for_step(tmp_path, 6)
    os.kill(process.pid, getattr(signal, name))
    assert reader.poll(20)
    assert reader.recv() == 4
    process.join()
    folder = place(tmp_path)
    record = read_record(folder)
    assert record.status == "interrupted"
    steps = read_checkpoint(folder / LAST)["mixbench_step"]
    assert steps == int((folder / "step").read_text()) + 1  # the step that was under way
    assert steps % 5  # not merely the end of an epoch
    assert record.attempts[-1]["steps"] == steps
    assert not (folder / LOCK).exists()


def test_ctrl_c_twice_exits_at_once_and_leaves_whole_files(tmp_path):
    process, _ = killing.start(WORDS, tmp_path)
    wait_for_step(tmp_path, 7)
    os.kill(process.pid, signal.SIGINT)
    time.sleep(0.05)
    started = time.monotonic()
    os.kill(process.pid, signal.SIGINT)
    process.join(10)
    assert process.exitcode == 4
    assert time.monotonic() - started < 0.3  # not after the step
    folder = place(tmp_path)
    assert read_record(folder).status == "interrupted"
    assert read_checkpoint(folder / LAST)["mixbench_step"] == 5
    assert not is_live(folder)


@pytest.mark.slow
def test_the_command_line_saves_and_tells_how_to_go_on(tmp_path):
    words = [word for word in WORDS if not word.startswith("method=")]
    env = os.environ | {
        "MIXBENCH_RUNS": str(tmp_path),
        "PYTHONPATH": str(ROOT / "tests"),
    }
    command = [sys.executable, "-m", "mixbench"]
    first = subprocess.Popen(
        [*command, "run", *words, "method=killing:Slow"],
        env=env,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for_step(tmp_path, 6)
    first.send_signal(signal.SIGTERM)
    _, shown = first.communicate(timeout=60)
    assert first.returncode == 4, shown
    folder = place(tmp_path)
    assert "SIGTERM: saving a checkpoint at the next step" in shown
    assert f"mixbench resume {folder}" in shown
    assert "Traceback" not in shown
    # As printed, with what a file may not name: code to import.
    go_on = [*command, "resume", str(folder)]
    refused = subprocess.run(go_on, env=env, capture_output=True, text=True)
    assert refused.returncode == 2
    assert "add method=killing:Slow" in refused.stderr
    again = subprocess.run(
        [*go_on, "method=killing:Slow", "trainer.log_every=1"],
        env=env,
        capture_output=True,
        text=True,
    )
    assert again.returncode == 0, again.stderr
    assert "top1" in again.stdout
    record = read_record(folder)
    assert (record.status, record.resumed_bit_exact) == ("done", True)
    done = subprocess.run(
        [*command, "resume", folder.name], env=env, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, f"{folder.name} is done already\n")


@pytest.fixture
def asks(monkeypatch):
    """A method that sends a signal to its own process in the third step."""

    def plant(name):
        class Asks(Method):
            def after_step(self):
                if self.step == 3:
                    os.kill(os.getpid(), getattr(signal, name))

        monkeypatch.setitem(METHODS._objects, "erm", Asks)
        return compose([word for word in WORDS if not word.startswith("method=")])

    return plant


# FAULTS row 49.
def test_the_scheduler_is_asked_to_put_the_job_back(runs, asks, tmp_path, monkeypatch):
    tool = tmp_path / "scontrol"
    tool.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/called\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    with pytest.raises(InterruptedRunError):
        run(asks("SIGTERM"))  # the scheduler itself requeues what it ends
    assert not (tmp_path / "called").exists()
    (place(runs) / LAST).unlink()
    with pytest.raises(InterruptedRunError):
        run(asks("SIGUSR1"))
    assert (tmp_path / "called").read_text() == "requeue 42\n"
    (place(runs) / LAST).unlink()
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "40")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    with pytest.raises(InterruptedRunError):
        run(asks("SIGUSR2"))
    assert (tmp_path / "called").read_text() == "requeue 42\nrequeue 40_2\n"


def test_a_warning_after_sigterm_still_counts_and_sigterm_alone_does_not():
    seen = []
    before = signal.signal(signal.SIGUSR2, lambda *_: seen.append("requeued"))
    try:
        for names in (["SIGTERM"], ["SIGTERM", "SIGTERM"], ["SIGTERM", "SIGUSR2", "SIGTERM"]):
            with StopSignals() as signals:
                signals.wait_for_step = True
                for name in names:
                    os.kill(os.getpid(), getattr(signal, name))
                signals.requeue_job()
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert seen == ["requeued"]


def test_a_warning_while_data_is_read_puts_the_job_back_too(runs, monkeypatch):
    from mixbench.training import run as runner

    seen = []
    before = signal.signal(signal.SIGUSR2, lambda *_: seen.append("requeued"))
    monkeypatch.setattr(runner, "check_splits", lambda *_: os.kill(os.getpid(), signal.SIGUSR2))
    try:
        with pytest.raises(InterruptedRunError):
            run(compose("data=digits wandb.mode=disabled"))
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert seen == ["requeued"]
    assert not runs.exists()


def test_a_handler_that_was_there_before_is_called_once_all_is_saved(runs, asks):
    seen = []

    def handler(number, frame):
        folder = place(runs)
        steps = read_checkpoint(folder / LAST)["mixbench_step"]
        seen.append((number, read_record(folder).status, steps, (folder / LOCK).exists()))

    before = signal.signal(signal.SIGUSR2, handler)
    try:
        with pytest.raises(InterruptedRunError):
            run(asks("SIGUSR2"))
        assert signal.getsignal(signal.SIGUSR2) is handler
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert seen == [(signal.SIGUSR2, "interrupted", 3, False)]


def test_handlers_are_put_back(runs, asks):
    before = {name: signal.getsignal(getattr(signal, name)) for name in ("SIGTERM", "SIGINT")}
    with pytest.raises(InterruptedRunError):
        run(asks("SIGTERM"))
    assert before == {name: signal.getsignal(getattr(signal, name)) for name in before}


# FAULTS row 39.
def test_the_same_run_cannot_be_started_twice_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("MIXBENCH_RUNS", str(tmp_path))
    process, reader = killing.start(WORDS, tmp_path)
    wait_for_step(tmp_path, 1)
    with pytest.raises(UserError, match=f"another process is at work on .*{process.pid}") as error:
        run(compose(WORDS))
    assert error.value.exit_code == 2
    process.kill()
    process.join()
    reader.close()
    monkeypatch.setattr(killing.Slow, "training_step", Method.training_step)
    assert run(compose(WORDS)).status == "done"  # the lock of a dead process is no obstacle
