import json
import random

import numpy as np
import pytest
from race_world import COSTS, LARGE, MEDIUM, Killed, Looks, World, begin, mixed_gains, race

from mixbench.errors import RunFailedError, UserError
from mixbench.race.budget import add_budget, check_repeated, goes_on, parse_time, short_time
from mixbench.race.procedure import advance
from mixbench.race.state import read_race, write_race
from mixbench.stats.gain import gain_interval

GAINS = {"erm": 0.0, "a": 3.0, "b": 0.2, "c": -0.5, "d": -1.0}
PRICES = {"erm": 1.0, "a": 1.0, "b": 1.1, "c": 1.5, "d": 2.0}


def run_through(state, world=None, looks=None):
    world = world or World(GAINS)
    advance(state, world, looks or Looks(), lambda state: None)
    return world


def test_a_race_finds_a_large_gain_and_claims_it():
    state = begin(PRICES, 40)
    run_through(state)
    (look,) = state.looks
    assert (look.winner, look.outcome) == ("a", "better")
    assert look.result.low < 3.0 < look.result.high
    assert state.finished


def test_blocks_are_the_same_for_all_methods_and_numbered_on():
    world = run_through(begin(PRICES, 40))
    blocks = {}
    for what, runs, *_ in world.log:
        if what == "select":
            for name, block in runs:
                blocks.setdefault(name, []).append(block)
    assert all(found == list(range(len(found))) for found in blocks.values())


def test_a_round_that_the_time_has_no_runs_for_says_so():
    prices = dict.fromkeys(("erm", *"abcdefgh"), 1.0)
    state, lines = begin(prices, 20), []
    advance(state, World(dict.fromkeys(prices, 0.0)), Looks(), lambda state: None, lines.append)
    assert [each.blocks for each in state.rounds] == [1, 0, 0, 0]
    assert not any(" 0 run" in line for line in lines)


def test_test_scores_are_read_after_the_seal_and_after_the_last_run():
    state, world, saved = begin(PRICES, 40), World(GAINS), []
    units = world.units

    def watched(name, seeds):
        assert saved
        assert saved[-1]["looks"][0]["n"] == len(seeds)
        assert saved[-1]["looks"][0]["winner"]
        assert world.log[-1][0] != "select"
        return units(name, seeds)

    world.units = watched

    def save(state):
        from dataclasses import asdict

        saved.append(json.loads(json.dumps(asdict(state))))

    advance(state, world, Looks(), save)
    kinds = [what[0] for what in world.log]
    assert kinds == ["select"] * len(state.rounds) + ["confirm", "units", "units"]
    (runs,) = [what[1] for what in world.log if what[0] == "confirm"]
    seeds = [seed for name, seed in runs if name == "erm"]
    assert seeds == list(range(10_000, 10_000 + state.looks[0].n))


def test_confirmation_takes_all_that_selection_left():
    state = begin(PRICES, 40)
    run_through(state)
    n, cost = state.looks[0].n, 1 + state.costs["a"]
    assert n * cost <= 40 - state.selection_spent < (n + 1) * cost


def test_a_method_that_diverges_leaves_the_race_and_is_never_averaged():
    state = begin(PRICES, 40)
    run_through(state, World(GAINS, diverging=("a",)))
    assert state.diverged["a"] == (state.rounds[0].blocks, state.rounds[0].blocks)
    assert "a" not in state.scores
    assert all("a" not in each.survivors for each in state.rounds[1:])
    assert state.looks[0].winner != "a"


def test_one_diverged_run_of_several_is_enough_and_the_sound_ones_do_not_count():
    state, world = begin(PRICES, 80), World(GAINS)
    scores = world.fold_score
    world.fold_score = lambda name, block: (
        None if (name, block) == ("a", 1) else scores(name, block)
    )
    run_through(state, world)
    assert state.rounds[0].blocks > 1
    assert state.diverged == {"a": (1, state.rounds[0].blocks)}
    assert "a" not in state.scores
    assert "a" not in state.rounds[0].ranked
    assert state.looks[0].winner != "a"


def test_a_winner_that_diverges_is_unstable_and_its_level_is_spent():
    state = begin(PRICES, 40)
    world = run_through(state, World(GAINS, diverging=("late a",)))
    (look,) = state.looks
    assert (look.outcome, look.result) == ("unstable", None)
    assert look.diverged == {"a": look.n}
    assert not [what for what in world.log if what[0] == "units"]
    with pytest.raises(UserError, match=r"unstable[\s\S]*reopen=true"):
        add_budget(state, "90h", 1, None, reopen=False)
    add_budget(state, "90h", 1, None, reopen=True)
    run_through(state, World(GAINS, diverging=("late a",)))
    assert state.looks[1].winner != "a"
    assert state.looks[1].alpha == 0.0125


