"""TokenMix as a trainable method."""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

import mixbench.functional as mf
from mixbench.config.settings import Above, Below, setting
from mixbench.functional.draws import PARTNER_RULES
from mixbench.functional.tokenmix import MASK_KINDS
from mixbench.methods.base import Method, register
from mixbench.methods.map_sources import FileMaps, TeacherMaps
from mixbench.methods.pictures.regions import draw_token_masks
from mixbench.nn.saliency_kinds import chosen_kind, find_maps

GIVEN = {"file": "maps", "teacher": "teacher_ckpt"}  # keys that name files, by kind
KINDS = ("auto", *GIVEN, "attention", "cam", "norm", "input_grad", "spectral", "none")
PASTED = {"method.switch_prob": Above(0)}  # keys of patches need some


@register("tokenmix")
class TokenMix(Method):
    r"""Paste blocks of patches, labelled by what a map says of each patch.

    See :func:`mixbench.functional.tokenmix`.

    Paper: Liu et al., "TokenMix: Rethinking Image Mixing for Data Augmentation in Vision
    Transformers", ECCV 2022, arXiv:2207.08409. Official code: Sense-X/TokenMix. Half of the batches
    are mixed as Input Mixup does.
    Published (ImageNet-1k, 300 epochs, top-1, their README, which does not say of which epoch):
    DeiT-T 73.2, DeiT-S 80.8, DeiT-B 82.9.
    Formula: :math:`x = M \odot x_1 + (1 - M) \odot x_2` and :math:`y = \sum_t M_t a_{1t} \, y_1 +
    \sum_t (1 - M_t) a_{2t} \, y_2` with a mask :math:`M` of whole patches :math:`t` and maps
    :math:`a_i` of the label in each image, of sum 1; the two weights need not sum to 1.
    Deviations: the official maps are those of an NFNet-F6 on disk (``maps``, with the best scores
    of each cell and their classes, or one map an image). Without a file the maps are those of a
    finished run (``teacher_ckpt``), or of the network that is trained, a variant of ours. An image
    whose label is not among the best of any cell is weighed by area, and smoothed labels keep
    their weights; in the official code it has no weight and a target that is slightly negative, as
    smoothing is taken from both labels in equal parts (``official`` keeps both). The authors draw
    the kept share and replace it by one half, so that 112 of 196 patches are pasted whatever was
    drawn (``alpha=0``, ``extra``); ``alpha`` above 0 uses it. Their maps follow crops and mirrors
    and not the turns of RandAugment, which is refused here beside ``maps``. ``saliency`` of other
    kinds, ``per_sample`` and other partners than the flipped batch are additions.
    Cost: 1.2, one pass without gradient in half of the batches; with ``maps`` or
    ``saliency=none`` 1.0, and ``teacher`` one pass of its network.
    """

    @dataclass
    class Config(Method.Config):
        """Settings of TokenMix."""

        alpha: float = setting(
            0.0,
            "Beta(alpha, alpha) of the kept share; 0: one half always",
            at_least=0,
            official="0: what is drawn is not used",
            only_when=PASTED,
        )
        extra: int | None = setting(
            None,
            "patches pasted beyond that share; null: 1 in 14",
            at_least=0,
            official="14 of 196",
            only_when=PASTED,
        )
        kind: str = setting(
            "block",
            "masks of blocks or of single patches",
            one_of=MASK_KINDS,
            official="block",
            only_when=PASTED,
        )
        switch_prob: float = setting(
            0.5,
            "share of batches with pasted patches, the others are mixed whole",
            within=(0, 1),
            official=0.5,
        )
        mixup_alpha: float = setting(
            0.8,
            "Beta(alpha, alpha) of batches that are mixed whole",
            above=0,
            official=0.8,
            only_when={"method.switch_prob": Below(1)},
        )
        saliency: str = setting(
            "auto",
            "maps that weigh the labels; auto: file or teacher if one is given, else what the "
            "network has; none: by area",
            one_of=KINDS,
            official="file",
            only_when=PASTED,
        )
        teacher_ckpt: str | None = setting(None, "checkpoint, or folder, of a finished run")
        maps: str | None = setting(
            None, ".npz of best scores and classes, or a map per training image, uncropped"
        )
        loss: str = setting(
            "ce",
            "cross-entropy, or binary cross-entropy of each class",
            one_of=("ce", "bce"),
            official="ce by default, bce in the script for DeiT-S",
        )
        per_sample: bool = setting(
            False,
            "one mask per image",
            official="one per batch",
            only_when=PASTED,
        )
        partner: str = setting(
            "flip",
            "rule that pairs images; flip needs even batches",
            one_of=PARTNER_RULES,
            official="flip",
        )
        official: bool = setting(
            False, "no weight for an empty map, and smoothing that ignores the weights"
        )

        def __post_init__(self) -> None:
            super().__post_init__()
            needed = GIVEN.get(self.saliency)
            if needed and getattr(self, needed) is None:
                raise ValueError(f"method.saliency={self.saliency} needs method.{needed}=FILE")

        @property
        def looks_with(self) -> str:
            """The kind of maps, resolved where a file is given."""
            given = [name for name, key in GIVEN.items() if getattr(self, key) is not None]
            return self.saliency if self.saliency != "auto" else (*given, "auto")[0]

        @property
        def own_dataset(self) -> bool:
            """Maps on disk come with the images."""
            return self.looks_with == "file"

        @property
        def requires(self) -> frozenset[str]:
            """What the maps are made of."""
            needs = {"cam": {"stages", "maps"}, "norm": {"stages", "maps"}}
            return frozenset(needs.get(self.saliency, {"attention"} & {self.saliency}))

        @property
        def fidelity(self) -> str:
            """Official with maps on disk and what the authors make of them."""
            plain = TokenMix.Config(maps=self.maps, official=True, loss=self.loss)
            exact = self.looks_with == "file" and plain == self
            return "official-verified" if exact else "variant"

    cost = 1.2
    files = ("teacher_ckpt", "maps")
    picture = draw_token_masks

    def __init__(self, net: nn.Module, *args: Any, **kwargs: Any) -> None:
        super().__init__(net, *args, **kwargs)
        cfg = self.config
        self.check_partners(cfg.partner)
        self.kind, self.source = cfg.looks_with, None
        if self.kind in GIVEN:
            self.source = (FileMaps if self.kind == "file" else TeacherMaps)(self)
        elif self.kind != "none":
            self.kind = chosen_kind(self.kind, net, self.info.num_classes, "")

    @classmethod
    def step_cost(cls, config: Any) -> float:
        """The pass of the maps in batches with patches; none where they lie on disk."""
        if config.looks_with in ("file", "none", "spectral"):
            return 1.0
        passes = 1.0 if config.looks_with == "input_grad" else 2 * (cls.cost - 1)
        return 1 + config.switch_prob * passes

    def grid(self, x: Tensor) -> tuple[int, int]:
        """Rows and columns of patches: those of a transformer, else 14 at 224 pixels, 8 at 32."""
        if "attention" in getattr(self.net, "provides", ()):
            return cast(Any, self.net).grid(x)
        return mf.window_grid(x.shape[2], x.shape[3])

    def find_saliency(self, x: Tensor, targets: Tensor) -> Tensor | None:
        """Maps (B, h, w) of normalised images (B, C, H, W) for their labels; None for the area."""
        if self.kind == "none":
            return None
        y = targets.argmax(1)
        if self.source is None:
            return find_maps(self.net, self.kind, x, y).detach()
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            return self.source(self.to_pixels(x.float()), y)

    def mix(self, x: Tensor, targets: Tensor, **decisions: Any) -> mf.Mixed:
        """Paste patches, or mix the batch whole; missing decisions are drawn.

        ``lam``, ``mask`` and ``perm`` are those of :func:`mixbench.functional.tokenmix`, ``maps``
        (B, h, w) replace those of the source, and ``paste`` says which of both happens.
        """
        cfg, maps = self.config, decisions.pop("maps", None)
        pair = {"partner": cfg.partner, "generator": self.generator}
        if not decisions.pop("paste", self.switch.on(cfg.switch_prob) or "mask" in decisions):
            return mf.mixup(x, targets, alpha=cfg.mixup_alpha, **pair, **decisions)
        if maps is None:
            maps = self.find_saliency(x, targets)
        return mf.tokenmix(
            x,
            targets,
            maps,
            grid=self.grid(x),
            alpha=cfg.alpha,
            extra=cfg.extra,
            kind=cfg.kind,
            per_sample=cfg.per_sample,
            official=cfg.official,
            smoothing=self.run.optim.label_smoothing,
            **pair,
            **decisions,
        )

    def loss(self, logits: Any, mixed: mf.Mixed) -> Tensor:
        """The chosen loss to the labels with their weights, which need not sum to 1."""
        targets = mixed.targets
        if mixed.aux is not None:
            targets = targets * mixed.aux.weight[:, None]
        rule = mf.soft_binary_cross_entropy if self.config.loss == "bce" else mf.soft_cross_entropy
        return rule(logits, targets)

    def diagnostics(self, mixed: mf.Mixed) -> dict[str, Tensor]:
        """Also the mean weight of an image in the loss."""
        figures = super().diagnostics(mixed)
        return figures if mixed.aux is None else figures | {"weight": mixed.aux.weight.mean()}

    def pixel_weights(self, x: Tensor, mixed: mf.Mixed) -> tuple[Tensor, Tensor]:
        """Pixels of the patches that stay, and of those that are pasted."""
        if mixed.aux is None:
            return mf.even_shares(cast(Tensor, mixed.lam))
        own = nn.functional.interpolate(mixed.aux.mask[:, None], (x.shape[2], x.shape[3]))[:, 0]
        return own, 1 - own

    @property
    def no_mask_reason(self) -> str:
        """Reason of the source of maps, where it has none of test images."""
        return "" if self.source is None else self.source.unfit_for_tests

    def wrap_dataset(self, train_set: Any) -> Dataset[Any]:
        """The training set as the source of maps wants to see it."""
        return train_set if self.source is None else self.source.wrap(train_set)
