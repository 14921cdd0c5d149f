"""AlignMix as a trainable method."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

import mixbench.functional as mf
from mixbench.methods.alignmix.autoencoder import CLEAN, AutoencoderMethod
from mixbench.methods.alignmix.steps import AlignMixConfig, Place, find_layers, forward_aligned
from mixbench.methods.base import MIXES_LABELS, register
from mixbench.methods.pictures.features import draw_alignment


@register("alignmix")
class AlignMix(AutoencoderMethod):
    r"""Move feature maps to their partners' layout, then mix.

    See :func:`mixbench.functional.align`.

    Paper: Venkataramanan et al., "AlignMixup: Improving Representations by Interpolating Aligned
    Features", CVPR 2022, arXiv:2103.15375. Official code: shashankvkt/AlignMixup_CVPR22.
    What it aligns: behind the last features the official networks have average pooling and a
    linear layer, which see no positions. Side 0 then equals mixing the pooled vectors, exactly,
    and side 1 does as far as the transport plan is converged; after the official 100 iterations it
    is not, and what remains is a re-weighting of positions. Alignment is real at an earlier layer
    (``layers: [0, 3]``) or with ``post_align: bn_relu``. Controls: ``layers: [0, embed]``, and
    ``plan: shuffled``, ``identity`` or ``weights``.
    Formula: :math:`F = \lambda F_1 + (1 - \lambda) F_2 R^T` in the layout of the first image, or
    :math:`F = \lambda F_1 R + (1 - \lambda) F_2` in that of its partner; :math:`R = r P` of the
    plan :math:`P` that makes :math:`\sum_{ij} P_{ij} C_{ij} - \epsilon H(P)` smallest,
    :math:`C_{ij}` being the distance of position :math:`i` of :math:`F_1` from :math:`j` of
    :math:`F_2`.
    Deviations: always ``iters`` iterations (``stop: official`` ends early as the authors do, and
    waits for the device in each); side 0 in front of pooling skips the transport, with equal
    results (``fast_path: none`` does not).
    ``ae: true`` is ours, not the paper's (:class:`AutoencoderMethod`).
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
        self.layers = find_layers(net, self.config)

    def mix(self, x: Tensor, targets: Tensor, **decisions: Any) -> mf.Mixed:
        """Draw what is not given: ``layer`` and ``side`` for all ranks, ``perm`` and ``lam``."""
        given = {key: value for key, value in decisions.items() if value is not None}
        cfg, clean = self.config, self.draw_clean()
        layer = self.layers[self.switch.pick(cfg.layer_weights or [1.0] * len(self.layers))]
        side = cfg.sides[mf.draw_side(self.shared_generator) % len(cfg.sides)]
        layer = CLEAN if clean else layer
        place = Place(given.pop("layer", layer), given.pop("side", side))
        drawn = {"perm": mf.draw_perm(len(x), self.generator)}
        drawn["lam"] = mf.draw_lam(1, cfg.alpha, self.generator)
        return mf.Mixed(x, targets, **drawn | given, aux=place)

    def predict(self, mixed: mf.Mixed) -> tuple[Tensor, mf.Mixed]:
        """Run the network up to the layer, align and mix there, and run the rest."""
        if mixed.aux.layer == CLEAN:
            return super().predict(mixed)
        first = self.step == 0
        return forward_aligned(self.net, mixed, self.config, self.generator, check=first)

    def diagnostics(self, mixed: mf.Mixed) -> dict[str, Tensor]:
        """Also the plan's distance from its marginals, and its entropy, on steps that align."""
        figures, place = super().diagnostics(mixed), mixed.aux
        if not isinstance(place, Place) or place.plan is None:
            return figures
        figures["row_error"] = mf.marginal_error(place.plan)[0].mean()
        return figures | {"plan_entropy": mf.plan_entropy(place.plan).mean()}
