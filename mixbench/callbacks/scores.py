"""Accuracy and calibration of the hold-out and of the test set."""

from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from mixbench.metrics import StoredLogits, multilabel_scores, scores, topk
from mixbench.results.files import write_bytes

FULL_PRECISION_CLASSES = 200  # beyond this many, logits are stored as float16


class Scores(Callback):
    """Collects the outputs of each evaluation and reports their scores as ``<split>/<name>``."""

    def __init__(self) -> None:
        self.stored = StoredLogits()
        self.extra: dict[str, StoredLogits] = {}  # of other heads

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the last evaluation."""
        self.stored = StoredLogits().to(pl_module.device)
        self.extra = {}

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
        self.stored.update(outputs["logits"], outputs["y"], outputs["ids"])
        for name, logits in outputs["extra"].items():
            if name not in self.extra:
                self.extra[name] = StoredLogits().to(pl_module.device)
            self.extra[name].update(logits, outputs["y"], outputs["ids"])

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report ``val/*``."""
        self._report("val", pl_module)

    on_test_epoch_start = on_validation_epoch_start
    on_test_batch_end = on_validation_batch_end

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report ``test/*``."""
        self._report("test", pl_module)

    def save(self, path: Any) -> None:
        """Write ``predictions.npz``: logits, labels and row ids of the last evaluation.

        Args:
            path: The file.
        """
        logits, labels, ids = (value.cpu().numpy() for value in self.stored.compute())
        if logits.shape[1] > FULL_PRECISION_CLASSES:
            logits = logits.astype(np.float16)
        write_bytes(
            path, lambda file: np.savez_compressed(file, logits=logits, labels=labels, ids=ids)
        )

    def _report(self, split: str, module: Any) -> None:
        # Gathered from all processes, so that every one of them computes the same scores.
        logits, labels, _ = self.stored.compute()
        score = multilabel_scores if module.info.task == "multilabel" else scores
        values = {name: torch.tensor(value) for name, value in score(logits, labels).items()}
        for name, stored in self.extra.items():
            logits, labels, _ = stored.compute()
            values[f"top1_{name}"] = topk(logits, labels).cpu()
        module.log_dict({f"{split}/{key}": value for key, value in values.items()}, logger=False)
        module.report(values, split=split)
