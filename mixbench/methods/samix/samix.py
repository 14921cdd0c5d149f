"""SAMix as a trainable method."""

from dataclasses import dataclass

from mixbench.config.settings import setting
from mixbench.methods.base import register
from mixbench.methods.samix.base import LearnedMixMethod
from mixbench.methods.samix.config import SAMixConfig
from mixbench.nn.mixer import NO_RESCALE, Mixer


@register("samix")
class SAMix(LearnedMixMethod):
    r"""Mix with masks that a network learns along the way; see :class:`mixbench.nn.mixer.Mixer`.

    Paper: Li et al., "Boosting Discriminative Visual Representation Learning with
    Scenario-Agnostic Mixup", arXiv:2111.15454. Official code: Westlake-AI/openmixup.
    What is tested: the teacher, an average of the weights, with the head for clean images, fixed
    before the run; the authors report the better of two heads. A step passes the network twice and
    sums two cross-entropies, so that its controls are ``method=erm optim.ema=0.999``,
    ``method=cutmix optim.ema=0.999`` and ``method=mixup2 optim.ema=0.999``.
    Formula: :math:`x = s \odot x_1 + (1 - s) \odot x_2` with a mask :math:`s` that the mixer draws
    from :math:`\lambda` and the features of both images, and
    :math:`y = \lambda y_1 + (1 - \lambda) y_2`.
    Deviations: a short memory of the teacher at first (``ema_warmup``), without which it is near
    chance after a few hundred steps; ``mask_adjust`` uses the weight of the images that it adjusts
    (``official_bugs: true`` the other). ``eta`` does nothing to the loss that was released;
    ``mixer_loss: pair_eta`` is our reading of the paper. With ``mixer_ckpt`` it is SAMix^P, a
    reconstruction: the released code of it raises an error.
    Cost: 3.0, two passes of the network, two of the teacher, and the mixer.
    """

    @dataclass
    class Config(SAMixConfig):
        """Settings of SAMix."""

        lam_k: float = setting(
            NO_RESCALE,
            "strength k of the rescaling of the weight; -1: no rescaling",
            within=(0, 10),
            also=NO_RESCALE,
        )

    def build_mixer(self, channels: int) -> Mixer:
        """The mixer of SAMix."""
        cfg = self.config
        return Mixer(channels, rescale=cfg.lam_k, dropout=cfg.dropout, upsampling=cfg.upsampling)
