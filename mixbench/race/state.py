"""``race.json``: all that was decided in a race, so that it can go on at any point.

The file is written whole before each step. A race that goes on reads what was decided and never
decides it again.
"""

import dataclasses
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from mixbench.errors import UserError
from mixbench.files import read_json, write_text
from mixbench.leaderboard.sealed import RACE
from mixbench.race.halving import PLAIN, round_sizes
from mixbench.records.fields import check_fields
from mixbench.stats.gain import GainInterval

RACE_SCHEMA = 1
FIRST_SEED = 10_000  # of confirmation, beyond what a bench uses


@dataclass
class RaceBudget:
    """A time that was given, as it was given.

    Attributes:
        text: The words of the command line.
        seconds: The time.
        jobs: Runs beside each other.
        runs: Runs of plain training that it buys.
        selection: Of these, for selection.
        stage: What it was given for: ``race``, ``selection``, ``look`` or ``reopen``.
        time: When, in UTC.
    """

    text: str
    seconds: float
    jobs: int
    runs: float
    selection: float
    stage: str
    time: str = ""


@dataclass
class Round:
    """A round of selection; its plan is written before its runs start, its decision after all.

    Attributes:
        survivors: Methods in it.
        first: Number of its first block.
        blocks: Blocks for each method.
        runs: Ids of its runs, by method and in the order of the blocks.
        scores: Scores of these runs in points, None of one that diverged.
        diverged: Runs that diverged, by method; such a method leaves the race.
        ranked: Methods that are left, the best first.
        kept: Those of the next round.
        decided: Whether the round is over.
    """

    survivors: list[str]
    first: int
    blocks: int
    runs: dict[str, list[str]] = field(default_factory=dict)
    scores: dict[str, list[float | None]] = field(default_factory=dict)
    diverged: dict[str, int] = field(default_factory=dict)
    ranked: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    decided: bool = False


@dataclass
class SealedLook:
    """A look at the test set; what it will look at is sealed before any test image is read.

    Attributes:
        k: Number of the look among all of this test set, network and recipe.
        alpha: Chance of a wrong claim, on one side.
        winner: The method that is compared with plain training.
        n: Pairs of runs, those of earlier looks included.
        first_seed: Seed of the first pair.
        images: Test images.
        runs: Ids of the runs, by method and in the order of the seeds.
        diverged: Runs that diverged, by method.
        result: The gain and its interval; None while it is not known, or cannot be.
        correlation: Of the scores of equal seeds, from six pairs on.
        outcome: ``better``, ``worse``, ``open``, ``unstable`` or ``plain diverged``; empty before.
    """

    k: int
    alpha: float
    winner: str
    n: int
    first_seed: int
    images: int
    runs: dict[str, list[str]] = field(default_factory=dict)
    diverged: dict[str, int] = field(default_factory=dict)
    result: GainInterval | None = None
    correlation: float | None = None
    outcome: str = ""

    @property
    def run_ids(self) -> list[str]:
        """Ids of all its runs."""
        return [run for runs in self.runs.values() for run in runs]


