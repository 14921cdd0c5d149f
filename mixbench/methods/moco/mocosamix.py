"""SAMix without labels, on MoCo v2."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

import mixbench.functional as mf
from mixbench.backbones.base import pick_layers
from mixbench.errors import UserError
from mixbench.methods.base import register
from mixbench.methods.moco.base import CONTRAST, ContrastiveMethod
from mixbench.methods.moco.config import LOSSES, MoCoSAMixConfig
from mixbench.nn.mixer import Mixer, SharedProjections
from mixbench.nn.schedules import anneal

MIX, MIXER, MASK = "mix", "mixer", "mask"  # terms of the loss


class MixedViews(NamedTuple):
    """Record of a step.

    Views (B, C, H, W) ``query`` and ``key`` of each image, and their unit keys (B, D): ``keys`` of
    the second, ``own`` of the first. ``made`` (B, C, H, W) trains the mixer, by its own weight
    ``lam`` (1,) and partners ``perm`` (B,); ``mask`` (B, 1, H, W) made it and holds the graph.
    """

    query: Tensor
    key: Tensor
    keys: Tensor
    own: Tensor
    made: Tensor
    mask: Tensor
    lam: Tensor
    perm: Tensor


@register("mocosamix")
class MoCoSAMix(ContrastiveMethod):
    r"""SAMix without labels: mix a view with another image's, and find the keys of both.

    Paper: Li et al., "Boosting Discriminative Visual Representation Learning with
    Scenario-Agnostic Mixup", arXiv:2111.15454, on MoCo v2, arXiv:2003.04297. Official code:
    Westlake-AI/openmixup, with which loss and images agree number by number; no setting of it was
    ever released, so that defaults are those of the class, and no figure can be reproduced.
    A step mixes twice, as the supervised ``samix`` does: images of one mask train the encoder,
    those of the other the mixer, through the momentum encoder. What is tested: as of ``moco``, its
    control, which makes one pass of the encoder where this makes two.
    Formula: :math:`\lambda L(q, k_1) + (1 - \lambda) L(q, k_2)` with the loss :math:`L` of
    ``moco``, for the mixed image :math:`q` and the keys :math:`k_1` and :math:`k_2` of the two that
    it shows.
    Deviations: mask and images of the mixer's step have the same partners (``official_bugs: true``
    other ones); those of ``moco``. Positives that are mixed as vectors (``aux_latent``), and
    pseudo-labels by clustering, are left out.
    Cost: 4.0, two passes of the encoder, three of the momentum encoder, and the mixer.
    """

    @dataclass
    class Config(MoCoSAMixConfig):
        """Settings of the mixer, and those of MoCo."""

    cost = 4.0

    def __init__(self, net: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(net, *args, **kwargs)
        cfg = self.config
        self.layer = pick_layers(net, [cfg.layer], "method.layer")[0]
        if not net.provides & {"maps", "tokens"}:
            raise UserError(
                f"the features of {type(net).__name__} are on no grid, which a mask needs",
                "net",
                "use a network that provides maps or tokens",
            )
        form: Any = {"dropout": cfg.dropout, "upsampling": cfg.upsampling}
        self.mixer = Mixer(net.channels[self.layer], rescale=cfg.lam_k, **form)

    def mix(self, x: Tensor, targets: Tensor, **decisions: Any) -> mf.Mixed:
        """Make two views and mix them twice; missing decisions are drawn.

        ``views`` and ``orders``, those in which both are normalised; ``lam`` and ``perm`` of the
        encoder's images, ``lam_mixer`` and ``perm_mixer`` of the mixer's.
        """
        use = self._draw(x) | {k: v for k, v in decisions.items() if v is not None}
        query, key = self.make_views(x, use["views"])
        return self.mix_views(query, key, targets, use)

    def mix_views(self, query: Tensor, key: Tensor, targets: Tensor, use: Any) -> mf.Mixed:
        """Mix two views of each image by decisions that are all given."""
        pair = zip((query, key), use["orders"], strict=True)
        (own, h), (keys, h_key) = (self.encode(view, order, self.layer) for view, order in pair)
        shared, partner = self._share(h, query), self._share(h_key, key)
        form: Any = {"size": query.shape[2:], "partner": partner, "generator": self.generator}
        lam, perm = use["lam_mixer"], use["perm_mixer"]
        of = use["perm"][perm] if self.config.official_bugs else perm
        # In front, as both write down their statistics.
        mask = self.mixer.draw(shared, lam, of, **form)
        made = mf.blend(query, mf.take(key, perm), mask)
        state = MixedViews(query, key, keys, own, made, mask, lam, perm)
        lam, perm = use["lam"], use["perm"]
        with torch.no_grad():
            drawn = self.mixer.draw(shared, lam, perm, **form)
            weight = lam.to(drawn.device, drawn.dtype, non_blocking=True).reshape(-1, 1, 1, 1)
            near = torch.minimum(weight, 1 - weight) <= self.config.lam_margin
            drawn = mf.adjust_mask(drawn, lam, within=self.config.mask_within)
            mixed = mf.blend(query, mf.take(key, perm), torch.where(near, weight, drawn))
        return mf.Mixed(mixed, targets, lam, perm, state)

    def _draw(self, x: Tensor) -> dict[str, Any]:
        drawn: dict[str, Any] = {"views": self.draw_views(x)}
        drawn["orders"] = [self.draw_order(len(x)) for _ in range(2)]
        for suffix in ("", "_mixer"):
            drawn[f"lam{suffix}"] = mf.draw_lam(1, self.config.alpha, self.generator)
            drawn[f"perm{suffix}"] = mf.draw_perm(len(x), self.generator)
        return drawn

    def _share(self, h: Tensor, view: Tensor) -> SharedProjections:
        if h.ndim == 3:  # tokens, of which those of patches lie on a grid
            net = self.teacher.net
            h = net.tokens(h).transpose(1, 2).unflatten(2, net.grid(view))
        return self.mixer.share(h)

    def predict(self, mixed: mf.Mixed) -> tuple[Any, mf.Mixed]:
        """Unit vectors of the plain and the mixed view, and of the mixer's by its teacher."""
        net = self.teacher.net
        (z,) = self.in_groups(lambda x: (self.teach(net.forward_stages(x)),), mixed.aux.made)
        z_plain, z_mixed = self.query(mixed.aux.query), self.query(mixed.x)
        return {CONTRAST: z_plain, MIX: z_mixed, MIXER: z}, mixed

    def loss(self, logits: Any, mixed: mf.Mixed) -> Any:
        """MoCo's loss, the same of mixed views with the keys of both, and those of the mixer."""
        state: MixedViews = mixed.aux
        cfg, queue = self.config, self.queue.keys
        assert mixed.lam is not None
        assert mixed.perm is not None
        pair: Any = {"first": state.keys, "second": mf.take(state.own, mixed.perm)}
        pair |= {"lam": mixed.lam, "temperature": cfg.temperature}
        terms = {
            CONTRAST: self.contrast(logits[CONTRAST], state.keys),
            MIX: mf.mixed_info_nce(logits[MIX], queue=queue, **pair),
        }
        pair |= {"second": mf.take(state.own, state.perm), "lam": state.lam}
        fading = anneal(self.step, self.total_steps, cfg.mask_anneal)
        weights = {name: cfg.aux_weight * fading for name in LOSSES} | {cfg.mixer_loss: 1.0}
        terms[MIXER] = logits[MIXER].new_zeros(())
        if weights["infonce"]:
            whole = mf.mixed_info_nce(logits[MIXER], queue=queue, **pair)
            terms[MIXER] = terms[MIXER] + weights["infonce"] * whole
        if weights["bce"]:
            terms[MIXER] = terms[MIXER] + weights["bce"] * mf.two_way_nce(logits[MIXER], **pair)
        form: Any = {"mode": cfg.mask_loss, "margin": cfg.mask_margin}
        area = mf.mask_loss(state.mask, state.lam, **form)
        return terms | {MASK: cfg.mask_weight * fading * area}

    def diagnostics(self, mixed: mf.Mixed) -> dict[str, Tensor]:
        """Also mean and spread of the mask that trains the mixer."""
        mask = mixed.aux.mask
        figures = {"mask_mean": mask.mean(), "mask_std": mask.std(correction=0)}
        return super().diagnostics(mixed) | figures

    def param_groups(self) -> list[dict[str, Any]]:
        """Parameter groups of the encoder, and of the mixer at its own rate."""
        return super().param_groups() + self.groups_of(self.mixer, lr=self.config.mixer_lr)
