"""The procedure of a race, from its plan to its verdict, resumable between any two steps."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import numpy as np

from mixbench.errors import RunFailedError, counted
from mixbench.race.halving import PAIRS, PLAIN, rank, round_blocks, round_sizes, whole
from mixbench.race.state import RaceState, Round, SealedLook
from mixbench.stats.gain import ALPHA, gain_interval

CORRELATION_PAIRS = 6  # from which on the correlation of equal seeds is told


class Runner(Protocol):
    """What carries out the runs of a race, and reads their scores."""

    def select(self, runs: Sequence[tuple[str, int]]) -> list[tuple[str, float | None]]:
        """Train on the folds that are not held out, and score the last epoch on the other.

        Args:
            runs: Method and block of each run.

        Returns:
            Id of each run and its score in points; None if it diverged.
        """
        ...

    def first_seed(self, names: Sequence[str]) -> int:
        """A seed of confirmation from which on no run of these methods was ever trained."""
        ...

    def confirm(self, runs: Sequence[tuple[str, int]]) -> list[tuple[str, bool]]:
        """Train on the whole training set, without a word on the test score.

        Args:
            runs: Method and seed of each run.

        Returns:
            Id of each run, and whether it did not diverge.
        """
        ...

    def units(self, name: str, seeds: Sequence[int]) -> np.ndarray:
        """Read test scores of a method's runs of confirmation: (n, N) shares by seed and image."""
        ...


class Levels(Protocol):
    """What remembers how often a test set was looked at."""

    def take(self, race: str, look: int) -> int:
        """Number of a race's look among all looks of the same question, which is taken for it."""
        ...


def advance(
    state: RaceState,
    runner: Runner,
    levels: Levels,
    save: Callable[[RaceState], None],
    tell: Callable[[str], None] = lambda text: None,
) -> None:
    """Carry a race on until nothing is left to do of what was asked for.

    Args:
        state: The race, which is changed; every decision is saved before the next step.
        runner: Carries out runs.
        levels: Counts looks at the test set.
        save: Keeps the state.
        tell: Told what was decided.

    Raises:
        RunFailedError: If the comparison cannot be carried out, as plain training diverged or no
            method is left.
        MixbenchError: From the runner; the race goes on from there.
    """
    while not state.finished:
        if state.rounds and not state.rounds[-1].decided:
            _carry_out(state, runner)
            tell(_decided(state))
        elif not state.selected:
            state.rounds.append(_plan_round(state))
            tell(_planned(state))
        elif len(state.looks) < state.looks_wanted:
            state.looks.append(_seal(state, runner, levels))
            tell(_sealed(state.looks[-1]))
        else:
            _look(state, runner)
        save(state)
    if state.looks and state.looks[-1].outcome == "plain diverged":
        look = state.looks[-1]
        raise RunFailedError(
            f"plain training diverged in {look.diverged[PLAIN]} of {look.n} runs: this recipe does "
            "not carry the comparison",
            state.id,
            "race with another recipe, for example a lower lr",
        )


def _plan_round(state: RaceState) -> Round:
    """The next round: who is in it, and how many blocks each gets."""
    number = len(state.rounds)
    survivors = state.rounds[-1].kept if state.rounds else list(state.costs)
    share = math.fsum(budget.selection for budget in state.budgets)
    left = share - state.selection_spent
    price = math.fsum(state.costs[name] for name in survivors)
    blocks = round_blocks(left, state.planned_rounds - number, price, first=not number)
    first = state.rounds[-1].first + state.rounds[-1].blocks if state.rounds else 0
    return Round(list(survivors), first, blocks)


