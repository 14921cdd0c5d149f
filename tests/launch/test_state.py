"""What is known of a grid at work, without carrying out any run."""

import pytest

from mixbench.launch import state
from mixbench.launch.machine import Machine
from mixbench.launch.plan import PlannedRun
from mixbench.launch.state import GridProgress
from mixbench.records.progress import Progress, write_progress


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(state.time, "monotonic", lambda: now[0])
    return now


def planned(count, folder, seconds=60.0, **more):
    runs = [PlannedRun([], id=f"run{n}", seconds=seconds, **more) for n in range(count)]
    for run in runs:
        (folder / run.id).mkdir()
    return runs


def test_a_run_that_starts_has_the_time_of_its_estimate_and_then_of_its_own_pace(clock, tmp_path):
    (run,) = planned(1, tmp_path, after_s=10.0)
    grid = GridProgress([run], tmp_path, Machine())
    assert grid.place(run) == "[1/1] run0"
    grid.start(run)
    began = clock[0]
    clock[0] += 20
    (active,) = grid.state().active
    assert (active.number, active.progress, active.left_s) == (1, None, 40)
    write_progress(tmp_path / run.id, Progress("training", 2, 4, 100.0))
    (active,) = grid.state().active
    assert active.left_s == 110
    clock[0] += 50
    assert grid.state().active[0].left_s == 60
    write_progress(tmp_path / run.id, Progress("test", 4, 4, 0.0))
    assert grid.state().active[0].left_s == 10
    clock[0] += 4
    write_progress(tmp_path / run.id, Progress("suites", 4, 4, 0.0))
    assert grid.state().active[0].left_s == 6
    clock[0] += 40  # longer than it was thought
    assert grid.state().active[0].left_s == 0
    assert grid.end(run, failed=False) == clock[0] - began
    last = grid.state()
    assert (last.done, last.failed, last.active, last.left_s) == (1, 0, (), 0)


def test_the_time_of_all_is_that_of_the_schedule_of_what_is_left(clock, tmp_path):
    runs = planned(5, tmp_path)
    runs[0].done = True
    grid = GridProgress(runs, tmp_path, Machine(cores=2))
    assert grid.state(runs[1:]).left_s == 120
    grid.start(runs[1])
    grid.start(runs[2])
    clock[0] += 30
    found = grid.state(runs[3:])
    assert (found.done, found.total, found.left_s) == (1, 5, 90)
    clock[0] += 2
    assert grid.state(runs[3:]).left_s == 88


def test_what_has_ended_corrects_the_estimates_of_what_waits(clock, tmp_path):
    runs = planned(3, tmp_path)
    grid = GridProgress(runs, tmp_path, Machine())
    grid.start(runs[0])
    clock[0] += 120  # twice as long as it was thought
    grid.end(runs[0], failed=False)
    grid.start(runs[1])
    assert grid.state(runs[2:]).left_s == 60 + 120
    grid.end(runs[1], failed=True)  # its early end says nothing of the others
    assert grid.state(runs[2:]).left_s == 120
    assert (grid.done, grid.failed) == (1, 1)


def test_the_pace_of_a_run_at_work_corrects_them_too(clock, tmp_path):
    runs = planned(2, tmp_path)
    grid = GridProgress(runs, tmp_path, Machine())
    grid.start(runs[0])
    clock[0] += 30
    write_progress(tmp_path / "run0", Progress("training", 2, 4, 150.0))
    assert grid.state(runs[1:]).left_s == 150 + 180


@pytest.mark.parametrize("what", ["no machine", "no estimate", "elsewhere"])
def test_no_time_is_told_for_all_where_that_of_one_is_not_known(what, clock, tmp_path):
    runs = planned(2, tmp_path, seconds=None if what == "no estimate" else 60.0)
    grid = GridProgress(runs, tmp_path, None if what == "no machine" else Machine())
    grid.start(runs[0], elsewhere=what == "elsewhere")
    assert grid.state(runs[1:]).left_s is None


def test_a_run_of_another_process_is_followed_from_where_it_is(clock, tmp_path):
    runs = planned(2, tmp_path, after_s=5.0)
    write_progress(tmp_path / "run0", Progress("training", 2, 4, 70.0))
    grid = GridProgress(runs, tmp_path, Machine())
    grid.start(runs[0])
    assert grid.state(runs[1:]).active[0].progress is None  # of an earlier attempt, it seems
    grid.start(runs[0], elsewhere=True)
    found = grid.state(runs[1:])
    assert found.active[0].elsewhere
    assert (found.active[0].left_s, found.left_s) == (75, 75)  # beside the other one
    grid.leave(runs[0])
    assert grid.state(runs).active == ()


def test_a_grid_that_is_told_to_stop_has_no_time_left(clock, tmp_path):
    (run,) = planned(1, tmp_path)
    grid = GridProgress([run], tmp_path, Machine())
    grid.start(run)
    found = grid.state(stopping=True)
    assert found.stopping
    assert (found.left_s, len(found.active)) == (None, 1)
