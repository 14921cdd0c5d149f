import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from mixbench.errors import InterruptedRunError, UserError
from mixbench.files import write_bytes, write_text
from mixbench.records import lock
from mixbench.records.lock import LOCK, BusyRunError, LockWatch, is_live, locked

HERE = socket.gethostname()


def holder(path):
    return json.loads(path.read_text())


def lock_of(host="elsewhere", pid=1, **more):
    return json.dumps({"host": host, "pid": pid, **more})


def ended_process():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.fixture
def quick(monkeypatch):
    """Seconds of watching become tenths."""
    monkeypatch.setattr(lock, "HEARTBEAT_S", 0.1)
    monkeypatch.setattr(lock, "SILENCE_S", 0.6)
    monkeypatch.setattr(lock, "WRITE_WAIT_S", 0.1)


class Touched:
    """Another machine that touches its lock by a clock of its own."""

    def __init__(self, path, clock):
        self.path, self.clock, self.ended = path, clock, threading.Event()
        self.thread = threading.Thread(target=self.beat)

    def __enter__(self):
        self.thread.start()

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()

    def beat(self):
        now = self.clock
        while not self.ended.wait(0.1):
            now += 0.1
            os.utime(self.path, (now, now))


# FAULTS row 39.
def test_a_lock_names_its_process_and_ends_with_its_block(tmp_path):
    with locked(tmp_path):
        found = holder(tmp_path / LOCK)
        assert (found["host"], found["pid"]) == (HERE, os.getpid())
        assert is_live(tmp_path)
        with pytest.raises(BusyRunError, match=f"{os.getpid()} on {HERE}") as error:
            locked(tmp_path).__enter__()
        assert error.value.exit_code == 2
        assert is_live(tmp_path)
    assert os.listdir(tmp_path) == []
    with locked(tmp_path):
        pass


@pytest.mark.parametrize(
    "text",
    [
        "",
        "half a lo",
        "null",
        "[1]",
        "[" * 100_000,
        '{"host": "HERE", "pid": 1e400}',
        '{"host": "HERE", "pid": -1}',
        '{"host": "HERE", "pid": 0}',
        '{"host": "HERE", "pid": true}',
        '{"host": "HERE", "pid": 1.0}',
        '{"host": "HERE", "pid": "1"}',
        '{"host": "HERE", "pid": 4294967296}',
        '{"host": "HERE", "pid": 1' + "0" * 400 + "}",
        '{"host": ["HERE"], "pid": 1}',
        '{"pid": 1}',
        '{"host": "elsewhere", "pid": -1}',
        '{"host": "HERE", "pid": 1, "pid": 1}',
        " " * 5000 + "{}",
    ],
    ids=lambda text: text[:40],
)
@pytest.mark.usefixtures("quick")
def test_a_lock_that_names_no_process_is_left_over_and_nothing_is_signalled(
    tmp_path, monkeypatch, text
):
    def kill(pid, number):
        raise AssertionError(f"{number} was sent to {pid}")

    monkeypatch.setattr(os, "kill", kill)
    (tmp_path / LOCK).write_text(text.replace("HERE", HERE))
    assert not is_live(tmp_path)
    assert LockWatch(tmp_path).gone
    with locked(tmp_path):
        assert holder(tmp_path / LOCK)["pid"] == os.getpid()
    assert not (tmp_path / LOCK).exists()


@pytest.mark.parametrize("kind", ["pipe", "folder", "link"])
def test_what_is_no_lock_is_named_at_once(tmp_path, kind):
    path = tmp_path / LOCK
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        (tmp_path / "own").write_text("mine")
        path.symlink_to("own")
    assert not is_live(tmp_path)
    with pytest.raises(UserError, match="the lock of the run is not a file") as error:
        locked(tmp_path).__enter__()
    assert error.value.where == str(path)
    assert path.lstat()
    if kind == "link":
        assert (tmp_path / "own").read_text() == "mine"


