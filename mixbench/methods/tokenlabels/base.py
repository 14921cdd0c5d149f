"""What TL-Align and TransMix share: pasted boxes whose label weights the network decides."""

from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

import mixbench.functional as mf
from mixbench.config.settings import setting
from mixbench.functional.cutmix import BOX_RULES
from mixbench.functional.draws import PARTNER_RULES
from mixbench.methods.base import Method
from mixbench.methods.pairing import check_even


class Pasted(NamedTuple):
    """Box (1 or B, 4) in pixels, area (B,) of the first image, and what the network said.

    ``weight`` is a value per token behind the pass, for pictures.
    """

    box: Tensor
    area: Tensor
    weight: Tensor | None = None


class Pasting(Method):
    """Base of both: pastes a box or interpolates, and leaves the label of a box to ``predict``."""

    @dataclass
    class Config(Method.Config):
        """Settings that both have."""

        alpha: float = setting(1.0, "Beta(alpha, alpha) of the kept share", above=0, official=1.0)
        mixup_alpha: float = setting(0.0, "Beta parameter of mixup batches; 0: none", at_least=0)
        switch_prob: float = setting(
            0.5, "with mixup_alpha: share of mixed batches that are pasted", within=(0, 1)
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
        """That of the settings, on networks with a class token; there is no other official code."""
        return self.config.fidelity if getattr(self.net, "prefix", 0) else "variant"

    def __init__(self, net: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(net, *args, **kwargs)
        check_even(self.config.partner, self.run)

    def paste(self, x: Tensor, targets: Tensor, **decisions: Any) -> mf.Mixed:
        """Paste a box of the partner."""
        raise NotImplementedError

    def mix(self, x: Tensor, targets: Tensor, **decisions: Any) -> mf.Mixed:
        """Paste or interpolate, as the decision ``cutmix`` says or else as drawn.

        The targets of a pasted batch stay those of its first images.
        """
        cfg, given = self.config, bool(decisions)
        use, switch = torch.rand(2, generator=self.shared_generator).tolist()
        if not given and use >= cfg.prob:
            return mf.Mixed(x, targets)
        drawn = cfg.mixup_alpha == 0 or switch < cfg.switch_prob
        options = {"per_sample": cfg.per_sample, "partner": cfg.partner, **decisions}
        options["generator"] = self.generator
        if not options.pop("cutmix", drawn):
            return mf.mixup(x, targets, alpha=cfg.mixup_alpha or 1.0, **options)
        mixed = self.paste(x, targets, alpha=cfg.alpha, box_rule=cfg.box_rule, **options)
        aux = Pasted(mixed.aux, cast(Tensor, mixed.lam))
        return mixed._replace(targets=targets, aux=aux)

    def pixel_weights(self, x: Tensor, mixed: mf.Mixed) -> tuple[Tensor, Tensor]:
        """What a box leaves and brings, or the weight of every pixel where there is none."""
        if not isinstance(mixed.aux, Pasted):
            return mf.even_shares(cast(Tensor, mixed.lam))
        return mf.box_shares(mixed.aux.box, (x.shape[2], x.shape[3]))

    def relabel(self, mixed: mf.Mixed, lam: Tensor, weight: Tensor) -> mf.Mixed:
        """The batch with weights ``lam`` (B,) of the first images, and labels to match."""
        targets = mf.mix_targets(mixed.targets, cast(Tensor, mixed.perm), lam)
        return mixed._replace(targets=targets, lam=lam, aux=mixed.aux._replace(weight=weight))

    def diagnostics(self, mixed: mf.Mixed) -> dict[str, Tensor]:
        """Also how far the weights are from the area: mean distance, and spread in the batch."""
        figures = super().diagnostics(mixed)
        if not isinstance(mixed.aux, Pasted) or mixed.lam is None:
            return figures
        off = mixed.lam - mixed.aux.area.to(mixed.lam.device)
        return figures | {"lam_shift": off.abs().mean(), "lam_spread": off.std(correction=0)}