def test_plain_training_that_diverges_ends_the_race_with_the_exit_code_of_a_failed_run():
    state = begin(PRICES, 40)
    for _ in range(2):  # and again when the command is repeated
        with pytest.raises(RunFailedError, match="does not carry the comparison") as caught:
            run_through(state, World(GAINS, diverging=("late erm",)))
        assert caught.value.exit_code == 3


def test_a_race_in_which_every_method_diverges_is_refused():
    with pytest.raises(RunFailedError, match="every method but plain training diverged"):
        run_through(begin(PRICES, 40), World(GAINS, diverging="abcd"))


def test_plain_training_may_drop_out_and_still_is_what_the_winner_is_compared_with():
    gains = {"erm": -3.0, "a": 0.0, "b": 0.2, "c": 0.3, "d": 1.0}
    state = begin(PRICES, 60)
    run_through(state, World(gains))
    assert "erm" not in state.rounds[-1].survivors
    assert set(state.looks[0].runs) == {"erm", state.looks[0].winner}


def test_the_winner_is_the_better_of_the_last_two_that_is_not_plain_training():
    state = begin(PRICES, 60)
    run_through(state, World({"erm": 3.0, "a": 1.0, "b": -2.0, "c": -2.0, "d": -2.0}))
    assert state.rounds[-1].ranked[0] == "erm"
    assert state.winner == "a"
    assert state.looks[0].outcome == "worse"


@pytest.mark.parametrize("seed", range(6))
def test_a_race_that_is_killed_anywhere_ends_as_one_that_is_not(tmp_path, seed):
    path, rng = tmp_path / "race.json", random.Random(seed)
    whole = begin(PRICES, 50)
    run_through(whole)
    add_budget(whole, "90h", 1, None, reopen=bool(seed % 2))
    whole.budgets[-1].time = ""
    run_through(whole)
    write_race(path, begin(PRICES, 50))
    more, kills = True, 0
    while True:
        state, world = read_race(path), World(GAINS)
        if state.finished and more:
            add_budget(state, "90h", 1, None, reopen=bool(seed % 2))
            state.budgets[-1].time = ""
            more = False
            write_race(path, state)
        elif state.finished:
            break
        world.kill_at, lost = rng.randint(1, 6), rng.random() < 0.4

        def save(state, lost=lost):
            if lost:
                raise Killed
            write_race(path, state)

        try:
            advance(state, world, Looks(), save)
        except Killed:
            kills += 1
    assert kills > 3
    assert read_race(path) == whole


def test_levels_halve_and_pairs_double_with_each_look():
    state = begin(PRICES, 40)
    world = run_through(state)
    first = state.looks[0]
    add_budget(state, "+100h", 1, None, reopen=False)
    run_through(state, world)
    second = state.looks[1]
    assert (second.k, second.alpha, second.n) == (2, 0.0125, 2 * first.n)
    assert second.runs["a"][: first.n] == first.runs["a"]  # old pairs count
    seeds = range(10_000, 10_000 + second.n)
    one, other = (world.units(name, seeds) for name in ("a", "erm"))
    assert second.result == gain_interval(one, other, 0.0125)
    (_, again) = [what[1] for what in world.log if what[0] == "confirm"]
    assert len(again) == 2 * second.n


def test_a_race_on_a_test_set_that_was_looked_at_goes_on_with_the_next_level():
    state = begin(PRICES, 40)
    run_through(state, looks=Looks(used=2))
    assert (state.looks[0].k, state.looks[0].alpha) == (3, 0.025 / 4)


def test_a_budget_that_does_not_reach_the_doubling_is_refused_with_one_that_does():
    state = begin(PRICES, 40)
    run_through(state)
    with pytest.raises(UserError, match="look 2") as caught:
        add_budget(state, "2h", 1, None, reopen=False)
    assert len(state.budgets) == 1
    wanted = caught.value.todo.split("budget=")[1].split()[0]
    add_budget(state, wanted, 1, None, reopen=False)
    run_through(state)
    assert state.looks[1].n == 2 * state.looks[0].n


def test_reopening_spends_on_selection_first_and_seals_anew():
    state = begin(PRICES, 60)
    gains = dict(GAINS, b=2.9)
    run_through(state, World(gains))
    rounds, n = len(state.rounds), state.looks[0].n
    add_budget(state, "200h", 1, None, reopen=True)
    assert state.left > 0
    run_through(state, World(gains))
    assert len(state.rounds) == rounds + 1
    assert state.rounds[-1].blocks > 0
    assert state.looks[1].n == 2 * n
    assert state.looks[1].k == 2
    assert state.left > -1e-6


