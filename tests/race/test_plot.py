import pytest
from drawn import all_axes, overlapping, row_names, texts
from race_world import begin, finished

import mixbench
from mixbench.errors import UserError
from mixbench.leaderboard.plots.style import PAGE
from mixbench.race.halving import PLAIN, find_ties
from mixbench.race.plot import draw_races, draw_states
from mixbench.race.state import RACE, Round, SealedLook, write_race
from mixbench.race.words import shown_by

RACES = {
    "claim": lambda: finished(),
    "few": lambda: finished(14),
    "later": lambda: finished(40, confirm="later"),
    "diverged": lambda: finished(30, diverging=("m6", "m3")),
    "unstable": lambda: finished(80, 5, diverging=[f"late m{number}" for number in range(1, 10)]),
}


@pytest.mark.parametrize("kind", RACES)
@pytest.mark.parametrize("width", [2.5, PAGE])
def test_no_text_lies_on_another_or_beyond_the_figure(kind, width):
    figure = draw_states([RACES[kind]()], width)
    assert figure.get_size_inches()[0] == pytest.approx(width)
    assert overlapping(figure) == []


def panels(state, width=PAGE):
    """Axes by the words below them."""
    return {axes.get_xlabel(): axes for axes in all_axes(draw_states([state], width))}


def test_the_map_shows_every_score_where_it_belongs():
    state = finished(30, diverging=("m6",))
    axes = panels(state)["block"]
    assert row_names(axes) == state.standing
    found = {
        (row_names(axes)[round(text.get_position()[1])], round(text.get_position()[0])): (
            text.get_text()
        )
        for text in axes.texts
    }
    expected = {
        (name, block): f"{value:.1f}"
        for name, values in state.block_scores.items()
        for block, value in enumerate(values)
        if value is not None
    }
    assert found == expected
    assert len(axes.collections) == len(state.block_scores["m6"])  # cells of those that diverged


def test_the_methods_that_stayed_longest_stand_above():
    state = finished(30, diverging=("m6",))
    final = state.rounds[-1].ranked
    assert state.standing[: len(final)] == final
    assert state.standing[-1] == "m6"
    assert sorted(state.standing) == sorted(state.costs)


def squares(axes):
    return [line for line in axes.get_lines() if line.get_marker() == "s"]


def test_ties_are_hollow_and_in_the_order_of_cost_and_plain_training_is_none():
    state = finished()
    ties = find_ties(state.scores, state.winner)
    assert ties.tied
    assert ties.behind
    axes = panels(state)[f"points above {state.winner} on common blocks"]
    names = [name.partition(" ")[0] for name in row_names(axes)]
    assert names == sorted(names, key=lambda name: (state.costs[name], name))
    assert PLAIN not in names  # its distance would be taken for a gain
    hollow = {names[round(s.get_ydata()[0])]: s.get_markerfacecolor() for s in squares(axes)}
    assert {name for name, face in hollow.items() if face == "white"} == set(ties.tied)
    for square in squares(axes):
        name = names[round(square.get_ydata()[0])]
        assert square.get_xdata()[0] == pytest.approx(-ties.lead[name])


def test_the_interval_of_a_look_is_that_of_its_verdict_and_the_next_one_is_beside_it():
    state = finished()
    look = state.looks[0]
    axes = panels(state)["points over plain training"]
    assert row_names(axes) == [f"look 1, {look.n} pairs", f"with {2 * look.n} pairs"]
    (square,) = squares(axes)
    assert square.get_xdata()[0] == pytest.approx(look.result.gain)
    assert (square.get_markerfacecolor() == "white") == (look.outcome == "open")
    lines = [tuple(line.get_xdata()) for line in axes.get_lines() if line.get_marker() == "None"]
    assert (look.result.low, look.result.high) in lines
    ticks = [line.get_xdata()[0] for line in axes.get_lines() if line.get_marker() == "|"]
    assert ticks == pytest.approx([shown_by(look), shown_by(look, look.alpha / 2, 2 * look.n)])


def test_a_look_that_is_sealed_and_not_over_shows_nothing():
    state = finished(40, confirm="later")
    state.looks, state.looks_wanted = [SealedLook(1, 0.025, state.winner, 5, 10_000, 2000)], 1
    assert "points over plain training" not in panels(state)


def test_a_race_in_its_first_round_cannot_be_drawn(tmp_path):
    state = begin({"erm": 1.0, "a": 1.0, "b": 1.0}, 20)
    state.rounds = [Round(list(state.costs), 0, 2)]
    with pytest.raises(UserError, match="no round of the race is over"):
        draw_states([state], 3.3)
    with pytest.raises(UserError, match="no race to draw") as raised:
        draw_races([tmp_path], 3.3)
    assert "mixbench race" in raised.value.todo


def test_a_folder_of_races_makes_one_figure_unless_they_are_many(tmp_path):
    for number in range(3):
        state = finished(14, number)
        state.id = f"race-{number}"
        (tmp_path / state.id).mkdir()
        write_race(tmp_path / state.id / RACE, state)
    figure = mixbench.plot("race", tmp_path / "race-1", tmp_path / "race.svg", width="page")
    assert "race-1: scores on the hold-outs" in texts(figure)
    assert (tmp_path / "race.svg").stat().st_size
    figure = draw_races([tmp_path / "race-1", tmp_path / "race-2"], PAGE)
    assert overlapping(figure) == []
    with pytest.raises(UserError, match="3 races, and a figure holds 2"):
        draw_races([tmp_path], PAGE)
    with pytest.raises(UserError, match="no option 'scroe'"):
        mixbench.plot("race", tmp_path / "race-1", scroe="top1")
