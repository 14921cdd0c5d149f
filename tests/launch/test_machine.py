"""Which runs of a grid are carried out at the same time, without carrying out any."""

import multiprocessing
import os

import pytest

from mixbench.launch import local
from mixbench.launch.local import LocalLauncher
from mixbench.launch.machine import Machine, starting_order
from mixbench.launch.plan import PlannedRun, expand
from mixbench.records.record import Record
from mixbench.training import estimate
from mixbench.training.estimate import Estimate


def run(name, cores=1, gpus=0, seconds=1.0):
    return PlannedRun([name], id=name, cores=cores, gpus=gpus, seconds=seconds)


def started(machine, waiting):
    """Names of the runs that start now, with their GPUs."""
    found = {}
    waiting = list(waiting)
    while (each := machine.next_run(waiting)) is not None:
        waiting.remove(each)
        found[each.id] = machine.reserve(each)
    return found


def test_runs_of_several_sizes_fill_the_gpus_in_the_order_of_the_plan():
    runs = [run("a", gpus=2), run("b", gpus=1), run("c", gpus=2), run("d", gpus=1)]
    machine = Machine(cores=8, gpus=4)
    # d has to wait behind c, or c might wait forever.
    assert started(machine, runs) == {"a": [0, 1], "b": [2]}
    machine.release(runs[1], [2])
    assert started(machine, runs[2:]) == {"c": [2, 3]}
    machine.release(runs[0], [0, 1])
    assert started(machine, runs[3:]) == {"d": [0]}


def test_no_gpu_is_given_to_two_runs():
    runs = [run(str(n), gpus=1 + n % 3) for n in range(12)]
    machine, waiting, active, seen = Machine(4, 4), list(runs), [], set()
    while waiting or active:
        while (each := machine.next_run(waiting)) is not None:
            waiting.remove(each)
            active.append((each, machine.reserve(each)))
            seen.add(each.id)
        used = [number for _, gpus in active for number in gpus]
        assert len(used) == len(set(used)) <= 4
        assert all(len(gpus) == each.gpus for each, gpus in active)
        machine.release(*active.pop(len(seen) % len(active)))
    assert seen == {each.id for each in runs}
    assert (machine.free_cores, machine.free_gpus) == (4, [0, 1, 2, 3])


def test_runs_on_the_cpu_take_the_cores_of_all_their_processes():
    machine = Machine(cores=4)
    assert started(machine, [run("a", cores=2), run("b"), run("c", cores=2)]) == {"a": [], "b": []}
    assert machine.free_cores == 1


def test_a_run_that_wants_more_than_there_is_has_the_machine_to_itself():
    machine = Machine(cores=2)
    wide, narrow = run("wide", cores=8), run("narrow")
    assert started(machine, [wide, narrow]) == {"wide": []}
    machine.release(wide, [])
    assert machine.free_cores == 2


def test_a_run_on_the_cpu_gets_no_gpu_and_does_not_wait_for_one():
    machine = Machine(cores=2, gpus=1)
    runs = [run("gpu", gpus=1), run("other", gpus=1), run("cpu")]
    assert started(machine, runs) == {"gpu": [0], "cpu": []}


def test_no_more_runs_than_jobs_are_at_work_at_a_time():
    runs = [run(name) for name in "abc"] + [run("gpu", gpus=1)]
    machine = Machine(cores=8, gpus=2, jobs=2)
    assert started(machine, runs) == {"a": [], "b": []}
    machine.release(runs[0], [])
    assert started(machine, runs[2:]) == {"c": []}
    assert Machine(cores=8, jobs=2).duration(runs[:3]) == 2
    assert not Machine(cores=8, jobs=1).is_shared(runs[0], runs)


def test_runs_at_work_keep_their_places_in_a_schedule():
    runs = [run(name, seconds=10) for name in "abcd"]
    machine = Machine(cores=2)
    assert machine.duration(runs[2:], [(runs[0], 3.0), (runs[1], 8.0)]) == 18
    assert machine.duration([], [(runs[0], 3.0)]) == 3


@pytest.mark.parametrize(
    ("runs", "cores", "shared"),
    [
        ([run("a")], 2, [False]),
        ([run("a"), run("b")], 2, [True, True]),
        ([run("a"), run("b")], 1, [False, False]),
        ([run("a", cores=2), run("b")], 2, [False, False]),
        ([run("a", cores=3), run("b"), run("c", cores=2)], 4, [True, True, True]),
        ([run("a", cores=3), run("c", cores=2)], 4, [False, False]),
        ([run("a", gpus=1), run("b")], 2, [False, True]),
    ],
)
def test_speed_counts_as_shared_where_another_run_fits_beside_one(runs, cores, shared):
    machine = Machine(cores, gpus=1)
    assert [machine.is_shared(each, runs) for each in runs] == shared


@pytest.mark.parametrize(
    ("runs", "cores", "gpus", "seconds"),
    [
        ([run(n, seconds=10) for n in "abcd"], 2, 0, 20),
        ([run("a", cores=2, seconds=10), run("b", seconds=5), run("c", seconds=5)], 2, 0, 15),
        ([run("a", gpus=1, seconds=10), run("b", seconds=7)], 1, 1, 10),
        ([run("a", gpus=2, seconds=10), run("b", gpus=1, seconds=4)], 1, 2, 14),
        ([], 1, 0, 0),
    ],
)
def test_the_time_of_a_grid_is_that_of_its_schedule(runs, cores, gpus, seconds):
    machine = Machine(cores, gpus)
    assert machine.duration(runs) == seconds
    assert (machine.free_cores, machine.free_gpus) == (cores, list(range(gpus)))


