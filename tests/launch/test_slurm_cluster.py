"""Pre-emption on a real SLURM of one machine, with daemons and settings of its own.

Nothing of the system's own munge or SLURM is read or changed.
"""

import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest
import torch

from mixbench import compose, run
from mixbench.errors import UserError
from mixbench.launch.plan import expand
from mixbench.launch.slurm import SlurmLauncher
from mixbench.records.checkpoints import read_checkpoint
from mixbench.records.record import read_record

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")
SETTINGS = """
ClusterName=mixbench
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
AuthType=auth/munge
AuthInfo=socket={place}/munge/socket,cred_expire=5
CredType=cred/munge
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
KillWait=20
MpiDefault=none
SlurmUser=root
SlurmdUser=root
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/spool
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/slurmd.pid
SlurmctldLogFile={place}/slurmctld.log
SlurmdLogFile={place}/slurmd.log
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=4
PartitionName=main Nodes=ALL Default=YES PriorityTier=1
PartitionName=urgent Nodes=ALL PriorityTier=10 PreemptMode=OFF
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="SLURM's daemons are started as root here"),
    pytest.mark.skipif(
        bool(missing := [name for name in PROGRAMS if shutil.which(name) is None]),
        reason=f"not installed: {', '.join(missing)}",
    ),
]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(condition, what, seconds=60.0, every=0.3):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(every)
    return found


def shown(*command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.stdout if done.returncode == 0 else ""


@contextmanager
def daemon(*command, log):
    """A process in the foreground, so that it can be ended by its own id."""
    with log.open("ab") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def cluster():
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        # Not below pytest's own folder: munged wants every parent open to all.
        place = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
        stack.callback(shutil.rmtree, place, ignore_errors=True)
        place.chmod(0o755)
        for name in ("state", "spool", "munge"):
            (place / name).mkdir(mode=0o755)
        munge = place / "munge"
        key = os.open(munge / "key", os.O_CREAT | os.O_WRONLY, 0o400)
        os.write(key, os.urandom(128))
        os.close(key)
        host = socket.gethostname().split(".")[0]
        settings = place / "slurm.conf"
        settings.write_text(
            SETTINGS.format(host=host, place=place, controller=free_port(), daemon=free_port())
        )
        patch.setenv("SLURM_CONF", str(settings))
        own = [f"--{name}-file={munge / name}" for name in ("key", "pid", "log", "seed")]
        log = place / "daemons.log"
        stack.enter_context(daemon("munged", "-F", f"--socket={munge}/socket", *own, log=log))
        until((munge / "socket").exists, "munged")
        stack.enter_context(daemon("slurmctld", "-D", "-c", log=log))
        stack.enter_context(daemon("slurmd", "-D", log=log))
        stack.callback(end_jobs)
        until(lambda: "idle" in shown("sinfo", "-h"), "an idle node")
        yield place


def end_jobs():
    shown("scancel", "--me")
    for _ in range(60):
        if not shown("squeue", "-h"):
            return
        time.sleep(0.5)


WORDS = [
    "data=digits",
    "data.limit=512",
    "net.width=8",
    "epochs=30",
    "batch_size=32",
    "trainer.ckpt_steps=20",
    "wandb.mode=disabled",
]


class Patient(SlurmLauncher):
    poll_s, patience_s = 1.0, 10.0


def steps(folder):
    """Steps that a run's current attempt has noted."""
    try:
        record = read_record(folder)
    except UserError:
        return 0
    return record.attempts[-1].get("steps", 0) if record.status == "running" else 0


def disturb(folder, job, do):
    """Do something to a run as soon as it trains."""
    until(lambda: steps(folder), f"{folder.name} trains", 120)
    do(job)


@contextmanager
def in_background(*works):
    """Functions that run at the same time as the block; the first error of one is raised."""
    errors = []

    def guarded(work):
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join()
    for error in errors:
        raise error


def requeue(job):
    subprocess.run(["scontrol", "requeue", job], check=True)


def send(name):
    return lambda job: subprocess.run(["scancel", "--batch", f"--signal={name}", job], check=True)


def undisturbed(words, folder, monkeypatch):
    monkeypatch.setenv("MIXBENCH_RUNS", str(folder))
    record = run(compose(words))
    return record, read_checkpoint(folder / record.id / "last.ckpt")["state_dict"]


