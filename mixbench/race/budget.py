"""Times that a user gives to a race: what they buy, and what they are refused for."""

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime

from mixbench.errors import UserError, counted
from mixbench.race.halving import PAIRS, PLAIN, choose_entrants, least_budget
from mixbench.race.state import RaceBudget, RaceState
from mixbench.stats.gain import expected_gain

USED = 0.95  # share of a time that runs are planned for
LATER = "later"
MOST_S = 1000 * 86400.0  # of a budget
FEWEST_TESTED = 200  # test images, below which no gain is claimed
_UNITS = {"d": 86400.0, "h": 3600.0, "min": 60.0, "m": 60.0, "s": 1.0}
_TIME = re.compile(r"\+?((?:\d+(?:\.\d+)?(?:d|h|min|m|s))+)")
_PART = re.compile(r"(\d+(?:\.\d+)?)(d|h|min|m|s)")


def parse_time(text: str, key: str = "budget=") -> float:
    """Seconds of a time such as ``4h``, ``30min``, ``1h30min`` or ``90s``.

    Args:
        text: The time; a plus in front asks for it on top of what a race had.
        key: What stands in front of it on the command line.

    Returns:
        The seconds.

    Raises:
        UserError: If it is none, or no time at all.
    """
    where, todo = key.strip(" ="), f"write {key}4h, or another time such as 30min, 1h30min or 2d"
    negative = text.strip().startswith("-")
    found = _TIME.fullmatch(text.strip().removeprefix("-"))
    parts = _PART.findall(found[1]) if found else []
    seconds = math.fsum(float(number) * _UNITS[unit] for number, unit in parts)
    if found and (negative or seconds == 0):
        raise UserError(f"{key}{text} must be positive", where, todo)
    if seconds >= MOST_S:
        raise UserError(f"{key}{text} is more than {MOST_S / 86400:.0f} days", where, todo)
    if not seconds:
        raise UserError(f"{key}{text or repr(text)} is not a time", where, todo)
    return seconds


def short_time(seconds: float) -> str:
    """A time as ``budget=`` takes it, such as ``50min``, ``4h`` or ``1h30min``; rounded up."""
    if seconds < 60:
        return f"{max(1, math.ceil(seconds - 1e-9))}s"
    minutes = math.ceil(seconds / 60 - 1e-9)
    hours, rest = divmod(minutes, 60)
    if not hours:
        return f"{minutes}min"
    return f"{hours}h{rest}min" if rest else f"{hours}h"


def time_of(runs: float, plain_s: float, jobs: int) -> float:
    """Seconds that must be given for runs of plain training.

    Args:
        runs: How many.
        plain_s: Seconds of one.
        jobs: Runs beside each other.
    """
    return runs * plain_s / jobs / USED


def runs_of(seconds: float, plain_s: float, jobs: int) -> float:
    """Runs of plain training that a time buys, the other way round."""
    return seconds * jobs * USED / plain_s


def first_budget(
    text: str, costs: Mapping[str, float], plain_s: float, jobs: int, part: float, images: int
) -> tuple[RaceBudget, dict[str, float], dict[str, str]]:
    """The budget that a race begins with, and the methods that it pays for.

    Args:
        text: The time.
        costs: Measured cost of each method, plain training among them.
        plain_s: Seconds of a run of plain training.
        jobs: Runs beside each other.
        part: Share for selection; 1 where nothing is confirmed.
        images: Test images.

    Returns:
        The budget, costs of the methods that are raced, and reasons for the others.

    Raises:
        UserError: If it pays for fewer than plain training and two methods, with the time that
            would do.
    """
    seconds = parse_time(text)
    runs = runs_of(seconds, plain_s, jobs)
    found = choose_entrants(costs, runs, part)
    if len(costs) < 3:
        known = ", ".join(name for name in costs if name != PLAIN) or "none"
        raise UserError(
            f"a race needs plain training and two methods, and these can be raced: {known}",
            "method",
            "name more methods, or leave method= out for the default list",
        )
    if len(found.raced) < 3:
        least = least_budget(costs, part)
        pairs = max(2, math.floor(runs / 4))
        seen = expected_gain(pairs, images)
        bought = counted(round(runs), "run")
        what = f"{text} buy {bought}: too few to see less than {seen:.0f} points"
        if part == 1:
            what = f"{text} buy {bought}: too few to try plain training and two methods"
        wanted = short_time(time_of(least, plain_s, jobs))
        raise UserError(
            f"{what}; a race needs {math.ceil(least)} ({wanted})",
            "budget",
            f"give budget={wanted} or more, fewer epochs, or a smaller network",
        )
    budget = RaceBudget(text, seconds, jobs, runs, part * runs, "race", now())
    return budget, {name: costs[name] for name in found.raced}, found.left_out


