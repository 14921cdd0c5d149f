"""Input Mixup as a trainable method."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from torch import Tensor

import mixbench.functional as mf
from mixbench.config.settings import setting
from mixbench.functional.draws import PARTNER_RULES
from mixbench.methods.base import register
from mixbench.methods.image_mix import ImageMix


@register("mixup")
class Mixup(ImageMix):
    r"""Interpolate images and labels; see :func:`mixbench.functional.mixup`.

    Paper: Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018, arXiv:1710.09412.
    Official code: facebookresearch/mixup-cifar10.
    Formula: :math:`x = \lambda x_1 + (1 - \lambda) x_2`,
    :math:`y = \lambda y_1 + (1 - \lambda) y_2` with
    :math:`\lambda \sim \mathrm{Beta}(\alpha, \alpha)`.
    Deviations: none by default. ``per_sample``, ``partner``, ``fold`` and ``prob`` are additions;
    the official schedule drops the learning rate one epoch later than its milestones say.
    Cost: 1.0, one more read of the batch.
    """

    @dataclass
    class Config(ImageMix.Config):
        """Settings of Input Mixup."""

        alpha: float = setting(
            1.0, "Beta(alpha, alpha) of the weight", above=0, official="1.0 for CIFAR"
        )
        prob: float = setting(1.0, "share of batches mixed", within=(0, 1), official=1.0)
        per_sample: bool = setting(False, "one weight per image", official="one per batch")
        partner: str = setting(
            "random", "rule that pairs images", one_of=PARTNER_RULES, official="random"
        )
        fold: bool = setting(False, "use max(lam, 1 - lam)", official=False)

        @property
        def fidelity(self) -> str:
            """Official as long as no addition is used."""
            plain = not self.per_sample and not self.fold and self.partner == "random"
            return "official-verified" if plain and self.prob == 1 else "variant"

    operation = staticmethod(mf.mixup)

    def decide(self, rows: int, size: Sequence[int]) -> dict[str, Tensor]:
        """Partners and weights."""
        cfg, generator = self.config, self.generator
        perm = mf.draw_perm(rows, generator, rule=cfg.partner)
        return {
            "perm": perm,
            "lam": mf.draw_lam(rows if cfg.per_sample else 1, cfg.alpha, generator),
        }

    def pixel_weights(self, x: Tensor, mixed: mf.Mixed) -> tuple[Tensor, Tensor]:
        """The weight of the image, the same for every pixel."""
        return mf.even_shares(cast(Tensor, mixed.lam))
