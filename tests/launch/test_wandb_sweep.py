import itertools

import pytest
import yaml

from mixbench.config.overrides import split_overrides
from mixbench.errors import UserError
from mixbench.launch.plan import expand
from mixbench.launch.wandb_sweep import sweep_file

WORDS = [
    "method=erm,cutmix",
    "data=digits",
    "seeds=0,1",
    "epochs=3",
    "lr=1e-3",
    "method.prob=0.5",
    "optim.nesterov=false",
    "optim.milestones=[0.5, 0.75]",
    'run.notes=it\'s 100% "mixed" & cheap, $HOME',
    "run.tags=[a,b]",
    "optim.clip=null",
    "optim.weight_decay=0.0005",
]


@pytest.fixture
def started(monkeypatch, tmp_path):
    """Commands that W&B's own agent starts for a sweep, one per combination of its grid."""
    from wandb import wandb_agent

    monkeypatch.chdir(tmp_path)  # the agent writes each run's parameters to a file
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_RUN_ID", "none")
    commands = []

    class Process:
        def __init__(self, command, **_):
            commands.append(command)

    monkeypatch.setattr(wandb_agent, "AgentProcess", Process)

    def carry_out(text):
        sweep = yaml.safe_load(text)
        agent = wandb_agent.Agent(api=None, queue=None)
        axes = [
            [(key, value) for value in item.get("values", [item.get("value")])]
            for key, item in sweep["parameters"].items()
        ]
        for number, combination in enumerate(itertools.product(*axes)):
            agent._sweep_command = list(sweep["command"])
            agent._command_run(
                {
                    "run_id": f"run{number}",
                    "program": sweep["program"],
                    "args": {key: {"value": value} for key, value in combination},
                }
            )
        return commands

    return carry_out


def test_an_agent_starts_exactly_the_runs_of_the_bench(started):
    commands = started(sweep_file(expand(WORDS), project="mixes"))
    assert all(command[:4] == ["python", "-m", "mixbench", "run"] for command in commands)
    found = [dict(split_overrides(command[4:])) for command in commands]
    wanted = [dict(split_overrides([*run.words, "wandb.mode=online"])) for run in expand(WORDS)]
    assert len(found) == 4
    assert sorted(map(sorted, map(dict.items, found))) == sorted(
        map(sorted, map(dict.items, wanted))
    )


def test_the_axes_are_lists_and_every_other_word_is_fixed():
    sweep = yaml.safe_load(sweep_file(expand(WORDS), project="mixes"))
    assert sweep["method"] == "grid"
    assert sweep["project"] == "mixes"
    assert sweep["metric"] == {"name": "test/top1", "goal": "maximize"}
    parameters = sweep["parameters"]
    assert parameters["method"] == {"values": ["erm", "cutmix"]}
    assert parameters["seed"] == {"values": [0, 1]}
    assert parameters["data"] == {"value": "digits"}
    assert parameters["epochs"] == {"value": 3}
    assert parameters["lr"] == {"value": "1e-3"}  # not 0.001, and text survives any JSON
    assert "seeds" not in parameters


def test_a_mode_that_is_given_is_kept():
    sweep = yaml.safe_load(sweep_file(expand(["method=erm", "wandb.mode=offline"]), project="p"))
    assert sweep["parameters"]["wandb.mode"] == {"value": "offline"}


def test_a_bad_grid_is_refused_as_by_bench():
    with pytest.raises(UserError, match="unknown method 'cutmx'"):
        sweep_file(expand(["method=cutmx"]), project="p")
