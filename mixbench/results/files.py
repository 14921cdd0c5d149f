"""Files that are whole or not there, and the lock that one process holds on a run."""

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from mixbench.errors import UserError

LOCK = "lock.json"


def write_text(path: Path, text: str) -> None:
    """Replace a text file by a complete new one, or leave the old one untouched.

    Args:
        path: The file; its folder must exist.
        text: New content.
    """
    write_bytes(path, lambda file: file.write(text.encode()))


def write_bytes(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Replace a file by a complete new one, or leave the old one untouched.

    The new content is written beside the file, as a rename is whole only within a file system.

    Args:
        path: The file; its folder must exist.
        write: Writes the content to the open file that it is given.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def is_live(folder: Path) -> bool:
    """Whether a process is at work on a run.

    Args:
        folder: Folder of the run.

    Returns:
        True if its lock names a living process, or one of another machine, which cannot be asked.
    """
    try:
        holder = json.loads((folder / LOCK).read_text(encoding="utf-8"))
        host, pid = holder["host"], int(holder["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
    if host != socket.gethostname():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run for this process.

    Args:
        folder: Folder of the run.

    Yields:
        While the lock is held.

    Raises:
        UserError: If another living process holds it.
    """
    path = folder / LOCK
    mine = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "started": time.time()})
    for _ in range(2):
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            break
        except FileExistsError as error:
            if is_live(folder):
                raise UserError(
                    f"another process is at work on {folder.name}",
                    str(path),
                    "wait for it, or choose another seed or run.dir",
                ) from error
            path.unlink(missing_ok=True)
    else:
        raise UserError(f"the lock of {folder.name} keeps coming back", str(path))
    with os.fdopen(handle, "w") as file:
        file.write(mine)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
