"""Pairs of TransformMix: how the search of the module and its use mix a batch."""

from abc import abstractmethod
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import mixbench.functional as mf
from mixbench.functional.transformmix import scaled_saliency
from mixbench.methods.base import Method
from mixbench.methods.pictures.transformed import draw_transformed
from mixbench.nn.transform_mixer import TransformMixer


class TransformStep(NamedTuple):
    """Record of a mixed batch.

    ``saliency`` (B, H, W) are the maps before, ``warped`` the transformed pairs, ``mask``
    (B, 1, H, W) the weight of the first image, ``numbers`` (2B, 4 or 6) those of the
    transformations and ``asked`` (B,) the weights that were drawn. ``own`` (B, K) are the labels
    before mixing, and ``logits`` (B, K) those of the mixed images, once they are known.
    """

    saliency: Tensor
    warped: mf.WarpedPairs
    mask: Tensor
    numbers: Tensor
    asked: Tensor
    own: Tensor
    logits: Tensor | None = None


class TransformMixMethod(Method):
    """Base of the search and of the use of a module; ``transform_mixer`` is the module."""

    picture = draw_transformed

    @property
    @abstractmethod
    def transform_mixer(self) -> TransformMixer:
        """The module."""

    @abstractmethod
    def find_saliency(self, x: Tensor, y: Tensor) -> Tensor:
        """Maps (B, h, w) of normalised images (B, C, H, W) with labels (B,)."""

    @property
    def no_mask_reason(self) -> str:
        """Reason why there are no shares of pixels."""
        return "it moves images before it mixes them"

    def pixel_weights(self, x: Tensor, mixed: mf.Mixed) -> None:
        """None: pixels are mixed, but not in their places."""
        del x, mixed

    def mix_pairs(
        self, x: Tensor, targets: Tensor, label: str, saliency: Tensor | None, **decisions: Any
    ) -> mf.Mixed:
        """Transform and mask pairs; missing decisions are drawn.

        Args:
            x: (B, C, H, W) normalised images.
            targets: (B, K) labels.
            label: Rule of :func:`mixbench.functional.transformmix`.
            saliency: (B, h, w) maps of the images; found if None.
            **decisions: ``lam`` (B,) or (1,), ``perm`` (B,), ``noise`` (2B, 4 or 6) and, without a
                network for masks, ``origin`` (B, 2) of :func:`mixbench.functional.rectangle_mask`.

        Returns:
            The mixed batch; ``aux`` is a ``TransformStep``.
        """
        cfg, module, rows = self.config, self.transform_mixer, len(x)
        given = {key: value for key, value in decisions.items() if value is not None}
        drawn = self._draw(rows, module.numbers) | given
        perm = drawn["perm"].to(x.device, non_blocking=True)
        lam = drawn["lam"].to(x.device, torch.float32, non_blocking=True).reshape(-1).expand(rows)
        if saliency is None:
            saliency = self.find_saliency(x, targets.argmax(dim=1))
        maps = fitted_maps(saliency, x.shape[2:])
        seen = maps[:, None]
        if module.with_images:
            seen = torch.cat([x.float(), seen], dim=1)
        if cfg.stn:
            numbers = module.transformations(seen, mf.take(seen, perm))
        else:
            numbers = seen.new_zeros(2 * rows, module.numbers)
        moved = numbers
        if cfg.stn and cfg.noise:
            noise = drawn["noise"].to(x.device, non_blocking=True)
            moved = numbers + cfg.noise * noise
        size = (x.shape[2], x.shape[3])
        warped = mf.warp_pairs(x, maps, perm, mf.affine_matrices(moved, size))
        if cfg.mpn:
            mask = module.mask(warped.own_saliency, warped.partner_saliency, lam)
        else:
            origin = drawn["origin"].to(x.device, non_blocking=True)
            mask = mf.rectangle_mask(lam, origin, size)
        mask = mf.valid_mask(mask, warped.own_valid, warped.partner_valid)
        decided: dict[str, Any] = {"lam": lam, "perm": perm, "label": label}
        mixed = mf.transformmix(x, targets, warped=warped, mask=mask, **decided)
        return mixed._replace(aux=TransformStep(maps, warped, mask, numbers, lam, targets))

    def _draw(self, rows: int, numbers: int) -> dict[str, Tensor]:
        cfg, generator = self.config, self.generator
        drawn = {
            "perm": mf.draw_perm(rows, generator, rule=cfg.partner),
            "lam": mf.draw_lam(rows, cfg.alpha, generator),
        }
        if cfg.noise:
            drawn["noise"] = torch.randn(2 * rows, numbers, generator=generator)
        if not cfg.mpn:
            drawn["origin"] = torch.rand(rows, 2, generator=generator)
        return drawn

    def diagnostics(self, mixed: mf.Mixed) -> dict[str, Tensor]:
        """Also the error of the mask's area, and how much of the saliency is left."""
        figures, step = super().diagnostics(mixed), mixed.aux
        if step is None or mixed.perm is None:
            return figures
        area = step.mask.mean(dim=(1, 2, 3))
        kept = mf.kept_saliency(step.mask, step.warped, step.saliency, mixed.perm)
        return figures | {
            "area_error": (area - step.asked).abs().mean(),
            "kept_saliency": kept.mean(),
            "mask_tv": mf.total_variation(step.mask),
            "moved": step.numbers.tanh().abs().mean(),
        }


def fitted_maps(maps: Tensor, size: Any) -> Tensor:
    """Maps (B, h, w) in the size of the images, from 0 to 1."""
    if maps.shape[1:] != tuple(size):
        maps = F.interpolate(maps[:, None].float(), tuple(size), mode="bilinear")[:, 0]
    return scaled_saliency(maps)
