"""Selection on hold-outs: who races, how many blocks a round has, and who stays.

A block is one seed with one fold, the same for all methods. Costs and budgets are in runs of plain
training.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mixbench.stats.dunnett import dunnett_upper
from mixbench.stats.gain import run_deviation

PLAIN = "erm"
PAIRS = 3  # fewest pairs of runs that confirm a winner
LEAST_METHODS = 3  # plain training and two others
LEAST_DF = 3  # below which nothing is told apart on the hold-outs
TIE_LEVEL = 0.95
_ROUNDING = 1e-9  # what a sum of costs may exceed its share by


@dataclass(frozen=True)
class Entrants:
    """Methods that a budget pays for.

    Attributes:
        raced: Names, plain training first, then from the cheapest on.
        left_out: Why the others are not raced, by name.
    """

    raced: list[str]
    left_out: dict[str, str]


@dataclass(frozen=True)
class Ties:
    """Methods that the hold-outs do not separate from the winner.

    Attributes:
        tied: Their names, the best mean first; neither the winner nor plain training.
        behind: The others that were raced, in the same order.
        sd: Deviation of runs once methods and blocks are taken out, in points.
        df: Its degrees of freedom.
        reach: By method, the lead of the winner from which on the two are told apart.
        lead: By method, the lead of the winner over common blocks, in points.
    """

    tied: list[str]
    behind: list[str]
    sd: float
    df: int
    reach: dict[str, float]
    lead: dict[str, float]


def choose_entrants(costs: Mapping[str, float], budget: float, part: float) -> Entrants:
    """Methods that are raced.

    Args:
        costs: Cost of each method, plain training among them.
        budget: All runs that the time buys.
        part: Share of it for selection; 1 where nothing is confirmed.

    Returns:
        The methods; plain training always is one.
    """
    order = sorted(costs, key=lambda name: (name != PLAIN, costs[name], list(costs).index(name)))
    left_out: dict[str, str] = {}
    raced: list[str] = []
    spent = 0.0
    for name in order:
        if name != PLAIN and part < 1 and not confirmable(costs[name], budget, part):
            left_out[name] = f"no {PAIRS} pairs of runs could confirm it"
        elif name != PLAIN and spent + costs[name] > part * budget + _ROUNDING:
            left_out[name] = "the time does not reach for one run of it"
        else:
            raced.append(name)
            spent += costs[name]
    return Entrants(raced, left_out)


def confirmable(cost: float, budget: float, part: float) -> bool:
    """Whether enough pairs of runs fit into what is kept for confirmation."""
    return PAIRS * (1 + cost) <= (1 - part) * budget + _ROUNDING


def least_budget(costs: Mapping[str, float], part: float) -> float:
    """Runs of plain training that a race of plain training and the two cheapest methods takes."""
    *_, second, third = [costs[PLAIN], *sorted(v for k, v in costs.items() if k != PLAIN)[:2]]
    selection = (costs[PLAIN] + second + third) / part
    return selection if part == 1 else max(selection, PAIRS * (1 + third) / (1 - part))


def round_sizes(methods: int) -> list[int]:
    """Numbers of methods in the rounds: all, then each time half of them, down to two."""
    sizes = [methods]
    while sizes[-1] > 2:
        sizes.append(math.ceil(sizes[-1] / 2))
    return sizes


def round_blocks(left: float, rounds_left: int, price: float, *, first: bool = False) -> int:
    """Blocks of a round for each method in it.

    Args:
        left: Runs of plain training that are left for selection.
        rounds_left: Rounds that share it, this one included.
        price: Summed cost of the methods in it.
        first: Whether it is the first round, which has one block at least.
    """
    return max(whole(left / rounds_left / price), 1 if first else 0)


def whole(number: float) -> int:
    """The whole part of a number that rounding may have made a little too small."""
    return math.floor(number + _ROUNDING)


def rank(
    scores: Mapping[str, Sequence[float]], costs: Mapping[str, float], names: Sequence[str]
) -> list[str]:
    """Methods from the best on, by the mean over all their blocks.

    Args:
        scores: Scores of each method on its blocks.
        costs: The cheaper one comes first where means are equal, then the name.
        names: The methods to rank.
    """
    means = {name: math.fsum(scores[name]) / len(scores[name]) for name in names}
    return sorted(names, key=lambda name: (-means[name], costs[name], name))


def find_ties(scores: Mapping[str, Sequence[float]], winner: str) -> Ties:
    """Methods that are not distinguishable from the winner on the hold-outs.

    The set with the winner holds the best method that was raced in at least 95 % of races.

    Args:
        scores: Scores of each method that was raced on its blocks, which all begin at block 0.
        winner: One of the methods.

    Returns:
        The ties; everything is tied where too little ran to tell.
    """
    names = list(scores)
    arms = np.repeat(np.arange(len(names)), [len(scores[name]) for name in names])
    blocks = np.concatenate([np.arange(len(scores[name])) for name in names])
    sd, df = run_deviation(arms, blocks, np.concatenate([scores[name] for name in names]))
    q = dunnett_upper(len(names) - 1, df, TIE_LEVEL) if df >= LEAST_DF else math.inf
    reach, lead = {}, {}
    for name in names:
        if name == winner:
            continue
        common = min(len(scores[name]), len(scores[winner]))
        ours, theirs = (math.fsum(scores[each][:common]) / common for each in (winner, name))
        lead[name] = ours - theirs
        reach[name] = q * sd * math.sqrt(2 / common) if df >= LEAST_DF else math.inf
    others = sorted((name for name in lead if name != PLAIN), key=lambda name: lead[name])
    tied = [name for name in others if lead[name] < reach[name]]
    return Ties(tied, [name for name in others if name not in tied], sd, df, reach, lead)


def expected_runs(costs: Mapping[str, float], share: float) -> tuple[int, float]:
    """Selection as it will go if the methods that stay cost what all do on average.

    Args:
        costs: Of the methods that are raced.
        share: Runs of plain training for selection.

    Returns:
        Runs of selection, and what they cost.
    """
    mean, left, runs = sum(costs.values()) / len(costs), share, 0
    sizes = round_sizes(len(costs))
    for number, size in enumerate(sizes):
        blocks = round_blocks(left, len(sizes) - number, size * mean, first=not number)
        runs, left = runs + size * blocks, left - size * mean * blocks
    return runs, share - left
