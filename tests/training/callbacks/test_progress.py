import logging
import math
from types import SimpleNamespace

import pytest
import torch

from mixbench.records.progress import Progress, ProgressWatch
from mixbench.training.callbacks import progress
from mixbench.training.callbacks.progress import Pace, PlainProgress, WriteProgress, latest_score


class Parts:
    """What the callbacks read of a trainer and of a method."""

    def __init__(self, epoch=0, epochs=8, batches=4, scores=()):
        self.trainer = SimpleNamespace(
            current_epoch=epoch,
            max_epochs=epochs,
            num_training_batches=batches,
            callback_metrics=dict(scores),
            is_global_zero=True,
        )
        task = SimpleNamespace(monitor="top1")
        self.method = SimpleNamespace(epoch_loss=torch.tensor([1.0, 3.0]), task=task)
        self.both = self.trainer, self.method


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_line_says_the_epoch_of_all_the_loss_and_the_time_that_is_left(clock, caplog):
    parts = Parts(epoch=2)  # two epochs were done before
    line = PlainProgress()
    with caplog.at_level(logging.INFO, "mixbench"):
        line.on_train_start(*parts.both)
        line.on_train_batch_start(*parts.both, None, 0)
        for epoch, seconds in ((2, 4.0), (3, 2.0), (4, 3.0), (7, 1.0)):
            clock[0] += seconds
            parts.trainer.current_epoch = epoch
            line.on_train_epoch_end(*parts.both)
    # After 4 seconds it is too early; the last epoch is always told.
    assert [record.getMessage() for record in caplog.records] == [
        "epoch 4/8  loss 2.000  12 s left",
        "epoch 8/8  loss 2.000  0 s left",
    ]


def test_the_score_of_the_hold_out_stands_in_place_of_the_loss():
    assert latest_score(*Parts().both) == ("loss", 2.0)
    assert latest_score(*Parts(scores={"val/top1": 91.5}).both) == ("top1", 91.5)


def test_a_run_that_goes_on_inside_an_epoch_is_timed_from_there(clock):
    parts = Parts(epoch=3, epochs=4)
    pace = Pace()
    pace.on_train_batch_start(*parts.both, None, 2)
    assert pace.left(3.5, 4) is None
    clock[0] += 5
    pace.on_train_batch_start(*parts.both, None, 3)  # no new start
    assert pace.left(3.75, 4) == 5


def test_the_place_is_written_at_the_ends_of_epochs_and_within_long_ones(clock, tmp_path):
    parts, writes = Parts(), WriteProgress(tmp_path)
    watch = ProgressWatch(tmp_path)
    writes.on_train_start(*parts.both)
    assert watch.look() == Progress(
        "training", 1, 8, None, "", pytest.approx(math.nan, nan_ok=True)
    )
    writes.on_train_batch_start(*parts.both, None, 0)
    seen = []
    for batch, seconds in enumerate((1, 3, 4, 1)):
        clock[0] += seconds
        writes.on_train_batch_end(*parts.both, None, None, batch)
        found = watch.look()
        assert found is not None
        seen.append(found.left_s)
    assert seen == [None, None, pytest.approx(8 / 0.75 * 7.25), pytest.approx(8 / 0.75 * 7.25 - 1)]
    clock[0] += 2
    writes.on_train_epoch_end(*parts.both)
    found = watch.look()
    assert found is not None
    assert (found.epoch, found.score, found.value, found.left_s) == (2, "loss", 2.0, 77)
    parts.trainer.current_epoch = 7
    writes.on_train_epoch_end(*parts.both)
    writes.on_test_start(*parts.both)
    found = watch.look()
    assert found is not None
    assert (found.phase, found.epoch, found.score) == ("test", 8, "loss")
    writes.teardown(*parts.both, "test")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["a folder that is gone", "no main process"])
def test_a_place_that_cannot_be_written_costs_nothing_else(kind, tmp_path):
    parts = Parts()
    parts.trainer.is_global_zero = kind == "a folder that is gone"
    WriteProgress(tmp_path / "gone").on_train_start(*parts.both)
    WriteProgress(tmp_path / "gone").on_exception(*parts.both, KeyboardInterrupt())
    assert not list(tmp_path.iterdir())
