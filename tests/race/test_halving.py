import math

import numpy as np
import pytest
from race_world import Looks, World, begin

from mixbench.race.halving import (
    choose_entrants,
    expected_runs,
    find_ties,
    least_budget,
    rank,
    round_blocks,
    round_sizes,
)
from mixbench.race.procedure import advance

GOLDEN_COSTS = {"erm": 1.0, "m1": 1.0, "m2": 1.2, "m3": 1.5, "m4": 2.0, "m5": 3.0}


@pytest.fixture(scope="module")
def golden():
    """Scores (6, 12) of six methods on twelve blocks."""
    rng = np.random.default_rng(7)
    noise = rng.normal(80, 1, (6, 12)) + rng.normal(0, 1, 12)
    return np.round(noise + np.arange(6)[:, None] * 0.2, 2)


@pytest.fixture(scope="module")
def golden_race(golden):
    world = World(dict.fromkeys(GOLDEN_COSTS, 0.0))
    names = list(GOLDEN_COSTS)
    world.fold_score = lambda name, block: float(golden[names.index(name), block])
    state = begin(GOLDEN_COSTS, 120)
    advance(state, world, Looks(), lambda state: None)
    return state


def test_halving_gives_rounds_of_2_3_and_6_blocks(golden_race):
    rounds = [(each.blocks, sorted(each.survivors)) for each in golden_race.rounds]
    assert rounds == [
        (2, sorted(GOLDEN_COSTS)),
        (3, ["m3", "m4", "m5"]),
        (6, ["m3", "m4"]),
    ]
    assert [each.first for each in golden_race.rounds] == [0, 2, 5]
    assert golden_race.selection_spent == pytest.approx(60 - 0.1)
    assert golden_race.winner == "m4"


def test_ties_of_the_reference_race(golden_race):
    ties = find_ties(golden_race.scores, "m4")
    assert ties.sd == pytest.approx(0.765174, abs=5e-7)
    assert ties.df == 17
    assert [ties.lead[name] for name in ("erm", "m1", "m2", "m3", "m5")] == pytest.approx(
        [1.33, 1.695, 1.095, 0.5882, 0.382], abs=5e-5
    )
    assert [ties.reach[name] for name in ("erm", "m1", "m2", "m3", "m5")] == pytest.approx(
        [1.850, 1.850, 1.850, 0.789, 1.170], abs=5e-4
    )
    assert ties.tied == ["m5", "m3", "m2", "m1"]
    assert ties.behind == []


def test_sizes_halve_down_to_two():
    assert round_sizes(10) == [10, 5, 3, 2]
    assert round_sizes(3) == [3, 2]
    assert round_sizes(2) == [2]


def test_every_method_has_a_run_in_the_first_round_and_later_rounds_may_have_none():
    assert round_blocks(5.0, 2, 3.0, first=True) == 1
    assert round_blocks(5.0, 2, 3.0) == 0
    assert round_blocks(6.0 - 1e-12, 2, 3.0) == 1  # rounding takes no run away


def test_equal_means_are_ranked_by_cost_and_then_by_name():
    scores = {"a": [1.0, 3.0], "b": [2.0], "c": [2.0], "d": [5.0]}
    costs = {"a": 2.0, "b": 1.0, "c": 1.0, "d": 9.0}
    assert rank(scores, costs, ["c", "a", "b", "d"]) == ["d", "b", "c", "a"]


def test_what_cannot_be_confirmed_or_paid_for_is_left_out_with_the_reason():
    costs = {"dear": 5.0, "x": 1.1, "erm": 1.0, "y": 1.2, "z": 3.0}
    found = choose_entrants(costs, 24.0, 0.5)  # 12 to choose, 12 to confirm: 3 pairs at 3.0
    assert found.raced == ["erm", "x", "y", "z"]
    assert "3 pairs" in found.left_out["dear"]
    found = choose_entrants(costs, 12.0, 0.5)
    assert (found.raced, set(found.left_out)) == (["erm"], {"x", "y", "z", "dear"})
    found = choose_entrants(costs, 7.0, 1.0)  # nothing is confirmed, and every cost is raced
    assert found.raced == ["erm", "x", "y", "z"]
    assert "one run" in found.left_out["dear"]


@pytest.mark.parametrize("part", [0.5, 0.3, 1.0])
def test_the_least_budget_is_the_least_that_keeps_three_methods(part):
    costs = {"erm": 1.0, "x": 1.1, "y": 1.4, "z": 3.0}
    least = least_budget(costs, part)
    assert len(choose_entrants(costs, least, part).raced) == 3
    assert len(choose_entrants(costs, least - 0.01, part).raced) < 3


def test_with_too_few_runs_everything_that_was_raced_is_tied():
    ties = find_ties({"erm": [80.0], "a": [90.0], "b": [50.0]}, "a")
    assert ties.df == 0
    assert ties.tied == ["b"]
    assert math.isinf(ties.reach["b"])


def test_ties_compare_common_blocks_only():
    """The first blocks are harder: a method that stopped there is not judged by later ones."""
    scores = {"erm": [70.0, 70.4], "a": [71.0, 71.2, 90.0, 90.3], "b": [71.0, 71.4, 89.9, 90.2]}
    assert find_ties(scores, "a").lead["erm"] == pytest.approx(0.9)
    assert find_ties(scores, "erm").lead["a"] == pytest.approx(-0.9)  # the other way round, too


def test_the_expected_course_spends_no_more_than_its_share():
    runs, spent = expected_runs({"erm": 1.0, "a": 1.0, "b": 1.0, "c": 1.0}, 20.0)
    assert (runs, spent) == (20, 20.0)  # 2 blocks of 4, then 6 of 2
