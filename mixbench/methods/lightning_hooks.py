"""Lightning's side of a method: optimiser, schedule, checkpoint, evaluation step and curves.

:class:`mixbench.methods.base.Method` adds what methods change and the template of a step.
"""

from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

import mixbench.functional as mf
from mixbench.config.schema import DataInfo, RunConfig
from mixbench.data.augment.batches import to_float
from mixbench.data.images import Batch
from mixbench.methods.epoch_loss import EpochLoss
from mixbench.nn.optim import build_optimizer, schedule
from mixbench.tasks.base import find_task


class LightningHooks(LightningModule):
    """Base of :class:`mixbench.methods.base.Method`: what Lightning calls beside the training step.

    Args:
        info: Facts of the data.
        run: The run's settings.
        total_steps: Optimiser steps of the whole run.
        rank: This process among those that train together.
    """

    def __init__(self, info: DataInfo, run: RunConfig, total_steps: int, rank: int) -> None:
        super().__init__()
        self.info, self.run = info, run
        self.task = find_task(run.task, info.task)
        self.step, self.total_steps, self.rank = 0, total_steps, rank
        self.epoch_loss = EpochLoss()

    def on_train_epoch_end(self) -> None:
        """Report the mean loss of the epoch, the only value that every step adds to."""
        loss = self.epoch_loss.mean()
        if self.trainer.world_size > 1:
            loss = self.trainer.strategy.reduce(loss, reduce_op="mean")
        self.log("train/loss_epoch", loss, prog_bar=True, logger=False)
        self.report({"loss_epoch": loss})
        self.epoch_loss.restart()

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Logits of clean images, in float32 whatever the training precision."""
        del batch_idx
        method: Any = self
        autocast = torch.autocast(self.device.type, enabled=False)
        with autocast, torch.compiler.set_stance("force_eager"):
            x = to_float(batch.images)
            extra = {key: value.float() for key, value in method.extra_logits(x).items()}
            logits = self(x).float()
        return {"logits": logits, "y": batch.labels, "ids": batch.ids, "extra": extra}

    test_step = validation_step

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, count it, and let the method follow, before any callback can save the state."""
        super().optimizer_step(*args, **kwargs)
        self.step += 1
        cast(Any, self).after_step()

    def configure_optimizers(self) -> Any:
        """One optimiser and one schedule, with a factor for each parameter group."""
        return self.optimizer_of(cast(Any, self).param_groups())

    def optimizer_of(self, groups: list[dict[str, Any]]) -> dict[str, Any]:
        """Optimiser and schedule of the recipe over some parameter groups, as Lightning takes them.

        Args:
            groups: The groups; ``min_lr`` is taken out of them.

        Returns:
            Both by name.
        """
        cfg, peak = self.run.optim, self.run.lr
        factors = [
            schedule(
                cfg,
                group.get("lr", peak),
                group.pop("min_lr", cfg.min_lr),
                self.total_steps,
                self.run.epochs,
            )
            for group in groups
        ]
        optimizer = build_optimizer(groups, cfg, peak)
        scheduler = LambdaLR(optimizer, factors)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the clock that the hooks read, and the losses of an epoch that is not over."""
        checkpoint["mixbench_step"] = self.step
        checkpoint["mixbench_watch"] = self.epoch_loss.state(self.trainer.world_size)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Set both again."""
        self.step = checkpoint["mixbench_step"]
        self.epoch_loss.load(checkpoint["mixbench_watch"], self.rank)

    def follow_loss(
        self,
        loss: Tensor,
        terms: Any,
        logits: Any,
        mixed: mf.Mixed,
        batch_idx: int,
        rows: int,
    ) -> None:
        """Take the loss of a micro-batch into the epoch's, and report it on steps that are logged.

        Args:
            loss: Scalar.
            terms: The loss, or its weighted terms by name.
            logits: What ``predict`` returned.
            mixed: The batch that it is of.
            batch_idx: Micro-batches of the epoch before this one.
            rows: Images of the batch; those that a method has appended are left out of scores.
        """
        position = self.current_epoch * int(self.trainer.num_training_batches) + batch_idx
        self.epoch_loss.add(loss, position)
        every = self.run.trainer.log_every * self.run.optim.accumulate
        if not self.loggers or position % every:
            return
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        values = {"loss": loss, **cast(Any, self).diagnostics(mixed)}
        values["lr"] = torch.full((), rate, device=loss.device)  # filled there, not copied
        if isinstance(terms, dict):
            values |= {f"loss_{key}": term for key, term in terms.items()}
        if isinstance(logits, Tensor):
            values |= self.task.training_scores(logits[:rows], mixed.targets[:rows])
        self.report(values, self.step)

    def report(
        self, values: dict[str, Tensor], step: int | None = None, split: str = "train"
    ) -> None:
        """Send scalars to the loggers at once; ``self.log`` would repeat them on later steps.

        Args:
            values: Scalars by bare name.
            step: Optimiser step that they belong to, from 0; the last one done if None.
            split: ``train``, ``val`` or ``test``.
        """
        if not self.loggers:
            return
        numbers = torch.stack([value.detach().float() for value in values.values()]).tolist()
        figures = {f"{split}/{key}": number for key, number in zip(values, numbers, strict=True)}
        place = max(0, self.step - 1) if step is None else step
        figures["epoch"] = place * self.run.epochs // max(1, self.total_steps)
        for logger in self.loggers:
            logger.log_metrics(figures, step=place)
