import itertools
import sys

import pytest
import torch
import yaml

from mixbench import cli
from mixbench.config.compose import compose
from mixbench.config.overrides import split_overrides
from mixbench.config.yaml_files import folders
from mixbench.data import DATA
from mixbench.errors import UserError
from mixbench.launch.sweep import fill_needs, read_sweep
from mixbench.records.checkpoints import read_checkpoint
from mixbench.records.record import read_record
from mixbench.training.build import build
from mixbench.training.job import resolve

PLAN = {
    "base": {"method": "cutmix", "data": "digits", "epochs": 2, "optim": {"clip": 1.0}},
    "grid": {"method.alpha": [0.2, 1.0], "optim.milestones": [[0.5], [0.5, 0.75]]},
    "seeds": [0, 3],
}


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """Writes a plan where it is found by name."""
    monkeypatch.chdir(tmp_path)

    def write(content, name="mine"):
        path = tmp_path / "experiments" / "sweep" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False)
        )
        return name

    return write


def words(sweep):
    return [dict(split_overrides(run.words)) for run in sweep.runs]


def test_a_plan_is_multiplied_out_with_the_runs_of_a_seed_together(plan):
    found = words(read_sweep(plan(PLAN)))
    assert len(found) == 8
    assert [run["seed"] for run in found] == ["0"] * 4 + ["3"] * 4
    cells = {(run["method.alpha"], run["optim.milestones"]) for run in found}
    assert cells == set(itertools.product(["0.2", "1.0"], ["[0.5]", "[0.5, 0.75]"]))
    assert {(run["method"], run["epochs"], run["optim.clip"]) for run in found} == {
        ("cutmix", "2", "1.0")
    }


def test_words_replace_what_the_plan_says_a_whole_axis_too(plan):
    found = words(read_sweep(plan(PLAN), ["method.alpha=0.7", "epochs=1", "seeds=5", "lr=0.2"]))
    assert len(found) == 2
    assert {(run["method.alpha"], run["epochs"], run["seed"], run["lr"]) for run in found} == {
        ("0.7", "1", "5", "0.2")
    }


def test_every_arm_is_named_and_multiplied_with_the_grid(plan):
    arms = {"plain": {"method": "mixup"}, "half": {"method.prob": 0.5, "lr": 0.2}}
    content = PLAN | {"arms": arms, "grid": {"optim.milestones": [[0.5], [0.75]]}}
    sweep = read_sweep(plan(content), ["epochs=1", "lr=0.3"])
    assert [run.arm for run in sweep.runs] == ["plain", "plain", "half", "half"] * 2
    assert {(run["method"], run.get("method.prob"), run["lr"]) for run in words(sweep)} == {
        ("mixup", None, "0.3"),
        ("cutmix", "0.5", "0.3"),
    }
    assert {run["epochs"] for run in words(sweep)} == {"1"}


def test_a_file_anywhere_is_taken_by_its_path(plan, tmp_path):
    plan(PLAN)
    (tmp_path / "experiments" / "sweep" / "mine.yaml").rename(tmp_path / "other.yaml")
    assert len(read_sweep("other.yaml").runs) == 8


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"gird": {}}, "unknown key 'gird' of a plan"),
        ({"grid": {"method.alpha": 0.5}}, "method.alpha must list its values"),
        ({"grid": {"method.alpha": []}}, "must list its values"),
        ({"grid": {"method.alpha": [1.0, 1.0]}}, "lists a value twice"),
        ({"grid": {"method.alhpa": [1.0]}}, "did you mean 'alpha'"),
        ({"grid": {"lr": [0.1, -1]}}, "lr must be > 0"),
        ({"arms": {"half": {"method.alpha": 0.5}}}, "method.alpha stands in grid and in arm half"),
        ({"arms": {"half": {"method.alhpa": 0.5}}}, "did you mean 'alpha'"),
        ({"arms": {"half": 0.5}}, "arm half must hold `key: value` lines"),
        ({"arms": {}}, "arms is empty"),
        ({"arms": ["half"]}, "arms must hold `key: value` lines"),
        ({"seeds": [0, 0]}, "all different"),
        ({"seeds": [0.5]}, "whole numbers"),
        ({"seeds": []}, "whole numbers"),
        ({"base": [1]}, "must hold `key: value` lines"),
        ({"base": {"method": "cutmx"}}, "did you mean 'cutmix'"),
        ({"after": {"method.x": "mine"}}, "plans need each other: mine -> mine"),
        ({"after": {"method.x": "nothing"}}, "unknown plan 'nothing'"),
    ],
)
def test_a_bad_plan_is_refused_before_anything_runs(plan, change, match):
    with pytest.raises(UserError, match=match):
        read_sweep(plan(PLAN | change))


