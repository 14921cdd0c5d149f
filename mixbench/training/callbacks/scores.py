"""Accuracy and calibration of the hold-out and of the test set."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from mixbench.evaluation.inference import Outputs
from mixbench.metrics import topk
from mixbench.records.predictions import Predictions, write_predictions


class Scores(Callback):
    """Collects the outputs of each evaluation and reports their scores as ``<split>/<name>``.

    Attributes:
        holdout: Logits, labels and ids of the hold-out under the final weights; scores of the test
            set are then given after temperature scaling, too.
    """

    def __init__(self) -> None:
        self.holdout: tuple[Tensor, Tensor, Tensor] | None = None
        self._on_holdout = False
        self.outputs = Outputs()

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the last evaluation."""
        self.outputs = Outputs(pl_module.device)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep a batch."""
        self.outputs.add(outputs)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report ``val/*``."""
        self._report("val", pl_module)

    on_test_epoch_start = on_validation_epoch_start
    on_test_batch_end = on_validation_batch_end

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report ``test/*``, or keep the hold-out."""
        if self._on_holdout:
            self.holdout = self.outputs.compute()
        else:
            self._report("test", pl_module)

    @contextmanager
    def on_holdout(self) -> Iterator[None]:
        """Context in which a test is one on the hold-out, whose outputs are kept, not reported."""
        self._on_holdout = True
        try:
            yield
        finally:
            self._on_holdout = False

    def save(self, path: Any, class_names: Sequence[str] = ()) -> None:
        """Write ``predictions.npz``: logits, labels and row ids of the last evaluation.

        Args:
            path: The file.
            class_names: Names of the classes, where they have names.
        """
        found = Predictions(*self.outputs.compute(), self.holdout, tuple(class_names))
        write_predictions(path, found)

    def _report(self, split: str, module: Any) -> None:
        # Gathered from all processes, so that every one of them computes the same scores.
        logits, labels, _ = self.outputs.compute()
        if split == "test":
            known = self.holdout
            found = module.task.scores(logits, labels, known[:2] if known else None)
        else:
            found = module.task.epoch_scores(logits, labels)
        values = {name: torch.tensor(value) for name, value in found.items()}
        for name, logits in self.outputs.extra().items():
            values[f"top1_{name}"] = topk(logits, labels).cpu()
        module.log_dict({f"{split}/{key}": value for key, value in values.items()}, logger=False)
        module.report(values, split=split)
