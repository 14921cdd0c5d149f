"""SpliceMix as a trainable method."""

from dataclasses import dataclass
from typing import Any

from mixbench.config.settings import setting
from mixbench.functional.splicemix import SPLICE_LABELS
from mixbench.methods.base import MIXES_LABELS, register
from mixbench.methods.splicemix.base import SplicingMethod


@register("splicemix")
class SpliceMix(SplicingMethod):
    r"""Append grids of shrunken images; see :func:`mixbench.functional.splicemix`.

    Paper: Wang et al., "SpliceMix: A Cross-scale and Semantic Blending Augmentation Strategy for
    Multi-label Image Classification", arXiv:2311.15200. Official code: zuiran/SpliceMix, a reduced
    version by its own word.
    Formula: :math:`y_k = \max_c y_{ck}` over the images :math:`c` that the cells of a grid show.
    Deviations: the grid is drawn by each process, which ``shared_grid`` changes; a label of VOC
    that is marked as difficult is unknown and counts for nothing, where the authors train on it as
    absent. ``antialias`` and ``labels=mean``, for images of one class each, are additions.
    Mixed images are a quarter of the images of a process and micro-batch, so that results depend on
    the number of devices at a fixed batch_size. Statistics of batch normalisation include them.
    Cost: 1.25, a quarter more images.
    """

    @dataclass
    class Config(SplicingMethod.Config):
        """Settings of SpliceMix."""

        labels: str = setting(
            "union",
            "labels of the cells: all of them, or their mean, which images of one class need",
            one_of=SPLICE_LABELS,
            official="union",
        )

        @property
        def fidelity(self) -> str:
            """Official with the labels of several classes that the paper is about."""
            return super().fidelity if self.labels == "union" else "variant"

    tasks = MIXES_LABELS

    @classmethod
    def tasks_with(cls, config: Any) -> frozenset[str]:
        """Only several labels per image with ``labels=union``, whose targets sum to more than 1."""
        return cls.tasks if config.labels == "mean" else frozenset({"multilabel"})

    @property
    def labels(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """``method.labels``."""
        return self.config.labels
