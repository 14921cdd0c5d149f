from pathlib import Path

import pytest
from race_world import PRICES, finished

import mixbench
from mixbench import cli
from mixbench.leaderboard.frame import leaderboard_frame
from mixbench.leaderboard.sealed import find_shown_runs
from mixbench.race.state import RACE, write_race
from mixbench.records.record import Record, write_record


@pytest.fixture
def race(tmp_path):
    """A race of two looks, the second of which is sealed, with its runs and others beside them."""
    state = finished(14, costs=PRICES)
    state.id, state.hashes = "race-x", {"data": "d" * 16}
    first = state.looks[0]
    second = type(first)(2, 0.0125, first.winner, 2 * first.n, first.first_seed, first.images)
    state.looks.append(second)
    seeds = range(first.first_seed, first.first_seed + second.n)
    add(tmp_path, *[(name, seed, {}) for name in ("erm", first.winner) for seed in seeds])
    add(tmp_path, ("erm", 0, {}), ("other", first.first_seed + first.n, {}))
    add(tmp_path, ("erm", first.first_seed + first.n, {"data_hash": "e" * 16}))
    (tmp_path / state.id).mkdir()
    write_race(tmp_path / state.id / RACE, state)
    return state


def add(folder, *runs):
    hashes = dict.fromkeys(("recipe", "select", "config_hash", "recipe_hash"), "x")
    for method, seed, changes in runs:
        values = {"data_hash": "d" * 16, "metrics": {"top1": 81.0}} | changes
        identity = f"{method}-s{seed}" + ("-other" if changes else "")
        (folder / identity).mkdir()
        record = Record(
            identity, method, "x", "x", seed=seed, epochs=1, status="done", **hashes, **values
        )
        write_record(folder / identity, record)


def test_runs_of_an_open_look_are_kept_back_and_those_of_an_earlier_one_are_not(tmp_path, race):
    first = race.looks[0]
    names = {folder.name for folder in find_shown_runs([tmp_path])[0]}
    fresh = first.first_seed + first.n
    assert set(first.run_ids) < names
    assert names - set(first.run_ids) == {"erm-s0", f"other-s{fresh}", f"erm-s{fresh}-other"}
    (line,) = find_shown_runs([tmp_path])[1]
    assert f"{2 * first.n} runs of {race.id}" in line


def test_all_are_shown_once_the_look_is_over(tmp_path, race):
    race.looks[-1].outcome = "open"
    write_race(tmp_path / race.id / RACE, race)
    folders, lines = find_shown_runs([tmp_path])
    assert len(folders) == 4 * race.looks[0].n + 3
    assert lines == []


@pytest.mark.parametrize(
    "words", [["leaderboard"], ["report"], ["plot", "leaderboard"], ["compare", "--mine", "erm"]]
)
def test_no_command_shows_what_is_sealed(tmp_path, race, words, capsys):
    extra = {"plot": ["-o", str(tmp_path / "x.svg")], "compare": ["--with", race.looks[0].winner]}
    cli.main([*words, str(tmp_path), *extra.get(words[0], [])])
    assert f"runs of {race.id} cannot be shown yet" in capsys.readouterr().err


@pytest.mark.parametrize(
    "show", [leaderboard_frame, lambda place: mixbench.plot("leaderboard", place)]
)
def test_nothing_in_python_shows_what_is_sealed(tmp_path, race, show):
    with pytest.warns(UserWarning, match=f"runs of {race.id} cannot be shown yet") as told:
        show(tmp_path)
    assert {Path(line.filename) for line in told} == {Path(__file__)}  # where it was asked for
