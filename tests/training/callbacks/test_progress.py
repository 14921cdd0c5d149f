import logging
from types import SimpleNamespace

import torch

from mixbench.training.callbacks import progress
from mixbench.training.callbacks.progress import PlainProgress


def test_a_line_says_the_epoch_of_all_the_loss_and_the_time_that_is_left(monkeypatch, caplog):
    clock = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    trainer = SimpleNamespace(current_epoch=2, max_epochs=8)  # two epochs were done before
    method = SimpleNamespace(epoch_loss=torch.tensor([1.0, 3.0]))
    line = PlainProgress()
    with caplog.at_level(logging.INFO, "mixbench"):
        line.on_train_start(trainer, method)
        for epoch, seconds in ((2, 4.0), (3, 2.0), (4, 3.0), (7, 1.0)):
            clock[0] += seconds
            trainer.current_epoch = epoch
            line.on_train_epoch_end(trainer, method)
    # After 4 seconds it is too early; the last epoch is always told.
    assert [record.getMessage() for record in caplog.records] == [
        "epoch 4/8  loss 2.000  12 s left",
        "epoch 8/8  loss 2.000  0 s left",
    ]
