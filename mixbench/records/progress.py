"""``progress.json``: the place of a run that is at work, for those who wait for it."""

import contextlib
import json
import math
import os
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from mixbench.errors import UserError
from mixbench.files import read_json, write_text
from mixbench.records.fields import check_fields

PROGRESS = "progress.json"
PHASES = ("training", "test", "suites")  # of a run, in their order
MAX_PROGRESS_BYTES = 4096
MAX_NAME = 30  # characters of a score's name


@dataclass(frozen=True)
class Progress:
    """The place of a run.

    Attributes:
        phase: What it does now: ``training``, ``test`` or ``suites``.
        epoch: The epoch that it is in, from 1.
        epochs: Epochs of the whole run.
        left_s: Seconds of training that are left; None where that is not known yet.
        score: Name of the latest score, or ``loss``; empty before the first.
        value: That score.
    """

    phase: str = PHASES[0]
    epoch: int = 1
    epochs: int = 1
    left_s: float | None = None
    score: str = ""
    value: float = math.nan


def write_progress(folder: Path, progress: Progress) -> None:
    """Replace ``progress.json``; it need not outlive the machine.

    Args:
        folder: Folder of the run.
        progress: The place.
    """
    write_text(folder / PROGRESS, json.dumps(asdict(progress)) + "\n", durable=False)


def remove_progress(folder: Path) -> None:
    """Remove ``progress.json``, as the run is no longer at work.

    Args:
        folder: Folder of the run.
    """
    with contextlib.suppress(OSError):
        (folder / PROGRESS).unlink(missing_ok=True)


class ProgressWatch:
    """Looks at the progress of a run again and again.

    What lies in the folder when it is made was left by an earlier attempt, and does not count.

    Args:
        folder: Folder of the run; it may not exist yet.
        running: The run may be at work already, so that what lies there counts.
    """

    def __init__(self, folder: Path, *, running: bool = False) -> None:
        self.path = folder / PROGRESS
        self._state = None if running else _state(self.path)
        self._found: Progress | None = None
        self._since = time.monotonic()

    def look(self) -> Progress | None:
        """Look at the file.

        Returns:
            The latest progress with the seconds of now, or None where none is known.
        """
        state = _state(self.path)
        if state is not None and state != self._state:
            found = _read(self.path)
            if found is not None:
                self._state, self._found, self._since = state, found, time.monotonic()
        if self._found is None or self._found.left_s is None:
            return self._found
        left = max(0.0, self._found.left_s - (time.monotonic() - self._since))
        return replace(self._found, left_s=left)


def _state(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path, follow_symlinks=False)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino


def _read(path: Path) -> Progress | None:
    """The content of the file, or None where it is nothing that a run has written."""
    try:
        content = read_json(path, MAX_PROGRESS_BYTES)
        if not isinstance(content, dict):
            return None
        check_fields(content, _TYPES)
        found = Progress(**content)
    except (OSError, ValueError, TypeError, UserError):
        return None
    known = found.left_s is None or (math.isfinite(found.left_s) and found.left_s >= 0)
    places = 1 <= found.epoch <= found.epochs
    named = len(found.score) <= MAX_NAME and found.phase in PHASES
    return found if known and places and named else None


_TYPES = Progress.__annotations__
