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
)


class PlainProgress(Callback):
    """Logs a line per epoch, no more than one every few seconds."""

    def __init__(self) -> None:
        self._started = self._last = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._started = self._last = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say how far training is."""
        now, epoch = time.monotonic(), trainer.current_epoch + 1
        total = trainer.max_epochs or epoch
        if now - self._last < INTERVAL and epoch < total:
            return
        self._last = now
        left = (now - self._started) / epoch * (total - epoch)
        loss = trainer.callback_metrics.get("train/loss_epoch")
        shown = "" if loss is None else f"  loss {float(loss):.3f}"
        log.info("epoch %d/%d%s  %.0f s left", epoch, total, shown, left)


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
        ".*Checkpoint directory.*exists and is not empty.*",
        ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*",
        ".*The `anonymous` setting has no effect.*",
    ):
        warnings.filterwarnings("ignore", pattern)
