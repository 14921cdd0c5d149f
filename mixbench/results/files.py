"""Files that are whole or not there, and the lock that one process holds on a run."""

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from mixbench.errors import UserError

LOCK = "lock.json"
BEAT = 10.0  # seconds between touches of a lock
SILENT = 120.0  # seconds without one after which a process of another machine counts as gone


def write_text(path: Path, text: str) -> None:
    """Replace a text file by a complete new one, or leave the old one untouched.

    Args:
        path: The file; its folder must exist.
        text: New content.
    """
    write_bytes(path, lambda file: file.write(text.encode()))


def write_bytes(
    path: Path,
    write: Callable[[BinaryIO], object],
    before: Callable[[Path], object] = lambda path: None,
) -> None:
    """Replace a file by a complete new one, or leave the old one untouched.

    The new content is written beside the file, as a rename is whole only within a file system.

    Args:
        path: The file; its folder must exist.
        write: Writes the content to the open file that it is given.
        before: Called with ``path`` when the new content is on disk and the old one still there.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        with temporary.open("xb") as file:  # never through a link of that name
            write(file)
            file.flush()
            os.fsync(file.fileno())
        before(path)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def check_place(folder: Path) -> None:
    """Refuse to write into a folder of a run that leads, or would lead a file, to another place.

    The folder of all runs may be a link; what an archive of a stranger can hold may not.

    Args:
        folder: Folder of the run; it may not exist yet.

    Raises:
        UserError: If it is a link, or holds one, or anything but files and folders.
    """
    if folder.is_symlink():
        todo = f"name the folder itself: {folder.resolve()}"
        raise UserError("the folder of the run is a link", str(folder), todo)
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.is_symlink():
            todo = "remove it, or put what it leads to in its place"
            raise UserError(f"{path.name} in the folder of the run is a link", str(path), todo)
        if not (path.is_file() or path.is_dir()):
            what = f"{path.name} in the folder of the run is neither file nor folder"
            raise UserError(what, str(path), "remove it")


def open_log(path: Path) -> TextIO:
    """Open a text file to append to, created if need be and never reached through a link.

    Args:
        path: The file; its folder must exist.

    Returns:
        The open file.

    Raises:
        UserError: If it is a link, or no file.
    """
    check_place(path.parent)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    return os.fdopen(os.open(path, flags, 0o666), "a", encoding="utf-8", errors="backslashreplace")


def remove_leftovers(folder: Path) -> None:
    """Remove what a process that was killed while writing has left.

    Args:
        folder: A folder that this process holds the lock of.
    """
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def is_live(folder: Path) -> bool:
    """Whether a process is at work on a run.

    Args:
        folder: Folder of the run.

    Returns:
        True if its lock names a living process of this machine, or one of another machine that
        has lately touched the lock.
    """
    holder = _holder(folder / LOCK)
    if holder is None:
        return False
    if holder.get("host") != socket.gethostname():
        return _age(folder / LOCK) < SILENT
    return _alive(holder)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run for this process, and touch the lock from time to time to show that it lives.

    Args:
        folder: Folder of the run.

    Yields:
        While the lock is held.

    Raises:
        UserError: If another living process holds it.
    """
    path = folder / LOCK
    mine = json.dumps(
        {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "born": _born(os.getpid()),
            "started": time.time(),
        }
    )
    for _ in range(2):
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            break
        except FileExistsError as error:
            if _holds_on(folder):
                holder = _holder(path) or {}
                raise UserError(
                    f"another process is at work on {folder.name}: "
                    f"{holder.get('pid')} on {holder.get('host')}",
                    str(path),
                    "wait for it, or choose another seed or run.dir",
                ) from error
            path.unlink(missing_ok=True)
    else:
        raise UserError(f"the lock of {folder.name} keeps coming back", str(path))
    with os.fdopen(handle, "w") as file:
        file.write(mine)
    ended = threading.Event()
    heart = threading.Thread(target=_beat, args=(path, ended), daemon=True)
    heart.start()
    try:
        yield
    finally:
        ended.set()
        path.unlink(missing_ok=True)


def _beat(path: Path, ended: threading.Event) -> None:
    while not ended.wait(BEAT):
        with suppress(OSError):
            os.utime(path)


def _holds_on(folder: Path) -> bool:
    """As :func:`is_live`, but a holder on another machine is watched rather than believed.

    A job that was put back into its queue finds the lock of the machine it was taken from.
    """
    path = folder / LOCK
    holder, deadline = _holder(path), time.monotonic() + 1
    while holder is None and time.monotonic() < deadline:  # written a moment after it is created
        time.sleep(0.1)
        holder = _holder(path)
    if holder is None:
        return False
    if holder.get("host") == socket.gethostname():
        return _alive(holder)
    seen, deadline = _touched(path), time.monotonic() + 3 * BEAT
    while time.monotonic() < deadline and _age(path) < SILENT:
        if _touched(path) != seen:
            return True
        time.sleep(BEAT / 10)
    return False


def _holder(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _touched(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _age(path: Path) -> float:
    return time.time() - _touched(path)


def _alive(holder: dict[str, Any]) -> bool:
    try:
        pid = int(holder["pid"])
        os.kill(pid, 0)
    except (ProcessLookupError, KeyError, TypeError, ValueError):
        return False
    except PermissionError:
        return True
    # The number may have been given to another process since.
    return holder.get("born") in (None, _born(pid))


def _born(pid: int) -> str | None:
    """When a process started, in the kernel's ticks; None where the system does not tell."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return None
    return text.rpartition(")")[2].split()[19]
