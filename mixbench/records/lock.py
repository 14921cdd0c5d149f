"""The lock that one process holds on a run.

On one machine, and on file systems that share such locks, the kernel's lock on the open file
decides: it cannot be had twice and ends with its process. What the file says is for people and for
machines that do not see the kernel's lock: who holds it, and, by its time of change, that the
holder lives. No clock is compared with that of another machine; a holder elsewhere counts as gone
when nothing has changed for as long as this process has watched.
"""

import errno
import json
import logging
import os
import socket
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from mixbench.errors import InterruptedRunError, UserError
from mixbench.files import read_json, write_checks

try:
    import fcntl
except ImportError:  # not POSIX: who creates the file holds it, and nothing more is known
    fcntl = None

log = logging.getLogger("mixbench")
LOCK = "lock.json"
HEARTBEAT_S = 10.0  # seconds between touches of a lock
SILENCE_S = 60.0  # seconds of watching without one after which a holder elsewhere counts as gone
SHOWN_LIVE_S = 3600.0  # age by this machine's clock up to which a run elsewhere is shown as running
WRITE_WAIT_S = 1.0  # seconds for what another process does right after it has created a lock
_SIZE = 512  # bytes of a lock: one that is overwritten is never a mixture of two
_UNSUPPORTED = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
_handles: set[int] = set()  # open locks of this process


class BusyRunError(UserError):
    """Another process is at work on a run."""


class Holder(NamedTuple):
    """The process that holds a lock, as the file names it."""

    host: str
    pid: int
    born: str | None  # in the kernel's ticks, as numbers are given again
    nonce: str  # of this taking of the lock alone


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run for this process, and touch the lock from time to time to show that it lives.

    Should another machine take the lock over, as it saw no life here, nothing more is written to
    the folder by this process.

    Args:
        folder: Folder of the run.

    Yields:
        While the lock is held.

    Raises:
        BusyRunError: If another living process holds it.
        UserError: If something else stands in the lock's place.
        InterruptedRunError: From what writes to the folder, once it was taken over.
    """
    path, place, nonce = folder / LOCK, folder.absolute(), os.urandom(8).hex()
    handles = _acquire(path, nonce)
    ended = threading.Event()
    heart = threading.Thread(target=_beat, args=(handles[0], path, nonce, ended), daemon=True)
    heart.start()
    write_checks[place] = lambda: _check_mine(path, nonce)
    try:
        yield
    finally:
        write_checks.pop(place, None)
        ended.set()
        heart.join()
        try:
            if _is_mine(path, nonce):
                path.unlink(missing_ok=True)
        finally:
            _close(*handles)


def is_live(folder: Path) -> bool:
    """Tell whether a process seems to be at work on a run; only for display.

    Args:
        folder: Folder of the run.

    Returns:
        True if its lock names a living process of this machine, or one of another machine that
        touched the lock within the last hour of this machine's clock.
    """
    path = folder / LOCK
    holder = _holder(path)
    if holder is None:
        return False
    if holder.host == socket.gethostname():
        return _alive(holder)
    try:
        return time.time() - path.stat().st_mtime < SHOWN_LIVE_S
    except OSError:
        return False


class LockWatch:
    """Looks at the lock of a run again and again, until its holder is gone.

    Args:
        folder: Folder of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK
        self._holder, self._state = _holder(self.path), _state(self.path)
        self._since = time.monotonic()

    def changes(self) -> bool:
        """Look at the lock; returns whether it was touched or replaced since the last look."""
        found = _holder(self.path), _state(self.path)
        if found == (self._holder, self._state):
            return False
        (self._holder, self._state), self._since = found, time.monotonic()
        return True

    @property
    def gone(self) -> bool:
        """True if the last look found no holder, or one that is dead or was silent."""
        if self._holder is None:
            return True
        if self._holder.host == socket.gethostname():
            return not _alive(self._holder)
        return time.monotonic() - self._since >= SILENCE_S


def _acquire(path: Path, nonce: str) -> tuple[int, int]:
    """Take the lock; returns the open file, and the one that bears the kernel's lock."""
    while True:
        handle, created = _open(path)
        guard = handle
        try:
            guard = _guard(handle, path)
            elsewhere = not created and _outlive(path)
            if _names(path, handle):
                _write(handle, nonce)
                if elsewhere and not _stays_mine(path, nonce):
                    raise _busy(path)
                return handle, guard
        except BaseException:
            _close(handle, guard)
            raise
        _close(handle, guard)  # its owner has removed it since it was opened


def _open(path: Path) -> tuple[int, bool]:
    """Open the lock; returns its handle, and whether it is new."""
    flags = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    while True:
        with suppress(FileExistsError):
            handle = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666)
            _handles.add(handle)
            return handle, True
        try:
            if not stat.S_ISREG(os.lstat(path).st_mode):
                raise UserError("the lock of the run is not a file", str(path), "remove it")
            handle = os.open(path, flags)
        except FileNotFoundError:
            continue
        _handles.add(handle)
        return handle, False


