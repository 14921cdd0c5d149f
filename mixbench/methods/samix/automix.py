"""AutoMix as a trainable method."""

from dataclasses import dataclass

from mixbench.config.settings import setting
from mixbench.functional.maskmix import MASK_LOSSES
from mixbench.methods.base import register
from mixbench.methods.samix.base import LearnedMixMethod
from mixbench.methods.samix.config import SAMixConfig
from mixbench.nn.mixer import UPSAMPLING, AutoMixer


@register("automix")
class AutoMix(LearnedMixMethod):
    r"""Mix with masks that a network learns along the way; the parent of SAMix.

    Paper: Liu et al., "AutoMix: Unveiling the Power of Mixup for Stronger Classifiers", ECCV 2022,
    arXiv:2103.13027. Official code: Westlake-AI/openmixup. Masks come from
    :class:`mixbench.nn.mixer.AutoMixer`. What is tested, the controls and the deviations are those
    of SAMix, see :class:`mixbench.methods.samix.samix.SAMix`.
    Formula: :math:`x = s \odot x_1 + (1 - s) \odot x_2` with a mask :math:`s` that the mixer draws
    from :math:`\lambda` and the features of both images, and
    :math:`y = \lambda y_1 + (1 - \lambda) y_2`.
    Cost: 3.0, two passes of the network, two of the teacher, and the mixer.
    """

    @dataclass
    class Config(SAMixConfig):
        """Settings of AutoMix."""

        upsampling: str = setting(
            "nearest", "upsampling of the mask", one_of=UPSAMPLING, official="nearest"
        )
        mask_loss: str = setting("L1", "loss of the mask", one_of=MASK_LOSSES, official="L1")
        lam_concat: bool = setting(
            False,
            "give the weight to the mixer as an input",
            official="not on CIFAR and Tiny-ImageNet",
        )

    def build_mixer(self, channels: int) -> AutoMixer:
        """The mixer of AutoMix."""
        cfg = self.config
        return AutoMixer(
            channels,
            lam_concat=cfg.lam_concat,
            dropout=cfg.dropout,
            upsampling=cfg.upsampling,
        )
