"""GuidedMixup as a trainable method."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

import mixbench.functional as mf
from mixbench.config.settings import setting
from mixbench.functional.guidedmixup import PAIRINGS
from mixbench.methods.base import register
from mixbench.methods.map_mix import MAP_LOSSES, MapMix

SPECTRAL = "spectral"


@register("guidedmixup")
class GuidedMixup(MapMix):
    r"""Mix each pixel by saliency; see :func:`mixbench.functional.guidedmixup`.

    Paper: Kang and Kim, "GuidedMixup: An Efficient Mixup Strategy Guided by Saliency Maps", AAAI
    2023, arXiv:2306.16612. Official code: 3neutronstar/GuidedMixup. ``saliency: spectral`` is
    Guided-SR, whose maps are those of the images alone, and ``loss_grad`` is Guided-AP.
    Formula: :math:`x = M \odot x_1 + (1 - M) \odot x_2` and :math:`y = \bar M y_1 + (1 - \bar M)
    y_2` with :math:`M = S_1 / (S_1 + S_2)` of blurred maps :math:`S` that sum to 1, and partners
    that are far from each other by :math:`\lVert S_1 - S_2 \rVert`, found one after the other.
    Deviations: soft cross-entropy by default; the authors' on CIFAR is ``loss: bce_softmax``. A map
    of the network leaves no trace in it; theirs is found in training mode on fine-grained data.
    Where both maps are 0 a pixel is the mean of both, and not NaN. OpenMixup mixes by random
    partners and finds the others too late to use them, as ``pairing: random`` does. ``saliency`` of
    other kinds and ``teacher_ckpt`` are additions.
    Cost: 1.0 with maps of the images, 1.7 with those of a network.
    """

    cost = 1.0

    @dataclass
    class Config(MapMix.Config):
        """Settings of GuidedMixup."""

        saliency: str = setting(
            SPECTRAL,
            "maps that decide the masks",
            one_of=(SPECTRAL, "loss_grad", "input_grad", "attention", "cam", "norm"),
            official="spectral in Guided-SR, loss_grad in Guided-AP",
        )
        prob: float = setting(
            0.5, "share of batches mixed", within=(0, 1), official="0.5, Guided-AP 0.8"
        )
        pairing: str = setting(
            "greedy",
            "rule that pairs images: by distance of their maps, or at random",
            one_of=PAIRINGS,
            official="greedy; random in OpenMixup",
        )
        part: int | None = setting(
            None,
            "rows that are paired among themselves; null: the whole batch",
            at_least=2,
            only_when={"method.pairing": ("greedy",)},
        )
        loss: str = setting(
            "ce",
            "cross-entropy, or the binary one of softmax outputs: K/2 to K times smaller gradients",
            one_of=MAP_LOSSES,
            official="bce_softmax on CIFAR",
        )

        @property
        def fidelity(self) -> str:
            """Official with the maps, the pairs and the loss of the authors."""
            theirs = self.saliency in (SPECTRAL, "loss_grad") and self.teacher_ckpt is None
            if not theirs or self.pairing != "greedy" or self.part is not None:
                return "variant"
            return "official-verified" if self.loss == "bce_softmax" else "paper"

    @classmethod
    def step_cost(cls, config: Any) -> float:
        """One more pass forward, and back to the image, for maps of a network."""
        return 1.0 if config.saliency == SPECTRAL else 1.7

    def find_saliency(self, x: Tensor, targets: Tensor) -> Tensor:
        """Maps (B, h, w) of normalised images (B, C, H, W)."""
        if self.kind == SPECTRAL:
            return mf.residual_saliency(x)
        return super().find_saliency(x, targets)

    def mix(self, x: Tensor, targets: Tensor, **decisions: Any) -> mf.Mixed:
        """Mix the batch, or with probability ``1 - prob`` leave it; ``saliency`` may be given."""
        cfg = self.config
        if not decisions and not self.switch.on(cfg.prob):
            return mf.Mixed(x, targets)
        if "saliency" not in decisions and "mask" not in decisions:
            decisions["saliency"] = self.find_pixel_saliency(x, targets)
        given = {"pairing": cfg.pairing, "part": cfg.part, "generator": self.generator}
        return mf.guidedmixup(x, targets, **given | decisions)
