"""What a race says: before it starts, at its end, and of what more time would show."""

import math
from collections.abc import Sequence

from mixbench.errors import counted
from mixbench.race.budget import FEWEST_TESTED, next_look, short_time, time_of
from mixbench.race.halving import PLAIN, Ties, expected_runs, find_ties
from mixbench.race.state import RaceState, SealedLook
from mixbench.stats.gain import (
    ASSUMED_IMAGES,
    GainInterval,
    combined,
    detectable_gain,
    expected_gain,
    images_for,
    least_gain,
)

NAMED = 4  # tied methods that a sentence names, beyond which it counts them
WORTH = 0.5  # points: a gain that people look for
LOWER = 0.9  # what a further look must lower the detectable gain to
CORRELATED = 0.3  # from which on the correlation of equal seeds is told


def plan_text(state: RaceState) -> str:
    """What the first time buys, before anything runs.

    Args:
        state: The race with its first budget.
    """
    budget = state.budgets[0]
    runs, spent = expected_runs(state.costs, budget.selection)
    text = (
        f"{budget.text} buy {budget.runs:.0f} runs of plain training: {len(state.costs)} methods, "
        f"{runs} runs to choose"
    )
    if state.confirm == "later":
        text += ", none to confirm; no gain will be claimed."
    else:
        others = [cost for name, cost in state.costs.items() if name != PLAIN]
        pairs = math.floor((budget.runs - spent) / (1 + math.fsum(others) / len(others)) + 1e-9)
        seen = expected_gain(max(pairs, 2), state.test_images)
        text += (
            f", about {pairs} pairs to confirm; gains under {_number(seen)} points will mostly not "
            "be seen."
        )
    if state.left_out:
        costs = state.left_costs
        named = [
            f"{name} ({cost_text(costs[name])})" if name in costs else name
            for name in state.left_out
        ]
        text += f" Left out: {', '.join(named)}."
    return text


def further_plan(state: RaceState) -> str:
    """What a time that was added buys.

    Args:
        state: The race with that time.
    """
    budget = state.budgets[-1]
    text = f"{budget.text.removeprefix('+')} more buy {budget.runs:.0f} runs of plain training"
    if budget.stage == "selection":
        return f"{text}, which later rounds get."
    n = state.looks[0].n * 2 ** len(state.looks) if state.looks else 0
    first = ", first to choose and then" if budget.stage == "reopen" else ""
    return f"{text}{first} for look {len(state.looks) + 1}" + (
        f", which has {n} pairs of runs in all." if n else "."
    )


def chosen_text(state: RaceState) -> str:
    """What selection alone says: who leads, with whom, and what would confirm it.

    Args:
        state: A race without a look at the test set.
    """
    ties = find_ties(state.scores, state.winner)
    beside = ""
    if ties.tied:
        beside = f", with {_and(ties.tied)}" if len(ties.tied) <= NAMED else _count_ties(ties)
    text = f"{state.winner} leads on the hold-outs{beside}; no gain is claimed."
    sd = None if math.isnan(ties.sd) else ties.sd
    time = state.budgets[0].text.removeprefix("+")
    need = 3 * (1 + state.costs[state.winner])
    if state.budgets[0].runs < need:
        time = short_time(time_of(need, state.plain_s, state.budgets[0].jobs))
    pairs = math.floor(max(state.budgets[0].runs, need) / (1 + state.costs[state.winner]) + 1e-9)
    seen = expected_gain(pairs, state.test_images, sd)
    if state.test_images < FEWEST_TESTED:
        return text
    return (
        f"{text} `mixbench race ... confirm=now budget={time}` confirms it, and would mostly see "
        f"gains from {_number(seen)} points on."
    )


def verdict_text(state: RaceState) -> str:
    """The answer of the last look.

    Args:
        state: A race whose last look is over.
    """
    look = state.looks[-1]
    if look.outcome == "unstable":
        lost = look.diverged[look.winner]
        return (
            f"{look.winner} is unstable: {lost} of {look.n} runs diverged. No gain is claimed, and "
            f"look {look.k} is used up."
        )
    if look.outcome == "plain diverged":
        return (
            f"Plain training diverged in {look.diverged[PLAIN]} of {look.n} runs: this recipe does "
            "not carry the comparison."
        )
    found = look.result
    assert found is not None
    ends = (found.gain, found.low, found.high)
    if _alike(found):
        return (
            f"Nothing can be told of {look.winner} and plain training: all their runs are right on "
            "the same test images. Networks that learned nothing do so; train for more epochs."
        )
    digits = _digits(*ends)
    gain, low, high = (f"{value:+.{digits}f}" for value in ends)
    if look.outcome == "better":
        text = (
            f"{look.winner}, {gain} points over plain training ({_level(look)} interval "
            f"{found.low:.{digits}f} to {found.high:.{digits}f}: {look.n} fresh seeds each, "
            f"{look.images:,} test images that did not choose it). {ties_text(state, look.winner)}"
        )
    elif look.outcome == "worse":
        text = (
            f"Plain training is better than the best method, {look.winner}: {gain} points "
            f"({low.removeprefix('+')} to {high.removeprefix('+')})."
        )
    else:
        seen = _number(shown_by(look))
        text = (
            f"No method is shown to beat plain training here. Best: {look.winner}, {gain} points "
            f"({low} to {high}). This race would have shown {seen} points in 4 of 5 cases."
        )
    claim = next((each for each in state.looks[:-1] if each.outcome == "better"), None)
    if claim is not None:
        text += f" The claim of look {claim.k} for {claim.winner} stands beside this one."
    return text


