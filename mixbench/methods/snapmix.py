"""SnapMix as a trainable method."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

import mixbench.functional as mf
from mixbench.config.settings import setting
from mixbench.functional.draws import PARTNER_RULES
from mixbench.functional.snapmix import SAME_LABEL
from mixbench.methods.base import SOME_MIXED, Method, register
from mixbench.methods.pictures.regions import draw_snapped
from mixbench.nn.saliency_kinds import chosen_kind, find_maps

KINDS = ("cam", "attention", "auto", "norm", "input_grad", "spectral")
NEEDS = {"cam": {"stages", "maps"}, "norm": {"stages", "maps"}, "attention": {"attention"}}


@register("snapmix")
class SnapMix(Method):
    r"""Paste a part of a partner into another box, labelled by what both mean.

    See :func:`mixbench.functional.snapmix`.

    Paper: Huang, Wang and Tao, "SnapMix: Semantically Proportional Mixing for Augmenting
    Fine-grained Data", AAAI 2021, arXiv:2012.04846. Official code: Shaoli-Huang/SnapMix.
    Published (CUB-200-2011, 448 pixels, their README, best epoch on the test set): from weights
    of ImageNet ResNet-18 82.35 without and 84.29 with it, ResNet-50 85.49 and 87.75, ResNet-101
    85.62 and 88.45; from scratch ResNet-18 64.98 and 70.31, ResNet-50 66.92 and 72.17.
    Formula: :math:`\rho_1 = 1 - \sum_{A} s_1` and :math:`\rho_2 = \sum_{B} s_2` with the class
    activation maps :math:`s_i`, scaled to sum to 1, the covered box :math:`A` and the partner's box
    :math:`B`; the loss is :math:`\rho_1 \ell(y_1) + \rho_2 \ell(y_2)`, whose weights need not sum
    to 1.
    Deviations: where both images have one label it weighs :math:`\rho_1 + \rho_2`. The official
    code adds each weight to the other and then both losses, which is twice that;
    ``same_label=sum`` keeps it, as its figures were made so. Maps come from a pass in eval mode
    that leaves no trace, where the code passes each batch through the network in training mode
    twice, so that statistics of batch normalisation move twice in a step. ``saliency`` of other
    kinds, ``per_sample`` and ``partner`` are additions. The second classifier of their
    ``--midlevel`` is no part of it.
    Cost: 1.3, one forward pass without gradient; ``saliency=input_grad`` a whole step more, and
    ``spectral`` no pass.
    """

    @dataclass
    class Config(Method.Config):
        """Settings of SnapMix."""

        only_when = SOME_MIXED

        alpha: float = setting(
            5.0,
            "Beta(alpha, alpha) of the shares outside of both boxes",
            above=0,
            official="5 from weights of ImageNet, 1 from scratch",
        )
        prob: float = setting(
            1.0,
            "share of batches mixed",
            within=(0, 1),
            official="1 from weights of ImageNet, 0.5 from scratch",
        )
        same_label: str = setting(
            "once",
            "weight of a label that both images have; sum: twice that of both",
            one_of=SAME_LABEL,
            official="sum",
        )
        saliency: str = setting("cam", "maps that weigh the labels", one_of=KINDS, official="cam")
        per_sample: bool = setting(False, "two boxes per image", official="two per batch")
        partner: str = setting(
            "random", "rule that pairs images", one_of=PARTNER_RULES, official="random"
        )

        @property
        def requires(self) -> frozenset[str]:
            """What the maps are made of."""
            return frozenset(NEEDS.get(self.saliency, ()))

        @property
        def fidelity(self) -> str:
            """Of the paper, or with the doubled weight of the code, as long as nothing is added."""
            if self.per_sample or self.partner != "random" or self.saliency != "cam":
                return "variant"
            return "official-verified" if self.same_label == "sum" else "paper"

    cost = 1.3
    picture = draw_snapped

    def __init__(self, net: nn.Module, *args: Any, **kwargs: Any) -> None:
        super().__init__(net, *args, **kwargs)
        self.kind = chosen_kind(self.config.saliency, net, self.info.num_classes, "")

    @classmethod
    def step_cost(cls, config: Any) -> float:
        """The pass of the maps, which may need a gradient of the images, or none."""
        passes = {"spectral": 0.0, "input_grad": 1.0}.get(config.saliency, cls.cost - 1)
        return 1 + config.prob * passes

    def mix(self, x: Tensor, targets: Tensor, **decisions: Any) -> mf.Mixed:
        """Paste a part of each partner, or with probability ``1 - prob`` leave the batch.

        ``maps`` (B, h, w) may be given beside the decisions of :func:`mixbench.functional.snapmix`.
        """
        cfg = self.config
        if not decisions and not self.switch.on(cfg.prob):
            return mf.Mixed(x, targets)
        if (maps := decisions.pop("maps", None)) is None:
            maps = find_maps(self.net, self.kind, x, targets.argmax(1), signed=True).detach()
        return mf.snapmix(
            x,
            targets,
            maps,
            alpha=cfg.alpha,
            per_sample=cfg.per_sample,
            same_label=cfg.same_label,
            partner=cfg.partner,
            generator=self.generator,
            **decisions,
        )

    def loss(self, logits: Any, mixed: mf.Mixed) -> Tensor | dict[str, Tensor]:
        """Cross-entropy, in which every image counts as much as its two labels weigh."""
        if mixed.aux is None:
            return super().loss(logits, mixed)
        return mf.soft_cross_entropy(logits, mixed.targets * mixed.aux.weight[:, None])

    def diagnostics(self, mixed: mf.Mixed) -> dict[str, Tensor]:
        """Also the mean weight of an image in the loss."""
        figures = super().diagnostics(mixed)
        return figures if mixed.aux is None else figures | {"weight": mixed.aux.weight.mean()}

    def pixel_weights(self, x: Tensor, mixed: mf.Mixed) -> tuple[Tensor, Tensor]:
        """Pixels outside of the covered box, and those of the partner's box as small as shown."""
        return mf.snapmix_shares(mixed.aux.box, mixed.aux.source, (x.shape[2], x.shape[3]))
