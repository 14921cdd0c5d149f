"""``races.json``: how often each test set was looked at for a network and recipe."""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from mixbench.errors import UserError
from mixbench.files import read_json, write_text
from mixbench.records.lock import BusyRunError, locked

LEVELS = "races.json"
_LOCK = ".races"  # folder of the lock
_PATIENCE_S, _POLL_S = 20.0, 0.2


class LookLevels:
    """Looks at a test set by all races in a folder of runs.

    Args:
        folder: Folder of all runs.
        test: Hash of the test set.
        question: Hash of network and recipe.
    """

    def __init__(self, folder: Path, test: str, question: str) -> None:
        self.folder, self.test, self.question = folder, test, question

    def take(self, race: str, look: int) -> int:
        """Number of a race's look among all looks of the same question.

        Args:
            race: Id of the race.
            look: Its number in the race, from 1 on.

        Returns:
            The number; the same when it is asked for again.
        """
        own = {"test": self.test, "question": self.question, "race": race, "look": look}
        (self.folder / _LOCK).mkdir(parents=True, exist_ok=True)
        with _waiting(self.folder / _LOCK):
            looks = self._looks()
            for each in looks:
                if {key: each.get(key) for key in own} == own:
                    return each["k"]
            same = (self.test, self.question)
            used = [each["k"] for each in looks if (each["test"], each["question"]) == same]
            k = max(used, default=0) + 1
            content = {"schema": 1, "looks": [*looks, own | {"k": k}]}
            write_text(self.folder / LEVELS, json.dumps(content, indent=1) + "\n")
        return k

    def races(self) -> list[str]:
        """Races that have looked at this test set, with any network and recipe."""
        return sorted({each["race"] for each in self._looks() if each["test"] == self.test})

    def _looks(self) -> list[dict[str, Any]]:
        path = self.folder / LEVELS
        try:
            looks = read_json(path)["looks"]
            for each in looks:
                if not isinstance(each["k"], int):
                    raise TypeError("k is not a whole number")
                str(each["test"] + each["question"] + each["race"])
        except FileNotFoundError:
            return []
        except (ValueError, TypeError, KeyError, IndexError) as error:
            todo = "put it back from a copy: without it nobody knows which levels are used up"
            raise UserError(
                f"the count of looks cannot be read: {error}", str(path), todo
            ) from error
        return looks


@contextmanager
def _waiting(folder: Path) -> Iterator[None]:
    """Hold a folder that others hold for a moment only."""
    deadline = time.monotonic() + _PATIENCE_S
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(locked(folder))
                break
            except BusyRunError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_POLL_S)
        yield