def test_an_unknown_plan_names_those_there_are(plan):
    plan(PLAN, "layers")
    with pytest.raises(UserError, match="did you mean 'layers'"):
        read_sweep("layer")
    with pytest.raises(UserError, match="no such plan"):
        read_sweep("layer.yaml")


def test_each_run_gets_the_checkpoint_of_its_seed_or_the_only_one(plan, monkeypatch):
    monkeypatch.setenv("MIXBENCH_RUNS", "there")
    for number, seeds in enumerate(([0, 3], [9])):
        plan({"base": {"method": "erm", "data": "digits"}, "seeds": seeds}, "first")
        sweep = read_sweep(plan(PLAN | {"after": {"method.weights": "first"}}, f"mine{number}"))
        first = sweep.needs["method.weights"].runs
        for run in first:
            run.id = f"erm-s{dict(split_overrides(run.words))['seed']}"
        filled = fill_needs(sweep, {"method.weights": first})
        for run in map(dict, map(split_overrides, (run.words for run in filled))):
            seed = run["seed"] if number == 0 else "9"
            assert run["method.weights"] == f"there/erm-s{seed}/last.ckpt"
    with pytest.raises(UserError, match=r"0 runs fit method\.weights of seed 0"):
        fill_needs(sweep, {"method.weights": [*first, *first]})


def test_arms_run_on_all_folds_with_checkpoints_of_their_own_fold(plan):
    folds = {"data": "folder", "data.folds": 3}
    first = read_sweep(plan({"base": {"method": "samix", **folds}, "seeds": [0, 1]}, "first"))
    arms = {"plain": {"method": "erm"}, "mixed": {"method": "mixup", "data.fold": 1}}
    second = {"base": folds, "arms": arms, "after": {"net.weights": "first"}, "seeds": [0, 1]}
    sweep = read_sweep(plan(second))
    found = [(run.arm, run_words.get("data.fold")) for run, run_words in
             zip(sweep.runs, words(sweep), strict=True)]  # fmt: skip
    seed = [("plain", "0"), ("mixed", "1"), ("plain", "1"), ("plain", "2")]
    assert found == seed * 2
    for run in first.runs:
        own = dict(split_overrides(run.words))
        run.id = f"run-{own['seed']}-{own['data.fold']}"
    for run in fill_needs(sweep, {"net.weights": first.runs}):
        own = dict(split_overrides(run.words))
        assert f"run-{own['seed']}-{own['data.fold']}/" in own["net.weights"]
    with pytest.raises(UserError, match=r"2 runs fit net\.weights of seed 1 and fold 2"):
        fill_needs(sweep, {"net.weights": [*first.runs, first.runs[-1]]})


def test_a_plan_that_goes_first_gets_what_is_said_of_data_and_training(plan):
    plan({"base": {"method": "erm", "data": "digits", "epochs": 9}, "seeds": [0, 1]}, "several")
    plan({"base": {"method": "erm", "data": "digits"}, "seeds": [4]}, "single")
    given = ["method=mixup", "method.alpha=0.5", "net.width=8", "epochs=3", "seeds=5,6"]
    for name, seeds in (("several", ["5", "6"]), ("single", ["4"])):
        content = {"base": {"data": "digits"}, "after": {"net.weights": name}}
        plan(content, f"after_{name}")
        sweep = read_sweep(f"after_{name}", given)
        assert [run["seed"] for run in words(sweep)] == ["5", "6"]
        first = words(sweep.needs["net.weights"])
        assert [run["seed"] for run in first] == seeds
        for run in first:
            assert (run["method"], run["net.width"], run["epochs"]) == ("erm", "8", "3")
            assert "method.alpha" not in run


def test_plans_that_come_with_the_package_can_be_read():
    names = sorted(path.stem for path in (folders()[-1] / "sweep").glob("*.yaml"))
    for name in names:
        assert read_sweep(name).runs


