"""A control for methods that train on clean and mixed images in one step."""

from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from torch import Tensor

import mixbench.functional as mf
from mixbench.config.settings import setting
from mixbench.methods.base import MIXES_LABELS, Method, register
from mixbench.methods.pictures.passes import draw_passes

CLEAN, MIX = "clean", "mix"


class CleanBatch(NamedTuple):
    """Record of a step: the images (B, C, H, W) before mixing."""

    x: Tensor


@register("mixup2")
class Mixup2(Method):
    r"""Sum the cross-entropies of a clean batch and of its Input Mixup.

    Paper: none; the control of AutoMix and SAMix, with as many passes of the network as they make,
    as many cross-entropies, and with ``optim.ema`` an average of the weights too.
    Formula: :math:`\mathrm{CE}(f(x), y) + \mathrm{CE}(f(x'), y')` with :math:`x'` and :math:`y'` as
    ``mixup`` makes them.
    Cost: 2.0, two passes.
    """

    @dataclass
    class Config(Method.Config):
        """Settings of the control."""

        alpha: float = setting(2.0, "Beta(alpha, alpha) of the weight, as in SAMix", above=0)

        @property
        def fidelity(self) -> str:
            """Not from a paper."""
            return "variant"

    tasks = MIXES_LABELS
    cost = 2.0

    def mix(self, x: Tensor, targets: Tensor, **decisions: Any) -> mf.Mixed:
        """Mix the batch and keep the clean one."""
        mixed = mf.mixup(x, targets, alpha=self.config.alpha, generator=self.generator, **decisions)
        return mixed._replace(targets={CLEAN: targets, MIX: mixed.targets}, aux=CleanBatch(x))

    def predict(self, mixed: mf.Mixed) -> tuple[Any, mf.Mixed]:
        """Logits of both, in two passes, as each has statistics of its own."""
        return {CLEAN: self.net(mixed.aux.x), MIX: self.net(mixed.x)}, mixed

    def pixel_weights(self, x: Tensor, mixed: mf.Mixed) -> tuple[Tensor, Tensor]:
        """The weight of the image, the same for every pixel."""
        return mf.even_shares(cast(Tensor, mixed.lam))

    picture = draw_passes