def test_the_lock_of_a_dead_process_is_no_obstacle(tmp_path):
    (tmp_path / LOCK).write_text(lock_of(HERE, ended_process()))
    assert not is_live(tmp_path)
    with locked(tmp_path):
        assert is_live(tmp_path)


def test_a_living_process_that_is_named_is_believed(tmp_path):
    path = tmp_path / LOCK
    path.write_text(lock_of(HERE, os.getppid()))
    assert is_live(tmp_path)
    with pytest.raises(BusyRunError, match=str(os.getppid())):
        locked(tmp_path).__enter__()
    path.write_text(lock_of(HERE, os.getppid(), born="1"))  # the number was given again
    assert not is_live(tmp_path)
    with locked(tmp_path):
        pass


RACE = """
import os, sys, time
from multiprocessing import get_context
from pathlib import Path
from mixbench.records.lock import LOCK, BusyRunError, locked

def racer(folder, rounds, stale, barrier, answer):
    held = double = 0
    for _ in range(rounds):
        if barrier.wait() == 0:
            (folder / LOCK).write_text(stale)
        barrier.wait()
        try:
            with locked(folder):
                held += 1
                try:
                    os.close(os.open(folder / "inside", os.O_CREAT | os.O_EXCL))
                except FileExistsError:
                    double += 1
                time.sleep(0.001)
                (folder / "inside").unlink(missing_ok=True)
        except BusyRunError:
            pass
    answer.put((held, double))

folder, rounds, stale, count = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], 4
context = get_context("fork")
barrier, answers = context.Barrier(count), context.Queue()
racers = [context.Process(target=racer, args=(folder, rounds, stale, barrier, answers))
          for _ in range(count)]
for process in racers:
    process.start()
found = [answers.get(timeout=300) for _ in racers]
print(*map(sum, zip(*found)))
"""


@pytest.mark.parametrize("rounds", [250, pytest.param(2000, marks=pytest.mark.slow)])
def test_of_several_processes_one_takes_a_lock_that_is_left_over(tmp_path, rounds):
    words = [sys.executable, "-c", RACE, str(tmp_path), str(rounds), lock_of(HERE, ended_process())]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    held, double = map(int, done.stdout.split())
    assert double == 0
    assert held >= rounds  # another one may follow when the first has ended


