"""The runs of a race, without training: a launcher that leaves what runs would leave."""

import json

import numpy as np
import pytest
import torch
from race_world import Looks, begin

from mixbench.config.overrides import split_overrides
from mixbench.errors import InterruptedRunError, RunFailedError
from mixbench.launch.local import GridOutcome
from mixbench.race.procedure import advance
from mixbench.race.runs import SELECTION, RaceRuns
from mixbench.race.state import RACE, read_race, write_race
from mixbench.records.predictions import PREDICTIONS, Predictions, write_predictions
from mixbench.records.record import Record, write_record

PRICES = {"erm": 1.0, "mixup": 1.0, "cutmix": 1.2}
IMAGES = 60


def keys(run):
    return dict(split_overrides(run.words))


class Launcher:
    """Leaves records and predictions as runs do, and remembers what was trained."""

    def __init__(self, fate=None):
        self.fate = fate or {}  # status by id, in the order of the attempts
        self.trained = []
        self.interrupt_at = -1

    def prepare(self, runs):
        for run in runs:
            given = keys(run)
            fold = given.get("data.race_fold", "").replace("/", "_")
            run.id = "-".join(filter(None, [given["method"], fold, f"s{given['seed']}"]))
            assert run.seconds
        return runs

    def launch(self, runs, folder):
        for run in runs:
            if len(self.trained) == self.interrupt_at:
                return GridOutcome({}, interrupted=True)
            self.trained.append(run.id)
            self._leave(run, folder / run.id)
        return GridOutcome({})

    def _leave(self, run, folder):
        statuses = self.fate.get(run.id, [])
        status = statuses.pop(0) if statuses else "done"
        folder.mkdir(parents=True, exist_ok=True)
        name, seed = keys(run)["method"], int(keys(run)["seed"])
        hashes = dict.fromkeys(("recipe", "select", "config_hash", "recipe_hash"), "x")
        write_record(
            folder,
            Record(run.id, name, "x", "x", seed=seed, epochs=1, status=status, **hashes),
        )
        if status != "done":
            return
        (folder / "last.ckpt").write_bytes(b"weights")
        rng = np.random.default_rng([seed, len(name)])
        labels = np.arange(IMAGES) % 3
        logits = rng.normal(size=(IMAGES, 3)) + 3 * np.eye(3)[labels]
        tensors = (torch.from_numpy(logits).float(), torch.from_numpy(labels))
        write_predictions(folder / PREDICTIONS, Predictions(*tensors, torch.arange(IMAGES)))


@pytest.fixture
def new_race():
    state = begin(PRICES, 20)
    state.arm_words = {name: ["data=digits", f"method={name}", "eval.suites=[]"] for name in PRICES}
    return state


def carry_on(state, launcher, folder):
    (folder / state.id).mkdir(exist_ok=True)
    path = folder / state.id / RACE

    def save(state):
        write_race(path, state)

    advance(state, RaceRuns(state, launcher, folder), Looks(), save)
    return read_race(path)


def test_runs_that_choose_lie_below_the_race_and_those_that_confirm_with_all_others(
    tmp_path, new_race
):
    launcher = Launcher()
    state = carry_on(new_race, launcher, tmp_path)
    chosen = {path.name for path in (tmp_path / state.id / SELECTION).iterdir()}
    blocks = state.rounds[0].blocks
    assert {f"erm-{block}_5-s{block}" for block in range(blocks)} <= chosen
    assert all("_5-" in name for name in chosen)
    others = {path.name for path in tmp_path.iterdir()} - {state.id}
    n, winner = state.looks[0].n, state.looks[0].winner
    assert others == {f"{m}-s{10_000 + i}" for m in ("erm", winner) for i in range(n)}
    assert state.looks[0].runs["erm"] == [f"erm-s{10_000 + i}" for i in range(n)]


def test_weights_of_runs_that_chose_are_removed_and_those_of_confirmation_kept(tmp_path, new_race):
    state = carry_on(new_race, Launcher(), tmp_path)
    assert not list((tmp_path / state.id).rglob("last.ckpt"))
    assert len(list(tmp_path.glob("erm-s*/last.ckpt"))) == state.looks[0].n


def test_a_crash_is_repeated_with_the_same_seed_and_a_diverged_run_is_not(tmp_path, new_race):
    launcher = Launcher({"erm-0_5-s0": ["failed"], "cutmix-0_5-s0": ["diverged"]})
    state = carry_on(new_race, launcher, tmp_path)
    assert launcher.trained.count("erm-0_5-s0") == 2
    assert launcher.trained.count("cutmix-0_5-s0") == 1
    assert state.rounds[0].scores["cutmix"][0] is None
    assert state.rounds[0].diverged == {"cutmix": 1}
    assert state.looks[0].winner == "mixup"


def test_a_run_that_keeps_crashing_ends_the_command_and_the_race_can_go_on(tmp_path, new_race):
    launcher = Launcher({"erm-0_5-s0": ["failed", "failed"]})
    with pytest.raises(RunFailedError, match=r"1 of \d+ runs failed twice, as erm-0_5-s0") as error:
        carry_on(new_race, launcher, tmp_path)
    assert "log.txt" in error.value.where
    assert "same command" in error.value.todo
    assert carry_on(new_race, launcher, tmp_path).looks[0].outcome


def test_a_race_that_is_interrupted_goes_on_where_it_was(tmp_path, new_race):
    launcher = Launcher()
    launcher.interrupt_at = 4
    with pytest.raises(InterruptedRunError) as error:
        carry_on(new_race, launcher, tmp_path)
    assert error.value.exit_code == 4
    launcher.interrupt_at = -1
    state = carry_on(new_race, launcher, tmp_path)
    assert len(launcher.trained) == len(set(launcher.trained))
    assert state.looks[0].outcome


def test_seeds_of_confirmation_are_ones_that_nobody_has_seen(tmp_path, new_race):
    for name in ("mixup-s10004", "cutmix-s10004", "erm-s3", "erm-s10001-old", "cutmix-s0"):
        (tmp_path / name).mkdir()
    state = carry_on(new_race, Launcher(), tmp_path)
    assert state.looks[0].first_seed == 10_005


def test_the_file_of_a_race_holds_every_decision(tmp_path, new_race):
    state = carry_on(new_race, Launcher(), tmp_path)
    content = json.loads((tmp_path / state.id / RACE).read_text())
    assert [
        set(each) >= {"survivors", "blocks", "runs", "scores", "kept"} for each in content["rounds"]
    ]
    look = content["looks"][0]
    assert {"k", "alpha", "n", "runs", "first_seed", "winner"} <= look.keys()
    assert look["result"].keys() == {"gain", "low", "high", "seeds", "images", "both", "df"}
    assert content["budgets"][0].keys() >= {"text", "seconds", "jobs", "stage", "time"}
