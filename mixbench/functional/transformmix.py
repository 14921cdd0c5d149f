"""TransformMix: move two images so that what matters in both can be seen, and mix by a mask.

Cheung and Yeung, arXiv:2403.12429. No official code was found, and the text does not give layers,
losses or the rule of the label: these operations are a reconstruction. The network that decides
where images go and what is seen of them is :class:`mixbench.nn.transform_mixer.TransformMixer`.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mixbench.functional.mixed import Mixed, check_batch, check_lam, check_perm, mix_targets, take

AFFINES = {"similarity": 4, "full": 6}  # numbers of each image
LABEL_RULES = ("area", "half", "saliency", "prior")
LOG_SCALE, TURN, SHIFT, LINEAR = 0.4, math.pi / 6, 0.5, 0.5  # largest changes
EPS, NOTHING = 1e-6, 1e-3  # against division by 0; of a frame, beyond the error of sampling


class WarpedPairs(NamedTuple):
    """Pairs of images after their transformations, in float32.

    ``own`` and ``partner`` (B, C, H, W) are the images, the ``_saliency`` (B, 1, H, W) their maps,
    and the ``_valid`` (B, 1, H, W) are 1 where they lie inside of their frame and 0 where nothing
    of them is. ``start`` is the pair before, as ``own`` and ``partner`` are after.
    """

    own: Tensor
    partner: Tensor
    own_saliency: Tensor
    partner_saliency: Tensor
    own_valid: Tensor
    partner_valid: Tensor
    start: tuple[Tensor, Tensor]


def scaled_saliency(maps: Tensor) -> Tensor:
    """Bring every map to the range from 0 to 1.

    Args:
        maps: (B, H, W) maps of any range.

    Returns:
        (B, H, W) float32; 0.5 everywhere of a map without any difference.

    Example:
        >>> scaled_saliency(torch.tensor([[[2.0, 4.0, 3.0]], [[7.0, 7.0, 7.0]]]))
        tensor([[[0.0000, 1.0000, 0.5000]],
        <BLANKLINE>
                [[0.5000, 0.5000, 0.5000]]])
    """
    maps = maps.float()
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    flat = high - low <= EPS * high.abs().clamp(min=EPS)
    return torch.where(flat, 0.5, (maps - low) / (high - low).clamp(min=torch.finfo().tiny))


def affine_matrices(numbers: Tensor, size: tuple[int, int]) -> Tensor:
    """Affine maps from places of the result to places of the image, from unbounded numbers.

    Args:
        numbers: (N, 4) logarithm of the scale, turn, and shifts to the right and down, each before
            a tanh that bounds it: scales up to exp(0.4), turns up to 30 degrees, shifts up to a
            quarter of a side. Or (N, 6) changes of a free matrix, row by row, each up to 0.5.
        size: Height H and width W of the images in pixels.

    Returns:
        (N, 2, 3) as ``torch.nn.functional.affine_grid`` takes them, in halves of a side; the
        identity for zeros. A scale above 1 shows the image smaller.

    Raises:
        ValueError: If there are neither 4 nor 6 numbers.

    Example:
        >>> affine_matrices(torch.tensor([[0.0, 0.0, torch.inf, 0.0]]), (8, 8))[0, :, 2]
        tensor([0.5000, 0.0000])
    """
    bounded = numbers.float().tanh()
    if numbers.ndim != 2 or numbers.shape[1] not in AFFINES.values():
        raise ValueError(f"affine maps need (N, 4) or (N, 6) numbers, got {tuple(numbers.shape)}")
    if numbers.shape[1] == AFFINES["full"]:
        identity = torch.eye(2, 3, device=numbers.device)
        return identity + LINEAR * bounded.unflatten(1, (2, 3))
    scale, turn = (LOG_SCALE * bounded[:, 0]).exp(), TURN * bounded[:, 1]
    right, down = (SHIFT * bounded[:, 2:]).unbind(1)
    along, across = scale * turn.cos(), scale * turn.sin()
    tall = size[0] / size[1]  # a turn is one of pixels, whatever the sides
    rows = torch.stack([along, -across * tall, right, across / tall, along, down], dim=1)
    return rows.unflatten(1, (2, 3))


def warp_pairs(x: Tensor, saliency: Tensor, perm: Tensor, matrices: Tensor) -> WarpedPairs:
    """Transform images, their partners and the maps of both in one sampling.

    Args:
        x: (B, C, H, W) normalised images, of which the mean colour is 0.
        saliency: (B, H, W) maps in [0, 1].
        perm: (B,) index of each image's partner.
        matrices: (2B, 2, 3) from :func:`affine_matrices`: of the images, then of their partners.

    Returns:
        The pairs; gradients reach the matrices. Nothing lies outside of a frame: 0.

    Raises:
        ValueError: If a shape does not fit.

    Note:
        Sampling the identity is exact to about 3e-6. Its gradient adds in no fixed order on a GPU.
    """
    check_perm(perm, len(x))
    if saliency.shape != (len(x), *x.shape[2:]):
        raise ValueError(f"maps {tuple(saliency.shape)} do not fit images {tuple(x.shape)}")
    if matrices.shape != (2 * len(x), 2, 3):
        raise ValueError(f"{2 * len(x)} matrices (2, 3) are needed, got {tuple(matrices.shape)}")
    with torch.autocast(x.device.type, enabled=False):
        maps = saliency[:, None].float()
        own = torch.cat([x.float(), maps, torch.ones_like(maps)], dim=1)
        both = torch.cat([own, take(own, perm)])
        grid = F.affine_grid(matrices, list(both.shape), align_corners=False)
        moved = F.grid_sample(both, grid, mode="bilinear", align_corners=False)
    start, parts = both[:, :-2].chunk(2), moved.split([x.shape[1], 1, 1], dim=1)
    (own, partner), (own_map, other_map), (own_valid, other_valid) = (p.chunk(2) for p in parts)
    return WarpedPairs(
        own, partner, own_map, other_map, own_valid, other_valid, (start[0], start[1])
    )


def rectangle_mask(lam: Tensor, origin: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks that show a rectangle of the partner, of the shape of the image, for a comparison.

    Args:
        lam: (B,) weight of the first image, in [0, 1].
        origin: (B, 2) row and column of the rectangle among all that lie in the image, in [0, 1).
        size: Height H and width W of the images in pixels.

    Returns:
        (B, 1, H, W) 1 where the first image stays and 0 in the rectangle, whose share of the area
        is ``1 - lam`` but for whole pixels.

    Example:
        >>> rectangle_mask(torch.tensor([0.75]), torch.tensor([[0.0, 0.9]]), (2, 4))
        tensor([[[[1., 1., 0., 0.],
                  [1., 1., 1., 1.]]]])
    """
    inside = []
    for axis, pixels in enumerate(size):
        side = ((1 - lam).sqrt() * pixels).round()
        start = (origin[:, axis] * (pixels - side + 1)).floor()
        place = torch.arange(pixels, device=lam.device)
        inside.append((place >= start[:, None]) & (place < (start + side)[:, None]))
    return 1 - (inside[0][:, None, :, None] & inside[1][:, None, None, :]).float()


