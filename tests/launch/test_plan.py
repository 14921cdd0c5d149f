import pytest

from mixbench.errors import UserError
from mixbench.launch.identify import identify_runs
from mixbench.launch.local import GridOutcome, _prepare
from mixbench.launch.plan import expand, parse_seeds, seeds_note
from mixbench.launch.sweep import read_sweep
from mixbench.training import estimate
from mixbench.training.estimate import Estimate


def words(*given):
    return [run.words for run in expand(list(given))]


def test_no_argument_plans_plain_training_and_the_registered_core_methods():
    methods = [plan[0] for plan in words()]
    assert methods[0] == "method=erm"
    assert {"method=mixup", "method=cutmix", "method=bc"} <= set(methods)


def test_a_grid_is_multiplied_out_with_all_methods_of_a_seed_together():
    plans = words("method=erm,mixup", "seeds=0,2", "lr=0.2")
    assert plans == [
        ["method=erm", "lr=0.2", "seed=0"],
        ["method=mixup", "lr=0.2", "seed=0"],
        ["method=erm", "lr=0.2", "seed=2"],
        ["method=mixup", "lr=0.2", "seed=2"],
    ]


def test_all_stands_for_every_registered_method():
    assert len(words("method=all")) >= 4


@pytest.mark.usefixtures("runs")
@pytest.mark.parametrize(
    ("net", "left"), [("preactresnet18", {"tlalign", "transmix"}), ("vit_tiny", {"alignmix"})]
)
def test_all_leaves_out_what_cannot_train_the_network_and_says_so(net, left, monkeypatch):
    monkeypatch.setattr(estimate, "estimate", lambda *_: Estimate(0, 1, 0))
    given = [f"net={net}", "data=digits", "net.patch=4", "data.limit=64"]
    prepared, notes, *_ = _prepare(expand(["method=all", *given]), False)
    kept = {run.id.partition("-")[0] for run in prepared}
    assert not left & kept
    assert {"erm", "cutmix", "choice"} <= kept
    told = " ".join(notes)
    assert all(f"left out: method {name} needs" in told for name in left)
    for prepare in (_prepare, identify_runs):
        with pytest.raises(UserError, match=f"method {min(left)} needs"):  # it was named
            prepare(expand([f"method=erm,{min(left)}", *given]), False)


@pytest.mark.usefixtures("runs")
@pytest.mark.parametrize("prepare", [_prepare, identify_runs])
@pytest.mark.parametrize(
    ("given", "match"),
    [
        (["method=choice", "method.members=[mixup,tlalign]"], "needs attention"),
        (["method=erm,moco", "task=supervised"], "without labels"),
        (["method=erm", "eval.attacks=[fgsm_99]"], "unknown attack"),
        (["method=all", "eval.attacks=[fgsm_99]"], "unknown attack"),
        (["method=all", "eval.suites=[gaze]"], "needs one map per test image"),
        (["method=all", "data=voc2007", "optim.label_smoothing=0.1"], "label smoothing is for one"),
    ],
)
def test_a_named_run_that_cannot_be_carried_out_is_refused_with_the_plan(
    prepare, given, match, monkeypatch
):
    monkeypatch.setattr(estimate, "estimate", lambda *_: Estimate(0, 1, 0))
    with pytest.raises(UserError, match=match):
        prepare(expand(["data=digits", "data.limit=64", *given]), False)


# FAULTS row 55, of seeds that are given twice.
@pytest.mark.parametrize(
    ("given", "match"),
    [
        ("seeds=0,0", "all different|names one twice"),
        ("seeds=0,a", "not whole numbers"),
        ("seeds=-1", "must be >= 0"),
        ("seeds=0,", "has an empty name"),
        ("method=erm,erm", "names one twice"),
        ("method=erm,alingmix", "unknown method 'alingmix'"),
        ("method=", "method= is empty"),
        ("data=digit", "unknown data set"),
        ("method=a; rm -rf x", "unknown method 'a; rm -rf x'"),
        ("epochs=x", "wrong type"),
    ],
)
def test_a_bad_grid_is_refused_before_anything_runs(given, match):
    with pytest.raises(UserError, match=match):
        words(given)


@pytest.mark.parametrize(
    ("given", "listed"),
    [("seeds=3", "seeds=0,1,2"), ("seeds=40", "seeds=0,1,...,39"), ("seeds=2", "seeds=0,1")],
)
def test_one_number_as_seeds_is_said_to_be_one_seed(given, listed):
    assert [run[-1] for run in words("method=erm", given)] == [given.replace("seeds", "seed")]
    assert seeds_note(["method=erm", given]).endswith(listed)


@pytest.mark.parametrize("given", ["seeds=0", "seeds=0,1", "seeds=3,", "seed=3", "lr=3"])
def test_seeds_that_cannot_be_mistaken_need_no_note(given):
    assert seeds_note([given]) == ""


def test_seed_and_seeds_exclude_each_other():
    with pytest.raises(UserError, match="both seed and seeds"):
        words("seed=0", "seeds=1")


def test_the_exit_code_tells_how_much_of_a_grid_failed():
    assert GridOutcome({}).exit_code(3) == 0
    assert GridOutcome({"a": 3}).exit_code(3) == 5
    assert GridOutcome({"a": 3, "b": 3}).exit_code(2) == 3
    assert GridOutcome({"a": 3, "b": 2}).exit_code(2) == 5
    assert GridOutcome({}, interrupted=True).exit_code(2) == 4


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ("method=mixup method.alhpa=1", "did you mean 'alpha'"),
        ("method=choice method.members=[mixup,bc] method.mixup.alhpa=1", "method.mixup.alhpa"),
    ],
)
def test_a_mistyped_key_of_a_method_is_refused_before_the_first_run(words, match):
    with pytest.raises(UserError, match=match):
        expand([*words.split(), "seeds=0,1"])


def test_seeds_are_a_list_or_a_range_with_both_ends():
    assert parse_seeds("0,2") == [0, 2]
    assert parse_seeds("0..3") == parse_seeds("0,1,2,3")
    assert len(words("method=erm", "seeds=0..3")) == 4
    assert read_sweep("manifold_layers", ["seeds=0..1"]).runs


@pytest.mark.parametrize("text", ["3..1", "0..1000", "0..", "..3", "-1..2", "0...3", "0..1,4"])
def test_a_range_of_seeds_that_is_none_is_refused(text):
    with pytest.raises(UserError, match="seeds="):
        parse_seeds(text)