def test_confirm_later_spends_all_on_choosing_and_looks_at_nothing():
    state = begin(PRICES, 40, confirm="later")
    world = run_through(state)
    assert state.finished
    assert not state.looks
    assert {what[0] for what in world.log} == {"select"}
    assert state.left < 2.1 + 1.1
    add_budget(state, "20h", 1, "now", reopen=False)
    run_through(state, world)
    assert state.looks[0].winner == "a"
    assert state.looks[0].n == int((state.budget - state.selection_spent) / 2 + 1e-9)


def test_a_choice_on_few_test_images_cannot_be_confirmed():
    state = begin(PRICES, 40, confirm="later")
    run_through(state)
    state.test_images = 199
    with pytest.raises(UserError, match="199 test images are too few"):
        add_budget(state, "20h", 1, "now", reopen=False)


def test_more_time_before_the_seal_goes_to_later_rounds():
    state = begin(PRICES, 40)
    world = World(GAINS)
    world.kill_at = 2
    with pytest.raises(Killed):
        advance(state, world, Looks(), lambda state: None)
    add_budget(state, "+40h", 1, None, reopen=False)
    run_through(state, World(GAINS))
    plain = begin(PRICES, 40)
    run_through(plain)
    assert state.rounds[0] == plain.rounds[0]
    assert state.rounds[-1].blocks > plain.rounds[-1].blocks
    assert state.looks[0].n > plain.looks[0].n


def test_the_same_command_goes_on_and_another_time_is_refused_while_a_race_is_at_work():
    state = begin(PRICES, 40, text="40h")
    assert goes_on(state, "40h", None, reopen=False)
    assert not goes_on(state, "50h", None, reopen=False)
    with pytest.raises(UserError, match=r"at work with budget=40h[\s\S]*budget=\+50h"):
        add_budget(state, "50h", 1, None, reopen=False)
    run_through(state)
    assert goes_on(state, "40h", None, reopen=False)  # it is shown again, and nothing is spent
    assert not goes_on(state, "+40h", None, reopen=False)
    assert not goes_on(state, "40h", None, reopen=True)


def test_words_that_would_do_nothing_are_refused_and_those_of_the_beginning_are_not():
    state = begin(PRICES, 40, text="4h")
    check_repeated(state, "now", reopen=False)
    check_repeated(state, None, reopen=False)
    with pytest.raises(UserError, match="begun with confirm=now"):
        check_repeated(state, "later", reopen=False)
    with pytest.raises(UserError, match="opened again by a time"):
        check_repeated(state, None, reopen=True)
    run_through(state)
    add_budget(state, "400h", 1, None, reopen=True)
    check_repeated(state, None, reopen=True)  # the command that has opened it, once more


def test_the_same_command_goes_on_where_the_test_images_do_not_allow_what_it_asks_for():
    state = begin(PRICES, 40, confirm="later", text="4h")
    state.test_images = 150  # which has made the race one that only chooses
    assert goes_on(state, "4h", "now", reopen=False)
    check_repeated(state, "now", reopen=False)
    run_through(state)
    assert goes_on(state, "4h", "now", reopen=False)
    with pytest.raises(UserError, match="150 test images are too few"):
        add_budget(state, "9h", 1, "now", reopen=False)


def test_a_sealed_look_cannot_be_given_more_time():
    state = begin(PRICES, 40)
    world = World(GAINS)
    world.kill_at = len(state.costs) - 1  # the call that confirms
    with pytest.raises(Killed):
        advance(state, world, Looks(), lambda state: None)
    assert state.looks
    with pytest.raises(UserError, match="confirms its winner now"):
        add_budget(state, "+1h", 1, None, reopen=False)


@pytest.mark.parametrize(
    ("text", "seconds"), [("4h", 14400), ("1h30min", 5400), ("90s", 90), ("+2.5h", 9000)]
)
def test_times_are_read(text, seconds):
    assert parse_time(text) == seconds


@pytest.mark.parametrize("text", ["4", "h", "-1h", "0h", "4 hours", "nan", "1e9h", "9999999999h"])
def test_what_is_no_time_is_refused_with_an_example(text):
    with pytest.raises(UserError, match=r"write budget=4h, or .* such as 30min"):
        parse_time(text)


