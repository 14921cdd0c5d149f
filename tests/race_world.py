"""Races without training: scores of runs as they are drawn in a world that is known."""

import zlib
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from mixbench.errors import RunFailedError
from mixbench.race.budget import first_budget
from mixbench.race.procedure import advance
from mixbench.race.state import RaceState

COSTS = (1, 1.0, 1.1, 1.0, 1.1, 1.5, 2.0, 1.2, 3.0, 2.6)


@dataclass(frozen=True)
class Kind:
    """A kind of data: deviation of runs in points, images, and variances per image."""

    sd: float
    held: int
    tested: int
    between_methods: float
    between_runs: float


MEDIUM = Kind(0.4, 1000, 2000, 0.011, 0.04)
LARGE = Kind(0.15, 5000, 10_000, 0.003, 0.02)


class Killed(BaseException):
    """A process that ends in the middle of something."""


class World:
    """Runs whose scores depend on the seed, the method and the block or seed of confirmation only.

    Args:
        gains: True gain of each method in points, plain training among them.
        kind: The data.
        seed: Of all draws.
        diverging: Methods of which every run diverges, on hold-outs or afterwards.
    """

    def __init__(self, gains, kind=MEDIUM, seed=0, diverging=()):
        self.gains, self.kind, self.seed, self.diverging = gains, kind, seed, diverging
        self.log = []  # what was asked for, in order
        self.kill_at = -1  # number of the call that ends the process
        self.calls = 0

    def _rng(self, *key):
        return np.random.default_rng([self.seed, zlib.crc32(repr(key).encode())])

    def _call(self, what):
        self.calls += 1
        if self.calls == self.kill_at:
            raise Killed
        self.log.append(what)

    def select(self, runs):
        self._call(("select", tuple(runs)))
        return [(f"{name}-b{block}", self.fold_score(name, block)) for name, block in runs]

    def fold_score(self, name, block):
        kind = self.kind
        if name in self.diverging:
            return None
        images = self._rng(name, "fold", block % 5).normal(0, kind.between_methods**0.5)
        sd = np.hypot(kind.sd, 100 * (kind.between_runs / kind.held) ** 0.5)
        luck = self._rng(name, "block", block).normal(0, sd)
        return float(80 + self.gains[name] + 100 * images / kind.held**0.5 + luck)

    def first_seed(self, names):
        return 10_000

    def confirm(self, runs):
        self._call(("confirm", tuple(runs)))
        return [(f"{n}-s{seed}", f"late {n}" not in self.diverging) for n, seed in runs]

    def units(self, name, seeds):
        self._call(("units", name, tuple(seeds)))
        kind, shape = self.kind, (len(seeds), self.kind.tested)
        taste = self._rng(name, "test").normal(0, kind.between_methods**0.5, kind.tested)
        rng = self._rng(name, "runs", *seeds)
        luck = rng.normal(0, kind.sd / 100, (len(seeds), 1))
        single = rng.standard_normal(shape, dtype=np.float32) * np.float32(kind.between_runs**0.5)
        return single + luck + (0.8 + self.gains[name] / 100 + taste)


class Looks:
    """Counts the looks of one race alone."""

    def __init__(self, used=0):
        self.used = used

    def take(self, race, look):
        return self.used + look


def begin(costs, hours, *, part=0.5, confirm="now", kind=MEDIUM, text=None):
    """A race whose runs of plain training take an hour each."""
    share = 1.0 if confirm == "later" else part
    given = f"{hours / 0.95:.9f}h"
    budget, raced, left_out = first_budget(given, costs, 3600.0, 1, share, kind.tested)
    budget.time, budget.text = "", text or given
    return RaceState(
        "race", "data", {}, [], "top1", 5, kind.held, 5 * kind.held, kind.tested, 3600.0, raced, {},
        left_out, {name: costs[name] for name in left_out}, share, confirm, budgets=[budget],
        looks_wanted=int(confirm == "now"),
    )  # fmt: skip


def race(gains, hours, kind=MEDIUM, seed=0, costs=COSTS):
    """A whole race."""
    state = begin(dict(zip(gains, map(float, costs), strict=False)), hours, kind=kind)
    advance(state, World(gains, kind, seed), Looks(), lambda state: None)
    return state


PRICES = {"erm": 1.0, "mixup": 1.0, "cutmix": 1.2}


def finished(hours=80, seed=1, diverging=(), costs=None, **options):
    """A race of ten methods, or of some others, that has gone its whole way."""
    gains = mixed_gains(np.random.default_rng(seed), len(costs or COSTS), "mixed")
    known = costs or dict(zip(gains, map(float, COSTS), strict=True))
    gains = dict(zip(known, gains.values(), strict=True))
    state = begin(known, hours, text="4h", **options)
    with suppress(RunFailedError):
        advance(state, World(gains, MEDIUM, seed, diverging), Looks(), lambda state: None)
    return state


def mixed_gains(rng, methods, kind):
    """True gains over plain training: half of the methods do next to nothing."""
    rest = np.where(
        rng.random(methods - 1) < 0.5,
        rng.normal(0.3, 1.0, methods - 1),
        rng.normal(0, 0.3, methods - 1),
    ).clip(-2, 3)
    rest = {"mixed": rest, "null": 0 * rest, "worse": -1.0 * (rng.random(methods - 1) < 0.5)}[kind]
    return {"erm": 0.0} | {f"m{number}": float(gain) for number, gain in enumerate(rest, 1)}
