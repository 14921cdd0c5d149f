import pytest
from race_world import PRICES, finished

from mixbench import cli
from mixbench.leaderboard.report.data import gather
from mixbench.leaderboard.report.page import page
from mixbench.leaderboard.rows import Leaderboard
from mixbench.race.halving import PLAIN, find_ties
from mixbench.race.page import race_section
from mixbench.race.state import RACE, SealedLook, write_race
from mixbench.race.words import verdict_text


def tables(state):
    return {table.title: table for table in race_section(state).tables if table.lines}


def test_the_answer_of_the_command_stands_in_front_of_what_it_rests_on():
    state = finished()
    text = page(gather(Leaderboard([]), []), parts=[race_section(state)])
    assert 0 < text.index(verdict_text(state)) < text.index("<svg") < text.index("<td")
    assert "No verdict" not in text


def test_every_score_every_round_and_every_interval_is_on_the_page():
    state = finished(diverging=("m6",))
    shown = tables(state)
    assert max(map(len, state.block_scores.values())) > 2
    for name, _, *cells in shown["Blocks and methods"].lines:
        values = ["diverged" if v is None else f"{v:.2f}" for v in state.block_scores[name]]
        assert cells == [*values, *[""] * (len(cells) - len(values))]
    assert [line[:3] for line in shown["Halving"].lines] == [
        [str(number), str(len(each.survivors)), str(each.blocks)]
        for number, each in enumerate(state.rounds, start=1)
    ]
    (line,) = shown["Looks at the test set"].lines
    result = state.looks[0].result
    assert line[4:6] == [f"{result.gain:+.2f}", f"{result.low:+.2f} to {result.high:+.2f}"]
    lost, total = state.diverged["m6"]
    assert ["m6", "2.0x", f"diverged in {lost} of {total} runs"] in shown["Left out"].lines


def test_ties_are_told_with_their_costs_and_never_a_gain_on_the_hold_outs():
    state = finished()
    ties = find_ties(state.scores, state.winner)
    lines = {line[0]: line for line in tables(state)["Ties by cost"].lines}
    assert PLAIN not in lines
    assert {n for n, line in lines.items() if line[-1] == "not distinguishable"} == set(ties.tied)
    assert {n for n, line in lines.items() if line[-1] == "behind"} == set(ties.behind)
    costs = [state.costs[name] for name in lines]
    assert costs == sorted(costs)


def test_a_sealed_race_is_told_to_be_at_work_and_nothing_of_its_test_is_shown():
    state = finished(40, confirm="later")
    state.looks, state.looks_wanted = [SealedLook(1, 0.025, state.winner, 5, 10_000, 2000)], 1
    part = race_section(state)
    assert part.verdict.startswith("This race is not over: look 1 is sealed")
    assert tables(state)["Looks at the test set"].lines == [
        ["1", "95 %", state.winner, "5", "", "", "", "not over"]
    ]


def test_a_race_that_plain_training_diverged_in_says_so():
    state = finished(40, diverging=("late erm",))
    assert "Plain training diverged in" in race_section(state).verdict


@pytest.fixture
def folder(tmp_path):
    state = finished(14, costs=PRICES)
    (tmp_path / state.id).mkdir()
    write_race(tmp_path / state.id / RACE, state)
    return tmp_path / state.id


def test_a_race_alone_makes_a_page_in_its_folder(folder, capsys):
    assert cli.main(["report", str(folder)]) == 0
    assert str(folder / "report.html") in capsys.readouterr().out
    assert "Blocks and methods" in (folder / "report.html").read_text()


def test_a_damaged_race_is_named_and_the_others_are_shown(folder, capsys):
    other = folder.parent / "race-broken"
    other.mkdir()
    (other / RACE).write_text('{"schema": 1}')
    output = folder.parent / "page.html"
    assert cli.main(["report", str(folder.parent), "-o", str(output)]) == 0
    assert "race-broken is left out: the race cannot be read" in capsys.readouterr().err
    assert "Blocks and methods" in output.read_text()
