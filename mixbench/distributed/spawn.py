"""The processes of one run on several devices of this machine, and what is said when one fails.

Each rank is a fresh ``python -m mixbench run`` started by torch's elastic agent, as ``torchrun``
would: it picks a free port, stops the others when one ends, and passes signals on.
"""

import json
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mixbench.distributed.signals import LAUNCHER_ENV, stop_when_orphaned
from mixbench.errors import InterruptedRunError, MixbenchError, RunFailedError, UserError, counted
from mixbench.files import write_text
from mixbench.records.lock import BusyRunError, locked
from mixbench.records.record import read_record, write_record

SAFE_PATH_ENV = "PYTHONSAFEPATH"  # set, an interpreter leaves the working directory out
RANK_GRACE_S = 60  # seconds that ranks get to save once they are told to stop
_LOST = (
    "Connection closed by peer",
    "Connection reset",
    "Broken pipe",
    "NCCL",
    "Timed out waiting",
)


def start_ranks(words: Sequence[str], devices: int) -> None:
    """Carry out one command once per device and wait for all of them.

    Args:
        words: Words behind ``python -m mixbench``.
        devices: Processes to start.

    Raises:
        MixbenchError: If a rank fails; the error of the rank that failed first, with its number.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in ("torch.distributed.elastic", "torch.distributed.launcher"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # errors are told below, once
    os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = str(RANK_GRACE_S)
    os.environ[LAUNCHER_ENV] = str(os.getpid())
    set_safe_path()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory(prefix="mixbench-ranks-") as notes:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=devices,
            run_id="mixbench",
            rdzv_backend="c10d",
            rdzv_endpoint="127.0.0.1:0",
            rdzv_configs={"timeout": 60},
            local_addr="127.0.0.1",
            max_restarts=0,
            monitor_interval=0.2,
            logs_specs=DefaultLogsSpecs(log_dir=notes),
            signals_to_handle="SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1,SIGUSR2",
        )
        try:
            elastic_launch(config, sys.executable)("-m", "mixbench", *words)
        except SignalException as stop:
            raise _interrupted(Path(notes), signal.Signals(stop.sigval).name) from stop
        except ChildFailedError as error:
            codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
            raise root_cause(Path(notes), codes, devices) from error
        finally:
            del os.environ[LAUNCHER_ENV]


def stop_with_launcher() -> None:
    """Stop this process, if it is a rank, when the one that started it is gone."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return
    # One that was killed before this line is told from the one that has adopted this process.
    launcher = int(os.environ.get(LAUNCHER_ENV, os.getppid()))
    stop_when_orphaned(lambda: os.getppid() != launcher)


def write_error(error: BaseException) -> None:
    """Leave word of why this rank ends, for whoever started it.

    Args:
        error: What ends it; a ``folder`` attribute names the run.
    """
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not path:
        return
    now = time.time()
    told = isinstance(error, MixbenchError)
    content = {
        # The first two are torchrun's own form.
        "message": {
            "message": str(error) if told else f"{type(error).__name__}: {error}",
            "extraInfo": {"timestamp": str(int(now)), "py_callstack": ""},
        },
        "rank": int(os.environ.get("RANK", "0")),
        "time": now,
        "what": error.what if told else f"{type(error).__name__}: {error}",
        "where": error.where if told else "",
        "todo": error.todo if told else "",
        "exit_code": error.exit_code if told else 3,
        "folder": str(getattr(error, "folder", "") or ""),
        "busy": isinstance(error, BusyRunError),
    }
    with suppress(OSError):  # whoever asked for it may be gone
        # Whole or not at all: a rank that is stopped here would leave what nobody can read, and the
        # agent looks for the file at any moment.
        write_text(Path(path), json.dumps(content))


def root_cause(notes: Path, exit_codes: dict[int, int], world: int) -> MixbenchError:
    """The error that ended a group of ranks, told apart from those that followed from it.

    Args:
        notes: Folder below which the ranks left word.
        exit_codes: Exit code by rank, negative for a signal, of the ranks that ended first.
        world: Number of ranks.

    Returns:
        The error to raise. Where the run left a record, the cause is put there too.
    """
    told = _read_notes(notes)
    killed = {rank: -code for rank, code in exit_codes.items() if code < 0 and rank not in told}
    first = [note for note in told.values() if not _follows(note)]
    others = f" ({counted(world - 1, 'other')} stopped with it)" if world > 1 else ""
    folder = next((note["folder"] for note in told.values() if note["folder"]), "")
    if first:
        note = min(first, key=lambda note: note["time"])
        cause = _error(note, f"rank {note['rank']}: {note['what']}{others}")
    elif killed:
        rank, number = min(killed.items())
        name = signal.Signals(number).name
        cause = RunFailedError(
            f"rank {rank} was killed by {name}{others}",
            folder,
            "if nobody killed it, the machine ran out of memory: use fewer data.workers or "
            "a smaller batch; the same command goes on from the last checkpoint",
        )
    elif told:
        note = min(told.values(), key=lambda note: note["time"])
        cause = _error(note, f"rank {note['rank']}: {note['what']}{others}")
    else:
        cause = RunFailedError(f"processes ended with exit codes {exit_codes}{others}", folder)
    if folder and cause.exit_code == RunFailedError.exit_code:
        _put_in_record(Path(folder), cause.what)
    return cause


def _read_notes(notes: Path) -> dict[int, dict[str, Any]]:
    found = {}
    for path in notes.rglob("error.json"):
        try:
            note = json.loads(path.read_text(encoding="utf-8"))
            found[note["rank"]] = note
        except (OSError, ValueError, KeyError):
            continue
    return found


def _follows(note: dict[str, Any]) -> bool:
    """Tell whether a rank only lost another one, or was stopped because of it."""
    lost = any(words in note["what"] for words in _LOST)
    return lost or note["exit_code"] == InterruptedRunError.exit_code


def _error(note: dict[str, Any], what: str) -> MixbenchError:
    if note.get("busy"):
        return BusyRunError(what, note["where"], note["todo"])
    for cls in (UserError, InterruptedRunError):
        if note["exit_code"] == cls.exit_code:
            return cls(what, note["where"], note["todo"])
    return RunFailedError(what, note["where"], note["todo"])


def _interrupted(notes: Path, name: str) -> InterruptedRunError:
    told = [
        note for note in _read_notes(notes).values() if note["exit_code"] == 4 and note["rank"] == 0
    ]
    if told:
        error = InterruptedRunError(told[0]["what"], told[0]["where"], told[0]["todo"])
    else:
        error = InterruptedRunError(f"interrupted by {name}", todo="give the same command again")
    error.signal = name
    return error


def _put_in_record(folder: Path, message: str) -> None:
    """Say why the run failed, unless another process goes on with it already."""
    with suppress(UserError, OSError), locked(folder):
        record = read_record(folder)
        if record.status in ("interrupted", "failed", "running"):
            record.status, record.message = "failed", message
            if record.attempts:
                record.attempts[-1]["status"] = "failed"
            write_record(folder, record)


def set_safe_path() -> None:
    """Let Python processes that this one starts leave the working directory out as well."""
    from importlib import metadata

    os.environ.setdefault(SAFE_PATH_ENV, "1")
    try:
        metadata.version("mixbench")
    except metadata.PackageNotFoundError:  # nor would they find a checkout
        here = str(Path(__file__).resolve().parents[2])
        known = os.environ.get("PYTHONPATH", "")
        if here not in known.split(os.pathsep):
            os.environ["PYTHONPATH"] = f"{known}{os.pathsep}{here}" if known else here
