"""The base of methods that are one operation on the images of a batch."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor

import mixbench.functional as mf
from mixbench.config.settings import setting
from mixbench.functional.draws import PARTNER_RULES
from mixbench.methods.base import MIXES_LABELS, Method
from mixbench.methods.pictures.pixelmasks import draw_pixel_masks

PROB = "prob"  # the one setting that is not the operation's


class ImageMix(Method):
    """Mix a batch by ``operation``, whose arguments are the settings of the method but ``prob``."""

    operation: Callable[..., mf.Mixed]
    tasks = MIXES_LABELS

    def mix(self, x: Tensor, targets: Tensor, **decisions: Any) -> mf.Mixed:
        """Mix the batch, or with probability ``1 - prob`` leave it."""
        given = {item.name: getattr(self.config, item.name) for item in fields(self.config)}
        if not decisions and not self.switch.on(given[PROB]):
            return mf.Mixed(x, targets)
        del given[PROB]
        return self.operation(x, targets, **given, **decisions, generator=self.generator)


class MaskMix(ImageMix):
    """Mix by a mask over the pixels, which the operation returns in ``aux``."""

    @dataclass
    class Config(Method.Config):
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
