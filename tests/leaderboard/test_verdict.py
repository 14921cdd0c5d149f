import pytest

from mixbench.leaderboard.compare import compare
from mixbench.leaderboard.evidence import weigh
from mixbench.leaderboard.rows import build_leaderboard, find_runs
from mixbench.leaderboard.verdict import decide, decide_pair, seeds_text
from mixbench.stats.dunnett import Contrast, compare_with
from mixbench.stats.intervals import summarize


def verdict(seeds, **kwargs):
    rows = {label: summarize(list(map(float, values))) for label, values in seeds.items()}
    return decide(weigh(seeds, {}), rows, "top1", **kwargs)


CLEAR = {
    "erm": [90.0, 90.2, 90.1],
    "cutmix": [91.5, 91.4, 91.6],
    "mixup": [91.2, 91.5, 91.3],
    "bc": [90.1, 90.0, 90.2],
}


def test_a_winner_is_named_with_its_lead_its_evidence_and_its_equals():
    found = verdict(CLEAR)
    assert (found.outcome, found.best, found.seeds) == ("winner", "cutmix", None)
    contrast = compare_with(CLEAR, "erm").contrasts["cutmix"]
    for part in (
        "cutmix is best: +1.40 points over plain training",
        f"{contrast.low:.2f} to {contrast.high:.2f}",
        "p < 0.001",
        "3 seeds",
        "mixup is not distinguishable from it",
    ):
        assert part in found.text
    assert "bc" not in found.text


def test_a_winner_without_equals_leaves_all_others_behind():
    found = verdict({name: CLEAR[name] for name in ("erm", "cutmix", "bc")})
    assert found.best == "cutmix"
    assert "all other methods are behind it" in found.text


def test_without_a_winner_it_says_how_many_seeds_would_find_one():
    seeds = {"erm": [50.0, 60.0], "cutmix": [60.0, 67.0], "mixup": [55.0, 58.0]}
    found = verdict(seeds)
    assert (found.outcome, found.best) == ("tie", "")
    assert found.text.startswith("No winner at 2 seeds: cutmix is ahead of plain training")
    assert "8.50 points" in found.text
    # Half as many again are enough for this difference with 80 % power, one less is not.
    evidence = weigh(seeds, {})
    spread = evidence.sd
    for count, enough in ((found.seeds, True), (found.seeds - 1, False)):
        rows = {name: [value] * count for name, value in (("a", 0.0), ("b", 8.5), ("c", 1.0))}
        for values in rows.values():
            shift = spread * ((count - 1) / count) ** 0.5
            values[0], values[1] = (
                values[0] + shift * (count / 2) ** 0.5,
                values[1] - shift * (count / 2) ** 0.5,
            )
        table = compare_with(rows, "a")
        assert table.pooled.sd == pytest.approx(spread)
        assert (table.mdd <= 8.5) is enough
    assert f"about {found.seeds} seeds would settle" in found.text
    assert seeds_text(found.seeds) in found.text


def test_nothing_better_than_plain_training_is_said_so_with_what_is_worse():
    seeds = {"erm": [90.0, 90.2, 90.1], "cutmix": [89.0, 89.1, 89.2], "mixup": [90.0, 90.1, 90.2]}
    found = verdict(seeds)
    assert (found.outcome, found.best) == ("none better", "")
    assert "No method beats plain training here" in found.text
    assert "mixup is not distinguishable from it" in found.text
    assert "cutmix is worse" in found.text


def test_one_seed_supports_no_winner():
    found = verdict({"erm": [90.0], "cutmix": [95.0]})
    assert (found.outcome, found.seeds) == ("too few seeds", 3)
    assert "cutmix is ahead of plain training (erm) by 5.00 points" in found.text
    assert "seeds=0,1,2" in found.text
    assert "the same top1" in verdict({"erm": [90.0], "cutmix": [90.0]}).text


def test_without_plain_training_the_next_best_is_the_measure():
    found = verdict({"cutmix": [89.0, 89.1, 89.2], "mixup": [90.0, 90.1, 90.2]})
    assert (found.outcome, found.best) == ("winner", "mixup")
    assert "+1.00 points over cutmix" in found.text
    contrast = compare_with({"cutmix": [89, 89.1, 89.2], "mixup": [90, 90.1, 90.2]}, "cutmix")
    one = contrast.contrasts["mixup"]
    assert f"{one.low:.2f} to {one.high:.2f}" in found.text
    assert "Plain training (erm) is not among the rows" in found.text
    level = verdict({"cutmix": [89.0, 89.1, 89.2], "mixup": [89.1, 89.1, 89.2]})
    assert level.outcome == "tie"
    assert "mixup is ahead of cutmix" in level.text


@pytest.mark.parametrize(
    ("seeds", "smoke", "outcome"),
    [
        ({"erm": [99.0, 99.1], "mixup": [90.0, 90.1]}, True, "smoke test"),
        ({"erm": [99.0, 99.1]}, False, "one method"),
        ({"erm": [float("nan")], "mixup": [float("inf")]}, False, "no score"),
        ({}, False, "no score"),
    ],
)
def test_where_nothing_can_be_said_the_reason_is(seeds, smoke, outcome):
    found = verdict(seeds, smoke_test=smoke)
    assert found.outcome == outcome
    assert found.text.startswith("No verdict")
    assert found.best == ""


