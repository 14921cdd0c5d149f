import pytest
from race_world import MEDIUM, Looks, World, begin

from mixbench.errors import UserError
from mixbench.race.budget import first_budget
from mixbench.race.procedure import advance
from mixbench.race.state import RaceBudget, RaceState, Round, SealedLook
from mixbench.race.words import chosen_text, further_plan, further_texts, plan_text, verdict_text
from mixbench.stats.gain import GainInterval

PRICES = {"erm": 1.0, "cutmix": 1.0, "mixup": 1.0, "bc": 1.0, "alignmix": 1.5, "samix": 3.1}


def scored(scores, outcome="better", interval=(1.4, 0.6, 2.2), n=9, k=1, images=2000, parts=None):
    """A race with one look, whose hold-out scores are given."""
    costs = {name: PRICES.get(name, 1.0) for name in scores}
    state = begin(costs, 40, text="4h")
    state.plain_s, state.test_images = 300.0, images
    state.rounds = [
        Round(list(scores), 0, len(values), {}, {name: list(v) for name, v in scores.items()},
              {}, sorted(scores, key=lambda n: -sum(scores[n])), list(scores)[:2], True)
        for values in [next(iter(scores.values()))]
    ]  # fmt: skip
    last = ["cutmix", "mixup"]
    state.rounds.append(
        Round(last, len(values_of(scores)), 0, ranked=last, kept=last, decided=True)
    )
    state.more_rounds = 2 - state.planned_rounds
    seeds, image_variance, both = parts or (0.05, 0.15, 0.03)
    result = None
    if interval:
        result = GainInterval(*interval, seeds, image_variance, both, 40.0)
    state.looks = [
        SealedLook(
            k, 0.025 / 2 ** (k - 1), "cutmix", n, 10_000, images, result=result, outcome=outcome
        )
    ]
    return state


def values_of(scores):
    return next(iter(scores.values()))


NEAR = {
    "erm": [79.0, 79.5, 79.1, 79.2],
    "cutmix": [81.0, 81.4, 81.1, 81.3],
    "mixup": [80.9, 81.5, 81.0, 81.2],
    "bc": [80.9, 81.3, 81.2, 81.2],
    "alignmix": [78.0, 78.4, 78.2, 78.2],
}


def test_a_claim_names_gain_interval_seeds_images_and_ties_with_their_costs():
    assert verdict_text(scored(NEAR)) == (
        "cutmix, +1.4 points over plain training (95 % interval 0.6 to 2.2: 9 fresh seeds each, "
        "2,000 test images that did not choose it). mixup (1.0x) and bc (1.0x) are not "
        "distinguishable from cutmix (1.0x)."
    )


def test_many_ties_are_counted_and_those_that_are_out_named():
    many = dict(NEAR) | {f"m{number}": NEAR["mixup"] for number in range(5)}
    text = verdict_text(scored(many))
    assert text.endswith(
        "7 of 8 others are not distinguishable from cutmix; alignmix is behind it."
    )


def test_nothing_shown_still_prints_the_estimate_and_what_would_have_been_shown():
    text = verdict_text(scored(NEAR, "open", (0.3, -0.5, 1.1)))
    assert text == (
        "No method is shown to beat plain training here. Best: cutmix, +0.3 points (-0.5 to +1.1). "
        "This race would have shown 1.2 points in 4 of 5 cases."
    )


def test_plain_training_that_is_better_is_said_to_be():
    assert verdict_text(scored(NEAR, "worse", (-0.8, -1.4, -0.2))) == (
        "Plain training is better than the best method, cutmix: -0.8 points (-1.4 to -0.2)."
    )
    assert "plain training (erm)" in further_texts(scored(NEAR, "worse", (-0.8, -1.4, -0.2)))[0]


def test_an_end_of_an_interval_near_zero_is_not_printed_as_zero():
    assert "0.02 to 1.20" in verdict_text(scored(NEAR, interval=(0.61, 0.02, 1.2)))


def test_runs_that_all_answer_alike_are_no_exact_result():
    state = scored(NEAR, "open", (0.0, -4e-4, 4e-4), parts=(0.0, 0.0, 0.0))
    assert verdict_text(state).startswith("Nothing can be told of cutmix and plain training")
    assert "points" not in " ".join([verdict_text(state), *further_texts(state)])
    state = scored(NEAR, "open", (0.0, -0.4, 0.4), parts=(0.0, 0.1, 0.1))
    assert verdict_text(state).startswith("No method is shown")


