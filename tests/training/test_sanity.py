"""Training that cannot work is said at its start, and what has not worked after its test."""

import logging

import pytest
import torch

from mixbench import cli, compose, run
from mixbench.launch import local
from mixbench.launch.plan import expand
from mixbench.records.marks import CHANCE, EXPLANATIONS, LARGE_BATCH, STEPS, WARMUP
from mixbench.records.predictions import Predictions
from mixbench.records.record import read_record
from mixbench.tasks.base import find_task
from mixbench.training.sanity import chance, doubts


def found(words, size=10_000):
    return set(doubts(compose(["data=digits", "optim.schedule=cosine", *words.split()]), size))


@pytest.mark.parametrize(
    ("words", "size", "marks"),
    [
        ("epochs=10 batch_size=100", 1000, set()),  # 100 steps
        ("epochs=10 batch_size=100", 999, {STEPS}),  # 9 in an epoch, as no batch is left half full
        ("epochs=99 batch_size=1000", 1000, {STEPS}),
        ("epochs=100 batch_size=1000", 1000, set()),
        ("epochs=100 batch_size=1000", 999, {LARGE_BATCH}),
        ("epochs=10 batch_size=200 optim.accumulate=2", 2000, set()),
        ("epochs=10 batch_size=200 optim.accumulate=2", 1999, {STEPS}),
        ("epochs=10 batch_size=200 devices=2", 1999, {STEPS}),
        ("epochs=10 batch_size=100 optim.warmup_epochs=9.5", 1000, set()),
        ("epochs=10 batch_size=100 optim.warmup_epochs=10", 1000, {WARMUP}),
        ("epochs=3 batch_size=128 optim.warmup_epochs=5", 60, {WARMUP, LARGE_BATCH, STEPS}),
    ],
)
def test_what_speaks_against_a_training_is_found_before_it(words, size, marks):
    assert found(words, size) == marks


def test_the_smoke_test_is_long_enough():
    """The demonstration shall not be flooded with warnings: 12 epochs of 22 steps."""
    assert doubts(compose("data=digits"), 1437) == {}


def answers(hits, labels, classes):
    """Predictions of which so many are right."""
    y = torch.tensor(labels)
    logits = torch.zeros(len(y), classes)
    right = torch.arange(len(y)) < hits
    logits[torch.arange(len(y)), torch.where(right, y, (y + 1) % classes)] = 1.0
    return Predictions(logits, y, torch.arange(len(y)))


@pytest.mark.parametrize(
    ("hits", "labels", "classes", "marked"),
    [
        # Of 100 images of 10 classes, 15 hits or more have a chance of 7.3 %, 16 of 4.0 %.
        (10, list(range(10)) * 10, 10, True),
        (15, list(range(10)) * 10, 10, True),
        (16, list(range(10)) * 10, 10, False),
        # 90 of 100 images are of one class: all of them right is nothing yet. 95: 5.8 %, 96: 2.4 %.
        (90, [0] * 90 + [1] * 10, 2, True),
        (95, [0] * 90 + [1] * 10, 2, True),
        (96, [0] * 90 + [1] * 10, 2, False),
        (0, list(range(10)) * 10, 10, True),
    ],
)
def test_a_result_that_guessing_explains_is_at_chance_level(hits, labels, classes, marked):
    assert (
        CHANCE in chance(answers(hits, labels, classes), find_task("supervised", "multiclass"))
    ) is marked


def test_several_labels_per_image_are_held_against_shuffled_ones():
    generator = torch.Generator().manual_seed(3)
    labels = (torch.rand(200, 5, generator=generator) < 0.3).float()
    noise = torch.randn(200, 5, generator=generator)
    ids, task = torch.arange(200), find_task("supervised", "multilabel")
    assert CHANCE in chance(Predictions(noise, labels, ids), task)
    assert chance(Predictions(labels + 0.5 * noise, labels, ids), task) == {}
    assert CHANCE in chance(Predictions(torch.zeros(200, 5), labels, ids), task)


def test_a_run_bears_its_marks_and_says_why(runs, tiny, caplog):
    with caplog.at_level(logging.WARNING, "mixbench"):
        record = run(compose([*tiny, "optim.warmup_epochs=1", "lr=1e-9", "optim.schedule=cosine"]))
    assert set(record.marks) == {WARMUP, STEPS, CHANCE}
    assert read_record(runs / record.id).marks == record.marks
    for words in ("optim.warmup_epochs=1", "4 optimiser steps", "not above chance"):
        assert sum(words in message for message in caplog.messages) == 1


def test_a_plan_says_what_speaks_against_its_runs(runs, tiny):
    kept, *_ = local._prepare(expand(["method=erm", *tiny]), False)
    assert any("4 optimiser steps" in sentence for sentence in kept[0].doubts)
    longer = expand(["method=erm", *tiny, "epochs=40"])
    assert local._prepare(longer, False)[0][0].doubts == []


class Planned:
    """A launcher that only plans."""

    def prepare(self, planned):
        for number, each in enumerate(planned):
            each.id, each.done = f"run{number}", number == 2
            each.doubts = ["too short"] + ["too wide"] * (number == 1)
        return planned

    def duration(self, planned):
        return 0.0


def test_the_plan_is_printed_with_each_doubt_once(monkeypatch, capsys, runs, tiny):
    monkeypatch.setattr("mixbench.cli.run._launcher", lambda args, display: Planned())
    assert cli.main(["bench", "method=erm", "seeds=0,1,2", *tiny, "--dry-run"]) == 0
    told = capsys.readouterr().err.splitlines()
    assert sum("too short (2 of 2 runs)" in line for line in told) == 1
    assert sum("too wide (1 of 2 runs)" in line for line in told) == 1


def test_every_mark_is_explained():
    assert {LARGE_BATCH, CHANCE, STEPS, WARMUP} <= EXPLANATIONS.keys()
