"""SaliencyMix as a trainable method."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import mixbench.functional as mf
from mixbench.config.settings import setting
from mixbench.functional.draws import PARTNER_RULES
from mixbench.methods.base import MIXES_LABELS, SOME_MIXED, Method, register
from mixbench.methods.pictures.regions import OF_IMAGES, draw_salient
from mixbench.nn.saliency_kinds import chosen_kind, find_maps

FINE_GRAINED, ATTENTION = "fine_grained", "attention"
KINDS = (*OF_IMAGES, "auto", ATTENTION, "cam", "norm", "input_grad")


@register("saliencymix")
class SaliencyMix(Method):
    r"""Paste the most salient part of a partner; see :func:`mixbench.functional.saliencymix`.

    Paper: Uddin et al., "SaliencyMix: A Saliency Guided Data Augmentation Strategy for Better
    Regularization", ICLR 2021, arXiv:2006.01791. Official code: afm-shahab-uddin/SaliencyMix.
    As in the code, one partner of a batch decides the box of all; ``per_sample`` gives each image
    the box of its own partner.
    Formula: :math:`x = M \odot x_1 + (1 - M) \odot x_2` with :math:`M = 0` in a box of the area
    :math:`1 - \lambda` around the largest value of the saliency of :math:`x_2`, and
    :math:`y = \lambda y_1 + (1 - \lambda) y_2` with the :math:`\lambda` that is left when the box
    is clipped.
    Deviations: maps are those of OpenCV for the pixels, as the paper says. The code hands OpenCV
    normalised floating-point images, whose bytes it takes for pixels: such maps have nothing to do
    with the image, so that the official boxes lie at places that mean nothing, and no setting
    repeats them. ``saliency`` of other kinds, ``per_sample`` and ``partner`` are additions; those
    of a network are maps of the one that is trained.
    Cost: 1.0 with one map for a batch; ``per_sample`` maps all images, and a network one more pass.
    """

    @dataclass
    class Config(Method.Config):
        """Settings of SaliencyMix."""

        only_when = SOME_MIXED

        alpha: float = setting(1.0, "Beta(alpha, alpha) of the kept share", above=0, official=1.0)
        prob: float = setting(
            1.0, "share of batches mixed", within=(0, 1), official="CIFAR 0.5, ImageNet 1.0"
        )
        saliency: str = setting(
            FINE_GRAINED, "maps that place the boxes", one_of=KINDS, official=FINE_GRAINED
        )
        per_sample: bool = setting(False, "one box per image", official="one per batch")
        partner: str = setting(
            "random", "rule that pairs images", one_of=PARTNER_RULES, official="random"
        )

        @property
        def requires(self) -> frozenset[str]:
            """Attention for maps of it."""
            return frozenset({ATTENTION} & {self.saliency})

        @property
        def fidelity(self) -> str:
            """Of the paper as long as no addition is used."""
            plain = not self.per_sample and self.partner == "random"
            return "paper" if plain and self.saliency == FINE_GRAINED else "variant"

    tasks = MIXES_LABELS
    picture = draw_salient

    def __init__(self, net: nn.Module, *args: Any, **kwargs: Any) -> None:
        super().__init__(net, *args, **kwargs)
        self.kind = self.config.saliency
        if self.kind not in OF_IMAGES:
            self.kind = chosen_kind(self.kind, net, self.info.num_classes, "")

    def pixel_weights(self, x: Tensor, mixed: mf.Mixed) -> tuple[Tensor, Tensor]:
        """Pixels of the image outside of the box, and of its partner inside of it."""
        return mf.box_shares(mixed.aux, (x.shape[2], x.shape[3]))

    def find_saliency(self, x: Tensor, targets: Tensor) -> Tensor:
        """Maps (N, h, w) of normalised images (N, C, H, W), from 0 to 1, without a gradient."""
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            if self.kind == FINE_GRAINED:
                return mf.fine_grained_saliency(self.to_pixels(x.float()))
            maps = find_maps(self.net, self.kind, x, targets.argmax(1)).detach()
            maps = maps - maps.amin((1, 2), keepdim=True)
            most = maps.amax((1, 2), keepdim=True)
            return maps / most.where(most > 0, 1)

    def mix(self, x: Tensor, targets: Tensor, **decisions: Any) -> mf.Mixed:
        """Paste boxes into the batch, or with probability ``1 - prob`` leave it."""
        cfg = self.config
        if not decisions and not self.switch.on(cfg.prob):
            return mf.Mixed(x, targets)
        perm = decisions.pop("perm", None)
        if perm is None:
            perm = mf.draw_perm(len(x), self.generator, rule=cfg.partner)
        if "saliency" not in decisions:
            shown = perm if cfg.per_sample else perm[:1]
            decisions["saliency"] = self.find_saliency(mf.take(x, shown), mf.take(targets, shown))
        return mf.saliencymix(
            x,
            targets,
            alpha=cfg.alpha,
            per_sample=cfg.per_sample,
            perm=perm,
            generator=self.generator,
            **decisions,
        )