def valid_mask(mask: Tensor, own_valid: Tensor, partner_valid: Tensor) -> Tensor:
    """Weights of pixels that leave out what lies outside of a frame.

    Args:
        mask: (B, 1, H, W) weight of the first image, in [0, 1].
        own_valid: (B, 1, H, W) how far it is inside of its frame there, in [0, 1].
        partner_valid: (B, 1, H, W) the same of the partner.

    Returns:
        (B, 1, H, W) ``m v_a / (m v_a + (1 - m) v_b)``, and 0.5 where nothing of both is.

    Example:
        >>> one, none = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
        >>> shown = [valid_mask(0.3 * one, *v) for v in ((one, none), (none, one), (none, none))]
        >>> torch.cat(shown).flatten().round(decimals=3)
        tensor([1.0000, 0.0000, 0.5000])
    """
    own, partner = mask * own_valid, (1 - mask) * partner_valid
    # The same on both sides, so that the two weights of a pixel sum to 1 in either order.
    share = (own + EPS / 2) / (own + partner + EPS)
    return torch.where(outside(own_valid, partner_valid), 0.5, share)


def outside(own_valid: Tensor, partner_valid: Tensor) -> Tensor:
    """Pixels (B, 1, H, W), True where nothing of either image of a pair is."""
    return own_valid + partner_valid <= NOTHING


