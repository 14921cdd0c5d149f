"""Progress: a bar on a terminal, a line now and then elsewhere, and no advertisements."""

import logging
import time
import warnings
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar

INTERVAL = 5.0  # seconds between lines
log = logging.getLogger("mixbench")

_NOISE = (
    "Tip:",
    "GPU available",
    "TPU available",
    "HPU available",
    "Trainer.fit` stopped",
    "Trainer already configured",
    "LOCAL_RANK",
    "Restoring states from",
    "Restored all states",
    "Loaded model weights",
    "Found current_model_state",
    "Automatic Mixed Precision",
    "Initializing distributed",
    "distributed_backend=",
)


class PlainProgress(Callback):
    """Logs a line per epoch, no more than one every few seconds."""

    def __init__(self) -> None:
        self._started = self._last = 0.0
        self._first = 0  # epochs that were done before

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._started = self._last = time.monotonic()
        self._first = trainer.current_epoch

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Log the progress of training."""
        now, epoch = time.monotonic(), trainer.current_epoch + 1
        total = trainer.max_epochs or epoch
        if now - self._last < INTERVAL and epoch < total:
            return
        self._last = now
        left = (now - self._started) / (epoch - self._first) * (total - epoch)
        loss = float(pl_module.epoch_loss.mean())
        log.info("epoch %d/%d  loss %.3f  %.0f s left", epoch, total, loss, left)


class Bar(RichProgressBar):
    """Lightning's bar without the number that it takes from a logger's version."""

    def get_metrics(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Values shown behind the bar."""
        return {k: v for k, v in super().get_metrics(*args, **kwargs).items() if k != "v_num"}


class _Quiet(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return not any(words in record.getMessage() for words in _NOISE)


def quiet_lightning() -> None:
    """Drop Lightning's tips and its notes on what this package decides on purpose."""
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch", "lightning.fabric"):
        logger = logging.getLogger(name)
        if not any(isinstance(known, _Quiet) for known in logger.filters):
            logger.addFilter(_Quiet())
    for pattern in (
        ".*does not have many workers.*",
        ".*resuming from a checkpoint that ended before the epoch ended.*",  # by our own sampler
        ".*Checkpoint directory.*exists and is not empty.*",
        ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*",
        ".*The `srun` command is available on your system but is not used.*",
        ".*The `anonymous` setting has no effect.*",
        ".*It is recommended to use `self.log.*sync_dist=True.*",  # scores are gathered before
    ):
        warnings.filterwarnings("ignore", pattern)
