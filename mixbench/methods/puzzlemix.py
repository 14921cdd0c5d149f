"""PuzzleMix as a trainable method."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import mixbench.functional as mf
from mixbench.config.settings import Above, setting
from mixbench.errors import UserError
from mixbench.functional.draws import PARTNER_RULES, draw_uniform
from mixbench.functional.puzzlemix import CUTS
from mixbench.methods.base import register
from mixbench.methods.map_mix import MAP_LOSSES, MapMix
from mixbench.methods.pictures.pixelmasks import draw_pixel_masks
from mixbench.nn.saliency_kinds import loss_slope
from mixbench.nn.teacher import frozen_eval
from mixbench.pictures.sheet import Sheet

OPTIONS = ("alpha", "labels", "beta", "gamma", "eta", "neigh", "transport", "cell", "eps")
OPTIONS += ("solver", "per_sample", "official", "partner")
NEIGHBOURS = {"method.beta": Above(0)}  # conditions of keys
MOVED = {"method.transport": (True,)}


class PuzzleStep(NamedTuple):
    """Record of a step: the puzzle, and the clean images where their loss counts as well.

    ``x`` (B, C, H, W) are these, ``targets`` (B, K) their labels, and ``logits`` (B, K) what the
    network says of them, once it is known.
    """

    puzzle: mf.Puzzle
    x: Tensor | None = None
    targets: Tensor | None = None
    logits: Tensor | None = None


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
    ``official`` keeps. The loss of clean images (``clean_lam``) and adversarial noise
    (``adv_prob``) are off by default, as theirs; with the former they take the map from the pass
    that is trained, here it comes from a pass of its own that leaves no trace. ``saliency`` of
    other kinds, ``teacher_ckpt``, ``per_sample``, ``partner`` and ``prob`` are additions.
    Cost: 1.7, one more pass forward, and back to the image, beside the cut and the moves; with
    ``clean_lam`` 2.7.
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
            only_when=NEIGHBOURS,
        )
        eta: float = setting(
            0.2, "weight of shares that differ from the one asked for", at_least=0, official=0.2
        )
        neigh: int = setting(
            4,
            "pixels over which neighbours are compared",
            at_least=1,
            official=4,
            only_when=NEIGHBOURS | {"method.gamma": Above(0)},
        )
        transport: bool = setting(True, "move cells to where they are seen", official=True)
        cell: int | None = setting(
            4,
            "side of a moved cell in pixels, at most a block; null: whole blocks",
            at_least=1,
            official="4 on CIFAR, whole blocks by default",
            only_when=MOVED,
        )
        eps: float = setting(
            0.8,
            "cost of moving a cell across the whole image",
            at_least=0,
            official=0.8,
            only_when=MOVED,
        )
        solver: str = setting(
            "relaxed",
            "solver of the cut: of all images at once on the device, or of each on the host",
            one_of=tuple(CUTS),
            official="alpha-beta swaps on the host",
        )
        clean_lam: float = setting(
            0.0,
            "weight of the cross-entropy of the clean images, relative to the loss of mixed ones",
            at_least=0,
            official="0; on Tiny-ImageNet 1",
        )
        adv_prob: float = setting(
            0.0,
            "chance of a batch to get adversarial noise, for images and for partners apart",
            within=(0, 1),
            official="0; for robust networks 0.1, on Tiny-ImageNet 0.15",
        )
        adv_eps: float = setting(
            10.0,
            "largest adversarial noise, in levels of 255",
            at_least=0,
            official=10.0,
            only_when={"method.adv_prob": Above(0)},
        )
        per_sample: bool = setting(False, "one share per image", official="one per batch")
        official: bool = setting(
            False, "draw the share twice and use the second, as OpenMixup's code does"
        )
        partner: str = setting(
            "random", "rule that pairs images", one_of=PARTNER_RULES, official="random"
        )

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.adv_prob and (self.saliency != "loss_grad" or self.teacher_ckpt):
                raise ValueError(
                    f"method.adv_prob={self.adv_prob} needs method.saliency=loss_grad without "
                    "method.teacher_ckpt, as one pass of the trained network gives map and noise"
                )

        @property
        def fidelity(self) -> str:
            """Official with an exact cut and their loss, as long as no addition is used."""
            plain = self.saliency == "loss_grad" and self.teacher_ckpt is None
            plain &= (self.partner, self.prob, self.per_sample) == ("random", 1, False)
            if not plain or self.official or self.blocks not in (None, [2, 4, 8, 16]):
                return "variant"
            exact = (self.solver, self.loss) == ("exact", "bce_softmax")
            exact &= self.clean_lam == self.adv_prob == 0
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
        attacked = [bool(cfg.adv_prob) and self.switch.on(cfg.adv_prob) for _ in range(2)]
        if any(attacked):
            noisy, maps = self.attack(x, targets)
            views = tuple(noisy if each else x for each in attacked)
            decisions = {"saliency": maps, "views": views} | decisions
        if "saliency" not in decisions:
            decisions["saliency"] = self.find_pixel_saliency(x, targets)
        if "blocks" not in decisions:  # alike on all ranks, as its cost differs
            known = cfg.blocks or mf.fitting_blocks(x.shape[2], x.shape[3])
            decisions["blocks"] = known[self.switch.pick([1.0] * len(known))]
        if cfg.official and "lam" not in decisions:
            decisions["lam"] = mf.draw_lam(1, cfg.alpha, self.generator)
        given = {key: getattr(cfg, key) for key in OPTIONS}
        given |= {"pixels": self.to_pixels(x.float()), "generator": self.generator}
        mixed = mf.puzzlemix(x, targets, **given | decisions)
        clean = (x, targets) if cfg.clean_lam else ()
        return mixed._replace(aux=PuzzleStep(mixed.aux, *clean))

    def attack(self, x: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) with noise that raises their loss, and maps (B, H, W) found with it.

        From a random start within ``adv_eps`` one step of two levels more is taken and cut to
        ``adv_eps``; of what comes out a share counts that is drawn for the batch.
        """
        pixels, eps = self.to_pixels(x.float()), self.config.adv_eps / 255
        start, share = (
            draw_uniform(self.generator, *size, ends=ends).to(x.device, non_blocking=True)
            for size, ends in ((x.shape, (-eps, eps)), ((1,), (0, 1)))
        )
        begun = (pixels + start).clamp(0, 1)
        with torch.autocast(x.device.type, enabled=False), frozen_eval(self.net):
            slope = loss_slope(self.net, self.normalize(begun), targets.argmax(1))
        noise = (begun - pixels + (eps + 2 / 255) * slope.sign()).clamp(-eps, eps)
        noisy = self.normalize((pixels + share * noise).clamp(0, 1))
        return noisy.to(x.dtype), slope.square().mean(dim=1).sqrt()

    def predict(self, mixed: mf.Mixed) -> tuple[Any, mf.Mixed]:
        """Logits of the mixed images, after those of the clean ones where they count."""
        step = mixed.aux
        if step is not None and step.x is not None:
            mixed = mixed._replace(aux=step._replace(logits=self.net(step.x)))
        return super().predict(mixed)

    def loss(self, logits: Any, mixed: mf.Mixed) -> Tensor | dict[str, Tensor]:
        """The loss of the mixed images, and that of the clean ones where it counts."""
        loss: Any = super().loss(logits, mixed)
        step = mixed.aux
        if step is None or step.logits is None:
            return loss
        # The binary cross-entropy is 2 / K of the other while the network is unsure.
        scale = 1 if self.config.loss == "ce" else 2 / step.targets.shape[1]
        clean = self.task.criterion(step.logits, step.targets)
        return {"ce": loss, "clean": self.config.clean_lam * scale * clean}

    @classmethod
    def step_cost(cls, config: Any) -> float:
        """Also a pass of the clean images where their loss counts."""
        return cls.cost + (config.clean_lam > 0)

    def pixel_weights(self, x: Tensor, mixed: mf.Mixed) -> tuple[Tensor, Tensor]:
        """What is seen of each pixel, wherever its cell is moved to."""
        del x
        return mf.puzzle_shares(mixed.aux.puzzle)

    def picture(self, x: Tensor, targets: Tensor, mixed: mf.Mixed) -> list[Sheet]:
        """Pairs with their mask and their mixed images."""
        mask = None if mixed.aux is None else mixed.aux.puzzle.mask
        return draw_pixel_masks(self, x, targets, mixed._replace(aux=mask))
