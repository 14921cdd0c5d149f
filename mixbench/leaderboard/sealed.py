"""Runs of a race that is not over, whose test scores nobody may see yet."""

import warnings
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from mixbench.errors import UserError, counted
from mixbench.files import read_json
from mixbench.leaderboard.evidence import BASELINE
from mixbench.leaderboard.rows import Leaderboard, build_leaderboard, find_runs
from mixbench.records.record import read_record

RACE = "race.json"  # the file of a race, in a folder beside its runs


class OpenLook(NamedTuple):
    """What a race has sealed and not decided: fresh seeds of its winner and of plain training."""

    race: str
    data_hash: str
    winner: str
    seeds: range
    shown: frozenset[str]  # ids of runs that an earlier look has decided about

    def has(self, folder: Path) -> bool:
        """Whether a run belongs to it, and to no look before it."""
        if folder.name in self.shown:
            return False
        try:
            record = read_record(folder)
        except UserError:
            return False
        return (
            record.data_hash == self.data_hash
            and record.method in (self.winner, BASELINE)
            and record.seed in self.seeds
            and record.race_fold is None
        )


def find_shown_runs(places: Iterable[Path]) -> tuple[list[Path], list[str]]:
    """Folders of runs at or directly below the given paths, without those of an open look.

    Args:
        places: As for :func:`mixbench.leaderboard.rows.find_runs`.

    Returns:
        The folders, and sentences on those that are kept back.

    Raises:
        UserError: As there.
    """
    folders = find_runs(places)
    looks = [look for parent in {folder.parent for folder in folders} for look in _open(parent)]
    if not looks:
        return folders, []
    kept, held = [], Counter[str]()
    for folder in folders:
        race = next((look.race for look in looks if look.has(folder)), None)
        if race is None:
            kept.append(folder)
        else:
            held[race] += 1
    return kept, [
        f"{counted(count, 'run')} of {race} cannot be shown yet: no test score is read before the "
        "last run of its look has ended"
        for race, count in held.items()
    ]


def shown_leaderboard(places: Iterable[Path]) -> Leaderboard:
    """Rows over seeds of the runs at or directly below the given paths.

    Args:
        places: As for :func:`mixbench.leaderboard.rows.find_runs`.

    Returns:
        The tables, without the runs of an open look.

    Raises:
        UserError: As there.

    Warns:
        UserWarning: For each race whose runs are kept back.
    """
    folders, held = find_shown_runs(places)
    for line in held:
        warnings.warn(line, stacklevel=3)
    return build_leaderboard(folders)


def _open(folder: Path) -> list[OpenLook]:
    """Looks of the races in a folder that are sealed and not over."""
    found = []
    for path in sorted(folder.glob(f"race-*/{RACE}")):
        with suppress(OSError, ValueError, KeyError, TypeError, IndexError):  # no race, or damaged
            race: Any = read_json(path)
            *earlier, look = race["looks"]
            if not look["outcome"]:
                seeds = range(look["first_seed"], look["first_seed"] + look["n"])
                ids = frozenset(
                    run for old in earlier for runs in old["runs"].values() for run in runs
                )
                data = race["hashes"]["data"]
                found.append(OpenLook(race["id"], data, look["winner"], seeds, ids))
    return found