def test_a_time_in_words_is_never_shorter_than_the_time():
    for seconds in (0.4, 59, 61, 3599, 3601, 5399, 90_000):
        assert parse_time(short_time(seconds)) >= seconds


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"schema": 2}', '{"schema": 1, "id": 3}', '{"schema": 1, "looks": [{"k": "x"}]}'],
)
def test_a_damaged_race_is_refused(tmp_path, text):
    path = tmp_path / "race.json"
    path.write_text(text)
    with pytest.raises(UserError, match="the race cannot be read"):
        read_race(path)


def outcomes(data, hours, gains, reps, seed):
    """Measures of many races: near, regret, power, bias, cover and false claims."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(reps):
        truth = mixed_gains(rng, 10, gains)
        look = race(truth, hours, data, 1000 * seed + number, COSTS).looks[0]
        true, best = truth[look.winner], max(truth.values())
        claim, adopted = look.outcome == "better", true if look.result.gain > 0 else 0.0
        rows.append(
            (
                adopted >= best - 0.2,
                best - adopted,
                claim if best > 0.5 else np.nan,
                look.result.gain - true,
                look.result.low <= true <= look.result.high,
                claim and true <= 0,
            )
        )
    return np.nanmean(np.array(rows, dtype=float), axis=0) if gains == "mixed" else rows


RACES = {  # near, regret, power, bias, cover and false claims, and deviations of 4,000 races
    "medium 20": (MEDIUM, 20, (0.477, 0.492, 0.433, 0.002, 0.948, 0.0280)),
    "medium 40": (MEDIUM, 40, (0.627, 0.284, 0.615, 0.004, 0.950, 0.0265)),
    "medium 80": (MEDIUM, 80, (0.774, 0.140, 0.752, -0.003, 0.949, 0.0256)),
    "large 40": (LARGE, 40, (0.938, 0.031, 0.989, 0.001, 0.950, 0.0266)),
}
DEVIATIONS = {
    "medium 20": (0.008, 0.009, 0.009, 0.009, 0.0035, 0.0025),
    "medium 40": (0.008, 0.006, 0.009, 0.009, 0.0035, 0.0025),
    "medium 80": (0.007, 0.006, 0.008, 0.006, 0.0035, 0.0025),
    "large 40": (0.004, 0.0012, 0.0018, 0.002, 0.0035, 0.0025),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RACES)
def test_whole_races_do_as_well_as_the_simulation_says(name):
    """4,000 races, whose own deviation is known, against the mean of eight times as many."""
    kind, hours, expected = RACES[name]
    found = outcomes(kind, hours, "mixed", 4000, 1)
    found[5] = np.mean([row[5] for row in outcomes(kind, hours, "null", 4000, 2)])
    distance = (found - expected) / np.array(DEVIATIONS[name]) / (1 + 1 / 8) ** 0.5
    assert abs(distance).max() < 3, distance


@pytest.mark.slow
@pytest.mark.parametrize(("gains", "hours"), [("null", 14), ("null", 40), ("worse", 40)])
def test_plain_training_is_rarely_declared_beaten_wrongly(gains, hours):
    """Promise 3: 2.1 to 3.0 % in a race; 4,000 races have a deviation of a quarter point."""
    false = np.mean([row[5] for row in outcomes(MEDIUM, hours, gains, 4000, 3)])
    assert 0.021 - 3 * 0.0025 < false < 0.030 + 3 * 0.0025


@pytest.mark.slow
@pytest.mark.parametrize("reopen", [False, True])
def test_wrong_claims_over_four_looks_stay_below_one_in_twenty(reopen):
    """Promise 3: a race is given more time until it claims something, and all gains are 0."""
    rng, false, reps = np.random.default_rng(4), 0, 1500
    for number in range(reps):
        truth = mixed_gains(rng, 6, "null")
        state = begin(dict(zip(truth, map(float, COSTS), strict=False)), 24)
        world, looks = World(truth, MEDIUM, 50_000 + number), Looks()
        advance(state, world, looks, lambda state: None)
        while len(state.looks) < 4 and state.looks[-1].outcome != "better":
            opens = reopen and "erm" not in state.rounds[-1].kept
            add_budget(state, "2000h", 1, None, reopen=opens)
            if opens:
                state.budgets[-1].selection = (
                    12.0
                    + state.selection_spent
                    - sum(each.selection for each in state.budgets[:-1])
                )
            advance(state, world, looks, lambda state: None)
        false += any(look.outcome == "better" for look in state.looks)
    assert false / reps < 0.05 + 3 * (0.05 * 0.95 / reps) ** 0.5
    assert false / reps > 0.02