def _guard(handle: int, path: Path) -> int:
    """Take the kernel's lock on the file, or on a stand-in where its file system has none."""
    if fcntl is None:
        return handle
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return handle
    except BlockingIOError as error:
        raise _busy(path) from error
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    import hashlib

    name = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:16]
    place = Path(tempfile.gettempdir()) / f"mixbench-{os.getuid()}-{name}.lock"
    guard = os.open(place, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    _handles.add(guard)
    try:
        fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        _close(guard)
        raise _busy(path) from error
    return guard


def _outlive(path: Path) -> bool:
    """Make sure that a lock is left over; returns whether it was another machine's."""
    deadline = time.monotonic() + WRITE_WAIT_S
    while (holder := _holder(path)) is None and time.monotonic() < deadline:
        if _state(path) is None:
            return False
        time.sleep(0.05)  # it is written a moment after it is created
    if holder is None or holder.host == socket.gethostname():
        if holder is not None and _alive(holder):
            raise _busy(path)
        return False
    watch = LockWatch(path.parent)
    log.warning(
        "%s was begun by process %d on %s: watching for %.0f s whether that is still at work",
        path.parent.name,
        holder.pid,
        holder.host,
        SILENCE_S,
    )
    while not watch.gone:
        time.sleep(min(1.0, HEARTBEAT_S / 10))
        if watch.changes() and _state(path) is not None:
            raise _busy(path)
    return True


def _stays_mine(path: Path, nonce: str) -> bool:
    """Tell whether no other machine took over the same lock at the same time."""
    time.sleep(min(WRITE_WAIT_S, SILENCE_S) / 4)
    return _is_mine(path, nonce)


def _busy(path: Path) -> BusyRunError:
    deadline = time.monotonic() + WRITE_WAIT_S
    while (holder := _holder(path)) is None and time.monotonic() < deadline:
        time.sleep(0.05)
    who = f"{holder.pid} on {holder.host}" if holder else "its name is not known"
    return BusyRunError(
        f"another process is at work on {path.parent.name}: {who}",
        str(path),
        "wait for it, or choose another seed or run.dir",
    )


def _write(handle: int, nonce: str) -> None:
    content = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "born": _born(os.getpid()),
        "started": time.time(),
        "nonce": nonce,
    }
    os.pwrite(handle, json.dumps(content).ljust(_SIZE - 1).encode() + b"\n", 0)
    os.ftruncate(handle, _SIZE)
    os.fsync(handle)


def _beat(handle: int, path: Path, nonce: str, ended: threading.Event) -> None:
    while not ended.wait(HEARTBEAT_S):
        with suppress(OSError):
            if _is_mine(path, nonce):
                os.utime(handle)


def _check_mine(path: Path, nonce: str) -> None:
    holder = _holder(path)
    if holder is not None and holder.nonce != nonce:
        raise InterruptedRunError(
            f"{path.parent.name} was taken over by process {holder.pid} on {holder.host}, which "
            "saw no life of this one",
            str(path),
            "let that process finish",
        )


def _is_mine(path: Path, nonce: str) -> bool:
    holder = _holder(path)
    return holder is not None and holder.nonce == nonce


def _names(path: Path, handle: int) -> bool:
    """Tell whether a path is still that of an open file."""
    try:
        return os.path.samestat(os.fstat(handle), os.lstat(path))
    except FileNotFoundError:
        return False


def _close(*handles: int) -> None:
    for handle in {*handles} & _handles:
        _handles.remove(handle)
        os.close(handle)


def _close_in_child() -> None:
    """A forked worker must not keep the lock of a process that dies."""
    _close(*_handles)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)


def _holder(path: Path) -> Holder | None:
    """The process that a lock names; None where there is no lock, or no process can be meant."""
    try:
        content = read_json(path, limit=8 * _SIZE)
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict):
        return None
    host, pid, born = (content.get(key) for key in ("host", "pid", "born"))
    if not isinstance(host, str) or type(pid) is not int or not 0 < pid < 1 << 31:
        return None
    nonce = content.get("nonce")
    return Holder(
        host, pid, born if isinstance(born, str) else None, nonce if isinstance(nonce, str) else ""
    )


def _state(path: Path) -> tuple[int, int] | None:
    """A value that changes with every touch, and with every other file in the lock's place."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _alive(holder: Holder) -> bool:
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return holder.born in (None, _born(holder.pid))


def _born(pid: int) -> str | None:
    """Start of a process in the kernel's ticks; None where the system does not tell."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except (OSError, ValueError):  # a process may give itself a name that is no text
        return None
    return text.rpartition(")")[2].split()[19]
