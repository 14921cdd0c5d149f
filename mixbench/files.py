"""Files that are whole or not there, and reading that ends whatever stands in a file's place."""

import errno
import json
import os
import stat
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from mixbench.errors import UserError

MAX_TEXT_BYTES = 16 << 20  # of a text file that is read whole
MAX_DEPTH = 30  # of nested values in JSON
INT64 = range(-(1 << 63), 1 << 63)
_KINDS = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))

# Called before a file in a folder is replaced; raises where this process may no longer write there.
write_checks: dict[Path, Callable[[], None]] = {}


def open_regular(path: str | Path, limit: int | None = None) -> BufferedReader:
    """Open a file for reading; a pipe or a device in its place would never answer or never end.

    Args:
        path: The file, or a link to it.
        limit: Bytes that it may have; any number if None.

    Returns:
        The open file.

    Raises:
        OSError: If it cannot be opened, is no regular file, or is larger.
    """
    _check_regular(os.stat(path), path, limit)  # before it is opened: that alone may wind a tape
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    file = os.fdopen(handle, "rb")
    try:
        _check_regular(os.fstat(handle), path, limit)  # it may have been replaced since
    except OSError:
        file.close()
        raise
    return file


def _check_regular(found: os.stat_result, path: str | Path, limit: int | None) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = next((words for is_kind, words in _KINDS if is_kind(found.st_mode)), "a device")
        raise OSError(errno.EINVAL, f"{kind} stands in place of a file", str(path))
    if limit is not None and found.st_size > limit:
        raise OSError(errno.EFBIG, f"the file has more than {limit:,} bytes", str(path))


def read_bytes(path: str | Path, limit: int | None = MAX_TEXT_BYTES) -> bytes:
    """Content of a file.

    Args:
        path: The file.
        limit: Bytes that it may have; any number if None.

    Returns:
        Its content.

    Raises:
        OSError: If it cannot be read, is no regular file, or is larger.
    """
    with open_regular(path, limit) as file:
        return file.read()


def read_text(path: Path, limit: int = MAX_TEXT_BYTES) -> str:
    """Content of a small text file.

    Args:
        path: The file.
        limit: Bytes that it may have.

    Returns:
        Its text, without a byte order mark.

    Raises:
        OSError: As :func:`read_bytes`.
        ValueError: If it is not UTF-8.
    """
    return read_bytes(path, limit).decode("utf-8-sig")


def read_json(path: Path, limit: int = MAX_TEXT_BYTES) -> Any:
    """Plain values from a small JSON file; ``NaN`` and ``Infinity`` are numbers.

    Args:
        path: The file.
        limit: Bytes that it may have.

    Returns:
        Its value.

    Raises:
        OSError: As :func:`read_bytes`.
        ValueError: If it is no JSON, names a key twice, is nested more deeply than
            :data:`MAX_DEPTH`, or holds whole numbers beyond int64 or text that is no Unicode.
    """
    try:
        value = json.loads(read_text(path, limit), object_pairs_hook=_without_repetition)
    except RecursionError as error:
        raise ValueError("too deeply nested") from error
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [part for item in level for part in _parts(item)]
        if not level:
            return value
    raise ValueError("too deeply nested")


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key appears twice")
    return found


def _parts(value: Any) -> list[Any]:
    """Values inside a JSON value; raises ValueError where it is more than plain."""
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    if isinstance(value, list):
        return value
    if isinstance(value, int) and value not in INT64:
        raise ValueError("a whole number is beyond 64 bits")
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ValueError("text that is no Unicode") from error
    return []


def write_text(path: Path, text: str, *, durable: bool = True) -> None:
    """Replace a text file by a complete new one, or leave the old one untouched.

    Args:
        path: The file; its folder must exist.
        text: New content.
        durable: As of :func:`write_bytes`.
    """
    write_bytes(path, lambda file: file.write(text.encode()), durable=durable)


def write_bytes(
    path: Path,
    write: Callable[[BinaryIO], object],
    before: Callable[[Path], object] = lambda path: None,
    *,
    durable: bool = True,
) -> None:
    """Replace a file by a complete new one, or leave the old one untouched.

    The new content is written beside the file, as a rename is whole only within a file system.

    Args:
        path: The file; its folder must exist.
        write: Writes the content to the open file that it is given.
        before: Called with ``path`` when the new content is on disk and the old one still there.
        durable: Wait until the disk has it, so that it survives a loss of power.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        with temporary.open("xb") as file:  # never through a link of that name
            write(file)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        if check := write_checks.get(path.parent.absolute()):
            check()
        before(path)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def check_run_folder(folder: Path) -> None:
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
    check_run_folder(path.parent)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    return os.fdopen(os.open(path, flags, 0o666), "a", encoding="utf-8", errors="backslashreplace")


def remove_leftovers(folder: Path) -> None:
    """Remove what a process that was killed while writing has left.

    Args:
        folder: A folder that this process holds the lock of.
    """
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)
