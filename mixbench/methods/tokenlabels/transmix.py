"""TransMix as a trainable method."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

import mixbench.functional as mf
from mixbench.backbones.attention import Capture
from mixbench.config.settings import Above, setting
from mixbench.methods.base import register
from mixbench.methods.pictures.tokens import draw_attention
from mixbench.methods.tokenlabels.base import PastedBox, PastedPatchesMethod


@register("transmix")
class TransMix(PastedPatchesMethod):
    r"""CutMix labelled by area and by the class token's attention; see :func:`attention_lam`.

    Paper: Chen et al., "TransMix: Attend to Mix for Vision Transformers", CVPR 2022,
    arXiv:2111.09833. Official code: Beckschen/TransMix.
    Published: DeiT-S on ImageNet-1k, 300 epochs, 80.7 top-1; in OpenMixup's re-run 80.68, where
    DeiT's own mixup and CutMix have 79.80.
    Formula: :math:`\lambda = (1 - \rho) \lambda_A + \rho \, a M / \sum_i a_i` with the area
    :math:`\lambda_A` that is kept, the class token's attention :math:`a`, the kept patches
    :math:`M` and :math:`\rho = 0.5`.
    Deviations: none on networks with a class token. Partners are the flipped batch, as in the
    official code; ``partner: random`` is what other methods here do. ``switch_prob`` is the 0.5
    that the official code arrives at, as the 0.8 of its file is never read. Where attention has no
    mass at all the area counts, and the official code divides by zero. Without a class token
    (Swin) the mean attention that a token receives takes its place, a variant of ours.
    ``box_rule``, ``per_sample`` and ``prob`` below 1 are additions.
    Cost: 1.0, one more row of attention in the last block.
    """

    @dataclass
    class Config(PastedPatchesMethod.Config):
        """Settings of TransMix."""

        mixup_alpha: float = setting(
            0.8, "Beta parameter of mixup batches; 0: none", at_least=0, official=0.8
        )
        switch_prob: float = setting(
            0.5,
            "share of mixed batches that are pasted",
            within=(0, 1),
            official=0.5,
            only_when={"method.mixup_alpha": Above(0)},
        )
        ratio: float = setting(0.5, "weight of attention against area", within=(0, 1), official=0.5)

    picture = draw_attention

    def paste(self, x: Tensor, targets: Tensor, **decisions: Any) -> mf.Mixed:
        """Paste a box of pixels."""
        return mf.cutmix(x, targets, **decisions)

    def predict(self, mixed: mf.Mixed) -> tuple[Tensor, mf.Mixed]:
        """Logits, and labels weighed by the attention of the last block."""
        if not isinstance(mixed.aux, PastedBox):  # nothing is pasted
            return super().predict(mixed)
        x, net, pasted = mixed.x, self.net, mixed.aux
        capture = Capture({-1: "class" if net.prefix else "received"})
        h = net.forward_stages(x, capture=capture)
        grid = net.grid(x) if net.prefix else (h.shape[2], h.shape[3])
        attn = capture.attention[-1][:, net.prefix :]
        tokens = mf.pasted_tokens(pasted.box, (x.shape[2], x.shape[3]), grid)
        lam = mf.attention_lam(attn, tokens, pasted.area, ratio=self.config.ratio)
        return net.head(h), self.relabel(mixed, lam, attn.unflatten(1, grid))