@pytest.mark.slow  # a grid of runs
def test_a_plan_runs_what_it_needs_first_and_ranks_its_own(plan, tmp_path, capsys, monkeypatch):
    (tmp_path / "warm_start.py").write_text(
        "from dataclasses import dataclass\n"
        "from mixbench.records.checkpoints import read_checkpoint\n"
        "from mixbench.methods.base import Method\n"
        "from pathlib import Path\n"
        "class WarmStart(Method):\n"
        "    @dataclass\n"
        "    class Config(Method.Config):\n"
        "        weights: str = ''\n"
        "        alpha: float = 1.0\n"
        "    def __init__(self, *args, **kwargs):\n"
        "        super().__init__(*args, **kwargs)\n"
        "        self.load_state_dict(read_checkpoint(Path(self.config.weights))['state_dict'])\n"
    )
    tiny = {"data": "digits", "data.limit": 64, "net.width": 4, "epochs": 1, "batch_size": 16}
    tiny |= {"wandb.mode": "disabled"}
    plan({"base": {"method": "erm", **tiny}, "seeds": [0, 1]}, "first")
    plan(
        {
            "base": {**tiny},
            "grid": {"method.alpha": [0.5, 1.0]},
            "seeds": [0, 1],
            "after": {"method.weights": "first"},
        },
        "second",
    )
    monkeypatch.setenv("MIXBENCH_RUNS", str(tmp_path / "runs"))
    command = ["sweep", "second", "method=warm_start:WarmStart"]
    assert cli.main([*command, "--dry-run"]) == 0
    assert "then: second, 4 runs" in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()
    code = cli.main(command)
    shown = capsys.readouterr()
    assert code == 0, shown.out + shown.err
    assert shown.out.count(": done in ") == 6
    assert shown.out.index("first, for method.weights: first") < shown.out.index("alpha=0.5")
    records = [read_record(path) for path in (tmp_path / "runs").iterdir()]
    assert sorted(record.method for record in records)[:2] == ["erm", "erm"]
    assert len({record.config_hash for record in records}) == 5  # two teachers, one each
    assert len({record.row for record in records}) == 3  # and yet seeds make one row
    assert cli.main(command) == 0
    assert ": done in " not in capsys.readouterr().out


def test_networks_that_mix_with_trained_mixers_get_those_of_their_own_seed(monkeypatch, tmp_path):
    monkeypatch.setenv("MIXBENCH_RUNS", str(tmp_path))
    sweep = read_sweep("samix_pretrained", ["seeds=0,2"])
    (first,) = sweep.needs.values()
    for run in first.runs:
        run.id = f"mixer-{run.words[-1]}"
    filled = fill_needs(sweep, {"method.mixer_ckpt": first.runs})
    assert len(filled) == 4
    for run in filled:
        seed = next(word for word in run.words if word.startswith("seed="))
        assert f"method.mixer_ckpt={tmp_path}/mixer-{seed}/last.ckpt" in run.words
    assert read_sweep("samix_pretrained", ["method.mixer_ckpt=own.ckpt"]).needs == {}


def test_plans_go_first_as_far_down_as_they_need_each_other(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("MIXBENCH_RUNS", str(tmp_path))
    launched = []

    def launch(runs, args):
        for place, run in enumerate(runs):
            run.id = f"stage{len(launched)}-{place}"
        launched.append(runs)
        return 0, runs

    monkeypatch.setattr("mixbench.cli.run._launch", launch)
    assert cli.main(["sweep", "transformmix", "seeds=3,4", "net.width=8"]) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("first")]
    assert told == [
        "first, for method.module: transformmix_module",
        "first, for method.teacher_ckpt: transformmix_teacher",
    ]
    teachers, searches, uses = launched
    assert [len(runs) for runs in launched] == [2, 2, 8]

    def seed(run):
        return next(word for word in run.words if word.startswith("seed="))

    for needed, runs, key in (
        (teachers, searches, "method.teacher_ckpt"),
        (searches, uses, "method.module"),
    ):
        ids = {seed(run): run.id for run in needed}
        for run in runs:
            assert f"{key}={tmp_path / ids[seed(run)] / 'last.ckpt'}" in run.words
            assert "net.width=8" in run.words


@pytest.mark.slow
def test_mixers_are_trained_before_the_networks_that_mix_with_them_as_they_are(
    monkeypatch, tmp_path
):
    monkeypatch.setenv("MIXBENCH_RUNS", str(tmp_path))
    words = ["data.limit=320", "net.width=8", "epochs=2", "wandb.mode=disabled", "seeds=0,1"]
    assert cli.main(["sweep", "samix_pretrained", *words]) == 0
    mixers, others = {}, []
    for folder in tmp_path.iterdir():
        if (folder / "record.json").exists():
            record = read_record(folder)
            assert record.status == "done"
            if record.settings.get("mixer_ckpt") is None:
                mixers[record.seed] = folder
            else:
                others.append((folder, record))
    assert mixers.keys() == {0, 1}
    kinds = {(record.seed, record.settings.get("mixer_bn")) for _, record in others}
    assert len(others) == len(kinds) == 4  # both kinds of statistics for either seed
    for folder, record in others:
        before, after = (
            read_checkpoint(part / "last.ckpt")["state_dict"]
            for part in (mixers[record.seed], folder)
        )
        kept = [name for name in after if name.startswith(("mixer.", "teacher."))]
        assert len(kept) > 100
        for name in kept:
            assert torch.equal(before[name], after[name]), name
        assert not torch.equal(before["net.head.fc.weight"], after["net.head.fc.weight"])
        assert "top1_q_mix" in record.metrics


