"""Progress: a bar on a terminal, a line now and then elsewhere, and no advertisements."""

import contextlib
import logging
import math
import time
import warnings
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bars

from mixbench.errors import time_text
from mixbench.records.progress import Progress, remove_progress, write_progress

INTERVAL = 5.0  # seconds between lines, and between notes of a place within an epoch
EPOCH_INTERVAL = 1.0  # seconds between notes of the ends of epochs
REFRESH = 0.1  # seconds between movements of a bar
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


class Pace(Callback):
    """Time that is left of training, by its speed since it began or went on."""

    def __init__(self) -> None:
        self._started: float | None = None
        self._first = 0.0  # epochs that were done before

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start the clock with the first batch."""
        if self._started is None:
            self._started, self._first = time.monotonic(), epochs_done(trainer, batch_idx)

    @property
    def elapsed(self) -> float:
        """Seconds since the first batch."""
        return 0.0 if self._started is None else time.monotonic() - self._started

    def left(self, done: float, total: int) -> float | None:
        """Seconds that are left.

        Args:
            done: Epochs that are done, the part of the present one included.
            total: Epochs of the whole run.

        Returns:
            The seconds, or None where nothing was done yet.
        """
        if self._started is None or done <= self._first:
            return None
        return self.elapsed / (done - self._first) * (total - done)


def epochs_done(trainer: Trainer, batches: int) -> float:
    """Epochs that are done after some batches of the present one."""
    return trainer.current_epoch + batches / max(1.0, float(trainer.num_training_batches))


def latest_score(trainer: Trainer, module: Any) -> tuple[str, float]:
    """The score of an epoch at its end by its name: of the hold-out, else the loss."""
    monitor = module.task.monitor
    found = trainer.callback_metrics.get(f"val/{monitor}")
    return ("loss", float(module.epoch_loss.mean())) if found is None else (monitor, float(found))


class WriteProgress(Pace):
    """Keeps ``progress.json`` while the run is at work, from values that exist already.

    Args:
        folder: Folder of the run.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self._written = 0.0
        self._score: tuple[str, float] = ("", math.nan)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that training begins."""
        self._write(trainer, "training", trainer.current_epoch)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note the place within a long epoch."""
        if time.monotonic() - self._written > INTERVAL:
            self._write(trainer, "training", epochs_done(trainer, batch_idx + 1))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Note the end of an epoch and its score."""
        done = trainer.current_epoch + 1
        if time.monotonic() - self._written > EPOCH_INTERVAL or done == trainer.max_epochs:
            self._score = latest_score(trainer, pl_module)
            self._write(trainer, "training", done)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that training is over."""
        self._write(trainer, "test")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that the test is over."""
        self._write(trainer, "suites")

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Leave nothing behind."""
        self._remove(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave nothing behind after the test."""
        if stage == "test":
            self._remove(trainer)

    def _write(self, trainer: Trainer, phase: str, done: float | None = None) -> None:
        if not trainer.is_global_zero:
            return
        self._written, total = time.monotonic(), trainer.max_epochs or 1
        left = 0.0 if done is None else self.left(done, total)
        epoch = total if done is None else min(int(done) + 1, total)
        with contextlib.suppress(OSError):  # a full disk costs what others see, not the run
            write_progress(self.folder, Progress(phase, epoch, total, left, *self._score))

    def _remove(self, trainer: Trainer) -> None:
        if trainer.is_global_zero:
            remove_progress(self.folder)


class PlainProgress(Pace):
    """Logs a line per epoch, no more than one every few seconds."""

    def __init__(self) -> None:
        super().__init__()
        self._last = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to wait for the first line."""
        self._last = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Log the progress of training."""
        now, epoch = time.monotonic(), trainer.current_epoch + 1
        total = trainer.max_epochs or epoch
        if now - self._last < INTERVAL and epoch < total:
            return
        self._last = now
        name, value = latest_score(trainer, pl_module)
        left = time_text(self.left(epoch, total) or 0.0)
        log.info("epoch %d/%d  %s %.3f  %s left", epoch, total, name, value, left)


class Bar(Pace, ProgressBar):
    """A bar of the whole training, with epochs from 1 and the time that is left, and of a test."""

    def __init__(self) -> None:
        Pace.__init__(self)
        ProgressBar.__init__(self)
        self._bars: Bars | None = None
        self._shown, self._score = 0.0, ""
        self._enabled = True

    def disable(self) -> None:
        """Show nothing."""
        self._enabled = False

    def enable(self) -> None:
        """Show bars again."""
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the bar of training."""
        self._open(trainer.max_epochs or 1)
        self._show_training(trainer, trainer.current_epoch)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar."""
        if time.monotonic() - self._shown > REFRESH:
            self._show_training(trainer, epochs_done(trainer, batch_idx + 1))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Show the score of the epoch."""
        name, value = latest_score(trainer, pl_module)
        self._score = f"{name} {value:.3f}  "
        self._show_training(trainer, trainer.current_epoch + 1)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say how long it took, and leave the bar as it is."""
        total = trainer.max_epochs or 1
        self._show(total, f"epoch {total}/{total}", f"{self._score}{time_text(self.elapsed)}")
        self._close()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the bar of a test."""
        self._open(sum(map(int, trainer.num_test_batches)), transient=True)
        self._show(0, "test", "")

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Move the bar."""
        if time.monotonic() - self._shown > REFRESH:
            self._show(batch_idx + 1, "test", "")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove the bar."""
        self._close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Give the terminal back."""
        self._close()

    def _show_training(self, trainer: Trainer, done: float) -> None:
        total = trainer.max_epochs or 1
        left = self.left(done, total)
        told = "" if left is None else f"{time_text(left)} left"
        self._show(done, f"epoch {min(int(done) + 1, total)}/{total}", f"{self._score}{told}")

    def _open(self, total: int, *, transient: bool = False) -> None:
        self._close()
        if not self._enabled:
            return
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[behind]}", markup=False),
        )
        self._bars = Bars(*columns, expand=True, transient=transient)
        self._bars.add_task("", total=total, behind="")
        self._bars.start()

    def _show(self, done: float, title: str, behind: str) -> None:
        if self._bars is not None:
            self._shown = time.monotonic()
            task = self._bars.task_ids[0]
            # At once: epochs may be shorter than the pause of the bar's own clock.
            self._bars.update(task, completed=done, description=title, behind=behind, refresh=True)

    def _close(self) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None


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
        ".*module.s. in eval mode at the start of training.*",  # a frozen teacher is
        ".*It is recommended to use `self.log.*sync_dist=True.*",  # scores are gathered before
    ):
        warnings.filterwarnings("ignore", pattern)
