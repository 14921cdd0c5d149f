"""Runs of a race that is not over, whose test scores nobody may see yet."""

from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from mixbench.errors import UserError, counted
from mixbench.leaderboard.rows import find_runs
from mixbench.race.halving import PLAIN
from mixbench.race.state import RACE, RaceState, read_race
from mixbench.records.record import read_record


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
    races = [state for parent in {folder.parent for folder in folders} for state in _open(parent)]
    if not races:
        return folders, []
    kept, held = [], Counter[str]()
    for folder in folders:
        race = next((state.id for state in races if _confirms(state, folder)), None)
        if race is None:
            kept.append(folder)
        else:
            held[race] += 1
    return kept, [
        f"{counted(count, 'run')} of {race} cannot be shown yet: no test score is read before the "
        "last run of its look has ended"
        for race, count in held.items()
    ]


def _open(folder: Path) -> list[RaceState]:
    """Races in a folder whose last look is sealed and not over."""
    found = []
    for path in sorted(folder.glob(f"race-*/{RACE}")):
        with suppress(UserError):
            state = read_race(path)
            if state is not None and state.looks and not state.looks[-1].outcome:
                found.append(state)
    return found


def _confirms(state: RaceState, folder: Path) -> bool:
    """Whether a run belongs to the open look of a race, and to none before it."""
    look = state.looks[-1]
    if any(folder.name in earlier.run_ids for earlier in state.looks[:-1]):
        return False
    try:
        record = read_record(folder)
    except UserError:
        return False
    return (
        record.data_hash == state.hashes["data"]
        and record.method in (look.winner, PLAIN)
        and look.first_seed <= record.seed < look.first_seed + look.n
        and record.race_fold is None
    )
