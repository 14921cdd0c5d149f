"""Filters of batches of images that corruptions are made of: blurs, zooms, warps and their borders.

Filters along an axis are square matrices, into which the border is folded. All compute in float64,
and :func:`settle` removes what is left of the order of additions, so that an image comes out the
same in any batch.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

SETTLED = 1e-9  # grey levels, far above the error of float64


def unit_pixels(images: Tensor) -> Tensor:
    """Grey levels (B, C, H, W) uint8 as float64 in [0, 1]."""
    return images.double() / 255


def settle(levels: Tensor) -> Tensor:
    """Grey levels moved by a hair, so that whole ones do not fall below themselves when truncated.

    Args:
        levels: (B, C, H, W) sums of weighted grey levels, whole numbers up to rounding in flat
            parts of an image.

    Returns:
        Levels of the same shape.
    """
    return levels + SETTLED


def edge(index: Tensor, count: int) -> Tensor:
    """Indices beyond an end replaced by the end: ``a a a | a b c | c c c``."""
    return index.clamp(0, count - 1)


def symmetric(index: Tensor, count: int) -> Tensor:
    """Indices mirrored at the ends, which are repeated: ``c b a | a b c | c b a``."""
    index = index.remainder(2 * count)
    return torch.where(index < count, index, 2 * count - 1 - index)


def mirrored(index: Tensor, count: int) -> Tensor:
    """Indices mirrored at the ends, which are not repeated: ``d c b | a b c d | c b a``."""
    period = max(1, 2 * count - 2)
    index = index.remainder(period)
    return torch.where(index < count, index, period - index)


Border = Callable[[Tensor, int], Tensor]


def filter_matrix(weights: Tensor, count: int, border: Border) -> Tensor:
    """A filter along an axis as a matrix.

    Args:
        weights: (2r + 1,) float64.
        count: Length of the axis.
        border: What stands for indices beyond its ends.

    Returns:
        (count, count) float64; row i holds the weights by which value i is found.
    """
    radius = len(weights) // 2
    places = torch.arange(count)[:, None] + torch.arange(-radius, radius + 1)
    matrix = torch.zeros(count, count, dtype=torch.float64)
    return matrix.scatter_add_(1, border(places, count), weights.expand(count, -1))


def gaussian_matrix(sigma: float, count: int, border: Border = edge, cut: float = 4.0) -> Tensor:
    """A Gaussian blur along an axis as a matrix.

    Args:
        sigma: Standard deviation in pixels; 0 leaves everything as it is.
        count: Length of the axis.
        border: As for :func:`filter_matrix`.
        cut: Standard deviations beyond which weights are 0.

    Returns:
        (count, count) float64.
    """
    radius = int(cut * sigma + 0.5)
    if not radius:
        return torch.eye(count, dtype=torch.float64)
    x = torch.arange(-radius, radius + 1, dtype=torch.float64)
    weights = (-0.5 * (x / sigma).square()).exp()
    return filter_matrix(weights / weights.sum(), count, border)


def zoom_matrix(factor: float, count: int) -> Tensor:
    """Magnification of the middle of an axis, by linear interpolation, as a matrix.

    Args:
        factor: At least 1.
        count: Length of the axis.

    Returns:
        (count, count) float64.
    """
    crop = math.ceil(count / factor)
    length, top = round(crop * factor), (count - crop) // 2
    start = (length - count) // 2
    places = torch.arange(start, start + count, dtype=torch.float64)
    places = places * ((crop - 1) / max(1, length - 1))
    low = places.floor().clamp(max=crop - 1)
    share = (places - low)[:, None]
    first = top + low.long()[:, None]
    matrix = torch.zeros(count, count, dtype=torch.float64)
    matrix.scatter_add_(1, first, 1 - share)
    return matrix.scatter_add_(1, (first + 1).clamp(max=top + crop - 1), share)


def along_both_axes(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Apply a filter along the columns of images and one along their rows.

    Args:
        x: (..., H, W) float64.
        rows: (H, H) matrix that combines rows.
        columns: (W, W) matrix that combines columns.

    Returns:
        (..., H, W) float64.
    """
    return rows.to(x.device) @ x @ columns.to(x.device).T


def gaussian_blur_of(x: Tensor, sigma: float) -> Tensor:
    """Images (..., H, W) blurred by ``sigma`` pixels, their edges replicated."""
    height, width = x.shape[-2:]
    return along_both_axes(x, gaussian_matrix(sigma, height), gaussian_matrix(sigma, width))


def warp(x: Tensor, rows: Tensor, columns: Tensor, border: Border) -> Tensor:
    """Images read at other places, by bilinear interpolation.

    Args:
        x: (B, C, H, W) float64.
        rows: (B, H, W) float64 row of each place, in pixels.
        columns: (B, H, W) float64 column of each place.
        border: What stands for places outside of the image.

    Returns:
        (B, C, H, W) float64.
    """
    height, width = x.shape[-2:]
    found = torch.zeros_like(x)
    top, left = rows.floor(), columns.floor()
    down, right = rows - top, columns - left
    for step_down, weight_down in ((0, 1 - down), (1, down)):
        row = border(top.long() + step_down, height)
        for step_right, weight_right in ((0, 1 - right), (1, right)):
            column = border(left.long() + step_right, width)
            found += read_pixels(x, row, column) * (weight_down * weight_right)[:, None]
    return found


def read_pixels(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Images read at whole pixels.

    Args:
        x: (B, C, H, W).
        rows: (B, H, W) int64.
        columns: (B, H, W) int64.

    Returns:
        (B, C, H, W) of the type of ``x``.
    """
    batch, channels, height, width = x.shape
    places = (rows * width + columns).view(batch, 1, height * width)
    return x.flatten(2).gather(2, places.expand(-1, channels, -1)).view_as(x)


def motion_blur_of(images: Tensor, radius: float, sigma: float, angle: Tensor) -> Tensor:
    """Blur to one side along a line, as ImageMagick 6 does in 16 bits.

    Args:
        images: (B, C, H, W) uint8.
        radius: Half the length of the line in pixels.
        sigma: Standard deviation of the weights in pixels.
        angle: (B,) float64 degrees.

    Returns:
        (B, C, H, W) whole grey levels in float64.
    """
    height, width = images.shape[-2:]
    taps = torch.arange(2 * math.ceil(radius) + 1, dtype=torch.float64)
    weights = (-0.5 * (taps / sigma).square()).exp()
    weights = (weights / weights.sum()).tolist()
    turn = angle.double().deg2rad()
    across, down = turn.cos(), turn.sin()
    row = torch.arange(height, device=images.device)[:, None]
    column = torch.arange(width, device=images.device)
    x, found = images.double() * 257, torch.zeros(images.shape, device=images.device).double()
    for tap, weight in enumerate(weights):
        rows = row + (tap * down - 0.5).ceil().long()[:, None, None]
        columns = column + (tap * across - 0.5).ceil().long()[:, None, None]
        rows, columns = torch.broadcast_tensors(edge(rows, height), edge(columns, width))
        found += read_pixels(x, rows.contiguous(), columns.contiguous()) * weight
    return (found + 0.5 + SETTLED).floor().div(257, rounding_mode="floor")
