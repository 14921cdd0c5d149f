import shlex

import pytest
from report_runs import HOSTILE, write_config

from mixbench.config import yaml_files
from mixbench.config.compose import compose, to_plain
from mixbench.files import write_text
from mixbench.leaderboard.report.provenance import provenance, value_text
from mixbench.leaderboard.rows import build_leaderboard, find_runs
from mixbench.records.record import read_record, write_record

PICKS = ("data=digits", "net=preactresnet18", "recipe=digits")


def origin(runs):
    (group,) = build_leaderboard(find_runs([runs.folder])).groups
    return provenance(group.rows[0])


def test_a_run_of_the_recipe_has_no_differences(runs):
    write_config(runs.add("cutmix"), "method=cutmix", *PICKS, "seed=3")
    found = origin(runs)
    assert (found.gap, found.differences) == ("", [])
    words = ["mixbench", "bench", "method=cutmix", *PICKS, "seeds=0"]
    assert shlex.split(found.command) == words


def test_the_command_composes_the_configuration_of_the_runs_again(runs):
    given = ["lr=0.00001", "data.flip=false", "optim.clip=null", "eval.suites=[calibration]"]
    given += ["method.alpha=0.3", "net.stages=[a+b,c]", "data.name='null'", "epochs=3"]
    for seed in (0, 5):
        folder = runs.add("cutmix", seed, settings={"alpha": 0.3})
        write_config(folder, "method=cutmix", *PICKS, *given, f"seed={seed}")
    found = origin(runs)
    *words, seeds = shlex.split(found.command)[2:]
    assert seeds == "seeds=0,5"
    again = to_plain(compose(words))
    first = to_plain(compose(["method=cutmix", *PICKS, *given]))
    assert again == first
    told = {item.key: (item.recipe, item.run) for item in found.differences}
    assert told["epochs"] == ("10", "3")
    assert told["method.alpha"] == ("1.0", "0.3")
    assert "optim.clip" not in told


def test_a_value_of_the_recipe_that_the_run_set_back_to_the_default_is_a_difference(runs):
    words = ("method=samix", "data=digits", "net=preactresnet18", "recipe=digits")
    own = to_plain(compose(words))["method"]
    file = yaml_files.read(yaml_files.find("method", "samix"))[0]
    key = next(key for key, value in file.items() if isinstance(value, int | float))
    changed = own[key] / 2
    write_config(runs.add("samix"), *words, f"method.{key}={changed}")
    assert f"method.{key}" in {item.key for item in origin(runs).differences}


def test_places_and_machines_are_no_differences(runs):
    own = ("run.notes=mine", "trainer.threads=7", "data.workers=2", "wandb.mode=offline")
    write_config(runs.add("erm"), "method=erm", *PICKS, *own)
    assert origin(runs).differences == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "cannot be read"),
        ("a: [", "not valid YAML"),
        ("method: {name: nothing}\n", "unknown method"),
        ("just text", "expected"),
    ],
)
def test_a_configuration_that_cannot_be_used_leaves_its_reason(runs, text, reason):
    folder = runs.add("erm")
    if text is not None:
        write_text(folder / "config.yaml", text)
    found = origin(runs)
    assert reason in found.gap
    assert found.command == ""


def test_code_that_a_configuration_names_is_not_imported(runs, tmp_path, monkeypatch):
    (tmp_path / "planted.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.chdir(tmp_path)
    folder = runs.add("planted:Method")
    write_config(folder, "method=erm", *PICKS)
    text = (folder / "config.yaml").read_text().replace("name: erm", "name: planted:Method")
    write_text(folder / "config.yaml", text)
    assert "method=planted:Method" in origin(runs).command


def test_no_text_of_a_configuration_ends_a_word_of_the_command(runs):
    folder = runs.add("erm")
    write_config(folder, "method=erm", *PICKS)
    text = (folder / "config.yaml").read_text()
    write_text(folder / "config.yaml", text.replace("name: ''", "name: 'x; rm -rf ~ $(id)'"))
    assert "'data.name=x; rm -rf ~ $(id)'" in origin(runs).command


@pytest.mark.parametrize(
    "value", [1e-5, 3, -0.5, None, True, [0, -1], ["a,b"], "null", "1", "a: b", "", "plain", "#"]
)
def test_a_value_is_read_back_from_its_text_as_it_was(value):
    assert yaml_files.parse(value_text(value), "test")[0] == value


def test_facts_of_seeds_that_differ_are_all_told(runs):
    runs.add("erm", 0, commit="aaa", versions={"torch": "1"}, device="this", wall_s=3.0)
    runs.add(
        "erm",
        1,
        commit="bbb",
        versions={"torch": "1"},
        device="that",
        wall_s=5.0,
        augment_by="epoch",
    )
    told = dict(origin(runs).facts)
    assert (told["commit"], told["versions"], told["time"]) == (
        "aaa; bbb",
        "torch 1",
        "3 to 5 s for a run",
    )
    assert "this" in told["hardware"]
    assert "that" in told["hardware"]
    assert told["hardware"].count("augmented by epoch") == 1


def test_words_of_caution_and_changes_are_told(runs):
    folder = runs.add("erm", 0)
    record = read_record(folder)
    record.marks, record.config_changes, record.notices = ["few steps"], {"lr": [1, 2]}, [HOSTILE]
    write_record(folder, record)
    told = dict(origin(runs).facts)
    assert "optimiser steps" in told["caution"]
    assert told["changed during the run"] == "lr"
    assert told["notices"] == HOSTILE
