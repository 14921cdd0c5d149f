"""FMix as a trainable method."""

from dataclasses import dataclass

import mixbench.functional as mf
from mixbench.config.settings import setting
from mixbench.functional.fmix import SPECTRA
from mixbench.methods.base import register
from mixbench.methods.image_mix import MaskMix


@register("fmix")
class FMix(MaskMix):
    r"""Mix with masks of low frequency; see :func:`mixbench.functional.fmix`.

    Paper: Harris et al., "FMix: Enhancing Mixed Sample Data Augmentation", arXiv:2002.12047.
    Official code: ecs-vlc/FMix.
    Formula: :math:`x = M \odot x_1 + (1 - M) \odot x_2` and :math:`y = \lambda y_1 +
    (1 - \lambda) y_2` with :math:`M = 1` at the share :math:`\lambda` of pixels where an image of
    random amplitudes that fall as :math:`1 / f^\delta` with the frequency is largest.
    Deviations: by default masks have the whole spectrum that the paper describes. The official code
    takes one axis of its draws for another, so that no mask has more than one period from left to
    right; its published figures were made so, and ``spectrum=official`` keeps it. ``per_sample``,
    ``partner`` and ``prob`` are additions.
    Cost: 1.0, one more read of the batch and one Fourier transform.
    """

    @dataclass
    class Config(MaskMix.Config):
        """Settings of FMix."""

        alpha: float = setting(1.0, "Beta(alpha, alpha) of the kept share", above=0, official=1.0)
        decay: float = setting(
            3.0, "power by which amplitudes fall with frequency", at_least=0, official=3.0
        )
        max_soft: float = setting(
            0.0,
            "half the share of pixels in the soft edge of a mask",
            within=(0, 0.5),
            official=0.0,
        )
        spectrum: str = setting(
            "full", "spectrum of the masks", one_of=SPECTRA, official="official, a slip of the code"
        )

        @property
        def fidelity(self) -> str:
            """Of the paper by default, and of the code with its spectrum."""
            if self.extended:
                return "variant"
            return "official-verified" if self.spectrum == "official" else "paper"

    operation = staticmethod(mf.fmix)
