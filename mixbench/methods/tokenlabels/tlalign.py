"""TL-Align as a trainable method."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

import mixbench.functional as mf
from mixbench.backbones.attention import Capture
from mixbench.config.settings import setting
from mixbench.errors import UserError
from mixbench.functional.cutmix import BOX_RULES
from mixbench.methods.base import register
from mixbench.methods.pictures.tokens import draw_tokens
from mixbench.methods.tokenlabels.base import PastedBox, PastedPatchesMethod


@register("tlalign")
class TLAlign(PastedPatchesMethod):
    r"""Paste whole patches, and let attention carry their labels; see :func:`token_weights`.

    Paper: Xiao et al., "Token-Label Alignment for Vision Transformers", ICCV 2023,
    arXiv:2210.06455. Official code: Euphoria16/TL-Align.
    Published (ImageNet-1k, 300 epochs, top-1 without and with it, the authors' README): DeiT-T 72.2
    and 73.2, DeiT-S 79.8 and 80.6, DeiT-B 81.8 and 82.3; Swin-T 81.2 and 81.4.
    Formula: :math:`w_{l+1} = \rho w_l + (1 - \rho) A_l w_l` with the attention :math:`A_l` of layer
    :math:`l` and :math:`\rho = 0.5`, from :math:`w_0`, which is 1 in pasted patches; the class
    token's weight in the end is that of the partner's label.
    Deviations: none on networks with a class token. Partners are the flipped batch, as in the
    official code; ``partner: random`` is what other methods here do. Swin is a variant of ours, as
    no code of it was released: weights stay inside of windows, merging averages them, and the mean
    over the last tokens counts. ``mixup_alpha``, ``prob`` below 1, ``box_rule``, ``per_sample``,
    ``residual``, ``last`` and ``respect_drop_path`` are additions.
    Cost: 1.07, a second fused attention without gradient in each layer.
    """

    @dataclass
    class Config(PastedPatchesMethod.Config):
        """Settings of TL-Align."""

        mixup_alpha: float = setting(
            0.0, "Beta parameter of mixup batches, of plain labels; 0: none", at_least=0, official=0
        )
        box_rule: str = setting(
            "official",
            "even sides in patches; timm keeps odd ones",
            one_of=BOX_RULES,
            official="official",
        )
        patch: int | None = setting(
            None, "pixels of the pasted patches; null: those of the network", at_least=1
        )
        residual: float = setting(
            0.5, "share of a label that stays in each layer", within=(0, 1), official=0.5
        )
        last: int | None = setting(
            None, "only the last so many layers move labels; null: all", at_least=1
        )
        respect_drop_path: bool = setting(
            False, "labels stay where attention is dropped", official=False
        )

    cost = 1.07
    picture = draw_tokens

    def __init__(self, net: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(net, *args, **kwargs)
        self.patch = self.config.patch or net.patch
        if self.patch % net.patch:
            raise UserError(
                f"pasted patches of {self.patch} pixels are not a whole number of patches of the "
                "network",
                f"method.patch={self.patch}",
                f"use a multiple of net.patch={net.patch}, or leave it out",
            )

    def paste(self, x: Tensor, targets: Tensor, **decisions: Any) -> mf.Mixed:
        """Paste a box of whole patches."""
        return mf.token_cutmix(x, targets, patch=self.patch, **decisions)

    def predict(self, mixed: mf.Mixed) -> tuple[Tensor, mf.Mixed]:
        """Logits, and the labels that attention has moved along the way."""
        if not isinstance(mixed.aux, PastedBox):  # nothing is pasted
            return super().predict(mixed)
        cfg, x, net = self.config, mixed.x, self.net
        grid = net.grid(x)
        weight = mf.pasted_tokens(mixed.aux.box, (x.shape[2], x.shape[3]), grid)
        rule = {"residual": cfg.residual, "last": cfg.last, "respect_drop": cfg.respect_drop_path}
        capture = Capture(weight=weight.expand(len(x), -1, -1), **rule)
        logits = net.head(net.forward_stages(x, capture=capture))
        seen: Any = capture.weight
        pooled = seen[:, 0] if net.prefix else seen.flatten(1).mean(1)
        return logits, self.relabel(mixed, 1 - pooled, seen)