def now() -> str:
    """The time of day in UTC, for the record."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def goes_on(state: RaceState, text: str, confirm: str | None, *, reopen: bool) -> bool:
    """Whether a command repeats one that was given, and asks for no more time.

    Args:
        state: The race.
        text: The time of the command.
        confirm: Its ``confirm``; None where it names none.
        reopen: Its ``reopen``.
    """
    if not state.finished:
        return text == state.budgets[-1].text
    opens = reopen and state.budgets[-1].stage != "reopen"
    confirms = confirm == "now" and not state.looks_wanted and state.test_images >= FEWEST_TESTED
    return text == state.budgets[-1].text and not (text.startswith("+") or opens or confirms)


def check_repeated(state: RaceState, confirm: str | None, *, reopen: bool) -> None:
    """Refuse what a command asks for beside no more time, where it would do nothing.

    Args:
        state: The race.
        confirm: ``confirm`` of the command; None where it names none.
        reopen: Its ``reopen``.

    Raises:
        UserError: If one of them has no effect.
    """
    few = state.test_images < FEWEST_TESTED  # which no word can change, and the plan has said
    if confirm is not None and confirm != state.confirm and not few:
        raise UserError(
            f"this race was begun with confirm={state.confirm}",
            f"confirm={confirm}",
            "leave it out, or give a budget that confirms what it chose, once it has chosen"
            if confirm == "now"
            else "leave it out",
        )
    if reopen and state.budgets[-1].stage != "reopen":
        raise UserError(
            "a race is opened again by a time of its own, after its verdict",
            "reopen=true",
            "leave it out, or add such a time: reopen=true budget=+2h",
        )


def add_budget(
    state: RaceState, text: str, jobs: int, confirm: str | None, *, reopen: bool
) -> None:
    """Give a race more time, and decide what it is for.

    Before the seal it goes to selection and confirmation as the first one did; after a look it pays
    for the next, with twice as many pairs.

    Args:
        state: The race, which is changed.
        text: The time.
        jobs: Runs beside each other.
        confirm: ``now``, or ``later``; None where it stays as it was.
        reopen: After a look, select again before the next.

    Raises:
        UserError: If the time does not reach, with the time that does, or has nothing to pay for.
    """
    seconds = parse_time(text)
    runs = runs_of(seconds, state.plain_s, jobs)
    if not state.finished and not text.startswith("+"):
        raise UserError(
            f"this race is at work with budget={state.budgets[-1].text}",
            f"budget={text}",
            f"give the same command to go on with it, or budget=+{text} to add as much",
        )
    if not state.finished and state.looks_wanted and state.looks:
        raise UserError(
            "this race confirms its winner now, and nothing may change what it looks at",
            f"budget={text}",
            f"go on with budget={state.budgets[-1].text}; more time can be given after its verdict",
        )
    if reopen and not state.looks:
        raise UserError(
            "the race has no verdict yet, so it cannot be reopened", "reopen=true", "leave it out"
        )
    if (
        confirm is not None
        and confirm != state.confirm
        and not (state.finished and confirm == "now")
    ):
        raise UserError(
            f"this race was begun with confirm={state.confirm}",
            f"confirm={confirm}",
            "let it end first" if confirm == "now" and not state.looks else "leave it out",
        )
    if confirm == "now" and not state.looks_wanted:
        if state.test_images < FEWEST_TESTED:
            raise UserError(
                f"{state.test_images} test images are too few to claim a gain",
                "confirm=now",
                f"test on {FEWEST_TESTED} images or more, which is another race",
            )
        _check_confirmation(state, runs, jobs)
        state.looks_wanted, state.confirm, stage, selection = 1, "now", "look", 0.0
    elif not state.looks:
        stage = "selection"
        selection = runs if state.confirm == LATER else runs * state.part
        if state.finished:
            _check_selection(state, state.left + runs, jobs)
            state.more_rounds += 1
    else:
        stage, selection = ("reopen" if reopen else "look"), 0.0
        selection = _next_look(state, runs, jobs, reopen=reopen)
        if reopen:  # what selection left over was spent by the look before
            planned = math.fsum(budget.selection for budget in state.budgets)
            selection -= planned - state.selection_spent
        state.looks_wanted += 1
        state.more_rounds += reopen
    state.budgets.append(RaceBudget(text, seconds, jobs, runs, selection, stage, now()))


def next_look(state: RaceState) -> tuple[int, float]:
    """Pairs of the next look at the same winner, and what those that are new cost."""
    last = state.looks[-1]
    n = state.looks[0].n * 2 ** len(state.looks)
    known = max(look.n for look in state.looks if look.winner == last.winner)
    plain = max(look.n for look in state.looks)
    return n, (n - known) * state.costs[last.winner] + (n - plain) * state.costs[PLAIN]


def _check_confirmation(state: RaceState, runs: float, jobs: int) -> None:
    """Refuse a time that does not pay for enough pairs, once all was chosen."""
    need = PAIRS * (1 + state.costs[state.winner])
    _refuse(f"{PAIRS} pairs of runs that confirm {state.winner}", need, state, runs, jobs)


def _check_selection(state: RaceState, left: float, jobs: int) -> None:
    """Refuse a time that does not pay for one more block."""
    price = math.fsum(state.costs[name] for name in state.rounds[-1].kept)
    names = " and ".join(state.rounds[-1].kept)
    _refuse(f"one more run each of {names}", price, state, left - state.left, jobs)


def _next_look(state: RaceState, runs: float, jobs: int, *, reopen: bool) -> float:
    """Check that a time reaches the next look; what it leaves for selection before it."""
    last = state.looks[-1]
    if last.outcome == "plain diverged" or (last.outcome == "unstable" and not reopen):
        raise UserError(
            f"the last look ended without a comparison: {last.outcome}",
            "budget",
            "race with another recipe"
            + (", or choose anew with reopen=true" if last.outcome == "unstable" else ""),
        )
    n, cost = next_look(state)
    if not reopen:
        _refuse(
            f"look {len(state.looks) + 1}, which has {n} pairs of runs", cost, state, runs, jobs
        )
        return 0.0
    if not state.winner:
        raise UserError(
            "no method is left that did not diverge", "reopen=true", "race with another recipe"
        )
    finalists = [name for name in state.rounds[-1].kept if name not in state.diverged]
    others = [name for name in finalists if name not in (PLAIN, last.winner)]
    if not others and last.outcome != "unstable":
        raise UserError(
            f"the other method that is left is plain training, and {last.winner} stays the winner",
            "reopen=true",
            "leave it out",
        )
    known = {name: 0 for name in [*others, state.winner]}
    for look in state.looks:
        if look.winner in known:
            known[look.winner] = max(known[look.winner], look.n)
    plain = (n - max(look.n for look in state.looks)) * state.costs[PLAIN]
    reserve = plain + max((n - count) * state.costs[name] for name, count in known.items())
    price = math.fsum(state.costs[name] for name in finalists)
    what = f"one more run each of {' and '.join(finalists)}, and {n} pairs of runs"
    _refuse(what, reserve + price, state, runs, jobs)
    return state.left + runs - reserve


def _refuse(what: str, need: float, state: RaceState, runs: float, jobs: int) -> None:
    if state.left + runs < need - 1e-9:
        wanted = short_time(time_of(need - state.left, state.plain_s, jobs))
        raise UserError(
            f"this time buys {runs:.1f} runs of plain training, and {need - state.left:.1f} are "
            f"needed for {what}",
            "budget",
            f"give budget={wanted} or more",
        )
