import os
import signal
import subprocess
import sys
import time

import pytest

from mixbench.distributed.signals import reader_gone

CHILD = """
import os, sys, time
from mixbench.distributed import signals as stop
from mixbench.distributed.spawn import stop_with_launcher
stop.ORPHAN_POLL_S = 0.05
with stop.StopSignals() as signals:
    signals.wait_for_step = True
    {follow}
    print(os.getpid(), flush=True)
    deadline = time.monotonic() + 60
    while signals.received is None and time.monotonic() < deadline:
        time.sleep(0.02)
open(sys.argv[1], "w").write(str(signals.received))
"""
PARENT = """
import os, subprocess, sys
reader, writer = os.pipe()
child = [sys.executable, "-c", {child!r}, sys.argv[1], str(writer)]
subprocess.Popen(child, env=os.environ | {env!r}, pass_fds=[writer])
os.close(writer)
sys.stdin.read()
"""
FOLLOWS = {
    "parent": ("stop_with_launcher()", {"TORCHELASTIC_RUN_ID": "none"}),
    "pipe": ("stop.stop_when_orphaned(stop.reader_gone(int(sys.argv[2])))", {}),
    "nobody": ("stop_with_launcher()", {}),
}


# FAULTS row 42: a launcher that is killed cannot pass a signal on.
@pytest.mark.parametrize("kind", FOLLOWS)
def test_a_process_notices_that_its_launcher_was_killed(tmp_path, kind):
    follow, env = FOLLOWS[kind]
    told = tmp_path / "told"
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            PARENT.format(child=CHILD.format(follow=follow), env=env),
            str(told),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,  # which nobody reads when the child complains
        text=True,
    )
    child = int(parent.stdout.readline())
    time.sleep(0.3)
    assert not told.exists()
    parent.kill()
    parent.wait()
    for stream in (parent.stdin, parent.stdout, parent.stderr):
        stream.close()
    if kind == "nobody":  # started by no launcher, it goes on without its shell
        time.sleep(0.3)
        assert not told.exists()
        os.kill(child, signal.SIGTERM)
    deadline = time.monotonic() + 30
    while not (told.exists() and told.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert told.read_text() == "SIGTERM"


def test_a_pipe_without_a_reader_is_told_from_one_that_is_not_read_now():
    reader, writer = os.pipe()
    alone = reader_gone(writer)
    assert not alone()
    os.write(writer, b"full")
    assert not alone()
    os.close(reader)
    assert alone()
    os.close(writer)
