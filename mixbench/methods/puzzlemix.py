"""PuzzleMix as a trainable method."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

import mixbench.functional as mf
from mixbench.config.settings import setting
from mixbench.errors import UserError
from mixbench.functional.draws import PARTNER_RULES
from mixbench.functional.puzzlemix import CUTS
from mixbench.methods.base import register
from mixbench.methods.map_mix import MAP_LOSSES, MapMix
from mixbench.methods.pictures.pixelmasks import draw_pixel_masks
from mixbench.pictures.sheet import Sheet

OPTIONS = ("alpha", "labels", "beta", "gamma", "eta", "neigh", "transport", "cell", "eps")
OPTIONS += ("solver", "per_sample", "official", "partner")


@register("puzzlemix")
class PuzzleMix(MapMix):
    r"""Choose for each block which image it shows; see :func:`mixbench.functional.puzzlemix`.

    Paper: Kim et al., "Puzzle Mix: Exploiting Saliency and Local Statistics for Optimal Mixup",
    ICML 2020, arXiv:2009.06962. Official code: snu-mllab/PuzzleMix.
    Formula: :math:`x = z \odot P_1 x_1 + (1 - z) \odot P_2 x_2` and :math:`y = \bar z y_1 +
    (1 - \bar z) y_2` with the mask :math:`z` of blocks that hides the least saliency at the least
    cost of borders and of shares other than the :math:`\lambda` asked for, and plans :math:`P` that
    move cells to where they are seen.
    Deviations: soft cross-entropy by default; the authors' on CIFAR is ``loss: bce_softmax``. They
    solve the cut on the host by alpha-beta swaps of the gco library; by default it is solved on the
    device, at nearly the least energy, and ``solver: exact`` finds the least, which swaps may miss.
    Images need not be square. A share that is given is used: OpenMixup's code draws another, which
    ``official`` keeps. Adversarial noise and the loss of clean images, both off by default there,
    are left out. ``saliency`` of other kinds, ``teacher_ckpt``, ``per_sample``, ``partner`` and
    ``prob`` are additions.
    Cost: 1.7, one more pass forward, and back to the image, beside the cut and the moves.
    """

    cost = 1.7

    @dataclass
    class Config(MapMix.Config):
        """Settings of PuzzleMix."""

        saliency: str = setting(
            "loss_grad",
            "maps of what is to be shown",
            one_of=("loss_grad", "input_grad", "attention", "cam", "norm", "spectral"),
            official="loss_grad",
        )
        loss: str = setting(
            "ce",
            "cross-entropy, or the binary one of softmax outputs: K/2 to K times smaller gradients",
            one_of=MAP_LOSSES,
            official="bce_softmax on CIFAR",
        )
        alpha: float = setting(
            1.0, "Beta(alpha, alpha) of the share asked for", above=0, official=1.0
        )
        blocks: list[int] | None = setting(
            None,
            "blocks along the shorter side to draw from; null: those of 2, 4, 8, 16 that fit",
            at_least=1,
            official=[2, 4, 8, 16],
        )
        labels: int = setting(3, "shares that a block can show", at_least=2, official=3)
        beta: float = setting(
            1.2, "weight of neighbours that show other shares", at_least=0, official=1.2
        )
        gamma: float = setting(
            0.5,
            "share of beta that depends on the difference of the pixels",
            within=(0, 1),
            official=0.5,
        )
        eta: float = setting(
            0.2, "weight of shares that differ from the one asked for", at_least=0, official=0.2
        )
        neigh: int = setting(4, "pixels over which neighbours are compared", at_least=1, official=4)
        transport: bool = setting(True, "move cells to where they are seen", official=True)
        cell: int | None = setting(
            4,
            "side of a moved cell in pixels, at most a block; null: whole blocks",
            at_least=1,
            official="4 on CIFAR, whole blocks by default",
        )
        eps: float = setting(
            0.8, "cost of moving a cell across the whole image", at_least=0, official=0.8
        )
        solver: str = setting(
            "relaxed",
            "solver of the cut: of all images at once on the device, or of each on the host",
            one_of=tuple(CUTS),
            official="alpha-beta swaps on the host",
        )
        per_sample: bool = setting(False, "one share per image", official="one per batch")
        official: bool = setting(
            False, "draw the share twice and use the second, as OpenMixup's code does"
        )
        partner: str = setting(
            "random", "rule that pairs images", one_of=PARTNER_RULES, official="random"
        )

        @property
        def fidelity(self) -> str:
            """Official with an exact cut and their loss, as long as no addition is used."""
            plain = self.saliency == "loss_grad" and self.teacher_ckpt is None
            plain &= (self.partner, self.prob, self.per_sample) == ("random", 1, False)
            if not plain or self.official or self.blocks not in (None, [2, 4, 8, 16]):
                return "variant"
            exact = (self.solver, self.loss) == ("exact", "bce_softmax")
            return "official-verified" if exact else "paper"

    def __init__(self, net: nn.Module, *args: Any, **kwargs: Any) -> None:
        super().__init__(net, *args, **kwargs)
        size, asked = (self.info.height, self.info.width), self.config.blocks
        fitting = mf.fitting_blocks(*size) if asked is None else asked
        misfits = [blocks for blocks in fitting if mf.block_grid(*size, blocks) is None]
        if misfits or not fitting:
            what = f"{misfits[0]}" if misfits else "neither 2, 4, 8 nor 16"
            raise UserError(
                f"{what} square blocks along the shorter side do not divide images of {size[0]} x "
                f"{size[1]} pixels",
                "method.blocks" if asked is None else f"method.blocks={asked}",
                "give numbers of blocks that do, or another data.size",
            )

    def mix(self, x: Tensor, targets: Tensor, **decisions: Any) -> mf.Mixed:
        """Mix the batch, or with probability ``1 - prob`` leave it; ``saliency`` may be given."""
        cfg = self.config
        if not decisions and not self.switch.on(cfg.prob):
            return mf.Mixed(x, targets)
        if "saliency" not in decisions:
            decisions["saliency"] = self.find_pixel_saliency(x, targets)
        if "blocks" not in decisions:  # alike on all ranks, as its cost differs
            known = cfg.blocks or mf.fitting_blocks(x.shape[2], x.shape[3])
            decisions["blocks"] = known[self.switch.pick([1.0] * len(known))]
        if cfg.official and "lam" not in decisions:
            decisions["lam"] = mf.draw_lam(1, cfg.alpha, self.generator)
        given = {key: getattr(cfg, key) for key in OPTIONS}
        given |= {"pixels": self.to_pixels(x.float()), "generator": self.generator}
        return mf.puzzlemix(x, targets, **given | decisions)

    def pixel_weights(self, x: Tensor, mixed: mf.Mixed) -> tuple[Tensor, Tensor]:
        """What is seen of each pixel, wherever its cell is moved to."""
        del x
        return mf.puzzle_shares(mixed.aux)

    def picture(self, x: Tensor, targets: Tensor, mixed: mf.Mixed) -> list[Sheet]:
        """Pairs with their mask and their mixed images."""
        mask = None if mixed.aux is None else mixed.aux.mask
        return draw_pixel_masks(self, x, targets, mixed._replace(aux=mask))