KILLED = """
import os, signal, sys, time
from pathlib import Path
from mixbench.records.lock import locked
with locked(Path(sys.argv[1])):
    if os.fork() == 0:
        os.write(1, b"x")
        os.close(1)
        time.sleep(60)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_worker_that_outlives_its_run_keeps_no_lock(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        stdout=subprocess.PIPE,
        process_group=0,
    )
    try:
        assert process.wait(60) == -signal.SIGKILL
        assert process.stdout.read(1) == b"x"  # the worker has begun
        with locked(tmp_path):
            pass
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()


@pytest.mark.parametrize("skew", [-125.0, 125.0, -1e6])
@pytest.mark.usefixtures("quick")
def test_a_touched_lock_of_another_machine_holds_whatever_its_clock_says(tmp_path, skew):
    path = tmp_path / LOCK
    path.write_text(lock_of(pid=7))
    with Touched(path, time.time() + skew), pytest.raises(BusyRunError, match="7 on elsewhere"):
        locked(tmp_path).__enter__()
    assert holder(path)["pid"] == 7


@pytest.mark.parametrize("skew", [-1e6, 0.0, 1e6])
@pytest.mark.usefixtures("quick")
def test_a_silent_lock_of_another_machine_is_taken_over_after_watching_it(tmp_path, skew, caplog):
    path = tmp_path / LOCK
    path.write_text(lock_of(pid=7))
    os.utime(path, (time.time() + skew,) * 2)
    begun = time.monotonic()
    with locked(tmp_path):
        assert time.monotonic() - begun >= lock.SILENCE_S
        assert holder(path)["host"] == HERE
    assert "7 on elsewhere" in caplog.text


# Where the kernel's locks are not shared, two machines may find a third one silent at once.
@pytest.mark.usefixtures("quick")
def test_of_two_machines_that_take_over_at_once_the_last_one_has_it(tmp_path, monkeypatch):
    path, real = tmp_path / LOCK, lock._write
    path.write_text(lock_of(pid=7))

    def write(handle, nonce):
        real(handle, nonce)
        path.write_text(lock_of("third", pid=8, nonce="another"))

    monkeypatch.setattr(lock, "_write", write)
    with pytest.raises(BusyRunError, match="8 on third"):
        locked(tmp_path).__enter__()
    assert holder(path)["pid"] == 8


@pytest.mark.usefixtures("quick")
def test_a_lock_that_is_given_back_while_it_is_watched_is_free(tmp_path):
    path = tmp_path / LOCK
    path.write_text(lock_of())
    timer = threading.Timer(0.2, path.unlink)
    timer.start()
    with locked(tmp_path):
        assert holder(path)["pid"] == os.getpid()
    assert not path.exists()


def test_who_lost_the_lock_neither_writes_nor_removes_anything(tmp_path):
    path, file = tmp_path / LOCK, tmp_path / "record.json"
    with locked(tmp_path):
        write_text(file, "mine")
        path.write_text(lock_of(pid=7, nonce="another"))
        with pytest.raises(InterruptedRunError, match="taken over by process 7 on elsewhere"):
            write_bytes(file, lambda new: new.write(b"late"), before=lambda old: old.unlink())
        (tmp_path / "other").mkdir()
        write_text(tmp_path / "other" / "file", "elsewhere")
    assert file.read_text() == "mine"
    assert holder(path)["pid"] == 7
    path.unlink()
    write_text(file, "free")


@pytest.mark.usefixtures("quick")
def test_who_lost_the_lock_does_not_touch_it(tmp_path):
    path = tmp_path / LOCK
    with locked(tmp_path):
        path.write_text(lock_of(pid=7, nonce="another"))
        os.utime(path, (0, 0))
        time.sleep(0.5)
        assert path.stat().st_mtime == 0


@pytest.mark.usefixtures("quick")
def test_a_lock_is_touched_while_it_is_held(tmp_path):
    with locked(tmp_path):
        os.utime(tmp_path / LOCK, (0, 0))
        deadline = time.monotonic() + 5
        while (tmp_path / LOCK).stat().st_mtime == 0:
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.fixture
def without_kernel_locks(tmp_path, monkeypatch):
    """A file system that knows none, while that of temporary files does."""
    (tmp_path / "temporary").mkdir()
    real = lock.fcntl.flock
    monkeypatch.setattr(lock.tempfile, "tempdir", str(tmp_path / "temporary"))

    def flock(handle, operation):
        if os.readlink(f"/proc/self/fd/{handle}").endswith(LOCK):
            raise OSError(errno.ENOLCK, "No locks available")
        real(handle, operation)

    monkeypatch.setattr(lock.fcntl, "flock", flock)


@pytest.mark.usefixtures("without_kernel_locks")
def test_without_locks_of_the_file_system_one_process_holds_a_run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / LOCK).write_text(lock_of(HERE, ended_process()))
    with locked(folder):
        with pytest.raises(BusyRunError, match=str(os.getpid())):
            locked(folder).__enter__()
        assert len(os.listdir(tmp_path / "temporary")) == 1
    with locked(folder):
        assert is_live(folder)
    assert os.listdir(folder) == []


def test_a_watch_tells_a_living_holder_from_one_that_is_gone(tmp_path, quick):
    path = tmp_path / LOCK
    assert LockWatch(tmp_path).gone
    with locked(tmp_path):
        watch = LockWatch(tmp_path)
        assert not watch.gone
    assert watch.changes()
    assert watch.gone
    path.write_text(lock_of())
    watch = LockWatch(tmp_path)
    time.sleep(0.4)
    os.utime(path, (1, 1))
    assert watch.changes()
    time.sleep(0.4)
    assert not watch.changes()
    assert not watch.gone  # silent for 0.4 of 0.6 seconds
    time.sleep(0.3)
    assert watch.gone
