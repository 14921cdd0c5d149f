"""Accuracy and calibration of the hold-out and of the test set."""

from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from mixbench.metrics import StoredLogits, topk
from mixbench.results.files import write_bytes

FULL_PRECISION_CLASSES = 200  # beyond this many, logits are stored as float16


class Scores(Callback):
    """Collects the outputs of each evaluation and logs their scores as ``<split>/<name>``."""

    def __init__(self) -> None:
        self.stored = StoredLogits()
        self.extra: dict[str, list[Tensor]] = {}

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
            self.extra.setdefault(name, []).append(topk(logits, outputs["y"]) * len(logits))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log ``val/*``."""
        self._log("val", pl_module)

    on_test_epoch_start = on_validation_epoch_start
    on_test_batch_end = on_validation_batch_end

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log ``test/*``."""
        self._log("test", pl_module)

    def save(self, path: Any) -> None:
        """Write ``predictions.npz``: logits, labels and row ids of the last evaluation.

        Args:
            path: The file.
        """
        logits, labels, ids = (value.cpu().numpy() for value in self.stored.rows())
        if logits.shape[1] > FULL_PRECISION_CLASSES:
            logits = logits.astype(np.float16)
        write_bytes(
            path, lambda file: np.savez_compressed(file, logits=logits, labels=labels, ids=ids)
        )

    def _log(self, split: str, module: LightningModule) -> None:
        values = {f"{split}/{name}": value for name, value in self.stored.compute().items()}
        for name, sums in self.extra.items():
            total = torch.stack(sums).sum() / len(self.stored.rows()[1])
            values[f"{split}/top1_{name}"] = total
        module.log_dict(values, sync_dist=True)
