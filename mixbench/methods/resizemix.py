"""ResizeMix as a trainable method."""

from dataclasses import dataclass

from torch import Tensor

import mixbench.functional as mf
from mixbench.config.settings import setting
from mixbench.functional.resizemix import RESIZE_MODES
from mixbench.methods.base import register
from mixbench.methods.image_mix import ImageMix, MaskMix


@register("resizemix")
class ResizeMix(ImageMix):
    r"""Paste the whole partner, made smaller; see :func:`mixbench.functional.resizemix`.

    Paper: Qin et al., "ResizeMix: Mixing Data with Preserved Object Information and True Labels",
    arXiv:2012.11101. The authors' code could not be read; the formulas are those of
    Westlake-AI/openmixup.
    Formula: a box of the sides :math:`t H` and :math:`t W` shows all of :math:`x_2`, resized, and
    :math:`y = \lambda y_1 + (1 - \lambda) y_2` with the :math:`\lambda` that is left beside the box
    after it is clipped.
    Deviations: a box that the border clips to nothing leaves the image as it is; public code fails
    there. Sides that differ are taken as they are, which the public code swaps. ``per_sample``,
    ``partner`` and ``prob`` are additions.
    Cost: 1.0, one more read of the batch.
    """

    @dataclass
    class Config(MaskMix.Config):
        """Settings of ResizeMix."""

        scope: list[float] = setting(
            [0.1, 0.8],
            "ends of the side of the box as a share of the image's",
            above=0,
            at_most=1,
            ends=True,
            official="[0.1, 0.8]",
        )
        alpha: float | None = setting(
            None,
            "Beta(alpha, alpha) of the side, or a uniform draw where that is out of scope; null: "
            "always uniform",
            above=0,
            official="uniform; 1.0 in OpenMixup's configs, which is the same law",
        )
        mode: str = setting(
            "nearest",
            "how the partner is resized",
            one_of=RESIZE_MODES,
            official="nearest in OpenMixup",
        )

        @property
        def fidelity(self) -> str:
            """Of the paper as long as no addition is used."""
            return "variant" if self.extended else "paper"

    operation = staticmethod(mf.resizemix)

    def pixel_weights(self, x: Tensor, mixed: mf.Mixed) -> tuple[Tensor, Tensor]:
        """Pixels of the image outside of the box, and all of its partner, as small as it is."""
        return mf.resize_shares(mixed.aux, (x.shape[2], x.shape[3]))
