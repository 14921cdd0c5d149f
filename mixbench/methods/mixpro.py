"""MixPro as a trainable method."""

from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch.nn.functional as F
from torch import Tensor

import mixbench.functional as mf
from mixbench.backbones.attention import Capture
from mixbench.config.settings import Above, Below, setting
from mixbench.errors import UserError
from mixbench.functional.draws import PARTNER_RULES
from mixbench.functional.mixpro import AREAS
from mixbench.methods.base import Method, register
from mixbench.methods.pictures.regions import draw_cells

CELLS = {"method.prob": Above(0)}  # keys of batches with cells need some
OTHERS = {"method.prob": Below(1)}


class CellStep(NamedTuple):
    """Record of a step with cells.

    ``mask`` (B, R, C) is 1 where a cell is kept, ``area`` (B,) the kept share and ``own`` (B, K)
    are the labels before mixing; ``attention`` (B, rows, columns) is known once the network has
    run.
    """

    mask: Tensor
    area: Tensor
    own: Tensor
    attention: Tensor | None = None


@register("mixpro")
class MixPro(Method):
    r"""Keep random cells, labelled by attention as far as the prediction is right.

    See :func:`mixbench.functional.mixpro` and :func:`mixbench.functional.progressive_lam`.

    Paper: Zhao et al., "MixPro: Data Augmentation with MaskMix and Progressive Attention Labeling
    for Vision Transformer", ICLR 2023, arXiv:2304.12043. Official code: fistyee/MixPro. Half of the
    batches are mixed by mixup or CutMix, half and half, as DeiT does.
    Formula: :math:`\lambda = c \lambda_{attn} + (1 - c) \lambda_{area}` with the share
    :math:`\lambda_{attn}` of the class token's attention that lies on the kept cells and the
    cosine :math:`c` of the label by area and the prediction; the loss is
    :math:`\lambda \ell(y_1) + (1 - \lambda) \ell(y_2)`.
    Deviations: no gradient passes through :math:`\lambda`; in the official code one does, through
    the cosine, so that a prediction is also rewarded for moving the label
    (``detach_progress=false`` keeps it). The kept share is that of pixels, in the official code of
    cells, some of which images cut whose side is no multiple of theirs (``area=cells``). Labels of
    the loss are hard as in the official code, and smoothed inside of the cosine alone
    (``hard_labels``). Cells are whole patches: the 56 pixels of the official files, or 64 for
    patches of 16, which the authors do not use (theirs are 14). Where attention has no mass at all
    the area counts. Without a class token (Swin) the mean attention that a token of the last layer
    receives takes its place, a variant of ours. ``per_sample`` and ``partner`` are additions; all
    batches have one rule of partners, where the authors flip those of mixup and CutMix.
    Cost: 1.0, one more row of attention in the last block.
    """

    @dataclass
    class Config(Method.Config):
        """Settings of MixPro."""

        alpha: float = setting(
            1.0,
            "Beta(alpha, alpha) of the share of cells that is kept",
            above=0,
            official=1.0,
            only_when=CELLS,
        )
        cell: int | None = setting(
            None,
            "pixels along a side of a cell; null: whole patches, a quarter of the side",
            at_least=1,
            official="56 of 224; 28 or 112 for some networks",
            only_when=CELLS,
        )
        prob: float = setting(
            0.5,
            "share of batches with cells, the others are mixup or CutMix",
            within=(0, 1),
            official=0.5,
        )
        mixup_alpha: float = setting(
            0.8,
            "Beta parameter of mixup batches; 0: none",
            at_least=0,
            official=0.8,
            only_when=OTHERS,
        )
        cutmix_alpha: float = setting(
            1.0,
            "Beta parameter of CutMix batches; 0: none",
            at_least=0,
            official=1.0,
            only_when=OTHERS,
        )
        switch_prob: float = setting(
            0.5,
            "share of CutMix among the other batches",
            within=(0, 1),
            official=0.5,
            only_when=OTHERS,
        )
        detach_progress: bool = setting(
            True, "no gradient through the weight of the labels", official=False, only_when=CELLS
        )
        area: str = setting(
            "pixels",
            "how the kept share is counted",
            one_of=AREAS,
            official="cells",
            only_when=CELLS,
        )
        hard_labels: bool = setting(
            True,
            "labels of the loss are not smoothed, only those of the cosine",
            official=True,
            only_when=CELLS,
        )
        per_sample: bool = setting(
            False, "one share per image", official="one per batch", only_when=CELLS
        )
        partner: str = setting(
            "random", "rule that pairs images", one_of=PARTNER_RULES, official="random"
        )

        @property
        def requires(self) -> frozenset[str]:
            """Attention, and stages to ask for it."""
            return frozenset({"stages", "attention"})

        @property
        def fidelity(self) -> str:
            """Of the paper, or official with what the code does, as long as nothing is added."""
            if self == MixPro.Config(cell=self.cell):
                return "paper"
            official = MixPro.Config(cell=self.cell, detach_progress=False, area="cells")
            return "official-verified" if self == official else "variant"

    picture = draw_cells

    def __init__(self, net: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(net, *args, **kwargs)
        self.check_partners(self.config.partner)
        if (cell := self.config.cell) is not None and cell % net.patch:
            raise UserError(
                f"cells of {cell} pixels are not whole patches of the network",
                f"method.cell={cell}",
                f"use a multiple of net.patch={net.patch}, or leave it out",
            )

    @property
    def fidelity(self) -> str:
        """Fidelity of the settings; without a class token a variant."""
        return self.config.fidelity if getattr(self.net, "prefix", 0) else "variant"

    def cell(self, x: Tensor) -> int:
        """Pixels along a side of a cell of images ``x`` (B, C, H, W)."""
        return self.config.cell or mf.default_cell(x.shape[2], x.shape[3], self.net.patch)

    def mix(self, x: Tensor, targets: Tensor, **decisions: Any) -> mf.Mixed:
        """Keep cells, or mix by mixup or CutMix; missing decisions are drawn.

        ``lam``, ``order``, ``mask`` and ``perm`` are those of :func:`mixbench.functional.mixpro`;
        ``cells`` says whether cells are kept. The targets are by area until ``predict``.
        """
        cfg, pair = self.config, {"partner": self.config.partner, "generator": self.generator}
        drawn, cut = self.switch.on(cfg.prob), self.switch.on(cfg.switch_prob)
        if not decisions.pop("cells", drawn or bool({"mask", "order"} & set(decisions))):
            if cfg.cutmix_alpha and (cut or not cfg.mixup_alpha):
                return mf.cutmix(x, targets, alpha=cfg.cutmix_alpha, **pair, **decisions)
            if cfg.mixup_alpha:
                return mf.mixup(x, targets, alpha=cfg.mixup_alpha, **pair, **decisions)
            return mf.Mixed(x, targets)
        settings = {"alpha": cfg.alpha, "area": cfg.area, "per_sample": cfg.per_sample}
        mixed = mf.mixpro(x, targets, cell=self.cell(x), **settings, **pair, **decisions)
        return mixed._replace(aux=CellStep(mixed.aux, cast(Tensor, mixed.lam), targets))

    def predict(self, mixed: mf.Mixed) -> tuple[Tensor, mf.Mixed]:
        """Logits, and labels weighed by attention as far as they are right."""
        step = mixed.aux
        if not isinstance(step, CellStep):
            return super().predict(mixed)
        x, net = mixed.x, self.net
        capture = Capture({-1: "class" if net.prefix else "received"})
        h = net.forward_stages(x, capture=capture)
        logits = net.head(h)
        grid = net.grid(x) if net.prefix else (h.shape[2], h.shape[3])
        attn = capture.attention[-1][:, net.prefix :]
        pixels = mf.cell_pixels(step.mask, self.cell(x), (x.shape[2], x.shape[3]))
        kept = F.adaptive_avg_pool2d(pixels, grid)
        detach = self.config.detach_progress
        lam = mf.progressive_lam(attn, kept, step.area, mixed.targets, logits, detach=detach)
        own = step.own
        if self.config.hard_labels:
            own = F.one_hot(own.argmax(1), own.shape[1]).to(own.dtype)
        targets = mf.mix_targets(own, cast(Tensor, mixed.perm), lam)
        step = step._replace(attention=attn.unflatten(1, grid))
        return logits, mixed._replace(targets=targets, lam=lam.detach(), aux=step)

    def diagnostics(self, mixed: mf.Mixed) -> dict[str, Tensor]:
        """Also the distance of the weights from the area, the mean over the batch."""
        figures, step = super().diagnostics(mixed), mixed.aux
        if not isinstance(step, CellStep) or mixed.lam is None:
            return figures
        return figures | {"lam_shift": (mixed.lam - step.area).abs().mean()}

    def pixel_weights(self, x: Tensor, mixed: mf.Mixed) -> tuple[Tensor, Tensor]:
        """Pixels of the kept cells and of the others, of a box, or the weight of every pixel."""
        size = (x.shape[2], x.shape[3])
        if isinstance(mixed.aux, CellStep):
            own = mf.cell_pixels(mixed.aux.mask, self.cell(x), size)[:, 0]
            return own, 1 - own
        if mixed.aux is not None:
            return mf.box_shares(mixed.aux, size)
        return mf.even_shares(cast(Tensor, mixed.lam))
