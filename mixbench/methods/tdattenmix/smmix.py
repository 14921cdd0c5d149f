"""SMMix as a trainable method."""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

import mixbench.functional as mf
from mixbench.backbones.attention import Capture
from mixbench.config.settings import setting
from mixbench.functional.draws import PARTNER_RULES
from mixbench.methods.base import Method, register
from mixbench.methods.pictures.windows import draw_windows
from mixbench.methods.tdattenmix.config import WHOLE, WINDOWS
from mixbench.methods.tdattenmix.consistency import ConsistencyMethod, WindowStep
from mixbench.nn.teacher import frozen_eval


@register("smmix")
class SMMix(ConsistencyMethod):
    r"""Paste the window that a transformer looks at most over the one it looks at least.

    See :func:`mixbench.functional.smmix`.

    Paper: Chen et al., "SMMix: Self-Motivated Image Mixing for Vision Transformers", ICCV 2023,
    arXiv:2212.12977. Official code: ChenMnZ/SMMix. Half of the batches are mixed as Input Mixup
    does. Maps are those of the trained network itself, in the pass over the clean images that its
    predictions need anyway; the parent of TdAttenMix.
    Published (ImageNet-1k, 300 epochs, top-1, their README, which does not say of which epoch):
    DeiT-T 73.6, DeiT-S 81.1; PVT-T 76.4, PVT-S 81.0, PVT-M 82.2, PVT-L 82.7. Run again by the
    authors of MergeMix DeiT-S reaches 79.36.
    Formula: :math:`x = M \odot x_1 + (1 - M) \odot x_2` and :math:`y = \lambda y_1 + (1 - \lambda)
    y_2` with the area :math:`\lambda` that stays; the loss is :math:`L(z, y) + (L(t_1, y_1) +
    L(t_2, y_2)) / 2 + D(\lambda z_1 + (1 - \lambda) z_2, z)` with the cross-entropy :math:`L`, the
    KL divergence :math:`D`, a second classifier :math:`t_i` of the mean of kept and of pasted
    tokens, and the logits :math:`z_i` of the clean images.
    Deviations: none in what is computed on networks with a class token. The network has the mode of
    each of its layers back after the pass, where the code puts all into training mode, frozen ones
    too; sides of windows are drawn from the run's seed, theirs by Python's generator, which the
    code leaves unseeded; and the average of weights that it makes is never updated there. Without a
    class token (Swin) windows lie on square cells of the image and there is no second classifier, a
    variant of ours. ``per_sample`` and other partners than the flipped batch are additions.
    Cost: 1.3 in a batch with windows, 1.2 on average.
    """

    @dataclass
    class Config(Method.Config):
        """Settings of SMMix."""

        switch_prob: float = setting(
            0.5,
            "share of batches with windows, the others are mixed whole",
            within=(0, 1),
            official=0.5,
        )
        alpha: float = setting(
            0.8,
            "Beta(alpha, alpha) of batches that are mixed whole",
            above=0,
            official=0.8,
            only_when=WHOLE,
        )
        min_ratio: float = setting(
            0.25,
            "smallest side of a window as a share of the grid",
            within=(0, 1),
            official=0.25,
            only_when=WINDOWS,
        )
        max_ratio: float = setting(
            0.75,
            "largest side of a window as a share of the grid",
            within=(0, 1),
            official=0.75,
            only_when=WINDOWS,
        )
        per_sample: bool = setting(
            False, "one side per image", official="one per batch", only_when=WINDOWS
        )
        partner: str = setting(
            "flip",
            "rule that pairs images; flip needs even batches",
            one_of=PARTNER_RULES,
            official="flip",
        )
        consistency: float = setting(
            1.0,
            "weight of the KL divergence from the mixed predictions",
            at_least=0,
            official=1,
            only_when=WINDOWS,
        )
        tokens: float = setting(
            1.0,
            "weight of the losses of kept and of pasted tokens",
            at_least=0,
            official=1,
            only_when=WINDOWS,
        )

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.min_ratio > self.max_ratio:
                raise ValueError(
                    f"method.min_ratio={self.min_ratio} exceeds method.max_ratio={self.max_ratio}"
                )

        @property
        def requires(self) -> frozenset[str]:
            """Attention, and tokens to judge apart."""
            return frozenset({"stages", "attention", "tokens"})

        @property
        def fidelity(self) -> str:
            """Official as long as no addition is used."""
            return "official-verified" if self == SMMix.Config() else "variant"

    cost = 1.2
    picture = draw_windows

    def __init__(self, net: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(net, *args, **kwargs)
        self.check_partners(self.config.partner)

    @property
    def fidelity(self) -> str:
        """Fidelity of the settings; official code exists only for networks with a class token."""
        return self.config.fidelity if self.token_head is not None else "variant"

    @classmethod
    def step_cost(cls, config: Any) -> float:
        """The pass over the clean images, in batches with windows."""
        return 1 + 2 * (cls.cost - 1) * config.switch_prob

    def grid(self, x: Tensor) -> tuple[int, int]:
        """Rows and columns of cells: the patches, or square cells where layers merge them."""
        if self.token_head is None:
            return mf.window_grid(x.shape[2], x.shape[3])
        return cast(Any, self.net).grid(x)

    def look(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of images (B, C, H, W), and how much patches attend to each (B, R, C).

        The class token neither counts as one that attends nor as one that is attended to.
        """
        net, first = cast(Any, self.net), cast(Any, self.net).prefix
        capture = Capture({-1: "mean" if first else "received"})
        h = net.forward_stages(x, capture=capture)
        seen = capture.attention[-1]
        if first:
            return net.head(h), seen[:, first:, first:].mean(1).unflatten(1, net.grid(x))
        return net.head(h), seen.unflatten(1, tuple(h.shape[2:]))

    def mix(self, x: Tensor, targets: Tensor, **decisions: Any) -> mf.Mixed:
        """Paste windows into the batch, or mix it whole; missing decisions are drawn.

        ``side``, ``perm``, ``target`` and ``source`` are those of
        :func:`mixbench.functional.smmix`, ``maps`` (B, R, C) replace those of the network.
        """
        cfg, maps = self.config, decisions.pop("maps", None)
        windows = self.switch.on(cfg.switch_prob) or "side" in decisions
        perm = decisions.pop("perm", None)
        if perm is None:
            perm = mf.draw_perm(len(x), self.generator, rule=cfg.partner)
        pair = {"perm": perm, "generator": self.generator}
        if not windows:
            return mf.mixup(x, targets, alpha=cfg.alpha, **pair, **decisions)
        size = self.grid(x)
        if "side" not in decisions and not cfg.per_sample:  # which all ranks draw alike
            ends = (cfg.min_ratio, cfg.max_ratio)
            decisions["side"] = mf.draw_window(min(size), *ends, self.shared_generator)
        # In float32, as less would choose other windows.
        with torch.autocast(x.device.type, enabled=False), frozen_eval(cast(Any, self.net)):
            logits, found = self.look(x.float())
            maps = mf.resize_maps(found if maps is None else maps, size, "bilinear")
        settings = {"low": cfg.min_ratio, "high": cfg.max_ratio, "per_sample": cfg.per_sample}
        mixed = mf.smmix(x, targets, maps, **settings, **pair, **decisions)
        expected = mf.mix_targets(logits.float(), cast(Tensor, mixed.perm), cast(Tensor, mixed.lam))
        return mixed._replace(aux=WindowStep(mixed.aux, targets, expected))

    def pixel_weights(self, x: Tensor, mixed: mf.Mixed) -> tuple[Tensor, Tensor]:
        """Pixels outside of the window, and the partner's window where it was cut out."""
        if mixed.aux is None:
            return mf.even_shares(cast(Tensor, mixed.lam))
        return mf.window_shares(mixed.aux.pasted, (x.shape[2], x.shape[3]))
