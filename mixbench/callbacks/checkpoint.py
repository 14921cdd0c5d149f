"""Checkpoints that are whole or not there, and hold plain types only."""

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer

from mixbench.results.files import write_bytes

LAST, BEST = "last.ckpt", "best.ckpt"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target and renames; Lightning's own way can leave half a file."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Replace the file at ``path`` by a complete one."""
        del storage_options
        write_bytes(Path(path), lambda file: torch.save(checkpoint, file))


class KeepCheckpoints(Callback):
    """Saves the last epoch, and the best of the hold-out where there is one.

    Args:
        folder: Folder of the run.
        facts: Plain values that every checkpoint carries, enough to build the network again.
        monitor: Score to select by, larger is better; None keeps the last epoch only.
    """

    def __init__(self, folder: Path, facts: dict[str, Any], monitor: str | None = None) -> None:
        self.folder, self.facts, self.monitor = folder, facts, monitor
        self.best, self.best_epoch = float("-inf"), -1

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the facts."""
        checkpoint["mixbench"] = self.facts

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the weights if they beat all earlier ones."""
        if self.monitor is None or trainer.sanity_checking:
            return
        score = float(trainer.callback_metrics[self.monitor])
        if score > self.best:
            self.best, self.best_epoch = score, trainer.current_epoch
            trainer.save_checkpoint(self.folder / BEST, weights_only=False)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the last weights."""
        trainer.save_checkpoint(self.folder / LAST, weights_only=False)


def load_weights(path: Path) -> dict[str, Any]:
    """Read a checkpoint without executing anything in it.

    Args:
        path: The file.

    Returns:
        Its content, on the CPU.
    """
    return torch.load(path, map_location="cpu", weights_only=True)
