"""SHA-256 of the files of a data set, kept so that a file is read again only when it has changed.

The hashes lie in ``hashes/`` below the folder of all data sets, in one SQLite file for each root. A
file counts as unchanged while its size, its times of modification and of status change and its
inode are what they were; the second of these times cannot be set back. Nothing depends on what is
kept: where it cannot be written or read, the files are read each time.
"""

import hashlib
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

from mixbench.data.files.location import data_folder, file_lock
from mixbench.files import open_regular

log = logging.getLogger("mixbench")

THREADS = 8  # most of their time is spent waiting for a disk or a network
FILES_PER_WRITE = 8_192  # files between two writes; a process that is killed loses no more
ANNOUNCED_FILES = 10_000  # files whose reading is announced
# File systems count time in steps of up to two seconds: a file that has changed within one could
# change again and look the same.
SETTLED_NS = 2 * 10**9  # nanoseconds
QUERY_NAMES = 500  # names in one query
NO_HASH = b""


def content_hashes(root: Path, names: Sequence[str], limit: int | None = None) -> list[bytes]:
    """SHA-256 of files.

    Args:
        root: Their folder.
        names: Paths relative to it.
        limit: Size in bytes above which a file counts as unreadable.

    Returns:
        Digest of each, :data:`NO_HASH` for what is missing, unreadable or no regular file.
    """
    found: list[bytes] = []
    announced = len(names) < ANNOUNCED_FILES
    with _Kept(hashes_path(root)) as kept, ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(names), FILES_PER_WRITE):
            window = names[start : start + FILES_PER_WRITE]
            paths = [os.path.join(root, name) for name in window]
            stamps = _spread(pool, _stamp, paths)
            digests = kept.find(window, stamps)
            if None in digests and kept.wait_for_lock():  # another process has read them meanwhile
                digests = kept.find(window, stamps)
            missing = [row for row, digest in enumerate(digests) if digest is None]
            if missing and not announced:
                log.info("reading the files of %s to know them by their content", root)
                announced = True
            read = _spread(pool, partial(_read, limit=limit), [paths[row] for row in missing])
            kept.add([(window[row], *each) for row, each in zip(missing, read, strict=True)])
            for row, (_, digest) in zip(missing, read, strict=True):
                digests[row] = digest
            found += [digest or NO_HASH for digest in digests]
    return found


def hashes_path(root: Path) -> Path:
    """File of the kept hashes of a folder; it need not exist.

    Args:
        root: The folder.

    Returns:
        Path below the folder of all data sets.
    """
    key = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]
    return data_folder() / "hashes" / f"{key}.sqlite"


class _Kept:
    """The kept hashes of one folder; an empty set where there is no place for them.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stack = ExitStack()
        self.locked = False
        self.database: sqlite3.Connection | None = None

    def __enter__(self) -> "_Kept":
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.database = self._connect()
        except (OSError, sqlite3.Error) as error:
            self._do_without(error)
        return self

    def __exit__(self, *error: object) -> None:
        self.stack.close()

    def find(self, names: Sequence[str], stamps: Sequence[str | None]) -> list[bytes | None]:
        """Digest of each file that has the stamp it had when it was read; else None."""
        known: dict[bytes, tuple[str, bytes]] = {}
        keys = [os.fsencode(name) for name in names]
        if self.database is None:
            return [None] * len(keys)
        try:
            for start in range(0, len(keys), QUERY_NAMES):
                some = keys[start : start + QUERY_NAMES]
                query = f"SELECT * FROM files WHERE name IN ({', '.join('?' * len(some))})"
                rows = self.database.execute(query, some)
                known |= {name: (stamp, digest) for name, stamp, digest in rows}
        except sqlite3.Error as error:
            self._do_without(error)
        found = (known.get(key, (None, NO_HASH)) for key in keys)
        return [
            digest if stamp is not None and stamp == kept else None
            for stamp, (kept, digest) in zip(stamps, found, strict=True)
        ]

    def add(self, read: Sequence[tuple[str, str | None, bytes]]) -> None:
        """Keep the digests of files that can be recognised by their stamps."""
        rows = [(os.fsencode(name), stamp, digest) for name, stamp, digest in read if stamp]
        if self.database is None or not rows:
            return
        try:
            with self.database:
                self.database.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", rows)
        except sqlite3.Error as error:
            self._do_without(error)

    def wait_for_lock(self) -> bool:
        """Wait until no other process reads the same files; whether it has only now been waited."""
        if self.locked or self.database is None:
            return False
        self.locked = True
        try:
            self.stack.enter_context(file_lock(self.path))
        except OSError:  # a place that can be read only, or has no locks
            return False
        return True

    def _connect(self) -> sqlite3.Connection:
        database = self.stack.enter_context(closing(sqlite3.connect(self.path, timeout=60)))
        try:
            database.execute(_TABLE)
        except sqlite3.DatabaseError as error:
            if not _is_damage(error):
                raise
            log.warning("%s is damaged and made anew", self.path)
            self.path.unlink()
            database = self.stack.enter_context(closing(sqlite3.connect(self.path, timeout=60)))
            database.execute(_TABLE)
        return database

    def _do_without(self, error: Exception) -> None:
        log.warning("%s cannot be used (%s); files are read each time", self.path, error)
        self.database = None
        if _is_damage(error):
            self.path.unlink(missing_ok=True)  # the next call makes it anew


_TABLE = (
    "CREATE TABLE IF NOT EXISTS files "
    "(name BLOB PRIMARY KEY, stamp TEXT NOT NULL, digest BLOB NOT NULL) WITHOUT ROWID"
)


def _is_damage(error: Exception) -> bool:
    """Tell whether the content of a database is at fault, and not its place."""
    return isinstance(error, sqlite3.DatabaseError) and not isinstance(
        error, sqlite3.OperationalError
    )


def _spread(
    pool: ThreadPoolExecutor, work: Callable[[str], Any], paths: Sequence[str]
) -> list[Any]:
    """Results in order; each thread takes many files at a time, as handing over costs more."""
    parts = [paths[start::THREADS] for start in range(THREADS)]
    results: list[Any] = [None] * len(paths)
    for start, part in enumerate(pool.map(lambda part: [work(path) for path in part], parts)):
        results[start::THREADS] = part
    return results


def _stamp(path: str) -> str | None:
    """By which a file is recognised."""
    try:
        return _stamp_of(os.stat(path))
    except OSError:
        return None


def _stamp_of(facts: os.stat_result) -> str:
    return f"{facts.st_size} {facts.st_mtime_ns} {facts.st_ctime_ns} {facts.st_ino}"


def _read(path: str, limit: int | None) -> tuple[str | None, bytes]:
    """Stamp under which the digest may be kept, None where it may not; and the digest."""
    try:
        with open_regular(path, limit) as file:
            before, now = os.fstat(file.fileno()), time.time_ns()
            digest = hashlib.file_digest(file, "sha256").digest()
            same = _stamp_of(os.fstat(file.fileno())) == _stamp_of(before)
    except OSError:
        return None, NO_HASH
    settled = same and before.st_ctime_ns < now - SETTLED_NS
    return (_stamp_of(before) if settled else None), digest
