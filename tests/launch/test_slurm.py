import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from fake_slurm import Quick

from mixbench.errors import InterruptedRunError, UserError
from mixbench.launch import slurm, slurm_task
from mixbench.launch.identify import identify_runs
from mixbench.launch.plan import PlannedRun, expand
from mixbench.launch.slurm import SlurmLauncher
from mixbench.launch.slurm_options import read_options, submitit_parameters
from mixbench.launch.slurm_task import SlurmTask
from mixbench.launch.state import GridProgress
from mixbench.records.record import Record, read_record, write_record

pytest.importorskip("submitit")


def planned(*words):
    return [PlannedRun([word], id=word) for word in words]


def test_options_become_what_submitit_asks_for():
    words = "partition=gpu time=60 gpus_per_run=2 cpus_per_run=8 mem=16GB account=me"
    extra = "max_parallel=3 extra.qos=high extra.exclusive=true"
    options = read_options(f"{words} {extra}".split())
    found = submitit_parameters(options, expand(["method=erm", "data=digits"]))
    assert found == {
        "name": "mixbench",
        "timeout_min": 60,
        "nodes": 1,
        "tasks_per_node": 1,
        "cpus_per_task": 8,
        "gpus_per_node": 2,
        "stderr_to_stdout": True,
        "slurm_partition": "gpu",
        "slurm_account": "me",
        "slurm_mem": "16GB",
        "slurm_array_parallelism": 3,
        "slurm_use_srun": False,
        "slurm_additional_parameters": {
            "qos": "high",
            "exclusive": True,
            "requeue": True,
            "signal": "B:USR2@90",
        },
    }


def test_jobs_are_the_limit_of_the_array():
    assert read_options(["mem=16GB"], 3)["max_parallel"] == 3
    assert read_options(["max_parallel=3"], 3)["max_parallel"] == 3
    assert read_options(["max_parallel=3"])["max_parallel"] == 3
    with pytest.raises(UserError, match="two numbers of runs"):
        read_options(["max_parallel=2"], 3)


def test_without_options_a_task_gets_what_its_run_uses():
    words = ["method=erm", "data=digits", "data.workers=3", "trainer.threads=2", "devices=2"]
    assert submitit_parameters({}, expand(words))["cpus_per_task"] == 10
    assert "gpus_per_node" not in submitit_parameters({}, expand(words))
    assert (
        submitit_parameters({}, expand([*words, "trainer.accelerator=gpu"]))["gpus_per_node"] == 2
    )


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["partiton=gpu"], "did you mean 'partition'"),
        (["qos=high"], "or extra.qos"),
        (["time=2"], "write time=5"),
        (["time=01:00:00"], "must be a whole number of minutes"),
        (["cpus_per_run=0"], "write cpus_per_run=1"),
        (["mem="], "mem has no value"),
        (["partition"], "partition has no value"),
        (["extra.signal=USR1"], "the launcher sets the option"),
    ],
)
def test_a_bad_option_is_refused_with_the_remedy(words, match):
    with pytest.raises(UserError, match=match):
        read_options(words)


def test_a_run_of_several_machines_is_refused():
    with pytest.raises(UserError, match="srun or torchrun"):
        submitit_parameters({}, expand(["method=erm", "num_nodes=2"]))


def test_missing_programs_are_named_with_the_remedy(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="sbatch is not on the PATH"):
        SlurmLauncher(print)
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r"needs submitit(.|\n)*EXTRAS=cluster"):
        SlurmLauncher(print)


