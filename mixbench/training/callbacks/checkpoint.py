"""Checkpoints that are whole or not there, hold plain types only, and allow a bit-exact resume.

They are taken between optimiser steps, so that no half-summed gradient is lost. Position, seed and
weights are all that a run depends on: every random draw is keyed by its position.
"""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from mixbench.distributed.process_group import ProcessGroup
from mixbench.distributed.signals import Stopped, StopSignals
from mixbench.errors import RunFailedError
from mixbench.files import write_bytes
from mixbench.methods.base import Method
from mixbench.records.checkpoints import BEST, FORMAT, LAST, PREVIOUS, read_checkpoint
from mixbench.training.callbacks.curves import CurveLogger

GO_ON, STOP, DIVERGED = range(3)  # votes; the largest of all processes counts
log = logging.getLogger("mixbench")


class Diverged(Exception):  # noqa: N818 - the run's result, not an error of the program
    """The loss stopped being finite.

    Args:
        epoch: Epoch of the first such batch of this process, if it was here.
        batch: Its place in the epoch.
    """

    def __init__(self, epoch: int | None = None, batch: int | None = None) -> None:
        place = "on another process" if epoch is None else f"in epoch {epoch + 1}, batch {batch}"
        super().__init__(f"the loss is not finite, first {place}")
        self.epoch, self.batch = epoch, batch


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target and renames; Lightning's own way can leave half a file.

    Args:
        required: Raise when a checkpoint cannot be written; else warn once and go on.
        loaded: A checkpoint that is in memory already, by its path.
    """

    def __init__(
        self, required: bool = True, loaded: dict[Path, dict[str, Any]] | None = None
    ) -> None:
        self.required, self.loaded, self.warned = required, loaded or {}, False

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Replace the file at ``path`` by a complete one."""
        del storage_options
        path = Path(path)
        try:
            write_bytes(path, lambda file: torch.save(checkpoint, file), _keep_previous)
        except (OSError, RuntimeError) as error:  # torch.save makes a RuntimeError of a full disk
            what = f"{path.name} cannot be written: {_reason(error)}"
            todo = "free some space and give the same command again; the last checkpoint stands"
            if self.required:
                raise RunFailedError(what, str(path), todo) from error
            if not self.warned:
                log.warning("%s; training goes on, as trainer.ckpt_required=false", what)
                self.warned = True

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return the checkpoint that was read and checked before."""
        del args, kwargs
        known = self.loaded.pop(Path(path), None)
        return read_checkpoint(Path(path)) if known is None else known


def _keep_previous(path: Path) -> None:
    """Give the file that is about to be replaced a second name."""
    if path.name == LAST and path.exists():
        previous = path.with_name(PREVIOUS)
        previous.unlink(missing_ok=True)
        try:
            os.link(path, previous)
        except OSError:  # no hard links on this file system
            return


def _reason(error: BaseException) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return str(error).splitlines()[0]


class KeepCheckpoints(Checkpoint):
    """Saves every epoch and every so many steps, and ends training where it must end.

    Training ends at a whole step, the same on all processes: after a signal once a checkpoint is
    written, and when the loss is not finite, before one is. The loss is looked at every
    ``trainer.log_every`` steps and before each checkpoint.

    Args:
        folder: Folder of the run.
        facts: Plain values that every checkpoint carries, enough to build the network again.
        signals: What was asked from outside.
        group: The processes that train together.
        curves: The table of curves, which a resumed run goes on with.
        monitor: Score to select by, larger is better; None keeps the last epoch only.
        every: Steps between checkpoints inside an epoch; None saves at its end only.
        saved: Called after each checkpoint, with the epochs and steps done.
    """

    def __init__(
        self,
        folder: Path,
        facts: dict[str, Any],
        signals: StopSignals,
        group: ProcessGroup,
        curves: CurveLogger,
        monitor: str | None = None,
        every: int | None = None,
        saved: Callable[[int, int], None] = lambda epoch, step: None,
    ) -> None:
        self.folder, self.facts, self.monitor = folder, facts, monitor
        self.signals, self.group, self.curves = signals, group, curves
        self.every, self.saved = every, saved
        self.best, self.best_epoch = float("-inf"), -1
        self._step = -1  # last step that was seen
        self._place = (0, 0)  # epoch and batch with which a resumed run begins

    def state_dict(self) -> dict[str, Any]:
        """The best score so far."""
        return {"best": self.best, "best_epoch": self.best_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best score."""
        self.best, self.best_epoch = state_dict["best"], state_dict["best_epoch"]

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the facts of the run, and the epoch and batch with which a resumed run begins."""
        epoch, batch = self._place
        place = {"epoch": epoch, "batch": batch, "curves": self.curves.last_row()}
        checkpoint["mixbench"] = self.facts | {"format": FORMAT} | place

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Note the step with which training begins."""
        self._step = pl_module.step

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let a signal wait for the end of a step from here on."""
        self.signals.install()  # Lightning has set a handler of its own
        self.signals.wait_for_step = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save when a checkpoint is due, and check whether training must end."""
        if pl_module.step == self._step:
            return  # inside an accumulation window
        self._step = pl_module.step
        if batch_idx + 1 == trainer.num_training_batches:
            return  # the end of the epoch follows
        due = self.every is not None and self._step % self.every == 0
        look = self._step % pl_module.run.trainer.log_every == 0
        verdict = self.group.all_reduce_max_later(self._vote(pl_module, look))
        if due or verdict != GO_ON:
            self._end_or_save(trainer, pl_module, trainer.current_epoch, batch_idx + 1)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the weights if they beat all earlier ones."""
        if self.monitor is None or trainer.sanity_checking:
            return
        score = float(trainer.callback_metrics[self.monitor])
        if score > self.best:
            self.best, self.best_epoch = score, trainer.current_epoch
            self._place = (trainer.current_epoch + 1, 0)
            trainer.save_checkpoint(self.folder / BEST, weights_only=False)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Save, after every other callback and the method itself have ended the epoch."""
        self._end_or_save(trainer, pl_module, trainer.current_epoch + 1, 0)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install the handlers of signals again, as Lightning has replaced them."""
        self.signals.install()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let a signal interrupt at once from here on: all of training is saved."""
        self.signals.wait_for_step = False
        if self.signals.received is not None:
            raise Stopped

    def _vote(self, method: Method, look: bool) -> int:
        """The verdict of this process; looking at the loss makes the device catch up."""
        if look and method.epoch_loss.first_bad() is not None:
            return DIVERGED
        return GO_ON if self.signals.received is None else STOP

    def _end_or_save(self, trainer: Trainer, method: Method, epoch: int, batch: int) -> None:
        verdict = self.group.all_reduce_max(self._vote(method, look=True))
        if verdict == DIVERGED:
            position = method.epoch_loss.first_bad()
            if position is None:
                raise Diverged
            raise Diverged(*divmod(position, int(trainer.num_training_batches)))
        self._save(trainer, method, epoch, batch)
        if verdict == STOP:
            raise Stopped

    def _save(self, trainer: Trainer, method: Method, epoch: int, batch: int) -> None:
        self._place = (epoch, batch)
        if self.group.is_main:
            self.curves.save()  # whole up to here, as what follows may be repeated
        trainer.save_checkpoint(self.folder / LAST, weights_only=False)
        self.saved(epoch, method.step)