def _carry_out(state: RaceState, runner: Runner) -> None:
    """Train all runs of the planned round, and decide who stays."""
    this = state.rounds[-1]
    wanted = [
        (name, block)
        for block in range(this.first, this.first + this.blocks)
        for name in this.survivors
    ]
    found = runner.select(wanted) if wanted else []
    for (name, _), (run, score) in zip(wanted, found, strict=True):
        this.runs.setdefault(name, []).append(run)
        this.scores.setdefault(name, []).append(score)
    for name, scores in this.scores.items():
        if lost := sum(score is None for score in scores):
            this.diverged[name] = lost
    known = state.scores
    this.ranked = rank(known, state.costs, [name for name in this.survivors if name in known])
    if all(name == PLAIN for name in known):
        raise RunFailedError(
            "every method but plain training diverged" if known else "every method diverged",
            state.id,
            "race with another recipe, for example a lower lr, or other methods",
        )
    sizes = round_sizes(len(state.costs))
    number = len(state.rounds)
    size = sizes[number] if number < len(sizes) else 2
    this.kept, this.decided = this.ranked[:size], True


def _seal(state: RaceState, runner: Runner, levels: Levels) -> SealedLook:
    """What the next look will compare, before any test image is read."""
    winner, number = state.winner, len(state.looks)
    if number:
        n, first_seed = state.looks[0].n * 2**number, state.looks[0].first_seed
    else:
        n = max(PAIRS, whole(state.left / (1 + state.costs[winner])))
        first_seed = runner.first_seed([PLAIN, winner])
    k = levels.take(state.id, number + 1)
    return SealedLook(k, ALPHA / 2 ** (k - 1), winner, n, first_seed, state.test_images)


def _look(state: RaceState, runner: Runner) -> None:
    """Train all pairs of a look, and only then read what they score on the test set."""
    look = state.looks[-1]
    seeds = range(look.first_seed, look.first_seed + look.n)
    wanted = [(name, seed) for seed in seeds for name in (look.winner, PLAIN)]
    ended: dict[str, list[bool]] = {look.winner: [], PLAIN: []}
    look.runs = {look.winner: [], PLAIN: []}
    for (name, _), (run, sound) in zip(wanted, runner.confirm(wanted), strict=True):
        look.runs[name].append(run)
        ended[name].append(sound)
    look.diverged = {name: each.count(False) for name, each in ended.items() if not all(each)}
    if look.diverged:
        look.outcome = "plain diverged" if PLAIN in look.diverged else "unstable"
        return
    winner, plain = (runner.units(name, seeds) for name in (look.winner, PLAIN))
    found = look.result = gain_interval(winner, plain, look.alpha)
    look.correlation = _correlation(winner.mean(1), plain.mean(1))
    look.outcome = "better" if found.low > 0 else "worse" if found.high < 0 else "open"


def _correlation(one: np.ndarray, other: np.ndarray) -> float | None:
    """Correlation of the scores of equal seeds; None of too few, or where nothing varies."""
    if len(one) < CORRELATION_PAIRS or not (one.std() and other.std()):
        return None
    return float(np.corrcoef(one, other)[0, 1])


def _planned(state: RaceState) -> str:
    this = state.rounds[-1]
    runs = f"{counted(this.blocks, 'run')} of each"
    if not this.blocks:
        runs = "no time for more runs of each, so that the scores so far decide"
    number = f"round {len(state.rounds)} of {state.planned_rounds}"
    return f"{number}: {len(this.survivors)} methods, {runs}"


def _decided(state: RaceState) -> str:
    this = state.rounds[-1]
    text = f"round {len(state.rounds)} of {state.planned_rounds} is over"
    for name, count in this.diverged.items():
        text += f"; {name} diverged in {count} of {this.blocks} runs and leaves the race"
    if state.selected:
        return text
    out = [name for name in this.ranked if name not in this.kept]
    return f"{text}; still in the race: {_listed(this.kept)}" + (
        f"; out: {_listed(out)}" if out else ""
    )


def _sealed(look: SealedLook) -> str:
    return (
        f"sealed: {look.winner} against plain training, {look.n} fresh seeds each, look {look.k}; "
        "no test score is read before the last run has ended"
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