def test_the_launcher_loads_neither_torch_nor_submitit():
    code = (
        "import sys, mixbench.launch.slurm, mixbench.launch.wandb_sweep\n"
        "print({'torch', 'lightning', 'submitit', 'wandb'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_task_that_is_put_back_carries_out_the_same_words():
    from submitit.core.utils import DelayedSubmission

    words = ["method=cutmix", "seed=1"]
    submitted = pickle.loads(pickle.dumps(DelayedSubmission(SlurmTask(), words)))
    again = submitted._checkpoint_function()
    assert isinstance(again.function, SlurmTask)
    assert again.args == (words,)


def test_an_interrupted_task_leaves_no_result(monkeypatch):
    def interrupt(words):
        raise InterruptedRunError("stopped")

    monkeypatch.setattr(slurm_task, "_run", interrupt)
    with pytest.raises(SystemExit, match="4"):
        SlurmTask()([])


def test_a_task_returns_how_its_run_failed(monkeypatch, capsys):
    def fail(words):
        raise UserError("no such data", todo="fetch it") if words else ValueError("planted")

    monkeypatch.setattr(slurm_task, "_run", fail)
    assert SlurmTask()(["x"]) == (2, "no such data\n  to do: fetch it")
    assert SlurmTask()([]) == (3, "ValueError: planted")
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.slow
def test_a_plan_is_one_array_job_and_its_ends_are_told(fake, runs, tiny):
    lines, states = [], []
    launcher = Quick(lines.append, options={"max_parallel": 2}, show=states.append)
    plan = launcher.prepare(expand(["method=erm,mixup", *tiny, "epochs=8"]))
    assert all(run.id and run.recipe_hash and not run.done for run in plan)
    plan += [PlannedRun(["method=erm", "data=folder", "data.root=missing"], id="no-data")]
    outcome = launcher.launch(plan, runs)
    assert outcome.failures == {"no-data": 2}
    assert outcome.exit_code(3) == 5
    assert {each.id for state in states for each in state.active} >= {run.id for run in plan[:2]}
    assert any(each.progress for state in states for each in state.active)
    assert all(state.total == 3 for state in states)
    for run in plan[:2]:
        assert read_record(runs / run.id).status == "done"
        assert any(line.startswith("[") and f"{run.id}: done in" in line for line in lines)
    script = (fake / "script").read_text()
    for part in ("--array=0-2%2", "--requeue", "--signal=B:USR2@90", "--cpus-per-task=1"):
        assert f"#SBATCH {part}\n" in script
    assert f"\nexec {sys.executable} -u -m submitit" in script  # the task replaces the script
    assert "srun" not in script
    assert (runs / "slurm" / "7_0_0_log.out").name in script.replace("%A_%a", "7_0")
    named, _ = identify_runs(
        expand(["method=erm,mixup", "seeds=0,1", *tiny, "epochs=8"]), strict=False
    )
    assert [bool(each.doubts) for each in named] == [False, False, True, True]  # seed 0 is done
    assert [run.done for run in named] == [True, True, False, False]


def test_a_task_that_vanishes_fails_and_one_that_is_done_after_all_does_not(fake, runs, tiny):
    (fake / "sbatch").write_text("#!/bin/sh\necho Submitted batch job 7\n")
    lines = []
    outcome = Quick(lines.append).launch(planned("method=erm"), runs)
    assert outcome.failures == {"method=erm": 3}
    assert "job 7 has left the queue without a result; see" in lines[-1]

    from mixbench import compose, run

    record = run(compose(tiny))
    outcome = Quick(lines.append).launch([PlannedRun(tiny, id=record.id)], runs)
    assert outcome.failures == {}


@pytest.fixture
def ctrl_c():
    """Python's own answer to Ctrl-C, which a process in the background of a shell goes without."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_ends_the_waiting_and_the_next_command_waits_for_the_same_job(fake, runs):
    sleep = subprocess.Popen(["sleep", "60"])
    (fake / "sbatch").write_text(
        f'#!/bin/sh\necho {sleep.pid} >"$FAKE/job.7"\necho Submitted batch job 7\n'
    )
    lines = []
    try:
        main = threading.main_thread().ident
        assert main

        def say(line):
            lines.append(line)
            if line.startswith(("SLURM job 7, tasks", "1 in the queue")):  # it waits from now on
                threading.Timer(1.0, signal.pthread_kill, (main, 2)).start()

        for _ in range(2):
            outcome = Quick(say).launch(planned("method=erm"), runs)
            assert outcome.interrupted
            assert outcome.exit_code(1) == 4
            assert "scancel 7" in lines[-1]
    finally:
        sleep.kill()
        sleep.wait()
    assert sum(line.startswith("SLURM job 7, tasks: 1,") for line in lines) == 1
    assert "1 in the queue already: 7" in lines


def test_without_waiting_the_job_is_named_and_how_to_see_it(fake, runs):
    (fake / "sbatch").write_text("#!/bin/sh\necho Submitted batch job 7\n")
    lines = []
    outcome = Quick(lines.append, wait=False).launch(planned("method=erm"), runs)
    assert outcome.failures == {}
    assert lines[0].startswith("SLURM job 7")
    assert "mixbench leaderboard" in lines[1]


def test_a_run_that_is_done_is_told_as_its_command_wants_it(fake, runs):
    hashes = dict.fromkeys(("recipe", "select", "config_hash", "recipe_hash"), "x")
    record = Record("r", "erm", "x", "x", seed=0, epochs=1, status="done", **hashes)
    record.metrics = {"top1": 91.25}
    (runs / "r").mkdir(parents=True)
    write_record(runs / "r", record)
    assert "91.25" in Quick(print)._result(runs / "r")
    assert Quick(print, tell=lambda *_: "hush")._result(runs / "r") == "hush"


def test_a_queue_that_cannot_be_asked_is_not_an_empty_one(fake, runs):
    (fake / "squeue").write_text("#!/bin/sh\nexit 1\n")
    assert Quick(print).queue() is None
    runs_of_plan = planned("method=erm")
    task, grid = slurm._QueuedRun(runs_of_plan[0], "7"), GridProgress(runs_of_plan, runs)
    (runs / "slurm").mkdir(parents=True)
    for queue, ended in ((None, False), ({}, False), (None, False)):
        assert bool(Quick(print)._look(task, queue, grid)[0]) is ended
    time.sleep(Quick.patience_s)
    assert Quick(print)._look(task, None, grid)[0] is None
    assert Quick(print)._look(task, {}, grid)[0] == 3


def test_a_refusal_of_slurm_is_passed_on(fake, runs):
    (fake / "refuse").replace(fake / "sbatch")
    with pytest.raises(UserError, match="invalid partition specified: x"):
        Quick(print, options={"partition": "x"}).launch(planned("method=erm"), runs)


class Local(Quick):
    """Uses submitit's own executor for one machine."""

    cluster = "local"

    def queue(self):
        return {path.name: "RUNNING" for path in Path("/proc").glob("[0-9]*")}


@pytest.mark.slow
def test_submitits_local_executor_carries_out_a_run(runs, tiny):
    lines = []
    launcher = Local(lines.append)
    plan = launcher.prepare(expand(["method=mixup", *tiny]))
    assert launcher.launch(plan, runs).failures == {}, lines
    assert read_record(runs / plan[0].id).status == "done"
    assert "done in" in lines[-1]
