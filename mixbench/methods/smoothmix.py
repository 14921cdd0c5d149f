"""SmoothMix as a trainable method."""

from dataclasses import dataclass

import mixbench.functional as mf
from mixbench.config.settings import setting
from mixbench.methods.base import register
from mixbench.methods.image_mix import MaskMix


@register("smoothmix")
class SmoothMix(MaskMix):
    r"""Blend through a window without edges; see :func:`mixbench.functional.smoothmix`.

    Paper: Lee et al., "SmoothMix: a Simple Yet Effective Data Augmentation to Train Robust
    Classifiers", CVPR Workshops 2020. The authors' code could not be read; the formulas are those
    of Westlake-AI/openmixup.
    Formula: :math:`x = (1 - G) \odot x_1 + G \odot x_2` with a Gaussian window :math:`G` of 1 at
    its centre, and :math:`y = (1 - \bar G) y_1 + \bar G y_2` with the mean :math:`\bar G` of it.
    Deviations: the label of each image weighs as much as its pixels. The public code swaps the
    weights of both labels, which ``official`` keeps. It defines square images of even sides only;
    for others the window follows the geometric mean of both sides. ``per_sample``, ``partner`` and
    ``prob`` are additions.
    Cost: 1.0, one more read of the batch.
    """

    @dataclass
    class Config(MaskMix.Config):
        """Settings of SmoothMix."""

        spread: list[float] = setting(
            [0.25, 0.5],
            "ends of the window's standard deviation as a share of the image's side",
            above=0,
            ends=True,
            official="[0.25, 0.5] in OpenMixup",
        )
        official: bool = setting(False, "swap the weights of both labels, as public code does")

        @property
        def fidelity(self) -> str:
            """Of the paper as long as no addition is used and the labels are right."""
            return "variant" if self.extended or self.official else "paper"

    operation = staticmethod(mf.smoothmix)