@dataclass
class RaceState:
    """A race: what was asked for, and all decisions so far.

    Attributes:
        id: Name of its folder.
        data: Shown name of the data.
        hashes: Of ``data``, ``test``, ``recipe`` with data and network, and ``question``, which is
            the network and the recipe alone.
        words: Overrides of the command that began it.
        score: ``top1``, ``balanced`` or ``map``.
        folds: Number of folds that take turns.
        fold_images: Images of the smallest fold.
        train_images: Training images.
        test_images: Test images.
        plain_s: Seconds of a run of plain training.
        costs: Measured cost of each method that is raced, in runs of plain training.
        arm_words: Overrides of the runs of each method.
        left_out: Reason why a method is not raced.
        left_costs: Measured costs of these, as far as they are known.
        part: Share of the time for selection.
        confirm: ``now`` or ``later``.
        notes: What a reader should know, as sentences.
        budgets: Times that were given.
        rounds: Rounds of selection.
        more_rounds: Rounds that later budgets added.
        looks: Looks at the test set.
        looks_wanted: Looks that the budgets are for; 0 where nothing is to be confirmed yet.
        versions: Versions of packages, and ``commit``.
        shown: How many rounds and looks are shown in W&B.
        schema: Of this file.
    """

    id: str
    data: str
    hashes: dict[str, str]
    words: list[str]
    score: str
    folds: int
    fold_images: int
    train_images: int
    test_images: int
    plain_s: float
    costs: dict[str, float]
    arm_words: dict[str, list[str]]
    left_out: dict[str, str] = field(default_factory=dict)
    left_costs: dict[str, float] = field(default_factory=dict)
    part: float = 0.5
    confirm: str = "now"
    notes: list[str] = field(default_factory=list)
    budgets: list[RaceBudget] = field(default_factory=list)
    rounds: list[Round] = field(default_factory=list)
    more_rounds: int = 0
    looks: list[SealedLook] = field(default_factory=list)
    looks_wanted: int = 0
    versions: dict[str, str] = field(default_factory=dict)
    shown: list[int] = field(default_factory=list)
    schema: int = RACE_SCHEMA

    @property
    def planned_rounds(self) -> int:
        """Rounds of selection in all."""
        return len(round_sizes(len(self.costs))) + self.more_rounds

    @property
    def selected(self) -> bool:
        """Whether selection is over."""
        return len(self.rounds) >= self.planned_rounds and self.rounds[-1].decided

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do of what was asked for."""
        looked = len(self.looks) == self.looks_wanted and all(look.outcome for look in self.looks)
        return self.selected and looked

    @property
    def winner(self) -> str:
        """The best of the last round that is not plain training; empty while that is not known."""
        if not self.selected:
            return ""
        left = (name for each in reversed(self.rounds) for name in each.ranked)
        return next((name for name in left if name != PLAIN and name not in self.diverged), "")

    @property
    def left(self) -> float:
        """Runs of plain training that are paid for and not planned yet."""
        return self.budget - self.selection_spent - self.confirmation_spent

    @property
    def budget(self) -> float:
        """Runs of plain training that all times buy."""
        return math.fsum(each.runs for each in self.budgets)

    @property
    def diverged(self) -> dict[str, tuple[int, int]]:
        """Methods that have left the race, with the runs that diverged and all of that stage."""
        found: dict[str, tuple[int, int]] = {}
        for each in self.rounds:
            for name, count in each.diverged.items():
                found.setdefault(name, (count, each.blocks))
        for look in self.looks:
            for name, count in look.diverged.items():
                found.setdefault(name, (count, look.n))
        return found

    @property
    def scores(self) -> dict[str, list[float]]:
        """Scores of each method that did not diverge, by block, over all rounds."""
        found: dict[str, list[float]] = {}
        for each in self.rounds:
            for name, values in each.scores.items():
                found.setdefault(name, []).extend(v for v in values if v is not None)
        gone = self.diverged
        return {name: values for name, values in found.items() if name not in gone and values}

    @property
    def standing(self) -> list[str]:
        """Methods from the one that stayed longest on, of one round by rank; diverged ones last."""
        order: dict[str, None] = {}
        for each in reversed(self.rounds):
            order |= dict.fromkeys([*each.ranked, *each.survivors])
        known = list(order or self.costs)
        return sorted(known, key=lambda name: name in self.diverged)

    @property
    def block_scores(self) -> dict[str, list[float | None]]:
        """Scores of all runs of selection by method and block; None of one that diverged."""
        found: dict[str, list[float | None]] = {name: [] for name in self.standing}
        for each in self.rounds:
            for name, values in each.scores.items():
                found[name].extend(values)
        return found

    @property
    def selection_spent(self) -> float:
        """Cost of all runs of selection that were planned, in runs of plain training."""
        return math.fsum(
            self.costs[name] * each.blocks for each in self.rounds for name in each.survivors
        )

    @property
    def confirmation_spent(self) -> float:
        """Cost of all runs of confirmation that were sealed, each counted once."""
        longest: dict[str, int] = {}
        for look in self.looks:
            for name in (PLAIN, look.winner):
                longest[name] = max(longest.get(name, 0), look.n)
        return math.fsum(self.costs[name] * count for name, count in longest.items())


def write_race(path: Path, state: RaceState) -> None:
    """Write the file whole.

    Args:
        path: The file.
        state: The race.
    """
    write_text(path, json.dumps(asdict(state), indent=1, allow_nan=False) + "\n")


def read_race(path: Path) -> RaceState | None:
    """Read the file.

    Args:
        path: The file.

    Returns:
        The race; None where there is none.

    Raises:
        UserError: If it is damaged, or a newer version has written it.
    """
    try:
        content = read_json(path)
        if not isinstance(content, dict):
            raise ValueError("not a mapping")
        if content.get("schema", 0) != RACE_SCHEMA:
            raise ValueError(f"written by another version (schema {content.get('schema')})")
        return _build(RaceState, content)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        todo = "put it back from a copy; without it the race cannot go on"
        why = error if isinstance(error, ValueError) else "entries of a race are missing in it"
        raise UserError(f"the race cannot be read: {why}", str(path), todo) from error


def find_races(places: Iterable[Path]) -> list[Path]:
    """Folders of races at or directly below the given paths.

    Args:
        places: Folders of races, or of collections of races.

    Returns:
        Sorted folders that hold the file of a race.

    Raises:
        UserError: If a path does not exist.
    """
    found: dict[Path, Path] = {}  # a folder may be named in several ways
    for place in places:
        if not place.is_dir():
            what = "this is no folder" if place.exists() else "no such folder"
            raise UserError(what, str(place), "check the name")
        for folder in (place, *(path.parent for path in place.glob(f"*/{RACE}"))):
            if (folder / RACE).is_file():
                found.setdefault(folder.resolve(), folder)
    return sorted(found.values())


def _build(kind: Any, content: dict[str, Any]) -> Any:
    """A dataclass from plain values, those inside it too."""
    hints = get_type_hints(kind)
    plain = dict(hints)
    nested: dict[str, Any] = {}
    for name, hint in hints.items():
        part = next(iter(get_args(hint)), None)
        if dataclasses.is_dataclass(part):
            nested[name] = part
            many = get_origin(hint) is list
            plain[name] = list[dict[str, Any]] if many else dict[str, Any] | None
    if unknown := content.keys() - hints.keys():
        raise ValueError(f"{min(unknown)} is not known")
    check_fields(content, plain)
    values = dict(content)
    for name in nested.keys() & content.keys():
        found = content[name]
        if isinstance(found, list):
            values[name] = [_build(nested[name], item) for item in found]
        elif found is not None:
            values[name] = _build(nested[name], found)
    return kind(**values)
