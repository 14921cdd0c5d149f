"""CutMix as a trainable method."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

import mixbench.functional as mf
from mixbench.config.settings import setting
from mixbench.functional.cutmix import BOX_RULES
from mixbench.functional.draws import PARTNER_RULES, draw_uniform
from mixbench.methods.base import register
from mixbench.methods.image_mix import ImageMix


@register("cutmix")
class CutMix(ImageMix):
    r"""Paste a box of the partner image; see :func:`mixbench.functional.cutmix`.

    Paper: Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with
    Localizable Features", ICCV 2019, arXiv:1905.04899. Official code: clovaai/CutMix-PyTorch.
    Formula: :math:`x = M \odot x_1 + (1 - M) \odot x_2` with :math:`M = 0` in a box of the area
    :math:`1 - \lambda` and 1 outside of it, and :math:`y = \lambda y_1 + (1 - \lambda) y_2` with
    the :math:`\lambda` that is left when the box is clipped.
    Deviations: none by default. ``per_sample``, ``partner``, ``box_rule`` and ``minmax`` are
    additions. Clipping at the border makes the mean weight of the first image about 0.70.
    Cost: 1.0, one more read of the batch.
    """

    @dataclass
    class Config(ImageMix.Config):
        """Settings of CutMix."""

        alpha: float = setting(
            1.0,
            "Beta(alpha, alpha) of the kept share",
            above=0,
            official=1.0,
            only_when={"method.minmax": (None,)},
        )
        prob: float = setting(
            1.0, "share of batches mixed", within=(0, 1), official="CIFAR 0.5, ImageNet 1.0"
        )
        per_sample: bool = setting(False, "one box per image", official="one per batch")
        partner: str = setting(
            "random", "rule that pairs images", one_of=PARTNER_RULES, official="random"
        )
        box_rule: str = setting(
            "official",
            "how a box is drawn and clipped",
            one_of=BOX_RULES,
            official="official",
            only_when={"method.minmax": (None,)},
        )
        minmax: list[float] | None = setting(None, "smallest and largest side; replaces alpha")

        def __post_init__(self) -> None:
            super().__post_init__()
            ends = self.minmax
            if ends is not None and not (len(ends) == 2 and 0 < ends[0] < ends[1] <= 1):
                raise ValueError(
                    f"method.minmax must be [min, max], 0 < min < max <= 1, got {ends}"
                )

        @property
        def fidelity(self) -> str:
            """Official as long as no addition is used."""
            plain = not self.per_sample and self.partner == "random" and self.minmax is None
            return "official-verified" if plain and self.box_rule == "official" else "variant"

    operation = staticmethod(mf.cutmix)

    def decide(self, rows: int, size: Sequence[int]) -> dict[str, Tensor] | None:
        """Partners and boxes; none where the sides of a box are drawn one by one."""
        cfg, generator = self.config, self.generator
        if cfg.minmax is not None:
            return None
        count = rows if cfg.per_sample else 1
        perm = mf.draw_perm(rows, generator, rule=cfg.partner)
        lam = mf.draw_lam(count, cfg.alpha, generator)
        center = draw_uniform(generator, count, 2)
        return {"perm": perm, "box": mf.cutmix_box(lam, center, *size, rule=cfg.box_rule)}

    def pixel_weights(self, x: Tensor, mixed: mf.Mixed) -> tuple[Tensor, Tensor]:
        """Pixels of the image outside of the box, and of its partner inside of it."""
        return mf.box_shares(mixed.aux, (x.shape[2], x.shape[3]))
