"""The base of all methods: the hooks that a method may change, and the template of a step.

``training_step`` is the only template: ``mix``, ``predict``, ``loss``, each a hook with a default.
Evaluation never calls ``mix``. The hooks never touch the trainer or the log and hand state on
through ``Mixed.aux``, a typed record of the method's family, so that a method can be called without
a Trainer and contain others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Generator, Tensor, nn
from torch.utils.data import Dataset

import mixbench.functional as mf
from mixbench.config.schema import DataConfig, DataInfo, RunConfig
from mixbench.config.settings import Above, Settings
from mixbench.data.augment.batches import (
    Augmentation,
    alternating_flips,
    crop_flip,
    draw_crop_flip,
    draw_erasing,
    erase,
    to_device_of,
    to_float,
)
from mixbench.data.images import Batch, Splits
from mixbench.data.maps import move_maps
from mixbench.data.sampling import GLOBAL, SAMPLE, SHARED, mix_seed, seed_torch
from mixbench.errors import UserError
from mixbench.functional.draws import Switch
from mixbench.methods import register
from mixbench.methods.lightning_hooks import LightningHooks
from mixbench.methods.pictures.predicted import draw_mixed
from mixbench.nn.optim import decay_groups, slower_backbone
from mixbench.pictures.sheet import Sheet
from mixbench.tasks.base import MIXES_LABELS

__all__ = ["MIXES_LABELS", "SOME_MIXED", "Method", "register"]

SOME_MIXED = {"method.prob": Above(0)}  # ``only_when`` of settings that say how a batch is mixed


class Passes(NamedTuple):
    """What the forward pass of a step leaves: the loss, its terms, logits and the batch."""

    loss: Tensor
    terms: Any
    logits: Any
    mixed: mf.Mixed


class Method(LightningHooks):
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
            """Abilities that the network must provide, of ``stages``, ``attention``, ``tokens``."""
            return frozenset()

        @property
        def fidelity(self) -> str:
            """``official-verified``, ``paper``, ``reconstruction`` or ``variant``."""
            return "paper"

        @property
        def own_dataset(self) -> bool:
            """True if ``wrap_dataset`` makes another training set with these settings."""
            return False

        def check_run(self, name: str, data: DataConfig) -> None:
            """Refuse settings of the method ``name`` that lack a file without which no run works.

            Args:
                name: Name of the method.
                data: The data of the run.

            Raises:
                UserError: With what to give.
            """
            del name, data

        @property
        def alone(self) -> str:
            """Reason why it is no member of a choice, in a few words; empty if it can be one."""
            return ""

    tasks = frozenset({"multiclass"})
    find_unused_parameters = False
    files: tuple[str, ...] = ()  # own keys that name files, whose content counts and not their name
    cost = 1.0  # step time relative to plain training, for estimates

    net: Any  # the nn.Module that is trained
    config: Any  # an instance of Config
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        net: nn.Module,
        info: DataInfo,
        config: Any = None,
        run: RunConfig | None = None,
        total_steps: int = 1,
        rank: int = 0,
    ) -> None:
        run = RunConfig() if run is None else run
        super().__init__(info, run, total_steps, rank)
        self.net = net
        self.config = self.Config() if config is None else config
        self.generator, self.shared_generator = Generator(), Generator()
        self.epoch = 0  # that of the batch at hand
        self.distillation: Any = None  # a teacher to learn from, see methods/distillation.py
        self.register_buffer("mean", torch.tensor(info.mean)[:, None, None])
        self.register_buffer("std", torch.tensor(info.std)[:, None, None])

    # Hooks: what a method may change.

    def normalize(self, x: Tensor) -> Tensor:
        """Pixels (B, C, H, W) in [0, 1] to network input."""
        return (x - self.mean) / self.std

    def to_pixels(self, x: Tensor) -> Tensor:
        """Network input back to pixels (B, C, H, W), for pictures only."""
        return x * self.std + self.mean

    def picture(self, x: Tensor, targets: Tensor, mixed: mf.Mixed) -> Sequence[Sheet] | Image.Image:
        """Sheets of what was made of a batch (B, C, H, W); ``mixed`` is what ``mix`` returned.

        Called without gradients and before the step, which must not notice it; who calls it puts
        buffers back. Sheets (:mod:`mixbench.pictures.sheet`) can be drawn in all sizes and kinds of
        files; a method may also return a finished picture.
        """
        inside = type(self).predict is not Method.predict
        return draw_mixed(self, x, targets, mixed, inside=inside)

    def mix(self, x: Tensor, targets: Tensor, **decisions: Any) -> mf.Mixed:
        """Mix a normalised batch (B, C, H, W) with targets (B, K); missing decisions are drawn.

        A method may append images and targets of its own behind those of the batch. They train the
        network; scores of training and pictures are of the B rows of the batch.
        ``self.generator`` draws per rank; ``self.shared_generator`` draws what every rank must
        agree on, such as whether to mix at all: see :attr:`switch`.
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
        """Shares of each pixel that a mixed batch shows of ``x`` (B, C, H, W) and of its partners.

        Two shares in [0, 1] of shape (B or 1, H or 1, W or 1), each over the pixels of the image
        that it is of; None by default, for methods that do not mix pixels.
        """
        del x, mixed
        return None

    def grown(self, rows: int) -> int:
        """Images that ``mix`` makes of a batch of ``rows``; more where it appends some."""
        return rows

    @property
    def no_mask_reason(self) -> str:
        """Reason why :meth:`pixel_weights` is None, in a few words; empty if it is not."""
        return (
            "" if type(self).pixel_weights is not Method.pixel_weights else "it does not mix pixels"
        )

    @property
    def test_passes(self) -> float:
        """Forward passes that the test of an image takes; for estimates."""
        return 1.0

    def tested_picture(self) -> Sequence[Sheet]:
        """Sheets of what the last test has made; none by default."""
        return []

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
        """Fidelity of the method as a row of the leaderboard shows it; the network may matter."""
        return self.config.fidelity

    def param_groups(self) -> list[dict[str, Any]]:
        """Parameter groups, each with its own ``lr``, ``min_lr`` or ``weight_decay`` if needed."""
        groups, optim = self.groups_of(self.net), self.run.optim
        if optim.backbone_lr == 1:
            return groups
        return slower_backbone(groups, self.net, optim, self.run.lr)

    def groups_of(self, module: nn.Module, **settings: float | None) -> list[dict[str, Any]]:
        """Parameter groups of a module that a method trains beside its network.

        Args:
            module: The module.
            **settings: ``lr``, ``min_lr`` or ``momentum`` of its groups; those of the recipe where
                they are None.

        Returns:
            Its trainable parameters, with and without weight decay.
        """
        given = {key: value for key, value in settings.items() if value is not None}
        return [group | given for group in decay_groups(module, self.run.optim)]

    def check_partners(self, rule: str) -> None:
        """Refuse to flip batches whose middle image would be its own partner.

        Args:
            rule: Value of ``method.partner``.

        Raises:
            UserError: If the batch of a process and a micro-batch is odd.
        """
        rows = self.run.batch_size // (self.run.optim.accumulate * self.run.world)
        if rule == "flip" and rows % 2:
            raise UserError(
                f"flip pairing needs an even batch, got B={rows}",
                "method.partner=flip",
                "use another batch_size, or method.partner=random",
            )

    def after_step(self) -> None:
        """Called after every optimiser step and before any callback; room for a moving average."""
        return

    def extra_logits(self, x: Tensor) -> dict[str, Tensor]:
        """Logits of other heads for pixels ``x``, scored under ``top1_<name>``."""
        del x
        return {}

    def use_data(self, splits: Splits) -> None:
        """Called once with the data before training, for what a method takes beside images."""
        del splits

    def wrap_dataset(self, train_set: Dataset[Any]) -> Dataset[Any]:
        """The training set as this method wants to see it."""
        return train_set

    @property
    def tested(self) -> nn.Module:
        """The network that is tested and taken away: normalised images to logits (B, K)."""
        return self.net

    # The template.

    def forward(self, x: Tensor) -> Tensor:
        """Pixels (B, C, H, W) in [0, 1] to logits (B, K); all that evaluation ever calls."""
        return self.tested(self._layout(self.normalize(x)))

    def reseed(self, epoch: int, batch: int) -> None:
        """Set all generators to their place for a batch; the same numbers come after a resume."""
        self.epoch, key = epoch, (self.run.seed, epoch, batch)
        self.generator.manual_seed(mix_seed(SAMPLE, *key, self.rank))
        self.shared_generator.manual_seed(mix_seed(SHARED, *key))
        seed_torch(mix_seed(GLOBAL, *key, self.rank), self.device)

    @property
    def switch(self) -> Switch:
        """Decisions about whole batches that every rank takes alike."""
        return Switch(self.shared_generator)

    def draw_augmentation(self, batch: Batch) -> Augmentation:
        """Draw what :meth:`prepare` does to each image."""
        data, images = self.run.data, batch.images
        offsets, flips = draw_crop_flip(len(images), data.padding, data.flip, self.generator)
        if data.alternating:
            flips = alternating_flips(batch.ids, self.run.seed, self.epoch)
        size = (images.shape[2], images.shape[3])
        erased = None
        if data.erasing:
            erased = draw_erasing(len(images), data.erasing, *size, self.generator)
        return Augmentation(offsets, flips, erased, batch.crops)

    def prepare(self, batch: Batch, drawn: Augmentation | None = None) -> tuple[Tensor, Tensor]:
        """Augment and normalise uint8 images, and turn labels into targets (B, K).

        Args:
            batch: Images and labels.
            drawn: What is done to each image; drawn if None.

        Returns:
            Network input (B, C, H, W) and targets.
        """
        drawn = self.draw_augmentation(batch) if drawn is None else drawn
        x = self.augmented(batch.images, *self.moves(batch, drawn))
        if drawn.erased is not None:
            x = self._layout(erase(x, drawn.erased))
        return x, self.task.targets(batch.labels, self.info.num_classes, self.run.optim)

    def moves(self, batch: Batch, drawn: Augmentation) -> tuple[Tensor, Tensor] | tuple[()]:
        """What :meth:`augmented` takes beside the images; nothing where they are augmented."""
        if batch.augmented:
            return ()
        offsets, flips = to_device_of(batch.images, drawn.offsets, drawn.flips)
        return offsets, flips

    @property
    def augments(self) -> bool:
        """Whether training makes its network input by :meth:`augmented`."""
        return True

    @property
    def takes_augmented(self) -> bool:
        """Whether images can come cropped and mirrored, as ``data.augment_by=epoch`` makes them.

        A method that sees the stored images, or has its own way from them to network input, needs
        them as they are. A class whose hooks leave this part to the base says so itself, for its
        own hooks and not for those of what derives from it.
        """
        for name in ("training_step", "mix_batch", "prepare", "draw_augmentation", "augmented"):
            owner = next(cls for cls in type(self).__mro__ if name in vars(cls))
            if "takes_augmented" not in vars(owner):
                return False
        return not self.config.own_dataset

    def augmented(
        self, images: Tensor, offsets: Tensor | None = None, flips: Tensor | None = None
    ) -> Tensor:
        """Crop, mirror and normalise: what ``trainer.compile_input`` puts a compiled function for.

        Args:
            images: (B, C, H, W) uint8.
            offsets: (B, 2) of :class:`Augmentation`, on the device of the images; None for images
                that are cropped and mirrored already.
            flips: (B,) of it, or None.

        Returns:
            (B, C, H, W) network input, still without erased parts.
        """
        data = self.run.data
        if offsets is None or flips is None:
            x = self.normalize(to_float(images))
        elif data.pad == "mean":  # zeros after normalisation, as the authors of BC pad
            x = crop_flip(self.normalize(to_float(images)), offsets, flips, data.padding)
        else:
            x = self.normalize(to_float(crop_flip(images, offsets, flips, data.padding)))
        return x if data.erasing else self._layout(x)

    def mix_batch(self, batch: Batch) -> mf.Mixed:
        """Prepare and mix; also for methods whose mix needs more of a batch than its images.

        Maps that a batch brings are cropped and mirrored as its images are, and are ``maps`` of
        ``mix``.
        """
        if batch.maps is None:
            return self.mix(*self.prepare(batch))
        drawn = self.draw_augmentation(batch)
        x, targets = self.prepare(batch, drawn)
        maps = move_maps(batch.maps, batch.images.shape[2:], drawn, self.run.data.padding)
        return self.mix(x, targets, maps=maps)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One micro-batch: prepare, mix, predict, loss."""
        self.reseed(self.current_epoch, batch_idx)
        loss, terms, logits, mixed = self.passes(self.mix_batch(batch))
        self.follow_loss(loss, terms, logits, mixed, batch_idx, len(batch.ids))
        return loss

    def passes_of(self, mixed: mf.Mixed) -> Passes:
        """Predict, and sum up the terms of the loss."""
        logits, mixed = self.predict(mixed)
        terms: Any = self.loss(logits, mixed)
        if self.distillation is not None:
            terms = self.distillation.terms(terms, logits, self.to_pixels(mixed.x))
        loss: Any = sum(terms.values()) if isinstance(terms, dict) else terms
        return Passes(loss, terms, logits, mixed)

    passes = passes_of  # an engine may put what replays them in its place

    @property
    def replayable(self) -> bool:
        """Whether ``predict`` and ``loss`` leave all that the host decides to ``mix``.

        They then branch on nothing but plain values of the mixed record, draw nothing on the host,
        and read neither the step nor the epoch. A method with hooks of its own says so itself.
        """
        cls = type(self)
        return cls.predict is Method.predict and cls.loss is Method.loss

    def _layout(self, x: Tensor) -> Tensor:
        if self.run.trainer.channels_last and x.ndim == 4:
            return x.contiguous(memory_format=torch.channels_last)
        return x