def answer_texts(state: RaceState) -> list[str]:
    """What a race says as it stands: its verdict and what stands beside it, or that it goes on.

    Args:
        state: A race at any stage.
    """
    if not state.finished:
        return [f"This race is not over: {_stage_text(state)}. The same command goes on with it."]
    if not state.looks:
        return [chosen_text(state)]
    return [verdict_text(state), *further_texts(state)]


def _stage_text(state: RaceState) -> str:
    if state.looks and not state.looks[-1].outcome:
        return (
            f"look {state.looks[-1].k} is sealed, and no test score is read before its last run "
            "has ended"
        )
    if state.selected:
        return f"{state.winner} was chosen and is not confirmed yet"
    done = sum(each.decided for each in state.rounds)
    return f"{done} of {counted(state.planned_rounds, 'round')} are done"


def ties_text(state: RaceState, winner: str) -> str:
    """Which methods the hold-outs do not tell from the winner, with their costs.

    Args:
        state: The race.
        winner: The method that was confirmed.
    """
    ties = find_ties(state.scores, winner)
    own = f"{winner} ({cost_text(state.costs[winner])})"
    if not ties.tied:
        return f"On the hold-outs all others are behind {own}."
    if len(ties.tied) > NAMED:
        total = len(ties.tied) + len(ties.behind)
        text = f"{len(ties.tied)} of {total} others are not distinguishable from {winner}"
        if ties.behind:
            verb = "is" if len(ties.behind) == 1 else "are"
            text += f"; {_and(ties.behind)} {verb} behind it"
        return f"{text}."
    named = [f"{name} ({cost_text(state.costs[name])})" for name in ties.tied]
    verb = "is" if len(named) == 1 else "are"
    return f"{_and(named)} {verb} not distinguishable from {own}."


def further_texts(state: RaceState) -> list[str]:
    """What stands beside a verdict: advice, what more time would show, and cautions.

    Args:
        state: A race whose last look is over.
    """
    look = state.looks[-1]
    found = []
    if look.result is not None:
        use = look.winner if look.result.gain > 0 else f"plain training ({PLAIN})"
        found.append(f"Advice: use {use}.")
        if not _alike(look.result):
            found.append(_more_text(state, look))
        if look.correlation is not None and look.correlation > CORRELATED:
            found.append(
                f"The scores of equal seeds are correlated ({look.correlation:.2f}); the interval "
                "counts them as independent."
            )
    for name, (lost, total) in state.diverged.items():
        if name != look.winner:
            found.append(f"{name} left the race: it diverged in {lost} of {total} runs.")
    return found


def shown_by(look: SealedLook, alpha: float | None = None, n: int | None = None) -> float:
    """Gain in points that a look shows in four of five cases.

    Args:
        look: One that is over.
        alpha: Chance of a wrong claim, if another than its own.
        n: Pairs of runs, if another number than its own.
    """
    found = look.result
    assert found is not None
    pairs = look.n if n is None else n
    seeds = found.seeds * look.n / pairs
    variance, df = combined(seeds, found.image_part, pairs, look.images)
    return detectable_gain(variance, df, look.alpha if alpha is None else alpha)


def _more_text(state: RaceState, look: SealedLook) -> str:
    """What the next look would show, or why no number of runs shows more."""
    n, cost = next_look(state)
    now, alpha = shown_by(look), look.alpha / 2
    later = shown_by(look, alpha, n)
    if later <= LOWER * now:
        jobs = state.budgets[-1].jobs
        time = short_time(time_of(max(cost - state.left, 0.0), state.plain_s, jobs))
        return (
            f"{2 * (n - look.n)} more runs (about {time}) would show {later:.2f} points in place "
            f"of {now:.2f} (look {look.k + 1}, at {_percent(alpha)} %)."
        )
    assert look.result is not None
    per_image = look.result.image_part * look.images / 1e4 or ASSUMED_IMAGES
    least = least_gain(per_image, look.images)
    wanted = WORTH if least > WORTH else math.floor(50 * least) / 100
    if wanted <= 0:
        return f"The {look.images:,} test images are the limit: more runs would show little more."
    return (
        f"No number of runs shows {wanted:g} points on {look.images:,} test images; about "
        f"{_rounded(images_for(wanted, per_image)):,} images would."
    )


def _alike(found: GainInterval) -> bool:
    """Whether neither seeds nor images make any difference between two methods."""
    return found.gain == found.seeds == found.images == 0


def _count_ties(ties: Ties) -> str:
    return f", with {len(ties.tied)} of {len(ties.tied) + len(ties.behind)} others"


def _level(look: SealedLook) -> str:
    return f"{_percent(look.alpha)} %"


def _percent(alpha: float) -> str:
    """Coverage of a two-sided interval in percent, such as ``95`` and ``98.75``."""
    return f"{100 * (1 - 2 * alpha):g}"


def _digits(*values: float) -> int:
    """Decimals with which no end of an interval that is not 0 looks as if it were."""
    return 1 if all(abs(value) >= 0.05 for value in values) else 2


def _number(points: float) -> str:
    return f"{points:.1f}" if points < 10 else f"{points:.0f}"


def _rounded(number: int) -> int:
    """A number to two digits, as it is no more exact than that."""
    step = 10 ** max(0, len(str(number)) - 2)
    return math.ceil(number / step) * step


def cost_text(cost: float) -> str:
    """A cost in runs of plain training, such as ``1.5x``."""
    return f"{cost:.1f}x"


def _and(names: Sequence[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