def test_teachers_are_trained_first_and_look_for_networks_of_their_own_seed(monkeypatch, tmp_path):
    monkeypatch.setenv("MIXBENCH_RUNS", str(tmp_path))
    sweep = read_sweep("tdattenmix_teacher", ["seeds=0,1", "epochs=1"])
    (first,) = sweep.needs.values()
    assert all("method=erm" in run.words for run in first.runs)
    for run in first.runs:
        run.id = f"teacher-{run.words[-1]}"
    filled = fill_needs(sweep, {"method.teacher_ckpt": first.runs})
    assert [run.arm for run in filled][:3] == [
        "a trained teacher looks",
        "the network itself looks",
        "nobody looks",
    ]
    for run in filled:
        seed = next(word for word in run.words if word.startswith("seed="))
        assert f"method.teacher_ckpt={tmp_path}/teacher-{seed}/last.ckpt" in run.words


@pytest.mark.slow
def test_teachers_are_trained_before_the_networks_that_look_with_them(
    monkeypatch, tmp_path, capsys
):
    monkeypatch.setenv("MIXBENCH_RUNS", str(tmp_path))
    words = ["data.limit=160", "net.width=8", "epochs=2", "wandb.mode=disabled", "seeds=0,1"]
    assert cli.main(["sweep", "tdattenmix_teacher", *words]) == 0
    assert capsys.readouterr().out.count(": done in ") == 8
    teachers, others = {}, {}
    for folder in tmp_path.iterdir():
        if (folder / "record.json").exists():
            record = read_record(folder)
            assert record.status == "done"
            if record.method == "erm":
                teachers[record.seed] = folder
            else:
                others[record.settings["attention"], record.seed] = (folder, record)
    assert teachers.keys() == {0, 1}
    kinds = itertools.product(("teacher", "self", "random"), (0, 1))
    assert others.keys() == set(kinds)
    for seed, teacher in teachers.items():
        folder, record = others["teacher", seed]
        assert record.fidelity == "variant"
        config = compose([], base=folder / "config.yaml")
        assert config.method["teacher_ckpt"] == str(teacher / "last.ckpt")
        # The student looks with the weights that its teacher was left with.
        method, _ = build(resolve(config), DATA.get("digits")(config.data).load())
        left = read_checkpoint(teacher / "last.ckpt")["state_dict"]
        inner = method.source.teacher.module.state_dict()
        assert all(torch.equal(left[f"net.{name}"], inner[name]) for name in inner)
        ends = {
            kind: read_checkpoint(others[kind, seed][0] / "last.ckpt")["state_dict"]
            for kind in ("teacher", "self", "random")
        }
        heads = [end["net.head.fc.weight"] for end in ends.values()]
        assert not any(torch.equal(a, b) for a, b in itertools.combinations(heads, 2))
        assert not [name for name in ends["teacher"] if name.startswith("source.")]
    assert cli.main(["sweep", "tdattenmix_teacher", *words]) == 0  # everything is there already
    assert ": done in " not in capsys.readouterr().out


# FAULTS row 62.
@pytest.mark.parametrize("place", ["base", "grid", "arms", "after"])
@pytest.mark.parametrize("group", ["method", "data", "net"])
def test_a_plan_names_code_only_if_it_is_typed(plan, group, place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hostile.py").write_text("open('mark', 'w')\nclass Thing: pass\n")
    name = "hostile:Thing"
    content = {
        "base": {"base": {group: name}},
        "grid": {"grid": {group: ["digits", name]}},
        "arms": {"arms": {"one": {group: name}}},
        "after": {"after": {"net.weights": "first"}},
    }[place]
    plan({"base": {group: name}}, "first")
    path = plan(content, "mine")
    before = list(sys.path)
    for read in (
        read_sweep,
        lambda given: read_sweep(given, ["epochs=1"], trusted=["other:Thing"]),
    ):
        with pytest.raises(UserError, match=f"--trust {name}"):
            read(path)
    assert cli.main(["sweep", str(path), "--dry-run"]) == 2
    assert sys.path == before
    if place != "grid":  # whose other value is no method
        assert read_sweep(path, trusted=[name])
    assert not (tmp_path / "mark").exists()


def test_what_is_typed_of_a_plan_is_trusted(plan):
    path = plan({"base": {"data": "digits"}, "arms": {"a": {"method": "my_mix:Mix"}}}, "mine")
    (run,) = words(read_sweep(path, ["method=my_mix:Mix"]))
    assert run["method"] == "my_mix:Mix"
