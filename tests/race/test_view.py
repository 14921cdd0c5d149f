"""What W&B shows of a race, offline: one group, and no test score before the last run has ended."""

import json
from pathlib import Path

import pytest
from race_world import PRICES, finished
from wandb_file import history, opened, stored, summary

from mixbench import compose, run
from mixbench.errors import UserError
from mixbench.race.runs import RaceRuns
from mixbench.race.start import parse_request
from mixbench.race.view import show_race, view_words
from mixbench.records.record import Record, write_record

pytestmark = pytest.mark.usefixtures("plain_wandb")

VIEW = ["logger=wandb", "wandb.mode=offline"]


def test_every_run_of_a_race_is_in_its_group_and_tested_ones_keep_their_score_back():
    state = finished(14, costs=PRICES)
    state.arm_words = {name: ["data=digits", f"method={name}", "logger=none"] for name in PRICES}
    runs = RaceRuns(state, None, Path(), VIEW)  # type: ignore[arg-type]
    for fold in (True, False):
        words = runs._planned("mixup", 0, Path("runs"), fold=fold).words
        config = compose(words)
        assert config.logger == "wandb"
        assert (config.wandb.group, config.wandb.mode) == (state.id, "offline")
        assert config.wandb.test is fold
    assert view_words(state, [], tested=True) == []


def test_a_view_changes_neither_the_methods_nor_the_name_of_a_race():
    plain = parse_request(["data=digits", "budget=4h"])
    shown = parse_request(["data=digits", "budget=4h", *VIEW])
    assert shown.arm_words == plain.arm_words
    assert shown.view == VIEW
    assert parse_request(["data=digits", "logger=none"]).view == []
    with pytest.raises(UserError, match="projct"):
        parse_request(["data=digits", "logger=wandb", "wandb.projct=x"])


@pytest.mark.parametrize("fold", [True, False])
def test_a_real_run_shows_its_training_and_only_scores_of_a_fold(tmp_path, tiny, fold):
    words = ["wandb.mode=offline", "logger=wandb", "wandb.group=race-x", f"run.dir={tmp_path}"]
    words += ["data.race_fold=0/2"] if fold else ["wandb.test=false"]
    record = run(compose([*tiny, *words]))
    records = stored(tmp_path / record.id)
    shown = opened(records)
    assert shown.run_group == "race-x"
    assert shown.job_type == ("selection" if fold else "train")
    names = {name for row in history(records) for name in row} | set(summary(records))
    assert any(name.startswith("train/") for name in names)
    tested = {name for name in names if name.startswith("test/") or name in record.metrics}
    assert bool(tested) is fold
    assert summary(records)["status"] == "done"


def test_the_verdict_and_the_scores_that_were_kept_back_are_shown_at_the_end(tmp_path):
    state = finished(14, costs=PRICES)
    look = state.looks[0]
    hashes = dict.fromkeys(("recipe", "select", "config_hash", "recipe_hash"), "x")
    for name, runs in look.runs.items():
        for identity in runs:
            record = Record(identity, name, "x", "x", seed=0, epochs=1, status="done", **hashes)
            record.metrics = {"top1": 81.0 + int(identity[-2:])}
            (tmp_path / identity).mkdir()
            write_record(tmp_path / identity, record)
    (tmp_path / state.id).mkdir()
    lines = show_race(state, tmp_path, "offline", "project")
    assert "wandb sync" in lines[0]
    race = stored(tmp_path / state.id)
    assert (opened(race).run_group, opened(race).job_type) == (state.id, "race")
    found = summary(race)
    assert found["gain"] == pytest.approx(look.result.gain)
    assert (found["winner"], found["outcome"]) == (look.winner, look.outcome)
    (path,) = (tmp_path / state.id / "wandb").rglob("confirmation*.table.json")
    table = json.loads(path.read_text())
    assert table["columns"] == ["method", "seed", "run", "top1"]
    scores = {line[2]: line[3] for line in table["data"]}
    assert scores == {run: 81.0 + int(run[-2:]) for run in look.run_ids}
    (path,) = (tmp_path / state.id / "wandb").rglob("selection*.table.json")
    lines = json.loads(path.read_text())["data"]
    assert {line[0]: line[4] for line in lines if line[2] == 0} == {
        name: values[0] for name, values in state.block_scores.items()
    }
