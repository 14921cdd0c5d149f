import pytest
from race_world import begin

from mixbench.config.names import METHODS
from mixbench.errors import UserError
from mixbench.race.defaults import NOT_RACED, RACED
from mixbench.race.facts import race_facts
from mixbench.race.levels import LEVELS, LookLevels
from mixbench.race.start import _same_words, open_race, parse_request
from mixbench.race.state import RACE, write_race


def test_every_method_is_raced_by_default_or_has_a_reason_not_to_be():
    assert set(RACED) & set(NOT_RACED) == set()
    assert set(RACED) | set(NOT_RACED) == set(METHODS.table)
    assert next(iter(RACED)) == "erm"
    assert all(len(why.split()) > 2 for why in {**RACED, **NOT_RACED}.values())


def test_the_default_list_is_raced_where_it_can_be():
    request = parse_request(["data=digits", "budget=4h"])
    assert set(request.arm_words) == set(RACED)
    assert request.optional == set(RACED) - {"erm"}
    assert (request.budget, request.part, request.confirm) == ("4h", None, None)


def test_all_methods_are_raced_where_they_can_be():
    request = parse_request(["data=digits", "method=all", "budget=4h"])
    assert set(request.arm_words) == set(METHODS.names())
    assert request.optional == set(METHODS.names()) - {"erm"}


def test_plain_training_is_added_to_methods_that_are_named():
    request = parse_request(["data=digits", "method=mixup,cutmix", "budget=4h"])
    assert list(request.arm_words) == ["erm", "mixup", "cutmix"]
    assert request.added_plain
    assert request.optional == set()
    assert not parse_request(["method=mixup,erm", "data=digits"]).added_plain


def test_all_runs_of_a_method_get_its_words_and_keep_quiet():
    request = parse_request(
        ["data=digits", "method=mixup,cutmix", "epochs=3", "budget=4h", "part=0.4"]
    )
    words = request.arm_words["mixup"]
    assert {"data=digits", "method=mixup", "epochs=3", "logger=none", "eval.suites=[]"} <= set(
        words
    )
    assert not any(word.startswith(("seed", "budget", "part", "run.dir")) for word in words)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("seed=3", "gives every run its seed"),
        ("seeds=0,1", "gives every run its seed"),
        ("select=val", "chooses on its own folds"),
        ("peek=true", "reads no test score"),
        ("logger=tensorboard", "keeps test scores back until its last run has ended"),
        ("wandb.mode=online", "wandb.mode has no effect"),
        ("logger=wandb wandb.mode=maybe", "wandb.mode"),
        ("logger=wandb wandb.test=true", "shows no test score"),
        ("logger=wandb wandb.group=mine", "a group of their own"),
        ("data.race_fold=0/5", "one fold after the other"),
        ("net=resnet18,resnet50", "one net"),
        ("data=folder data.root=x data.folds=3", "which fold is the test set"),
        ("budget=4", "is not a time"),
        ("budget=-3d", "must be positive"),
        ("part=1", "share of the time"),
        ("part=x", "share of the time"),
        ("jobs=0", "is not a number of runs"),
        ("jobs=two", "is not a number of runs"),
        ("confirm=maybe", "neither now nor later"),
        ("reopen=1", "neither true nor false"),
        ("method=mixup,mixup", "names one twice"),
        ("method=mixop", "did you mean 'mixup'"),
        ("epoch=3", "epoch"),
    ],
)
def test_what_a_race_decides_itself_or_cannot_be_is_refused(words, told):
    with pytest.raises(UserError) as caught:
        parse_request(["data=digits", *words.split()])
    assert told in str(caught.value)
    assert caught.value.todo


def test_a_race_without_a_budget_is_refused_before_the_data_is_read(tmp_path, monkeypatch):
    monkeypatch.setenv("MIXBENCH_RUNS", str(tmp_path))
    with pytest.raises(UserError, match="no budget is given"):
        open_race(parse_request(["data=digits"]), pytest.fail, pytest.fail)


@pytest.mark.parametrize(("name", "task"), [("moco", "ssl"), ("denoisegan", "demix")])
def test_a_method_of_another_task_is_in_no_race(name, task):
    arms = parse_request(["data=digits", f"method=mixup,{name}"]).arm_words
    plain = arms.pop("erm")
    with pytest.raises(UserError, match=f"its task is {task}, and that of plain training super"):
        race_facts(plain, arms, set(), False)
    facts = race_facts(plain, arms, {name, "mixup"}, False)
    assert list(facts.refused) == [name]


def test_a_key_that_is_given_twice_is_refused():
    with pytest.raises(UserError, match="budget is given twice"):
        parse_request(["data=digits", "budget=4h", "budget=5h"])


def test_levels_count_looks_of_one_question_and_forget_nothing(tmp_path):
    levels = LookLevels(tmp_path, "test", "question")
    assert levels.take("race-a", 1) == 1
    assert levels.take("race-a", 1) == 1  # asked for again after a kill
    assert levels.take("race-b", 1) == 2
    assert levels.take("race-a", 2) == 3
    assert LookLevels(tmp_path, "test", "other question").take("race-c", 1) == 1
    assert LookLevels(tmp_path, "other test", "question").take("race-d", 1) == 1
    assert LookLevels(tmp_path, "test", "x").races() == ["race-a", "race-b", "race-c"]


def test_a_race_with_the_same_words_on_other_data_is_named(tmp_path):
    for name, words in (("race-a", ["data=folder"]), ("race-b", ["data=digits"])):
        (tmp_path / name).mkdir()
        state = begin({"erm": 1.0, "a": 1.0, "b": 1.0}, 20)
        state.id, state.words = name, words
        write_race(tmp_path / name / RACE, state)
    (tmp_path / "race-c").mkdir()
    (tmp_path / "race-c" / RACE).write_text("{")
    assert _same_words(tmp_path, ["data=folder"], "race-new") == ["race-a"]
    assert _same_words(tmp_path, ["data=folder"], "race-a") == []


@pytest.mark.parametrize("text", ["{", "{}", '{"looks": [{"k": "1"}]}', '{"looks": [3]}', "[]"])
def test_a_damaged_count_of_looks_stops_the_race(tmp_path, text):
    (tmp_path / LEVELS).write_text(text)
    with pytest.raises(UserError, match="the count of looks cannot be read"):
        LookLevels(tmp_path, "test", "question").take("race", 1)
