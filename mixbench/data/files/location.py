"""The folder of data sets, and a lock for processes that write there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def data_folder() -> Path:
    """Folder of all data sets: ``MIXBENCH_DATA``, else ``data``."""
    return Path(os.environ.get("MIXBENCH_DATA") or "data")


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Wait until no other process of this machine holds a file, and hold it.

    The kernel lets go of it when the process ends, however it ends. The lock file stays, as a
    process that waits on a removed one would not see the next.

    Args:
        path: The file that is going to be written; its folder must be writable.

    Yields:
        While the file is held.
    """
    import fcntl

    with path.with_name(f".{path.name}.lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
