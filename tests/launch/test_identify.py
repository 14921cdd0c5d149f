import pytest

from mixbench import cli
from mixbench.errors import UserError
from mixbench.launch.identify import identify_runs
from mixbench.launch.plan import expand

MODULE = """
from mixbench.data.source import DataSource
from mixbench.evaluation.suite import Suite
from mixbench.methods.base import Method

def net(config, info):
    raise KeyError("planted")

class Built(Method):
    def __init__(self, *facts, **more):
        raise KeyError("planted")

class Mixed(Method):
    def mix(self, x, targets, **decisions):
        raise KeyError("planted")

class Forward(Method):
    def forward(self, x):
        raise KeyError("planted")

class Judge(Suite):
    columns = ("own",)
    count = score = None

    def __init__(self, config):
        raise KeyError("planted")

class Read(DataSource):
    name, task = "own", "multiclass"

    def fingerprint(self):
        return "own"

    def read(self):
        raise KeyError("planted")

class Hashed(Read):
    def fingerprint(self):
        raise KeyError("planted")

class Opened(Read):
    def __init__(self, config):
        raise KeyError("planted")
"""
WORDS = ["data.limit=64", "net.width=4", "batch_size=32", "wandb.mode=disabled", "eval.suites=[]"]


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch, runs):
    (tmp_path / "planted_code.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


def line_of(name):
    lines = MODULE.splitlines()
    start = next(row for row, line in enumerate(lines) if name in line)
    return 1 + next(row for row in range(start, len(lines)) if "planted" in lines[row])


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("net", "net"),
        ("method", "Built"),
        ("data", "Read"),
        ("data", "Hashed"),
        ("data", "Opened"),
        ("eval.suites", "Judge"),
    ],
)
def test_own_code_that_fails_before_training_is_refused_with_its_line(key, name):
    given = f"planted_code:{name}"
    word = f"{key}=[{given}]" if key == "eval.suites" else f"{key}={given}"
    with pytest.raises(UserError, match=f"{given} cannot be .*KeyError: 'planted'") as error:
        identify_runs(expand(["method=erm", *WORDS, word]), strict=False, timed=True)
    assert f"{key}={given}" in error.value.where
    assert error.value.where.endswith(f"planted_code.py:{line_of(name)}")


def test_a_network_that_no_method_can_have_is_no_empty_plan():
    runs = expand(["method=all", *WORDS, "data=digits", "net=planted_code:net"])
    mixup = [run for run in runs if "method=mixup" in run.words]
    with pytest.raises(UserError, match="planted_code:net cannot be built"):
        identify_runs(mixup, strict=False, timed=True)


def test_one_of_all_methods_that_cannot_be_built_is_left_out():
    words = [*WORDS, "data=digits"]
    runs = expand(["method=erm", *words])
    broken = expand(["method=planted_code:Built", *words])
    for run in broken:
        run.optional = True
    kept, notes = identify_runs([*broken, *runs], strict=False, timed=True)
    assert [run.id.partition("-")[0] for run in kept] == ["erm"]
    assert any("planted_code:Built cannot be built" in note for note in notes)


@pytest.mark.parametrize(("name", "timed"), [("Mixed", True), ("Forward", False)])
def test_steps_that_fail_are_told_with_the_plan(name, timed):
    runs = expand([f"method=planted_code:{name}", *WORDS, "data=digits"])
    kept, notes = identify_runs(runs, strict=False, timed=True)
    assert any(f"planted_code:{name}" in note and "KeyError: 'planted'" in note for note in notes)
    assert (kept[0].seconds is not None) == timed


def test_data_that_cannot_be_read_is_refused_by_its_commands(capsys):
    for action in ("check", "describe"):
        assert cli.main(["data", action, "planted_code:Read"]) == 2
        assert f"planted_code.py:{line_of('Read')}" in capsys.readouterr().err


def test_a_precision_that_the_device_decided_goes_with_the_run_to_any_machine():
    given = ["method=erm", "data=digits", *WORDS]
    (run,), _ = identify_runs(expand([*given, "precision=auto"]), strict=False)
    (same,), _ = identify_runs(expand([*given, *run.settled]), strict=False)
    assert (run.id, same.settled) == (same.id, [])
    assert run.choice.startswith("precision=auto: ")
