"""What a person sees: commands that run on a pseudo-terminal."""

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time

import pytest

LIMIT_S = 240
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def take_terminal():
    """Let Ctrl-C reach this process, also where the tests were started in the background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class Terminal:
    """A command on a terminal, with all that it has written there."""

    def __init__(self, words, folder, columns=100):
        self.handle, inner = pty.openpty()
        self.resize(columns)
        environment = os.environ | {"MIXBENCH_RUNS": str(folder), "TERM": "xterm"}
        environment = {k: v for k, v in environment.items() if k not in ("COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mixbench", *words],
            stdin=inner,
            stdout=inner,
            stderr=inner,
            env=environment,
            start_new_session=True,
            preexec_fn=take_terminal,
        )
        os.close(inner)
        os.set_blocking(self.handle, False)
        self.written = ""
        self.deadline = time.monotonic() + LIMIT_S

    def resize(self, columns):
        fcntl.ioctl(self.handle, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def press(self, keys):
        os.write(self.handle, keys)

    def until(self, pattern):
        """Read until something was written; the end of the command ends it as well."""
        while not (pattern and re.search(pattern, self.written)):
            assert time.monotonic() < self.deadline, self.written
            try:
                found = os.read(self.handle, 65536)
            except BlockingIOError:
                time.sleep(0.05)
                continue
            except OSError:  # every process that had the terminal is gone
                break
            if not found:
                break
            self.written += CONTROL.sub("", found.decode(errors="replace"))
        return self.written

    def end(self):
        self.until("")
        return self.process.wait(timeout=60)


@pytest.fixture
def terminal(tmp_path):
    started = []

    def start(*words, columns=100):
        started.append(Terminal(words, tmp_path, columns))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            os.killpg(each.process.pid, signal.SIGKILL)
            each.process.wait()
        os.close(each.handle)


def lines(text):
    return [line.strip() for line in re.split(r"[\r\n]+", text)]


def test_the_bar_counts_epochs_from_1_to_the_last_and_the_run_ends_with_its_scores(
    terminal, tiny, tmp_path
):
    seen = terminal("run", "method=erm", *tiny, "epochs=2")
    assert seen.end() == 0
    found = lines(seen.written)
    epochs = [m[0] for m in re.findall(r"epoch (\d+)/2 (.)", seen.written)]
    assert epochs[0] == "1"
    assert epochs[-1] == "2"
    assert set(epochs) == {"1", "2"}
    scores = next(n for n, line in enumerate(found) if line.startswith("top1 "))
    assert found[scores].count("   ") <= 4
    assert any("few steps" in line for line in found[scores:])
    assert any(str(tmp_path) in line for line in found[scores:])
    assert not list(tmp_path.glob("*/progress.json"))


@pytest.mark.slow
def test_a_bench_shows_each_run_at_work_and_the_whole_and_stops_on_ctrl_c(terminal, tiny, tmp_path):
    words = ["method=erm,mixup", *tiny, "epochs=400", "data.limit=500"]
    seen = terminal("bench", *words, columns=80)
    seen.until(r"erm-\S+ +epoch \d+/400")
    assert "of 2 done" in seen.written
    seen.resize(50)
    seen.written = ""
    seen.until(r"epoch \d+/400")
    seen.press(b"\x03")
    assert seen.end() == 4
    assert "waiting for the running processes to stop" in seen.written
    assert "continue with what is left" in seen.written
    assert not list(tmp_path.glob("*/progress.json"))
    assert list(tmp_path.glob("*/last.ckpt"))


@pytest.mark.slow
def test_a_child_that_is_killed_leaves_the_display(terminal, tiny, tmp_path):
    words = ["method=erm,mixup", *tiny, "epochs=30", "data.limit=500"]
    seen = terminal("bench", *words, "--jobs", "1")
    seen.until(r"erm-\S+ +epoch \d+/30")
    assert "mixup" not in seen.written.partition("logs:")[2]  # one at a time
    (lock,) = tmp_path.glob("erm-*/lock.json")
    pid = int(re.findall(r'"pid": (\d+)', lock.read_text())[0])
    os.kill(pid, signal.SIGKILL)
    assert seen.end() == 5
    assert "its process was killed" in seen.written
    assert re.search(r"mixup\S+: done in", seen.written)
