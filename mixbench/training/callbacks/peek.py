"""The test score of every epoch, for comparison with figures that were chosen on the test set."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from mixbench.evaluation.inference import infer


class Peek(Callback):
    """Reports ``peek/top1``, or ``peek/map``; nothing in training reads it.

    The weights are those that would be tested, and training goes on as it would without this test.

    Args:
        around: Callbacks that prepare an evaluation and put things back after it.
    """

    def __init__(self, around: Sequence[Callback] = ()) -> None:
        self.around = around
        self._loader: Any = None

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Test on all images."""
        if self._loader is None:
            self._loader = trainer.datamodule.test_dataloader()  # type: ignore[attr-defined]
        with self._evaluating(trainer, pl_module):
            outputs = infer(pl_module, self._loader)
        logits, labels, _ = outputs.compute()
        task = pl_module.task
        pl_module.report({task.monitor: task.peek_score(logits, labels)}, split="peek")

    @contextmanager
    def _evaluating(self, trainer: Trainer, module: LightningModule) -> Iterator[None]:
        training = [part for part in module.modules() if part.training]
        for callback in self.around:
            callback.on_validation_epoch_start(trainer, module)
        module.eval()
        try:
            yield
        finally:
            for part in training:
                part.training = True
            for callback in reversed(self.around):
                callback.on_validation_epoch_end(trainer, module)
