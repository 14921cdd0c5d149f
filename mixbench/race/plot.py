"""``race``: a race as a figure, from its hold-outs to the interval of each look."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixbench.errors import UserError, counted
from mixbench.leaderboard.plots.panels import label_rows, stack, title_below
from mixbench.leaderboard.plots.scores import AROUND, ROW
from mixbench.leaderboard.plots.style import (
    BETTER,
    BLACK,
    MUTED,
    PALE,
    SMALL,
    WORSE,
    printed_width,
    style,
)
from mixbench.race.budget import next_look
from mixbench.race.halving import LEAST_DF, PLAIN, find_ties
from mixbench.race.state import RACE, RaceState, find_races, read_race
from mixbench.race.words import cost_text, shown_by

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

MOST_RACES = 2
MAP = 0.6  # inches around a map of scores
SCORES = 0.6  # share of the width that a map has
LEAST_TEXT = 4.5  # points below which a score is left out
DIVERGED = "#404040"

Panel = tuple[str, float, "Callable[[SubFigure], None]"]  # title, inches, and what draws it


def draw_races(places: Sequence[Path], width: float, title: bool = True) -> "Figure":
    """Races one below the other.

    Args:
        places: Folders of races, or folders that hold such.
        width: Inches.
        title: Whether the data of each race stand above it.

    Returns:
        The figure.

    Raises:
        UserError: If there is no race, none of them has scores, or there are too many.
    """
    races = [state for folder in find_races(places) if (state := read_race(folder / RACE))]
    if not races:
        where = ", ".join(map(str, places))
        todo = "start one: mixbench race data=... budget=4h"
        raise UserError("there is no race to draw", where, todo)
    if len(races) > MOST_RACES:
        raise UserError(
            f"there are {len(races)} races, and a figure holds {MOST_RACES}",
            "plot race",
            "name the folders of those that belong into the figure, runs/race-...",
        )
    return draw_states(races, width, title=title)


def draw_states(races: Sequence[RaceState], width: float, *, title: bool = True) -> "Figure":
    """Races one below the other, as :func:`draw_races` draws them.

    Args:
        races: The races.
        width: Inches.
        title: Whether the data of each race stand above it.

    Returns:
        The figure.

    Raises:
        UserError: If none of them has scores.
    """
    panels: list[Panel] = []
    notes: dict[str, None] = {}
    for state in races:
        if not any(each.decided for each in state.rounds):
            notes[f"Not shown: {state.id}, whose first round is not over."] = None
            continue
        own, told = _panels(state, width)
        if title:
            (text, *rest), *others = own
            own = [(f"{state.id}: {text}", *rest), *others]
        panels += own
        notes |= dict.fromkeys(told)
    if not panels:
        todo = "wait for its first round; the command that started it goes on with it"
        raise UserError("no round of the race is over", "plot race", todo)
    titles, heights, draws = zip(*panels, strict=True)
    with style():
        figure, parts = stack(width, heights, titles, list(notes), {})
        for draw, part in zip(draws, parts, strict=True):
            draw(part)
        figure.draw_without_rendering()  # ticks are made now, in this style
    return figure


def _panels(state: RaceState, width: float) -> tuple[list[Panel], list[str]]:
    """The parts of a race, and what they have to be read with."""
    names = state.standing
    rows = ROW * len(names) + MAP
    panels: list[Panel] = [("scores on the hold-outs", rows, partial(_draw_map, state, width))]
    notes = [
        "Each column is a block, one seed and one fold; lines part the rounds, after which the "
        "better half stays. Numbers are scores in percent; colours compare them within a block, "
        "with the methods that are in all blocks. They choose, and tell no gain.",
    ]
    if state.diverged:
        notes.append("Dark cells are runs that diverged.")
    if state.winner:
        others = [name for name in state.scores if name not in (PLAIN, state.winner)]
        high = ROW * (len(others) + 1) + AROUND
        panels.append(("who is tied, by cost", high, partial(_draw_ties, state, width)))
        notes.append(
            f"Methods whose line reaches 0 are not distinguishable from {state.winner} on the "
            "hold-outs (Dunnett's test, one-sided at 95 %)."
            if find_ties(state.scores, state.winner).df >= LEAST_DF
            else "Too little ran to tell any of the methods apart on the hold-outs."
        )
        notes[-1] += " Numbers in brackets are costs in runs of plain training."
    looks = [look for look in state.looks if look.outcome]
    if looks:
        rows = ROW * (len(looks) + (looks[-1].result is not None)) + AROUND
        one = f" of {looks[0].winner}" if len({look.winner for look in looks}) == 1 else ""
        draw = partial(_draw_looks, state, width)
        panels.append((f"gain{one} over plain training", rows, draw))
        notes.append(
            "Lines are intervals of the gain on fresh seeds and test images that did not choose; "
            "filled squares are shown to differ from 0. Ticks are the gain that a look shows in 4 "
            "of 5 cases; the last line is the next look, with twice the pairs and half the level."
        )
    return panels, notes


def _draw_map(state: RaceState, width: float, part: "SubFigure") -> None:
    """Scores by method and block, relative to those methods that are in every block."""
    from matplotlib.colors import LinearSegmentedColormap

    axes = part.subplots()
    names, scores = state.standing, state.block_scores
    blocks = max(map(len, scores.values()))
    whole = [name for name in names if len(scores[name]) == blocks and name not in state.diverged]
    centres = [
        math.fsum(value for name in whole if (value := scores[name][block]) is not None)
        / max(1, len(whole))
        for block in range(blocks)
    ]
    table = [
        [
            math.nan if block >= len(own) or (value := own[block]) is None else value - centre
            for block, centre in enumerate(centres)
        ]
        for own in (scores[name] for name in names)
    ]
    most = max((abs(cell) for row in table for cell in row if math.isfinite(cell)), default=1.0)
    colours = LinearSegmentedColormap.from_list("race", [WORSE, "#f7f7f7", BETTER])
    drawn = axes.imshow(
        table, cmap=colours, vmin=-most or -1.0, vmax=most or 1.0, aspect="auto",
        interpolation="nearest",
    )  # fmt: skip
    size = min(SMALL, SMALL * 0.9 * SCORES * width / blocks / printed_width("88.8", SMALL))
    for place, name in enumerate(names):
        for block, value in enumerate(scores[name]):
            if value is None:
                sides = (block - 0.5, block + 0.5)
                axes.fill_between(sides, place - 0.5, place + 0.5, color=DIVERGED, linewidth=0)
            elif size >= LEAST_TEXT:
                strong = abs(table[place][block]) > 0.7 * most
                ink: dict[str, Any] = {"color": "white" if strong else BLACK, "fontsize": size}
                ink |= {"ha": "center", "va": "center_baseline"}
                axes.text(block, place, f"{value:.1f}", **ink)
    label_rows(axes, names, width)
    axes.grid(visible=False)
    axes.set_ylim(len(names) - 0.5, -0.5)
    for each in state.rounds[1:]:
        if each.blocks and each.scores:
            axes.axvline(each.first - 0.5, color="white", linewidth=3)
            axes.axvline(each.first - 0.5, color=MUTED, linewidth=0.8)
    step = max(1, math.ceil(blocks / (4 * width)))
    axes.set_xticks(range(0, blocks, step), [str(block) for block in range(0, blocks, step)])
    title_below(axes, "block", width)
    part.colorbar(drawn, ax=axes, label="points", fraction=0.06, pad=0.02)


def _draw_ties(state: RaceState, width: float, part: "SubFigure") -> None:
    """How far the methods are behind the winner on common blocks, the cheapest first."""
    axes = part.subplots()
    ties = find_ties(state.scores, state.winner)
    costs = state.costs
    names = sorted([state.winner, *ties.tied, *ties.behind], key=lambda name: (costs[name], name))
    label_rows(axes, [f"{name} ({cost_text(costs[name])})" for name in names], width)
    axes.axvline(0, color=MUTED, linewidth=0.8)
    for place, name in enumerate(names):
        if name == state.winner:
            axes.plot([0], [place], "D", color=BETTER, markersize=4)
            continue
        lead, reach = ties.lead[name], ties.reach[name]
        tied = name in ties.tied
        colour = MUTED if tied else WORSE
        if math.isfinite(reach):
            ends = (-lead, -lead + reach)
            axes.plot(ends, (place, place), color=colour, linewidth=1.1, solid_capstyle="butt")
        face = "white" if tied else colour
        axes.plot([-lead], [place], "s", color=colour, markerfacecolor=face, markersize=4)
    title_below(axes, f"points above {state.winner} on common blocks", width)


def _draw_looks(state: RaceState, width: float, part: "SubFigure") -> None:
    """The interval of each look, and what it and the next one would show."""
    axes = part.subplots()
    looks = [look for look in state.looks if look.outcome]
    one = len({look.winner for look in looks}) == 1
    labels = []
    axes.axvline(0, color=MUTED, linewidth=0.8)
    for place, look in enumerate(looks):
        lost = sum(look.diverged.values())
        words = [f"look {look.k}", "" if one else look.winner]
        words.append(f"{lost} diverged" if lost else counted(look.n, "pair"))
        labels.append(", ".join(filter(None, words)))
        if look.result is None:
            continue
        found = look.result
        told = look.outcome in ("better", "worse")
        colour = {"better": BETTER, "worse": WORSE}.get(look.outcome, MUTED)
        ends, face = (found.low, found.high), colour if told else "white"
        axes.plot(ends, (place, place), color=colour, linewidth=1.1, solid_capstyle="butt")
        axes.plot([found.gain], [place], "s", color=colour, markerfacecolor=face, markersize=4)
        axes.plot([shown_by(look)], [place], "|", color=PALE, markersize=8, markeredgewidth=1.6)
    last = looks[-1]
    if last.result is not None:
        n, _ = next_look(state)
        later = shown_by(last, last.alpha / 2, n)
        labels.append(f"with {counted(n, 'pair')}")
        axes.plot([later], [len(looks)], "|", color=MUTED, markersize=8, markeredgewidth=1.6)
    label_rows(axes, labels, width)
    title_below(axes, "points over plain training", width)
