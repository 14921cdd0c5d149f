"""Being told to stop: SIGTERM, Ctrl-C, and the signals with which clusters announce a pre-emption.

During training a signal is only noted; the run ends at the next whole step, with a checkpoint.
At any other time it interrupts at once, as nothing would be lost by it.
"""

import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any

SIGNAL_NAMES = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2")
LAUNCHER_ENV = "MIXBENCH_LAUNCHED"  # for ranks: the process that reports and hands on for them
ORPHAN_POLL_S = 1.0  # seconds between looks whether that is still there
#: Sent by schedulers some time before they take the machine away.
WARNING_SIGNALS = ("SIGUSR1", "SIGUSR2")


def stop_when_orphaned(alone: Callable[[], bool]) -> None:
    """Ask this process to stop, as by SIGTERM, once whoever started it is gone.

    A launcher that is killed can no longer pass a signal on.

    Args:
        alone: Whether that is so; asked every second by a thread.
    """

    def look() -> None:
        while not alone():
            time.sleep(ORPHAN_POLL_S)
        _print("whoever started this process is gone")
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=look, daemon=True).start()


def reader_gone(handle: int) -> Callable[[], bool]:
    """A function that tells whether the reader of a pipe is gone.

    Args:
        handle: The end that is written to.

    Returns:
        A function that tells.
    """
    poll = select.poll()
    poll.register(handle, 0)  # nobody reading is told in any case
    return lambda: bool(poll.poll(0))


class Stopped(Exception):  # noqa: N818 - not an error
    """Training ended because it was asked to; what it had reached is saved."""


class StopSignals:
    """Handles the signals while it is entered; other threads than the main one handle none."""

    def __init__(self) -> None:
        self.received: str | None = None  # name of the signal that decides how the run ends
        self.wait_for_step = False  # set while training can end at a whole step
        self._before: dict[str, Any] = {}

    def __enter__(self) -> "StopSignals":
        self._before = {name: signal.getsignal(getattr(signal, name)) for name in _known()}
        self.install()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if _in_main_thread():
            for name, handler in self._before.items():
                # None: set from C, which Python cannot put back.
                signal.signal(getattr(signal, name), signal.SIG_DFL if handler is None else handler)

    def install(self) -> None:
        """Set the handlers, again after another library has set its own."""
        if _in_main_thread():
            for name in _known():
                signal.signal(getattr(signal, name), self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.received is not None:  # schedulers and launchers repeat themselves
            if name == "SIGINT" and self.received == "SIGINT":
                _print("stopped at once; the last checkpoint stands")
                os._exit(4)
            if name in WARNING_SIGNALS:  # a pre-emption may begin with SIGTERM
                self.received = name
            return
        self.received = name
        if not self.wait_for_step:
            raise KeyboardInterrupt
        again = "; Ctrl-C again stops at once" if name == "SIGINT" else ""
        _print(f"{name}: saving a checkpoint at the next step{again}")

    def requeue_job(self) -> None:
        """After saving, let the scheduler put the job back into its queue.

        A handler that was there before, as submitit's, knows how; else SLURM is asked. SIGTERM
        alone asks for nothing: it is also how a job is ended for good.
        """
        if self.received not in WARNING_SIGNALS or LAUNCHER_ENV in os.environ:
            return  # of several ranks, the process that started them hands on
        before = self._before.get(self.received)
        if callable(before):
            before(getattr(signal, self.received), None)
        elif job := _slurm_job():
            subprocess.run(["scontrol", "requeue", job], check=False, timeout=60)


def _known() -> list[str]:
    return [name for name in SIGNAL_NAMES if hasattr(signal, name)]


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _slurm_job() -> str | None:
    job, array = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_ARRAY_JOB_ID")
    if array:
        job = f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID', '')}"
    return job if job and re.fullmatch(r"[0-9_]+", job) else None


def _print(line: str) -> None:
    # Not through logging, whose locks the interrupted code may hold.
    with suppress(OSError):  # its reader may be gone
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"mixbench: {line}\n".encode())
