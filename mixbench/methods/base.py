"""What every method is: a LightningModule with a few hooks of its own.

``training_step`` is the only template: ``mix``, ``predict``, ``loss``, each a hook with a default.
The hooks never touch the trainer or the log and hand state on through ``Mixed.aux``, so that a
method can be called without a Trainer and contain others.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import LightningModule
from PIL import Image
from torch import Generator, Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Dataset

import mixbench.functional as mf
from mixbench.config.schema import DataInfo, RunConfig
from mixbench.config.settings import Settings
from mixbench.data.augment.batches import crop_flip, draw_crop_flip, draw_erasing, erase, to_float
from mixbench.data.images import Batch
from mixbench.data.sampling import GLOBAL, SAMPLE, SHARED, mix_seed, seed_torch
from mixbench.methods import register
from mixbench.methods.pictures.predicted import after_predict
from mixbench.methods.watch import LossWatch
from mixbench.nn.optim import build_optimizer, decay_groups, schedule
from mixbench.pictures.sheet import mixed_sheet
from mixbench.tasks.base import MIXES_LABELS, find_task

__all__ = ["MIXES_LABELS", "Method", "register"]


def _only_in_training(mix: Callable[..., mf.Mixed]) -> Callable[..., mf.Mixed]:
    @functools.wraps(mix)
    def guarded(self: "Method", x: Tensor, targets: Tensor, **decisions: Any) -> mf.Mixed:
        return mix(self, x, targets, **decisions) if self.training else mf.Mixed(x, targets)

    return guarded


class Method(LightningModule):
    """Base of all methods; by itself plain training.

    Args:
        net: The network to train.
        info: Facts of the data.
        config: The method's own settings; its defaults if None.
        run: The run's settings; their defaults if None.
        total_steps: Optimiser steps of the whole run.
        rank: This process among those that train together.
    """

    @dataclass
    class Config(Settings):
        """Settings of the method; each field becomes ``method.<key>``."""

        prefix = "method."

        @property
        def requires(self) -> frozenset[str]:
            """What the network must provide, of ``stages``, ``attention``, ``tokens``."""
            return frozenset()

        @property
        def fidelity(self) -> str:
            """``official-verified``, ``paper``, ``reconstruction`` or ``variant``."""
            return "paper"

        @property
        def own_dataset(self) -> bool:
            """Whether ``wrap_dataset`` makes another training set with these settings."""
            return False

    tasks = frozenset({"multiclass"})
    find_unused_parameters = False
    files: tuple[str, ...] = ()  # own keys that name files, whose content counts and not their name
    cost = 1.0  # step time relative to plain training, for estimates

    net: Any  # the nn.Module that is trained
    config: Any  # an instance of Config
    mean: Tensor
    std: Tensor

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Make ``mix`` the identity in eval mode, for every method alike."""
        super().__init_subclass__(**kwargs)
        if "mix" in cls.__dict__:
            cls.mix = _only_in_training(cls.mix)

    def __init__(
        self,
        net: nn.Module,
        info: DataInfo,
        config: Any = None,
        run: RunConfig | None = None,
        total_steps: int = 1,
        rank: int = 0,
    ) -> None:
        super().__init__()
        self.net, self.info = net, info
        self.config = self.Config() if config is None else config
        self.run = RunConfig() if run is None else run
        self.task = find_task(self.run.task, info.task)
        self.step, self.total_steps, self.rank = 0, total_steps, rank
        self.generator, self.shared_generator = Generator(), Generator()
        self.register_buffer("mean", torch.tensor(info.mean)[:, None, None])
        self.register_buffer("std", torch.tensor(info.std)[:, None, None])
        self.watch = LossWatch()

    # Hooks: what a method may change.

    def normalize(self, x: Tensor) -> Tensor:
        """Pixels (B, C, H, W) in [0, 1] to network input."""
        return (x - self.mean) / self.std

    def to_pixels(self, x: Tensor) -> Tensor:
        """Network input back to pixels (B, C, H, W), for pictures only."""
        return x * self.std + self.mean

    def picture(self, x: Tensor, targets: Tensor, mixed: mf.Mixed) -> Image.Image:
        """Draw what was made of a batch (B, C, H, W); ``mixed`` is what ``mix`` returned.

        Called without gradients and before the step, which must not notice it; who calls it puts
        buffers back. The panels and sheets of :mod:`mixbench.pictures` suit all methods.
        """
        notes = []
        if type(self).predict is not Method.predict and torch.equal(mixed.x, x):
            mixed, notes = after_predict(self, x, mixed)
        shown = mixed._replace(x=self.to_pixels(mixed.x))
        return mixed_sheet(self.to_pixels(x), targets, shown, self.info.names, notes)

    def mix(self, x: Tensor, targets: Tensor, **decisions: Any) -> mf.Mixed:
        """Mix a normalised batch (B, C, H, W) with targets (B, K); missing decisions are drawn.

        ``self.generator`` draws per rank; ``self.shared_generator`` draws what every rank must
        agree on, such as whether to mix at all.
        """
        return mf.Mixed(x, targets, **decisions)

    def predict(self, mixed: mf.Mixed) -> tuple[Any, mf.Mixed]:
        """Logits of a mixed batch, and the batch with whatever the forward pass changed of it."""
        return self.net(mixed.x), mixed

    def loss(self, logits: Any, mixed: mf.Mixed) -> Tensor | dict[str, Tensor]:
        """The loss, or its weighted terms by name."""
        criterion = self.task.criterion
        if isinstance(logits, dict):
            return {key: criterion(logits[key], mixed.targets[key]) for key in logits}
        return criterion(logits, mixed.targets)

    def diagnostics(self, mixed: mf.Mixed) -> dict[str, Tensor]:
        """Scalars worth a curve, computed only on steps that are logged."""
        return {} if mixed.lam is None else {"lam": mixed.lam.float().mean()}

    def pixel_weights(self, x: Tensor, mixed: mf.Mixed) -> tuple[Tensor, Tensor] | None:
        """What a mixed batch shows of the batch ``x`` (B, C, H, W) and of its partners.

        Two shares in [0, 1] of shape (B or 1, H or 1, W or 1), each over the pixels of the image
        that it is of; None by default, for methods that do not mix pixels.
        """
        del x, mixed
        return None

    @property
    def no_mask_reason(self) -> str:
        """Why :meth:`pixel_weights` has nothing to tell, in a few words; empty if it has."""
        return (
            "" if type(self).pixel_weights is not Method.pixel_weights else "it does not mix pixels"
        )

    @classmethod
    def tasks_with(cls, config: Any) -> frozenset[str]:
        """Tasks that it can learn with some settings."""
        del config
        return cls.tasks

    @classmethod
    def step_cost(cls, config: Any) -> float:
        """Time of a step relative to plain training, with some settings; for estimates."""
        del config
        return cls.cost

    @property
    def fidelity(self) -> str:
        """What a row of the leaderboard says of it; the network may matter."""
        return self.config.fidelity

    def param_groups(self) -> list[dict[str, Any]]:
        """Parameter groups, each with its own ``lr``, ``min_lr`` or ``weight_decay`` if needed."""
        return decay_groups(self.net, self.run.optim)

    def after_step(self) -> None:
        """Called after every optimiser step and before any callback; room for a moving average."""
        return

    def extra_logits(self, x: Tensor) -> dict[str, Tensor]:
        """Logits of other heads for pixels ``x``, scored under ``top1_<name>``."""
        del x
        return {}

    def wrap_dataset(self, train_set: Dataset[Any]) -> Dataset[Any]:
        """The training set as this method wants to see it."""
        return train_set

    # The template.

    def forward(self, x: Tensor) -> Tensor:
        """Pixels (B, C, H, W) in [0, 1] to logits (B, K); all that evaluation ever calls."""
        return self.net(self._layout(self.normalize(x)))

    def reseed(self, epoch: int, batch: int) -> None:
        """Set all generators to their place for a batch; the same numbers come after a resume."""
        key = (self.run.seed, epoch, batch)
        self.generator.manual_seed(mix_seed(SAMPLE, *key, self.rank))
        self.shared_generator.manual_seed(mix_seed(SHARED, *key))
        seed_torch(mix_seed(GLOBAL, *key, self.rank), self.device)

    def prepare(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Augment and normalise uint8 images, and turn labels into targets (B, K)."""
        data = self.run.data
        offsets, flips = draw_crop_flip(len(batch.images), data.padding, data.flip, self.generator)
        if data.pad == "mean":  # zeros after normalisation, as the authors of BC pad
            x = crop_flip(self.normalize(to_float(batch.images)), offsets, flips, data.padding)
        else:
            x = self.normalize(to_float(crop_flip(batch.images, offsets, flips, data.padding)))
        if data.erasing:
            x = erase(x, draw_erasing(len(x), data.erasing, *x.shape[2:], self.generator))
        targets = self.task.targets(batch.labels, self.info.num_classes, self.run.optim)
        return self._layout(x), targets

    def mix_batch(self, batch: Batch) -> mf.Mixed:
        """Prepare and mix; also for methods whose mix needs more of a batch than its images."""
        return self.mix(*self.prepare(batch))

    @torch.no_grad()
    def mix_for_evaluation(
        self, images: Tensor, labels: Tensor, perm: Tensor, *key: int
    ) -> tuple[Tensor, mf.Mixed]:
        """Mix images (B, C, H, W) uint8 as evaluation sees them; no layer leaves its mode.

        Decisions are drawn from ``key`` alone. Returns the normalised batch and what became of it
        and of its labels (B,) after :meth:`predict`.
        """
        for kind, generator in ((SAMPLE, self.generator), (SHARED, self.shared_generator)):
            generator.manual_seed(mix_seed(kind, *key))
        x = self._layout(self.normalize(to_float(images)))
        mixing = [module for module in self.modules() if isinstance(module, Method)]
        modes = [method.training for method in mixing]
        try:
            for method in mixing:
                method.training = True
            mixed = self.mix(x, mf.one_hot(labels, self.info.num_classes), perm=perm)
            return x, self.predict(mixed)[1]
        finally:
            for method, mode in zip(mixing, modes, strict=True):
                method.training = mode

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One micro-batch: prepare, mix, predict, loss."""
        self.reseed(self.current_epoch, batch_idx)
        mixed = self.mix_batch(batch)
        logits, mixed = self.predict(mixed)
        terms = self.loss(logits, mixed)
        loss: Any = sum(terms.values()) if isinstance(terms, dict) else terms
        position = self.current_epoch * int(self.trainer.num_training_batches) + batch_idx
        self.watch.add(loss, position)
        every = self.run.trainer.log_every * self.run.optim.accumulate
        if self.loggers and position % every == 0:
            self._log(loss, terms, logits, mixed)
        return loss

    def _log(self, loss: Tensor, terms: Any, logits: Any, mixed: mf.Mixed) -> None:
        values = {"loss": loss, **self.diagnostics(mixed)}
        if isinstance(terms, dict):
            values |= {f"loss_{key}": term for key, term in terms.items()}
        if isinstance(logits, Tensor):
            values |= self.task.training_scores(logits, mixed.targets)
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

    def on_train_epoch_end(self) -> None:
        """Report the mean loss of the epoch, the only value that every step adds to."""
        loss = self.watch.mean()
        if self.trainer.world_size > 1:
            loss = self.trainer.strategy.reduce(loss, reduce_op="mean")
        self.log("train/loss_epoch", loss, prog_bar=True, logger=False)
        self.report({"loss_epoch": loss})
        self.watch.restart()

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Logits of clean images, in float32 whatever the training precision."""
        del batch_idx
        autocast = torch.autocast(self.device.type, enabled=False)
        with autocast, torch.compiler.set_stance("force_eager"):
            x = to_float(batch.images)
            extra = {key: value.float() for key, value in self.extra_logits(x).items()}
            logits = self(x).float()
        return {"logits": logits, "y": batch.labels, "ids": batch.ids, "extra": extra}

    test_step = validation_step

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, count it, and let the method follow, before any callback can save the state."""
        super().optimizer_step(*args, **kwargs)
        self.step += 1
        self.after_step()

    def configure_optimizers(self) -> Any:
        """One optimiser and one schedule, with a factor for each parameter group."""
        cfg, peak = self.run.optim, self.run.lr
        groups = self.param_groups()
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
        checkpoint["mixbench_watch"] = self.watch.state(self.trainer.world_size)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Set both again."""
        self.step = checkpoint["mixbench_step"]
        self.watch.load(checkpoint["mixbench_watch"], self.rank)

    def _layout(self, x: Tensor) -> Tensor:
        if self.run.trainer.channels_last and x.ndim == 4:
            return x.contiguous(memory_format=torch.channels_last)
        return x
