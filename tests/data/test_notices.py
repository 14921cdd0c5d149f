"""What data says of itself: in the record, in the log and in ``data check``."""

import dataclasses

import pytest
import torch
from making import encoded, source

from mixbench import compose, run
from mixbench.cli import main
from mixbench.data import DATA
from mixbench.data.checks import check_data_set
from mixbench.data.files.cache import prepare
from mixbench.data.files.encoded import Part
from mixbench.data.source import DataSource
from mixbench.leaderboard.render import render
from mixbench.leaderboard.rows import build_leaderboard, find_runs
from mixbench.records.marks import UNREADABLE, marks_of
from mixbench.training.reevaluate import verify_run

SAID = "Three images of the training set are upside down."


COUNTED = {"hidden file": 7, "odd file": 1}
LINE = "not used: 7 x hidden file, 1 x odd file"


def part(count, notices, unused, torn=()):
    pixels = [torch.full((8, 8, 3), 9 * n + 30 * count, dtype=torch.uint8) for n in range(count)]
    files = [encoded(image.numpy()) for image in pixels]
    files = [b"torn" if n in torn else file for n, file in enumerate(files)]
    labels = torch.arange(count) % 2
    names = [f"{n}.png" for n in range(count)]
    return Part(names, files.__getitem__, labels, notices=notices, unused=unused)


class Telling(DataSource):
    """Two small parts, each with something to say."""

    def fingerprint(self):
        return "a" * 64

    def parts(self):
        train = part(6, [SAID], {"hidden file": 2, "odd file": 1})
        return train, part(4, [], {"hidden file": 5}), ["ant", "bee"]


@pytest.fixture(autouse=True)
def telling(tmp_path, monkeypatch):
    monkeypatch.setenv("MIXBENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setitem(DATA._objects, "digits", Telling)


def test_what_is_said_and_counted_of_data_stays_with_a_prepared_set():
    plain = source("data=digits").load().info
    assert (plain.notices, plain.unused) == ([SAID], COUNTED)
    path, _ = prepare(source("data=digits"))
    assert path is not None
    again = source("data=digits").load().info
    assert (again.notices, again.unused) == ([SAID], COUNTED)


def test_the_check_of_data_says_it_without_a_problem():
    found = check_data_set(source("data=digits"))
    assert found.facts.count(SAID) == found.facts.count(LINE) == 1
    assert not found.problems


def test_a_run_says_it_once_and_keeps_it(runs):
    words = "data=digits net.width=4 epochs=1 batch_size=6 eval.suites=[] wandb.mode=disabled"
    record = run(compose(words))
    assert (record.notices, record.unused) == ([SAID], COUNTED)
    assert record.shared_images == 0
    log = (runs / record.id / "log.txt").read_text()
    assert log.count(SAID) == log.count(LINE) == 1


class Torn(Telling):
    """The same, with one unreadable training image and two of the test."""

    def parts(self):
        return part(6, [], {}, [3]), part(4, [], {}, [0, 1]), ["ant", "bee"]


SKIP = "data=digits data.on_corrupt=skip"


@pytest.fixture
def torn(monkeypatch):
    monkeypatch.setitem(DATA._objects, "digits", Torn)


@pytest.mark.parametrize("more", [[], ["data.crop_area=0.5", "data.size=8"]])
def test_images_that_are_left_out_are_counted_by_part_and_named(torn, more):
    for _ in range(2):  # from the files, and prepared
        info = source(*SKIP.split(), *more).load().info
        assert (info.skipped, info.skipped_test) == (3, 2)
        (notice,) = (n for n in info.notices if "not compared" not in n)
        assert "1 for training and 2 for the test" in notice
        assert all(f"{n}.png (the file is not an image)" in notice for n in (0, 1, 3))
        prepare(source(*SKIP.split(), *more))


def test_preparing_says_what_was_left_out(torn, capsys):
    assert main(["data", "prepare", *SKIP.removeprefix("data=").split()]) == 0
    assert "1 for training and 2 for the test" in capsys.readouterr().out


def test_places_of_test_images_are_known_where_training_images_alone_are_left_out(monkeypatch):
    parts = part(6, [], {}, [3]), part(4, [], {}), ["ant", "bee"]
    monkeypatch.setattr(Telling, "parts", lambda self: parts)
    splits = source(*SKIP.split()).load()
    assert splits.info.skipped == 1
    assert splits.test_rows.tolist() == [*range(4)]
    assert splits.test_names() == [f"{n}.png" for n in range(4)]


# FAULTS row 14.
def test_a_run_without_some_test_images_is_marked_in_tables(torn, runs):
    words = f"{SKIP} net.width=4 epochs=1 batch_size=4 eval.suites=[] wandb.mode=disabled"
    record = run(compose(words))
    assert (record.skipped, record.skipped_test) == (3, 2)
    assert (record.train_size, record.test_size) == (5, 2)
    (notice,) = (n for n in record.notices if "left out" in n)
    assert (runs / record.id / "log.txt").read_text().count(notice) == 1
    assert UNREADABLE in marks_of(record)
    assert UNREADABLE not in marks_of(dataclasses.replace(record, skipped_test=0))
    text = render(build_leaderboard(find_runs([runs])), "table")
    (told,) = (line for line in text.splitlines() if f'"{UNREADABLE}"' in line)
    assert "cannot be read" in told
    assert verify_run(runs / record.id).record.verified is True
