"""Digital corruptions: contrast, elastic transform, pixelate, JPEG and saturation."""

import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mixbench.evaluation.corruptions.filters import (
    along_both_axes,
    gaussian_matrix,
    mirrored,
    settle,
    symmetric,
    unit_pixels,
    warp,
)

BITS = 22  # of the weights by which Pillow resizes


def contrast(images: Tensor, amount: float) -> Tensor:
    """Distances from the mean of each channel times ``amount``, of images (B, 3, H, W) uint8."""
    x = unit_pixels(images)
    pixels = images.shape[2] * images.shape[3]
    mean = images.long().sum(dim=(2, 3), keepdim=True).double() / (255 * pixels)
    return ((x - mean) * amount + mean).clamp(0, 1) * 255


def saturate(images: Tensor, constants: tuple[float, float]) -> Tensor:
    """The saturation of hue, saturation and value changed; grey has a red hue.

    Args:
        images: (B, 3, H, W) uint8.
        constants: Factor of the saturation, and what is added to it.

    Returns:
        (B, 3, H, W) float64 grey levels.
    """
    x = unit_pixels(images)
    value, low = x.amax(dim=1, keepdim=True), x.amin(dim=1, keepdim=True)
    saturation = (value - low) / value.clamp(min=1e-9)
    changed = (saturation * constants[0] + constants[1]).clamp(0, 1)
    # 0 for the strongest colour, 1 for the least.
    away = (value - x) / (value - low).clamp(min=1e-9)
    red = torch.tensor([0.0, 1.0, 1.0], dtype=x.dtype, device=x.device)[:, None, None]
    away = torch.where(value == low, red, away)
    return (value * (1 - changed * away)).clamp(0, 1) * 255


def elastic_transform(
    images: Tensor, constants: Sequence[float], affine: Tensor, field: Tensor
) -> Tensor:
    """An affine warp, then one by a smooth random field.

    Args:
        images: (B, 3, H, W) uint8.
        constants: Strength and smoothness of the field, and largest move of a corner, in pixels.
        affine: (B, 3, 2) uniform numbers, for the moves of three corners to the right and down.
        field: (B, 2, H, W) uniform numbers, for moves to the right and down.

    Returns:
        (B, 3, H, W) float64 grey levels.
    """
    strength, sigma, most = constants
    height, width = images.shape[-2:]
    x = images.double()
    row = torch.arange(height, device=x.device, dtype=torch.float64)[:, None].expand(height, width)
    column = torch.arange(width, device=x.device, dtype=torch.float64).expand(height, width)
    x = warp(x, *_affine_sources(row, column, affine, most), mirrored)
    smooth = (
        gaussian_matrix(sigma, side, symmetric, cut=3).to(x.device) for side in (height, width)
    )
    moves = along_both_axes(2 * field.double() - 1, *smooth) * strength
    moves = moves.expand(len(x), -1, -1, -1)
    return settle(warp(x, row + moves[:, 1], column + moves[:, 0], symmetric)).clamp(0, 255)


def _affine_sources(
    row: Tensor, column: Tensor, affine: Tensor, most: float
) -> tuple[Tensor, Tensor]:
    """Rows and columns (B, H, W) that an affine map of three moved corners brings to each pixel."""
    height, width = row.shape
    middle = torch.tensor([height // 2, width // 2], dtype=torch.float64)
    third = min(height, width) // 3
    signs = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]], dtype=torch.float64)
    corners = middle + third * signs
    moved = corners.to(affine.device) + (2 * affine.double() - 1) * most
    # The map is x' = A x + t, found from the differences of the corners, which are unit vectors.
    first = (moved[:, 0] - moved[:, 1]) / (2 * third)  # along the second coordinate
    second = (moved[:, 1] - moved[:, 2]) / (2 * third)  # along the first one
    a, c = (second[:, number, None, None] for number in (0, 1))
    b, d = (first[:, number, None, None] for number in (0, 1))
    shift = moved[:, 2] - second * corners[2, 0] - first * corners[2, 1]
    x, y = column - shift[:, 0, None, None], row - shift[:, 1, None, None]
    scale = a * d - b * c
    return (a * y - c * x) / scale, (d * x - b * y) / scale


def pixelate(images: Tensor, ratio: float) -> Tensor:
    """Images (B, 3, H, W) uint8 made smaller by ``ratio`` and larger again, by boxes."""
    sides = images.shape[-2:]
    small = [int(side * ratio) for side in sides]
    x = _box_resized(images.double(), small[0], small[1])
    return _box_resized(x, sides[0], sides[1])


def _box_resized(x: Tensor, height: int, width: int) -> Tensor:
    """As Pillow resizes by boxes: first along rows, each time rounded to whole grey levels."""
    for axis, length in ((3, width), (2, height)):
        if x.shape[axis] != length:
            weights = _box_weights(x.shape[axis], length).to(x.device)
            x = x @ weights.T if axis == 3 else weights @ x
            x = ((x + (1 << (BITS - 1))) / (1 << BITS)).floor()
    return x


def _box_weights(count: int, length: int) -> Tensor:
    """Weights (length, count) of a box filter in units of 2^-22, as whole numbers."""
    scale = count / length
    reach = max(scale, 1.0)
    matrix = torch.zeros(length, count, dtype=torch.float64)
    for row in range(length):
        centre = (row + 0.5) * scale
        low = max(0, int(centre - reach / 2 + 0.5))
        high = min(count, int(centre + reach / 2 + 0.5))
        places = [(place - centre + 0.5) / reach for place in range(low, high)]
        inside = torch.tensor([-0.5 < place <= 0.5 for place in places], dtype=torch.float64)
        matrix[row, low:high] = inside / inside.sum()
    return (matrix * (1 << BITS) + 0.5).floor()


def jpeg_compression(images: Tensor, quality: int) -> Tensor:
    """Images (B, 3, H, W) uint8 through libjpeg at a ``quality`` of 1 to 100, on the CPU."""
    pixels, found = images.permute(0, 2, 3, 1).cpu().numpy(), []
    for image in pixels:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality)
        found.append(np.asarray(Image.open(file).convert("RGB")))
    levels = torch.from_numpy(np.stack(found) if found else pixels)
    return levels.permute(0, 3, 1, 2).contiguous().to(images.device).double()