def test_later_looks_say_their_own_level():
    assert "97.5 % interval" in verdict_text(scored(NEAR, k=2))


def test_more_runs_are_offered_where_seeds_are_the_limit():
    state = scored(NEAR, parts=(0.5, 0.03, 0.02), n=5)
    state.budgets[0].runs -= state.left  # all of it was spent
    (_, text, *_) = further_texts(state)
    assert text.startswith("10 more runs (about 53min) would show ")
    assert text.endswith("(look 2, at 97.5 %).")


def test_images_are_named_where_they_are_the_limit():
    (_, text, *_) = further_texts(scored(NEAR, images=500, parts=(0.05, 0.55, 0.05)))
    assert (
        text == "No number of runs shows 0.5 points on 500 test images; about 7,900 images would."
    )


def test_an_unstable_winner_has_no_gain():
    state = scored(NEAR, "unstable", None, n=8)
    state.looks[0].diverged = {"cutmix": 1}
    text = verdict_text(state)
    assert text.startswith("cutmix is unstable: 1 of 8 runs diverged. No gain is claimed")
    assert further_texts(state) == []


def test_a_claim_stands_beside_a_later_look_that_shows_nothing():
    state = scored(NEAR)
    state.looks.append(scored(NEAR, "open", (0.4, -0.1, 0.9), k=2).looks[0])
    assert verdict_text(state).endswith("The claim of look 1 for cutmix stands beside this one.")


def test_correlated_seeds_are_told():
    state = scored(NEAR)
    state.looks[0].correlation = 0.29
    assert not any("correlated" in text for text in further_texts(state))
    state.looks[0].correlation = 0.31
    assert any("correlated (0.31)" in text for text in further_texts(state))


def test_choosing_alone_names_who_leads_and_how_to_confirm_it_and_no_gain():
    state = scored(NEAR)
    state.looks, state.looks_wanted, state.confirm = [], 0, "later"
    text = chosen_text(state)
    assert text.startswith(
        "cutmix leads on the hold-outs, with mixup and bc; no gain is claimed. "
        "`mixbench race ... confirm=now budget=4h` confirms it"
    )
    state.test_images = 150
    assert chosen_text(state).endswith("no gain is claimed.")


def test_the_plan_says_what_the_time_buys_and_what_is_left_out():
    state = begin(PRICES, 20, text="4h")
    text = plan_text(state)
    assert text.startswith("4h buy 20 runs of plain training: 5 methods, ")
    assert "Left out: samix (3.1x)." in text
    assert "pairs to confirm; gains under" in text


def test_a_time_that_is_too_short_is_refused_with_one_that_is_not():
    with pytest.raises(
        UserError, match=r"^30min buy 6 runs: too few to see less than \d points; a race needs"
    ) as caught:
        first_budget("30min", PRICES, 285.0, 1, 0.5, 2000)
    wanted = caught.value.todo.split("budget=")[1].split()[0]
    assert len(first_budget(wanted, PRICES, 285.0, 1, 0.5, 2000)[1]) >= 3


def test_two_methods_are_no_race():
    with pytest.raises(UserError, match=r"plain training and two methods.*mixup"):
        first_budget("9h", {"erm": 1.0, "mixup": 1.0}, 60.0, 1, 0.5, 2000)


def test_a_method_that_diverged_while_choosing_is_named_at_the_end():
    state = begin(PRICES, 60)
    gains = dict.fromkeys(PRICES, 0.0)
    advance(state, World(gains, MEDIUM, diverging=("bc",)), Looks(), lambda state: None)
    assert any("bc left the race: it diverged in" in text for text in further_texts(state))
    assert "bc" not in verdict_text(state)


def test_time_that_was_added_says_what_it_is_for():
    state = scored(NEAR)
    state.budgets.append(RaceBudget("+2h", 7200.0, 1, 24.0, 0.0, "look"))
    assert further_plan(state) == (
        "2h more buy 24 runs of plain training for look 2, which has 18 pairs of runs in all."
    )
    state.budgets[-1].stage = "reopen"
    assert "first to choose and then for look 2" in further_plan(state)
    state.budgets[-1].stage = "selection"
    assert further_plan(state).endswith("which later rounds get.")


def test_a_race_has_the_type_that_is_read_back():
    assert isinstance(scored(NEAR), RaceState)
