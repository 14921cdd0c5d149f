import json
import os

import pytest

from mixbench.records import progress
from mixbench.records.progress import Progress, ProgressWatch, remove_progress, write_progress

PLACE = Progress("training", 3, 12, 40.0, "top1", 91.5)


def test_what_is_written_is_seen_and_its_time_runs_on(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    watch = ProgressWatch(tmp_path)
    assert watch.look() is None
    write_progress(tmp_path, PLACE)
    assert watch.look() == PLACE
    now[0] += 15
    found = watch.look()
    assert found is not None
    assert (found.left_s, found.epoch) == (25, 3)
    now[0] += 100
    found = watch.look()
    assert found is not None
    assert found.left_s == 0
    write_progress(tmp_path, Progress("test", 12, 12))
    found = watch.look()
    assert found is not None
    assert (found.phase, found.left_s) == ("test", None)


def test_what_an_earlier_attempt_left_does_not_count(tmp_path):
    place = Progress("training", 3, 12, None, "top1", 91.5)
    write_progress(tmp_path, place)
    fresh, joined = ProgressWatch(tmp_path), ProgressWatch(tmp_path, running=True)
    assert fresh.look() is None
    assert joined.look() == place
    write_progress(tmp_path, place)
    assert fresh.look() == place


def test_the_last_place_stands_while_the_file_is_gone(tmp_path):
    watch = ProgressWatch(tmp_path)
    write_progress(tmp_path, Progress("suites", 12, 12, None, "top1", 1.0))
    assert watch.look() is not None
    remove_progress(tmp_path)
    remove_progress(tmp_path)
    assert list(tmp_path.iterdir()) == []
    found = watch.look()
    assert found is not None
    assert found.phase == "suites"


WHOLE = {"phase": "test", "epoch": 1, "epochs": 2, "left_s": 1.0, "score": "top1", "value": 1.0}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        *(
            json.dumps(WHOLE | changes).encode()
            for changes in (
                {"phase": "sleep"},
                {"epoch": 0},
                {"epoch": 3},
                {"epochs": 10**30},
                {"left_s": -1},
                {"left_s": float("inf")},
                {"left_s": "soon"},
                {"score": "x" * 100},
                {"score": 7},
                {"value": None},
                {"more": 1},
            )
        ),
    ],
)
def test_what_no_run_has_written_is_no_progress(tmp_path, content):
    (tmp_path / "progress.json").write_bytes(content)
    assert ProgressWatch(tmp_path, running=True).look() is None


def test_a_pipe_in_place_of_the_file_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "progress.json")
    assert ProgressWatch(tmp_path, running=True).look() is None
