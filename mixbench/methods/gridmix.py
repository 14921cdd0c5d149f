"""GridMix as a trainable method."""

from dataclasses import dataclass

import mixbench.functional as mf
from mixbench.config.settings import setting
from mixbench.methods.base import register
from mixbench.methods.image_mix import MaskMix


@register("gridmix")
class GridMix(MaskMix):
    r"""Paste through the holes of a grid; see :func:`mixbench.functional.gridmix`.

    Paper: Baek et al., "GridMix: Strong regularization through local context mapping", Pattern
    Recognition 109, 2021. No code of the authors could be read; the formulas and ranges are those
    of Westlake-AI/openmixup, which agrees with IlyaDobrynin/GridMixup.
    Formula: :math:`x = M \odot x_1 + (1 - M) \odot x_2` with :math:`M = 0` in the holes of a grid,
    and :math:`y = \bar M y_1 + (1 - \bar M) y_2` with the mean :math:`\bar M` of the mask.
    Deviations: a grid that is longer than the image is cut to it, and a cell has two pixels or
    more; in the public code such a grid appears at the far side of the image, or it fails, and
    ``official`` keeps the former. ``per_sample``, ``partner`` and ``prob`` are additions. The share
    of the image that stays is mostly above ``lam``, as there are no holes outside of the grid.
    Cost: 1.0, one more read of the batch.
    """

    @dataclass
    class Config(MaskMix.Config):
        """Settings of GridMix."""

        alpha: float = setting(
            1.0,
            "Beta(alpha, alpha) of the share of a cell that stays",
            above=0,
            official="1.0 in OpenMixup",
        )
        holes: list[int] = setting(
            [2, 6],
            "fewest and most cells from left to right",
            at_least=1,
            ends=True,
            official="[2, 6] in OpenMixup, 20 in GridMixup",
        )
        hole_aspect: list[float] = setting(
            [1.0, 1.0], "ends of a cell's height over its width", above=0, ends=True, official="1"
        )
        cut_area: list[float] = setting(
            [0.5, 1.0],
            "ends of the share of the image under the grid",
            above=0,
            at_most=1,
            ends=True,
            official="[0.5, 1] in OpenMixup, 1 in GridMixup",
        )
        cut_aspect: list[float] = setting(
            [0.5, 2.0],
            "ends of the grid's height over its width",
            above=0,
            ends=True,
            official="[0.5, 2] in OpenMixup, 1 in GridMixup",
        )
        official: bool = setting(
            False, "let long grids appear at the far side of the image, as public code does"
        )

        @property
        def fidelity(self) -> str:
            """Of the paper as long as no addition is used."""
            return "variant" if self.extended else "paper"

    operation = staticmethod(mf.gridmix)
