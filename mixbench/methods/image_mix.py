"""The base of methods that are one operation on the images of a batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor

import mixbench.functional as mf
from mixbench.config.settings import setting
from mixbench.data.augment.batches import to_device_of
from mixbench.data.images import Batch
from mixbench.functional.draws import PARTNER_RULES
from mixbench.methods.base import MIXES_LABELS, SOME_MIXED, Method
from mixbench.methods.pictures.pixelmasks import draw_pixel_masks

PROB = "prob"  # the one setting that is not the operation's


class ImageMix(Method):
    """Mix a batch by ``operation``, whose arguments are the settings of the method but ``prob``."""

    class Config(Method.Config):
        """Settings of an operation, without effect where no batch is mixed."""

        only_when = SOME_MIXED

    operation: Callable[..., mf.Mixed]
    tasks = MIXES_LABELS
    compiled_mix: Callable[..., mf.Mixed] | None = None  # :meth:`augmented_mix`, if it is compiled

    def decide(self, rows: int, size: Sequence[int]) -> dict[str, Tensor] | None:
        """Draw the decisions of ``operation`` before it is called; None where only it can.

        Args:
            rows: Images of the batch.
            size: Their height and width.

        Returns:
            Its arguments by name, the same as it would draw from the same generator.
        """
        del rows, size

    def augmented_mix(
        self, images: Tensor, *moves: Tensor, targets: Tensor, **decisions: Tensor
    ) -> mf.Mixed:
        """Crop, mirror, normalise and mix: one function of tensors, which can be compiled whole."""
        x = self.augmented(images, *moves)
        return self.operation(x, targets, **self._settings(), **decisions)

    @property
    def mixes_whole(self) -> bool:
        """Whether :meth:`augmented_mix` does all that lies between pixels and the mixed batch.

        Erased parts come between augmentation and mixing, and a class derived from a method may do
        more in ``prepare`` or ``mix``.
        """
        cls = type(self)
        own = cls.prepare is not Method.prepare or cls.mix is not ImageMix.mix
        return not (own or self.run.data.erasing)

    @property
    def takes_augmented(self) -> bool:
        """A compiled function takes the same moves."""
        return super().takes_augmented

    def mix_batch(self, batch: Batch) -> mf.Mixed:
        """Prepare and mix, by the compiled function where there is one."""
        if self.compiled_mix is None:
            return super().mix_batch(batch)
        if not self.switch.on(self.config.prob):
            return mf.Mixed(*self.prepare(batch))
        images, drawn = batch.images, self.draw_augmentation(batch)
        decisions = self.decide(len(images), images.shape[2:]) or {}
        targets = self.task.targets(batch.labels, self.info.num_classes, self.run.optim)
        moved = to_device_of(images, *decisions.values())
        named = dict(zip(decisions, moved, strict=True))
        return self.compiled_mix(images, *self.moves(batch, drawn), targets=targets, **named)

    def mix(self, x: Tensor, targets: Tensor, **decisions: Any) -> mf.Mixed:
        """Mix the batch, or with probability ``1 - prob`` leave it."""
        if not decisions and not self.switch.on(self.config.prob):
            return mf.Mixed(x, targets)
        generator = self.generator
        return self.operation(x, targets, **self._settings(), **decisions, generator=generator)

    def _settings(self) -> dict[str, Any]:
        """Settings that are arguments of the operation."""
        names = (item.name for item in fields(self.config) if item.name != PROB)
        return {name: getattr(self.config, name) for name in names}


class MaskMix(ImageMix):
    """Mix by a mask over the pixels, which the operation returns in ``aux``."""

    @dataclass
    class Config(ImageMix.Config):
        """Settings that such methods share."""

        prob: float = setting(1.0, "share of batches mixed", within=(0, 1), official=1.0)
        per_sample: bool = setting(False, "one mask per image", official="one per batch")
        partner: str = setting(
            "random", "rule that pairs images", one_of=PARTNER_RULES, official="random"
        )

        @property
        def extended(self) -> bool:
            """Whether an addition of this package is used."""
            return self.per_sample or self.partner != "random" or self.prob != 1

    def pixel_weights(self, x: Tensor, mixed: mf.Mixed) -> tuple[Tensor, Tensor]:
        """The mask, and what it leaves to the partner."""
        del x
        own = mixed.aux[:, 0]
        return own, 1 - own

    picture = draw_pixel_masks
