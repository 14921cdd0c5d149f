"""Base of TL-Align and TransMix: pasted boxes whose label weights the network decides."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from torch import Tensor

import mixbench.functional as mf
from mixbench.config.settings import Above, setting
from mixbench.functional.cutmix import BOX_RULES
from mixbench.functional.draws import PARTNER_RULES
from mixbench.methods.base import SOME_MIXED, Method


class PastedBox(NamedTuple):
    """Record of a step with a box: ``box`` (1 or B, 4) in pixels, ``area`` (B,) of the first image.

    ``weight`` is a value per token once the network has run, for pictures.
    """

    box: Tensor
    area: Tensor
    weight: Tensor | None = None


class PastedPatchesMethod(Method, ABC):
    """Base of both: pastes a box or interpolates, and leaves the label of a box to ``predict``."""

    @dataclass
    class Config(Method.Config):
        """Settings that both have."""

        only_when = SOME_MIXED

        alpha: float = setting(1.0, "Beta(alpha, alpha) of the kept share", above=0, official=1.0)
        mixup_alpha: float = setting(0.0, "Beta parameter of mixup batches; 0: none", at_least=0)
        switch_prob: float = setting(
            0.5,
            "with mixup_alpha: share of mixed batches that are pasted",
            within=(0, 1),
            only_when={"method.mixup_alpha": Above(0)},
        )
        prob: float = setting(1.0, "share of batches mixed", within=(0, 1), official=1.0)
        per_sample: bool = setting(False, "one box per image", official="one per batch")
        partner: str = setting(
            "flip",
            "rule that pairs images; flip needs even batches",
            one_of=PARTNER_RULES,
            official="flip",
        )
        box_rule: str = setting(
            "official", "how a box is drawn and clipped", one_of=BOX_RULES, official="official"
        )

        @property
        def requires(self) -> frozenset[str]:
            """Attention, and stages to ask for it."""
            return frozenset({"stages", "attention"})

        @property
        def fidelity(self) -> str:
            """Official as long as no addition is used."""
            return "official-verified" if self == type(self)() else "variant"

    @property
    def fidelity(self) -> str:
        """Fidelity of the settings; official code exists only for networks with a class token."""
        return self.config.fidelity if getattr(self.net, "prefix", 0) else "variant"

    def __init__(self, net: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(net, *args, **kwargs)
        self.check_partners(self.config.partner)

    @abstractmethod
    def paste(self, x: Tensor, targets: Tensor, **decisions: Any) -> mf.Mixed:
        """Paste a box of the partner."""

    def mix(self, x: Tensor, targets: Tensor, **decisions: Any) -> mf.Mixed:
        """Paste or interpolate, as the decision ``cutmix`` says or else as drawn.

        The targets of a pasted batch stay those of its first images.
        """
        cfg = self.config
        used, pasted = self.switch.on(cfg.prob), self.switch.on(cfg.switch_prob)
        if not decisions and not used:
            return mf.Mixed(x, targets)
        options = {"per_sample": cfg.per_sample, "partner": cfg.partner, **decisions}
        options["generator"] = self.generator
        if not options.pop("cutmix", pasted or cfg.mixup_alpha == 0):
            return mf.mixup(x, targets, alpha=cfg.mixup_alpha or 1.0, **options)
        mixed = self.paste(x, targets, alpha=cfg.alpha, box_rule=cfg.box_rule, **options)
        aux = PastedBox(mixed.aux, cast(Tensor, mixed.lam))
        return mixed._replace(targets=targets, aux=aux)

    def pixel_weights(self, x: Tensor, mixed: mf.Mixed) -> tuple[Tensor, Tensor]:
        """Pixels that a box leaves and brings; the weight of every pixel where there is none."""
        if not isinstance(mixed.aux, PastedBox):
            return mf.even_shares(cast(Tensor, mixed.lam))
        return mf.box_shares(mixed.aux.box, (x.shape[2], x.shape[3]))

    def relabel(self, mixed: mf.Mixed, lam: Tensor, weight: Tensor) -> mf.Mixed:
        """The batch with weights ``lam`` (B,) of the first images, and labels to match."""
        targets = mf.mix_targets(mixed.targets, cast(Tensor, mixed.perm), lam)
        return mixed._replace(targets=targets, lam=lam, aux=mixed.aux._replace(weight=weight))

    def diagnostics(self, mixed: mf.Mixed) -> dict[str, Tensor]:
        """Also the distance of the weights from the area: its mean, and its spread in the batch."""
        figures = super().diagnostics(mixed)
        if not isinstance(mixed.aux, PastedBox) or mixed.lam is None:
            return figures
        off = mixed.lam - mixed.aux.area.to(mixed.lam.device)
        return figures | {"lam_shift": off.abs().mean(), "lam_spread": off.std(correction=0)}