def test_the_longest_run_of_a_seed_starts_first_so_that_none_is_left_alone_at_the_end():
    plan = [
        PlannedRun([f"seed={seed}"], id=f"{name}{seed}", seconds=seconds)
        for seed in (1, 0)
        for name, seconds in (("a", 10), ("b", 10), ("c", None), ("long", 20))
    ]
    order = [each.id for each in starting_order(plan)]
    assert order == ["long1", "a1", "b1", "c1", "long0", "a0", "b0", "c0"]
    launcher = Told(Machine(cores=2))
    assert (launcher.machine.duration(plan[:4]), launcher.duration(plan[:4])) == (30, 20)


class Told(LocalLauncher):
    """Starts nothing, and notes what it would have started."""

    def __init__(self, machine):
        super().__init__(lambda line: None)
        self.machine, self.told = machine, []

    def _start(self, run, folder, shared, gpus):
        self.told.append((run.id, shared, gpus))
        reader, writer = multiprocessing.Pipe(duplex=False)
        writer.send((0, ""))
        writer.close()
        return reader, Ended()


class Ended:
    def join(self, timeout=None):
        pass


def test_each_run_of_a_mixed_grid_is_started_with_what_it_needs(monkeypatch, tmp_path):
    record = Record("x", "erm", "d", "n", "r", 0, 1, "last", "c", "r")
    monkeypatch.setattr(local, "read_record", lambda folder: record)
    monkeypatch.setattr(local.signal, "signal", lambda *args: None)
    runs = [run("two", gpus=2), run("one", gpus=1), run("all", gpus=3), run("cpu", cores=2)]
    runs.append(run("old", gpus=4))
    runs[-1].done = True
    launcher = Told(Machine(cores=2, gpus=3))
    assert launcher.launch(runs, tmp_path).failures == {}
    expected = [("two", False, [0, 1]), ("one", False, [2]), ("cpu", True, [])]
    assert launcher.told == [*expected, ("all", False, [0, 1, 2])]
    # A run that is done takes no cores from the one that is not.
    alone = Told(Machine(cores=2))
    done = run("done")
    done.done = True
    alone.launch([run("left"), done], tmp_path)
    assert alone.told == [("left", False, [])]


def test_the_grid_is_shown_while_it_is_carried_out(monkeypatch, tmp_path):
    record = Record("x", "erm", "d", "n", "r", 0, 1, "last", "c", "r")
    monkeypatch.setattr(local, "read_record", lambda folder: record)
    monkeypatch.setattr(local.signal, "signal", lambda *args: None)
    runs = [run(name, seconds=10.0) for name in "abc"]
    runs[0].done = True
    launcher, states = Told(Machine(cores=1)), []
    launcher.show = states.append
    runs[2].seconds = 11.0
    launcher.launch(runs, tmp_path)
    assert [(each.done, [one.id for one in each.active]) for each in states] == [
        (1, ["c"]),
        (2, ["b"]),
    ]
    assert states[0].left_s == pytest.approx(21, abs=1)


def test_a_busy_machine_makes_all_runs_longer_alike(monkeypatch, runs, tiny):
    """Either method is timed under its own load, and both have that of the whole time."""
    loads = iter([(10.0, 1.0), (5.0, 4.0)])  # seconds that passed, and those of the steps
    monkeypatch.setattr(estimate, "estimate", lambda *_: Estimate(1, 2, 3, "", *next(loads)))
    kept, *_ = local._prepare(expand(["method=erm,mixup", *tiny]), False)
    assert [(each.seconds, each.after_s) for each in kept] == [(18, 9)] * 2


def test_what_a_run_needs_is_read_from_its_own_configuration(monkeypatch, runs, tiny):
    monkeypatch.setattr(estimate, "estimate", lambda *_: Estimate(1, 2, 3))
    plan = expand(["method=erm", *tiny, "devices=2", "trainer.threads=3"])
    plan += expand(["method=mixup", *tiny])
    kept, _, machine = local._prepare(plan, False)
    assert [(each.cores, each.gpus) for each in kept] == [(6, 0), (1, 0)]
    assert [(each.seconds, each.after_s) for each in kept] == [(6, 3)] * 2
    assert machine.cores == len(os.sched_getaffinity(0))

    import torch

    def device(config):
        return torch.device("cpu" if config.trainer.accelerator == "cpu" else "cuda")

    monkeypatch.setattr("mixbench.training.job.training_device", device)
    plan = expand(["method=erm", *tiny, "devices=2"])
    plan += expand(["method=mixup", *tiny, "trainer.accelerator=cpu"])
    assert [(each.cores, each.gpus) for each in local._prepare(plan, False)[0]] == [(2, 2), (1, 0)]


def test_gpus_are_numbered_among_those_that_the_launcher_sees(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, 5,7")  # what this process was itself given
    assert local._visible([0, 2]) == "4,7"
    assert local._visible([]) == ""  # a run on the CPU
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert local._visible([2, 0]) == "2,0"
    assert local._visible([]) == ""