# FAULTS rows of pre-emption: requeued by the scheduler, warned by a signal.
def test_runs_that_lose_their_node_end_as_if_they_had_not(cluster, runs, tmp_path, monkeypatch):
    plan = expand(["method=cutmix", "seeds=0,1,2,3", *WORDS])
    lines = []
    launcher = Patient(lines.append, options={"time": 20, "cpus_per_run": 1})
    plan = launcher.prepare(plan)
    assert not any(planned.done for planned in plan)

    def harm(number, do):
        jobs = until(launcher.queue, "jobs in the queue")
        array = next(iter(jobs)).partition("_")[0]
        disturb(runs / plan[number].id, f"{array}_{number}", do)

    harms = [partial(harm, *item) for item in enumerate((requeue, send("USR2"), send("USR1")))]
    with in_background(*harms):
        outcome = launcher.launch(plan, runs)
    told = "\n".join(lines)
    logs = "\n".join(path.read_text() for path in (runs / "slurm").glob("*.out"))
    assert outcome.failures == {}, f"{told}\n{logs}"
    assert not outcome.interrupted

    records = [read_record(runs / planned.id) for planned in plan]
    assert [record.status for record in records] == ["done"] * 4, logs
    assert [len(record.attempts) for record in records] == [2, 2, 2, 1], logs
    for record in records[:3]:
        first, second = record.attempts
        assert first["status"] == "interrupted"
        assert second["from_step"] > 0, "the second attempt began at step 0"
        assert second["from_step"] == first["steps"], "steps were lost"
        assert record.resumed_bit_exact
    assert told.count("back in the queue") >= 1
    assert sum("done in" in line for line in lines) == 4

    for planned, record in zip(plan[:3], records, strict=False):
        other, weights = undisturbed(planned.words, tmp_path / "alone", monkeypatch)
        found = read_checkpoint(runs / planned.id / "last.ckpt")["state_dict"]
        assert all(torch.equal(found[name], weights[name]) for name in weights)
        assert record.metrics == other.metrics


def test_a_second_command_waits_for_the_same_jobs_and_a_third_takes_up_what_was_cancelled(
    cluster, runs
):
    lines = []

    def start(**kwargs):
        launcher = Patient(lines.append, options={"time": 20, "max_parallel": 2}, **kwargs)
        words = [*WORDS, "epochs=120"]  # long enough to be met again after it was put back
        return launcher, launcher.prepare(expand(["method=erm", "seeds=0,1", *words]))

    first, plan = start(wait=False)
    assert first.launch(plan, runs).failures == {}
    jobs = sorted(first.queue())
    assert len(jobs) == 2

    def harm():
        disturb(runs / plan[0].id, jobs[0], urgent)
        disturb(runs / plan[1].id, jobs[1], lambda job: shown("scancel", job))

    def urgent(job):
        shown("sbatch", "--partition=urgent", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
        until(lambda: first.queue().get(job) == "PENDING", "pre-emption")

    second, _ = start()
    with in_background(harm):
        outcome = second.launch(plan, runs)
    assert f"2 in the queue already: {jobs[0].partition('_')[0]}" in lines
    told = "\n".join(lines)
    assert outcome.failures == {plan[1].id: 3}, told
    assert "has left the queue without a result" in told
    assert read_record(runs / plan[1].id).status == "interrupted"

    third, plan = start()
    assert [planned.done for planned in plan] == [True, False]
    assert third.launch(plan, runs).failures == {}, lines
    for planned in plan:
        record = read_record(runs / planned.id)
        assert record.status == "done"
        assert record.attempts[-1]["from_step"] > 0
        assert record.resumed_bit_exact


def test_a_run_on_two_devices_that_nears_its_time_limit_comes_back(cluster, runs):
    lines = []
    words = [*WORDS, "epochs=160", "devices=2", "trainer.accelerator=cpu"]
    launcher = Patient(lines.append, options={"time": 20})
    plan = launcher.prepare(expand(["method=erm", *words]))

    def limit(job, minutes):
        shown("scontrol", "update", f"JobId={job}", f"TimeLimit={minutes}")

    def harm():
        (job,) = until(launcher.queue, "a job in the queue")
        disturb(runs / plan[0].id, job, lambda job: limit(job, 2))
        until(lambda: launcher.queue().get(job) == "PENDING", "the warning", 90)
        limit(job, 20)

    with in_background(harm):
        outcome = launcher.launch(plan, runs)
    logs = "\n".join(path.read_text() for path in (runs / "slurm").glob("*.out"))
    assert outcome.failures == {}, logs
    assert "Caught signal SIGUSR2" in logs
    record = read_record(runs / plan[0].id)
    assert record.status == "done"
    first, second = record.attempts
    assert second["from_step"] == first["steps"] > 0
