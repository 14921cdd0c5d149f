"""Agreement of a mixed image's label with how much of each object people would look at.

The measure is ours: the share of gaze that a mixing mask keeps, against the label's weight. People
look at the centre of photographs whatever they show, so :func:`centre_gaussian` stands beside
every result as its control.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

BLANK = 1e-8  # less gaze than this is none
SPREAD = 0.05  # deviation of a fixation, as a share of the map's longer side
CENTRE_SPREAD = 0.25  # deviation of the control, as a share of each side


class Inconsistency(NamedTuple):
    """Mean distance of label and gaze, and the pairs that had none.

    Attributes:
        value: Scalar, 100 times the mean of ``abs(lam_label - lam_gaze)`` over pairs with gaze;
            NaN where no pair has any.
        lam_gaze: (N,) float64, 0 for a blank pair.
        blank: (N,) bool, pairs whose mixed image shows no gaze of either image.
    """

    value: Tensor
    lam_gaze: Tensor
    blank: Tensor


def gaze_lam(
    gaze_a: Tensor, gaze_b: Tensor, mask: Tensor, partner: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Weight of the first image by the gaze that stays visible.

    Args:
        gaze_a: (N, H, W) gaze of the first images, >= 0, of any scale.
        gaze_b: (N, H, W) gaze of their partners.
        mask: (N, H, W) share of each pixel that comes from the first image, in [0, 1]; Input Mixup
            has its weight everywhere.
        partner: (N, H, W) share of each pixel of the partner that is seen, for methods that paste
            it elsewhere than it was; ``1 - mask`` by default.

    Returns:
        (N,) float64 weight, 0 for a blank pair, and (N,) bool, the blank pairs.

    Raises:
        ValueError: If the shapes differ, or gaze is negative or not finite.
    """
    kept = mask.double()
    brought = 1 - kept if partner is None else partner.double()
    if not gaze_a.shape == gaze_b.shape == mask.shape == brought.shape or mask.ndim != 3:
        shapes = [tuple(value.shape) for value in (gaze_a, gaze_b, mask, brought)]
        raise ValueError(f"gaze maps and masks must be (N, H, W) of one size, got {shapes}")
    for gaze in (gaze_a, gaze_b):
        if not (gaze >= 0).all() or not gaze.isfinite().all():
            raise ValueError("gaze maps must be finite and >= 0; clip or mask them first")
    seen_a = (kept * _normalized(gaze_a)).sum(dim=(1, 2))
    seen_b = (brought * _normalized(gaze_b)).sum(dim=(1, 2))
    blank = (seen_a < BLANK) & (seen_b < BLANK)
    return torch.where(blank, 0, seen_a / (seen_a + seen_b).where(~blank, 1)), blank


def gaze_inconsistency(
    gaze_a: Tensor,
    gaze_b: Tensor,
    mask: Tensor,
    lam_label: Tensor,
    partner: Tensor | None = None,
) -> Inconsistency:
    """Mean distance between the weight in the label and the weight by gaze.

    Args:
        gaze_a: (N, H, W) gaze of the first images, as for :func:`gaze_lam`.
        gaze_b: (N, H, W) gaze of their partners.
        mask: (N, H, W) share of each pixel that comes from the first image.
        lam_label: (N,) weight of the first image in the label.
        partner: As for :func:`gaze_lam`.

    Returns:
        The result; blank pairs are left out of the mean.

    Raises:
        ValueError: As :func:`gaze_lam` does, or if the weights are not (N,).
    """
    if lam_label.shape != mask.shape[:1]:
        raise ValueError(f"lam_label must be ({len(mask)},), got {tuple(lam_label.shape)}")
    lam, blank = gaze_lam(gaze_a, gaze_b, mask, partner)
    distance = (lam_label.double() - lam).abs().where(~blank, 0)
    value = 100 * distance.sum() / (~blank).sum()
    return Inconsistency(value, lam, blank)


def density_maps(
    fixations: Sequence[Tensor], size: tuple[int, int], *, spread: float = SPREAD
) -> Tensor:
    """Fixations to smooth maps: a Gaussian at each fixation, weighted by its duration.

    Args:
        fixations: For each image (F, 3) of horizontal and vertical place as shares of the image's
            width and height, in [0, 1], and duration in any unit. No fixation gives an empty map.
        size: Height and width of the maps in pixels.
        spread: Deviation of the Gaussians as a share of the longer side of the map.

    Returns:
        (N, H, W) float64 maps that sum to 1, or to 0 without fixations.

    Raises:
        ValueError: If ``spread`` is not > 0.
    """
    if not spread > 0:
        raise ValueError(f"spread must be > 0, got {spread}")
    deviation = spread * max(size)
    maps = torch.zeros(len(fixations), *size, dtype=torch.float64)
    for image, points in zip(maps, fixations, strict=True):
        if not len(points):
            continue
        across, down, duration = points.double().unbind(1)
        rows = _bell(size[0], down * size[0], deviation)
        columns = _bell(size[1], across * size[1], deviation)
        image += torch.einsum("f,fh,fw->hw", duration, rows, columns)
    return _normalized(maps)


def centre_gaussian(size: tuple[int, int], *, spread: float = CENTRE_SPREAD) -> Tensor:
    """The control: gaze at the centre of the picture, whatever it shows.

    Args:
        size: Height and width of the map in pixels.
        spread: Deviation as a share of each side.

    Returns:
        (H, W) float64 map that sums to 1.
    """
    rows, columns = (_bell(n, torch.tensor([n / 2]), spread * n)[0] for n in size)
    return rows[:, None] * columns / (rows.sum() * columns.sum())


def _normalized(gaze: Tensor) -> Tensor:
    total = gaze.double().sum(dim=(1, 2), keepdim=True)
    return gaze.double() / total.where(total > 0, 1)


def _bell(pixels: int, centre: Tensor, deviation: float) -> Tensor:
    """Values of a Gaussian at the centres of pixels, (F, pixels)."""
    places = torch.arange(pixels, dtype=torch.float64) + 0.5
    return torch.exp(-(((places - centre[:, None].double()) / deviation) ** 2) / 2)