def transformmix(
    x: Tensor,
    targets: Tensor,
    *,
    warped: WarpedPairs,
    mask: Tensor,
    lam: Tensor,
    perm: Tensor,
    label: str = "area",
) -> Mixed:
    """Mix transformed pairs by a mask, and their labels by what is seen.

    Args:
        x: (B, C, H, W) images of a floating type, which gives the type of the result.
        targets: (B, K) soft targets.
        warped: The pairs, as :func:`warp_pairs` gave them.
        mask: (B, 1, H, W) weight of the first image, as :func:`valid_mask` gave it.
        lam: (B,) or (1,) weight that the mask was asked for.
        perm: (B,) index of each image's partner.
        label: Weight of the first label: ``area``, the mean of the mask; ``half``; ``saliency``,
            its share of all saliency that is seen; ``prior``, the weight asked for.

    Returns:
        Mixed batch with ``lam`` (B,) as the label has it; gradients reach the mask and the pairs.
        Where nothing of either is, the pair before its transformation is mixed half and half.

    Raises:
        ValueError: If the rule or a shape does not fit.
    """
    check_batch(x, targets)
    check_lam(lam, len(x))
    void = outside(warped.own_valid, warped.partner_valid)
    own, partner = (
        torch.where(void, before, after)
        for before, after in zip(warped.start, (warped.own, warped.partner), strict=True)
    )
    mixed = partner.lerp(own, mask).to(x.dtype)  # two equal pixels stay exactly what they are
    share = mixed_share(mask, warped, lam, label).detach().clamp(0, 1)
    return Mixed(mixed, mix_targets(targets, perm, share), share, perm)


def mixed_share(mask: Tensor, warped: WarpedPairs, lam: Tensor, label: str) -> Tensor:
    """Weight (B,) of the first label under a rule of :func:`transformmix`."""
    area = mask.float().mean(dim=(1, 2, 3))
    if label == "area":
        return area
    if label == "half":
        return torch.full_like(area, 0.5)
    if label == "prior":
        return lam.to(area, non_blocking=True).reshape(-1).expand(len(area))
    if label != "saliency":
        raise ValueError(f"label must be one of {', '.join(LABEL_RULES)}, got {label!r}")
    own = (mask * warped.own_saliency).sum(dim=(1, 2, 3))
    total = own + ((1 - mask) * warped.partner_saliency).sum(dim=(1, 2, 3))
    return torch.where(total > EPS, own / total.clamp(min=EPS), area)


def kept_saliency(mask: Tensor, warped: WarpedPairs, saliency: Tensor, perm: Tensor) -> Tensor:
    """Share of the saliency of both images that is left in a mixture.

    Args:
        mask: (B, 1, H, W) weight of the first image.
        warped: The pairs.
        saliency: (B, H, W) maps before.
        perm: (B,) index of each image's partner.

    Returns:
        (2, B) shares of the images and of their partners, at most 1.
    """
    whole = saliency.float().sum(dim=(1, 2))
    whole = torch.stack([whole, take(whole, perm)]).clamp(min=EPS)
    seen = torch.stack([mask * warped.own_saliency, (1 - mask) * warped.partner_saliency])
    return (seen.sum(dim=(2, 3, 4)) / whole).clamp(max=1)


def total_variation(mask: Tensor) -> Tensor:
    """Mean difference of neighbours in masks, along and across added.

    Args:
        mask: (B, 1, H, W) masks.

    Returns:
        Scalar.

    Example:
        >>> total_variation(torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]]))
        tensor(1.)
    """
    return mask.diff(dim=2).abs().mean() + mask.diff(dim=3).abs().mean()
