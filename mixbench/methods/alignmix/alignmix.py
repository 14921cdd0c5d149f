"""AlignMix as a trainable method."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

import mixbench.functional as mf
from mixbench.methods.alignmix.autoencoder import CLEAN, Autoencoding
from mixbench.methods.alignmix.steps import AlignMixConfig, Place
from mixbench.methods.base import MIXES_LABELS, register
from mixbench.methods.pictures.features import draw_alignment


@register("alignmix")
class AlignMix(Autoencoding):
    """Move feature maps to their partners' layout, then mix; see :func:`mixbench.functional.align`.

    Paper: Venkataramanan et al., "AlignMixup: Improving Representations by Interpolating Aligned
    Features", CVPR 2022, arXiv:2103.15375. Official code: shashankvkt/AlignMixup_CVPR22.
    What it aligns: behind the last features the official networks have average pooling and a
    linear layer, which see no positions. Side 0 then equals mixing the pooled vectors, exactly,
    and side 1 does as far as the transport plan is converged; after the official 100 iterations it
    is not, and what remains is a re-weighting of positions. Alignment is real at an earlier layer
    (``layers: [0, 3]``) or with ``post_align: bn_relu``. Controls: ``layers: [0, embed]``, and
    ``plan: shuffled``, ``identity`` or ``weights``.
    Deviations: always ``iters`` iterations (``stop: official`` ends early as the authors do, and
    waits for the device in each); side 0 in front of pooling skips the transport, with equal
    results (``fast_path: none`` does not).
    ``ae: true`` is ours, not the paper's (:class:`Autoencoding`).
    Cost: 1.3, transport in half of the steps.
    """

    @dataclass
    class Config(AlignMixConfig):
        """Settings of AlignMix."""

    tasks = MIXES_LABELS
    cost = 1.3
    picture = draw_alignment

    def __init__(self, net: nn.Module, *args: Any, **kwargs: Any) -> None:
        super().__init__(net, *args, **kwargs)
        self.layers = self.config.prepare(net)

    def mix(self, x: Tensor, targets: Tensor, **decisions: Any) -> mf.Mixed:
        """Draw what is not given: ``layer`` and ``side`` for all ranks, ``perm`` and ``lam``."""
        given = {key: value for key, value in decisions.items() if value is not None}
        place = self.config.draw(self.layers, self.shared_generator)
        place = Place(given.pop("layer", place.layer), given.pop("side", place.side))
        drawn = {"perm": mf.draw_perm(len(x), self.generator)}
        drawn["lam"] = mf.draw_lam(1, self.config.alpha, self.generator)
        return mf.Mixed(x, targets, **drawn | given, aux=place)

    def predict(self, mixed: mf.Mixed) -> tuple[Tensor, mf.Mixed]:
        """Run the network up to the layer, align and mix there, and run the rest."""
        if mixed.aux is None or mixed.aux.layer == CLEAN:  # evaluation, or the autoencoder's
            return super().predict(mixed)
        return self.config.run(self.net, mixed, self.generator, look=self.step == 0)

    def diagnostics(self, mixed: mf.Mixed) -> dict[str, Tensor]:
        """Also how far the plan is from its marginals, and its entropy, on steps that align."""
        return super().diagnostics(mixed) | AlignMixConfig.describe(mixed.aux)
