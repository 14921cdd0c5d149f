"""SpliceMix-CL as a trainable method."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

import mixbench.functional as mf
from mixbench.config.settings import Above, setting
from mixbench.methods.base import register
from mixbench.methods.splicemix.base import SplicingMethod

VOC_CLASSES_COUNT = 20  # for which the authors' code lets the gradient through


class JudgedCells(NamedTuple):
    """Record of a step: decisions of the grids, and logits (N, K) of their cells."""

    spliced: mf.Spliced
    logits: Tensor


@register("splicemix_cl")
class SpliceMixCL(SplicingMethod):
    r"""SpliceMix with consistency: a cell of a grid is to be judged as its whole image is.

    Paper: Wang et al., arXiv:2311.15200. Official code: zuiran/SpliceMix. The last map of a mixed
    image is cut into its cells; each is pooled and classified, and compared with the prediction for
    the image that it shows. No parameters are added. The authors pool the maximum: net.pool=max.
    Formula: the loss of ``splicemix`` and :math:`w \, \mathrm{BCE}(p_c, p_i)` of each cell's
    prediction :math:`p_c` and that for its whole image, :math:`p_i`.
    Deviations: those of SpliceMix. The prediction for the image gets no gradient, as the paper
    draws it; the authors' code does so for any number of classes but 20, that is not for VOC, where
    cl_detach=false repeats it. ``kept_cells`` is an addition.
    Cost: 1.3, a quarter more images, and the cells.
    """

    @dataclass
    class Config(SplicingMethod.Config):
        """Settings of SpliceMix-CL."""

        cl_weight: float = setting(1.0, "weight of the consistency loss", at_least=0, official=1.0)
        cl_detach: bool = setting(
            True,
            "no gradient into the predictions for whole images",
            official="true, but false with 20 classes",
            only_when={"method.cl_weight": Above(0)},
        )
        kept_cells: bool = setting(
            False,
            "average the consistency loss over kept cells only",
            official=False,
            only_when={"method.cl_weight": Above(0)},
        )

        @property
        def requires(self) -> frozenset[str]:
            """Stages and a last map to cut."""
            return frozenset({"stages", "maps"})

        @property
        def fidelity(self) -> str:
            """Official with the authors' weight and mean."""
            plain = self.cl_weight == 1 and not self.kept_cells
            return super().fidelity if plain else "variant"

    tasks = frozenset({"multilabel"})
    cost = 1.3

    @property
    def fidelity(self) -> str:
        """Of the settings; other pooling is a variant, and the paper's gradient is not the code's.

        The code lets the gradient through for 20 classes alone.
        """
        if self.run.net.pool != "max":
            return "variant"
        as_code = self.config.cl_detach == (self.info.num_classes != VOC_CLASSES_COUNT)
        if self.config.fidelity != "official-verified" or as_code:
            return self.config.fidelity
        return "paper" if self.config.cl_detach else "variant"

    def predict(self, mixed: mf.Mixed) -> tuple[Any, mf.Mixed]:
        """Logits of all images, and those of the cells from the same maps."""
        if mixed.aux is None:
            return super().predict(mixed)
        spliced, net = mixed.aux, self.net
        h = net.forward_stages(mixed.x)
        last = net.head.norm(h[-spliced.images :])
        pooled = [net.head.pool(cells) for cells in mf.splice_cells(last, spliced)]
        cells = net.head.fc(torch.cat(pooled))
        return net.head(h), mixed._replace(aux=JudgedCells(spliced, cells))

    def loss(self, logits: Any, mixed: mf.Mixed) -> dict[str, Tensor]:
        """Binary cross-entropy of all images, and the consistency of the cells if there are any."""
        terms = {"bce": self.task.criterion(logits, mixed.targets)}
        if mixed.aux is not None:
            cfg = self.config
            terms["cl"] = cfg.cl_weight * mf.splice_consistency(
                mixed.aux.logits,
                logits,
                mixed.aux.spliced,
                detach=cfg.cl_detach,
                kept_only=cfg.kept_cells,
            )
        return terms

    def spliced(self, mixed: mf.Mixed) -> mf.Spliced | None:
        """Decisions of a batch, before ``predict`` and after it."""
        return mixed.aux.spliced if isinstance(mixed.aux, JudgedCells) else mixed.aux
