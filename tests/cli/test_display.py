"""Lines of a grid at work, without a terminal and on one."""

import math

import pytest

from mixbench.cli import display
from mixbench.cli.display import GridDisplay, shortened, state_lines
from mixbench.launch.state import ActiveRun, GridState
from mixbench.records.progress import Progress

LONG = "samix-digits-preactresnet18-05cff5eb-s0"
TRAINING = Progress("training", 5, 12, 38.0, "top1", 88.2)


def state(*active, **more):
    return GridState(8, 2, active=active, **more)


def test_the_whole_and_each_run_have_a_line():
    runs = ActiveRun(3, LONG, TRAINING, 41.0), ActiveRun(4, "bc-s0")
    found = state_lines(state(*runs, failed=1, left_s=150.0), 120, 24)
    assert found == [
        "2 of 8 done, 1 failed, 2 running, about 2 min left",
        f"[3/8]  {LONG}  epoch 5/12  top1 88.20  41 s left",
        "[4/8]  bc-s0" + " " * 36 + "starting",
    ]


def test_the_phases_behind_training_are_named():
    places = [Progress(phase, 12, 12, 0.0, "loss", math.nan) for phase in ("test", "suites")]
    found = state_lines(state(*(ActiveRun(1, "a", place) for place in places)), 80, 24)
    assert [line.split()[2] for line in found[1:]] == ["test", "suites"]


@pytest.mark.parametrize("width", range(1, 130))
def test_no_line_is_longer_than_the_terminal_is_wide(width):
    runs = [ActiveRun(n, f"{LONG[:-1]}{n}", TRAINING, 41.0) for n in (3, 4)]
    lines = state_lines(state(*runs, left_s=1.0), width, 24)
    assert max(map(len, lines)) <= width
    if width >= 40:
        assert "epoch 5/12" in lines[1]
        assert lines[1] != lines[2]
    if width >= 60:  # methods and seeds stay
        assert all(name in lines[1] for name in ("samix-", "-s3", "41 s left"))


@pytest.mark.parametrize("height", range(1, 12))
def test_more_runs_than_lines_are_counted(height):
    runs = [ActiveRun(n, f"run{n}") for n in range(1, 8)]
    lines = state_lines(state(*runs), 80, height)
    assert len(lines) <= height
    assert "2 of 8 done" in lines[0]
    shown = sum(line.startswith("[") for line in lines)
    if 3 <= height < 9:
        assert lines[-1] == f"and {7 - shown} more"
    if height >= 9:
        assert shown == 7


def test_names_of_strangers_stay_text():
    place = Progress("training", 1, 2, None, "\x1b[2J\n[red]", 1.0)
    lines = state_lines(state(ActiveRun(1, "a\x1b]0;x\x07\nb", place)), 120, 24)
    assert len(lines) == 2
    assert all(line.isprintable() for line in lines)
    assert "[red]" in lines[1]


def test_a_run_of_another_process_is_named_so():
    (line,) = state_lines(state(ActiveRun(1, "a", elsewhere=True)), 80, 24)[1:]
    assert line == "[1/8]  a  at work  by another process"


def test_runs_that_are_stopped_are_no_longer_timed():
    found = state_lines(state(ActiveRun(1, "a", TRAINING, 5.0), stopping=True, left_s=9.0), 80, 24)
    assert found[0].startswith("1 run to stop")


@pytest.mark.parametrize(
    ("width", "expected"), [(9, "abcdefghi"), (8, "abcd…ghi"), (5, "ab…hi"), (2, "a…"), (1, "…")]
)
def test_a_long_name_loses_its_middle(width, expected):
    assert shortened("abcdefghi", width) == expected


def test_without_a_terminal_there_is_a_line_at_each_start_and_one_a_minute(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr(display.time, "monotonic", lambda: now[0])
    runs = [ActiveRun(n, f"run{n}", TRAINING, 30.0) for n in range(1, 7)]
    other = ActiveRun(7, "other", elsewhere=True)
    with GridDisplay() as shown:
        for _ in range(200):
            shown.show(state(*runs, other, left_s=60.0))
            now[0] += 0.5
        shown.print_line("[1/8] run1: done\x1b[2J")
    lines = capsys.readouterr().out.splitlines()
    assert lines[:6] == [f"[{n}/8] run{n}: started" for n in range(1, 7)]
    assert lines[6].startswith("2 of 8 done, 7 running, about 60 s left: run1 epoch 5/12, run2")
    assert lines[6].endswith("and 3 more")
    assert lines[7:] == [r"[1/8] run1: done\x1b[2J"]