def test_rows_that_are_level_need_no_command_that_cannot_be_run():
    seeds = {"erm": [90.0, 90.2, 90.1], "cutmix": [90.1, 90.20001, 90.0]}
    found = verdict(seeds)
    assert (found.outcome, found.seeds) == ("tie", None)
    assert "1,000 seeds would not settle" in found.text
    assert "mixbench bench" not in found.text


def test_many_equals_are_counted():
    equals = {f"m{number}": [91.0, 91.2, 91.1] for number in range(8)}
    found = verdict({"erm": [80.0, 80.2, 80.1], **equals})
    assert found.outcome == "winner"
    assert "4 others are not distinguishable" in found.text


def test_rows_that_were_not_tested_are_never_claimed_to_be_behind():
    tested = {"erm": [90.0, 90.2, 90.1], "cutmix": [91.5, 91.4, 91.6]}
    for more in ({"mixup": [95.0]}, {"mixup": [95.0, float("nan")]}):
        found = verdict(tested | more)
        assert found.best == "cutmix"
        assert "all other methods are" not in found.text
        assert "mixup is not tested" in found.text
    worse = verdict({"erm": tested["erm"], "cutmix": [80.0, 80.1, 80.2], "mixup": [95.0]})
    assert "No method beats" not in worse.text
    assert "mixup is not tested" in worse.text


def test_rows_of_one_mean_without_plain_training_are_level():
    found = verdict({name: [90.0, 90.2, 90.1] for name in "dcba"})
    assert found.outcome == "tie"
    assert "have the same top1" in found.text
    assert "ahead" not in found.text


def test_the_only_method_with_a_score_is_not_called_the_only_one():
    nan = float("nan")
    assert "only method here" in verdict({"erm": [90.0, 90.1]}).text
    assert "only method here" not in verdict({"erm": [90.0, 90.1], "mixup": [nan, nan]}).text


def test_a_winner_whose_other_runs_diverged_is_not_named_without_them():
    rows = {label: summarize(values) for label, values in CLEAR.items()}
    assert "diverged" not in decide(weigh(CLEAR, {"mixup": 2}), rows, "top1").text
    found = decide(weigh(CLEAR, {"cutmix": 2}), rows, "top1")
    assert found.best == "cutmix"
    assert "2 runs of cutmix diverged" in found.text


@pytest.mark.parametrize("lead", [0.0, 1.0])
def test_seeds_without_a_spread_test_nothing(lead, add, tmp_path):
    found = verdict({"erm": [90.1] * 3, "mixup": [90.1 + lead] * 3})
    assert (found.outcome, found.best) == ("no spread", "")
    assert "p " not in found.text
    for seed in range(3):
        add("erm", seed, 90.1)
        add("mixup", seed, 90.1 + lead)
    board = build_leaderboard(find_runs([tmp_path]))
    assert not any(row.marked for row in board.groups[0].rows)
    (pair,) = compare(board, "mixup", "erm", resamples=10)
    assert any("nothing can be tested" in note for note in pair.notes)
    assert not pair.numbers.get("separated")


def test_intervals_stay_on_the_scale_of_the_score():
    found = verdict({"erm": [0.0, 0.0, 0.0], "a": [0.0, 99.0, 99.0], "b": [99.0, 99.0, 99.0]})
    assert found.outcome == "winner"
    assert "too few seeds for a 95 % interval" in found.text
    pair = decide_pair("a", "b", Contrast(60.0, 20.0, 110.0, 0.01, 9.0), (3, 3), 9.0, "top1")
    assert "20.00 to 100.00" in pair.text


@pytest.mark.parametrize(
    ("difference", "p", "counts", "words"),
    [
        (1.4, 0.003, (3, 3), "a is better than b: +1.40 points"),
        (-1.4, 0.003, (3, 5), "a is worse than b: -1.40 points"),
        (1.4, 0.003, (1, 5), "One seed of a row supports no claim"),
        (1.4, 0.3, (3, 3), "not distinguishable, but need not be equal"),
    ],
)
def test_two_rows_have_a_verdict_of_their_own(difference, p, counts, words):
    contrast = Contrast(difference, difference - 1, difference + 1, p, 2.0)
    found = decide_pair("a", "b", contrast, counts, 1.0, "top1")
    assert words in found.text
    few = min(counts) == 1
    assert found.outcome == ("too few seeds" if few else "winner" if p < 0.05 else "tie")
    assert found.best == ("" if few or p > 0.05 else "a" if difference > 0 else "b")
    assert ("3 and 5 seeds" in found.text) == (counts == (3, 5))
    assert (found.seeds is not None) == (few or p > 0.05)


def test_a_score_that_is_no_percentage_has_its_own_unit():
    contrast = Contrast(-0.2, -0.3, -0.1, 0.001, 0.1)
    assert "-0.2000 nats" in decide_pair("a", "b", contrast, (3, 3), 0.1, "nll").text


def test_a_table_carries_its_verdict(add, tmp_path):
    for method, values in CLEAR.items():
        for seed, top1 in enumerate(values):
            add(method, seed, top1)
    (group,) = build_leaderboard(find_runs([tmp_path])).groups
    assert group.verdict == verdict(CLEAR)
