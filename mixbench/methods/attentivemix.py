"""Attentive CutMix as a trainable method."""

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor

import mixbench.functional as mf
from mixbench.config.settings import setting
from mixbench.functional.draws import PARTNER_RULES
from mixbench.methods.base import register
from mixbench.methods.map_mix import MAP_KINDS, MapMix


@register("attentivemix")
class AttentiveMix(MapMix):
    r"""Keep an image's most attended cells; see :func:`mixbench.functional.attentivemix`.

    Paper: Walawalkar et al., "Attentive CutMix: An Enhanced Data Augmentation Approach for Deep
    Learning Based Image Classification", ICASSP 2020, arXiv:2003.13048. The authors' training code
    could not be read, and the public script, xden2331/attentive_cutmix, ranks cells by the last
    channel of a map alone; the formulas are those of Westlake-AI/openmixup.
    Formula: :math:`x = M \odot x_1 + (1 - M) \odot x_2` and :math:`y = \lambda y_1 + (1 - \lambda)
    y_2` with :math:`M = 1` on the :math:`k` cells where the mean over channels of the features of
    :math:`x_1` is largest, and :math:`\lambda = k / g^2` of a grid of :math:`g \times g` cells.
    Deviations: in the paper a network that was trained on ImageNet attends; by default it is the
    one that is trained, and ``teacher_ckpt`` gives another. Which of equal cells are kept is not
    defined there; here it is the first. Where cells differ in size the label follows the pixels.
    ``top_k: 0`` is AttentiveMix+ of OpenMixup, whose share is drawn. ``saliency`` of other kinds,
    ``per_sample``, ``partner``, ``prob`` and ``loss`` are additions.
    Cost: 1.4, one more pass of the network without a gradient.
    """

    cost, prefer = 1.4, "mean"

    @dataclass
    class Config(MapMix.Config):
        """Settings of Attentive CutMix."""

        saliency: str = setting(
            "auto",
            "maps that rank the cells; auto: mean of a feature map, attention of a transformer",
            one_of=MAP_KINDS,
            official="mean",
        )
        top_k: int = setting(
            6,
            "cells that are kept; 0: by the weight, AttentiveMix+ of OpenMixup",
            at_least=0,
            official=6,
        )
        grid: int = setting(7, "cells along each side", at_least=1, official=7)
        alpha: float = setting(
            1.0,
            "with top_k=0: Beta(alpha, alpha) of the kept share",
            above=0,
            official="1.0 or 2.0 in OpenMixup's configs",
            only_when={"method.top_k": (0,)},
        )
        per_sample: bool = setting(
            False,
            "with top_k=0: one share per image",
            official="one per batch",
            only_when={"method.top_k": (0,)},
        )
        partner: str = setting(
            "random", "rule that pairs images", one_of=PARTNER_RULES, official="random"
        )

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.top_k > self.grid**2:
                raise ValueError(
                    f"method.top_k={self.top_k} exceeds the {self.grid**2} cells of "
                    f"method.grid={self.grid}"
                )

        @property
        def fidelity(self) -> str:
            """Of the paper as long as another network attends and no addition is used."""
            plain = self.partner == "random" and self.prob == 1 and self.loss == "ce"
            mean = self.saliency in ("auto", "mean") and self.teacher_ckpt is not None
            return "paper" if plain and mean and self.top_k > 0 else "variant"

    def mix(self, x: Tensor, targets: Tensor, **decisions: Any) -> mf.Mixed:
        """Mix the batch, or with probability ``1 - prob`` leave it; ``maps`` may be given."""
        cfg = self.config
        if not decisions and not self.switch.on(cfg.prob):
            return mf.Mixed(x, targets)
        maps = decisions.pop("maps", None)
        if maps is None:
            maps = F.adaptive_avg_pool2d(self.find_saliency(x, targets), cfg.grid)
        settings = {key: getattr(cfg, key) for key in ("top_k", "alpha", "per_sample", "partner")}
        return mf.attentivemix(x, targets, maps, **settings, **decisions, generator=self.generator)
