"""What data says of itself: in the record, in the log and in ``data check``."""

import pytest
import torch
from making import encoded, source

from mixbench import compose, run
from mixbench.data import DATA
from mixbench.data.checks import inspect
from mixbench.data.encoded import Part
from mixbench.data.prepared import prepare
from mixbench.data.source import DataSource

SAID = "Three images of the training set are upside down."


COUNTED = {"hidden file": 7, "odd file": 1}
LINE = "not used: 7 x hidden file, 1 x odd file"


def part(count, notices, unused):
    pixels = [torch.full((8, 8, 3), 9 * n + 30 * count, dtype=torch.uint8) for n in range(count)]
    files = [encoded(image.numpy()) for image in pixels]
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
    found = inspect(source("data=digits"))
    assert found.facts.count(SAID) == found.facts.count(LINE) == 1
    assert not found.problems


def test_a_run_says_it_once_and_keeps_it(runs):
    words = "data=digits net.width=4 epochs=1 batch_size=6 eval.suites=[] wandb.mode=disabled"
    record = run(compose(words))
    assert (record.notices, record.unused) == ([SAID], COUNTED)
    assert record.shared_images == 0
    log = (runs / record.id / "log.txt").read_text()
    assert log.count(SAID) == log.count(LINE) == 1
