"""Corruptions by weather: snow, frost, fog and brightness."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mixbench.evaluation.corruptions.filters import (
    along_both_axes,
    edge,
    motion_blur_of,
    settle,
    unit_pixels,
    zoom_matrix,
)

GREY = (0.299, 0.587, 0.114)  # weights of the colours in a grey value
WIBBLE = 100.0  # largest change of a plasma map at its coarsest level


def snow(images: Tensor, constants: Sequence[float], layer: Tensor, angle: Tensor) -> Tensor:
    """Flakes that are blurred by motion, over a whitened image.

    Args:
        images: (B, 3, H, W) uint8.
        constants: Mean and deviation of the layer, its magnification, the threshold of a flake,
            radius and sigma of the motion, and the weight of the image.
        layer: (B, H, W) standard normal numbers.
        angle: (B,) degrees of the motion.

    Returns:
        (B, 3, H, W) float64 grey levels.
    """
    mean, sd, factor, threshold, radius, sigma, weight = constants
    height, width = images.shape[-2:]
    flakes = along_both_axes(
        mean + sd * layer.double(), zoom_matrix(factor, height), zoom_matrix(factor, width)
    )
    flakes = torch.where(flakes < threshold, 0.0, flakes).clamp(0, 1)
    levels = settle(flakes * 255).clamp(max=255).to(torch.uint8)[:, None]
    flakes = motion_blur_of(levels, radius, sigma, angle) / 255
    x = images.float() / 255  # as the authors' code, since tenths of a level meet whole ones here
    red, green, blue = (share * x[:, number, None] for number, share in enumerate(GREY))
    grey = red + green + blue
    x = weight * x + (1 - weight) * torch.maximum(x, grey * 1.5 + 0.5)
    return (x.double() + flakes + flakes.flip(2, 3)).clamp(0, 1) * 255


def frost(images: Tensor, constants: tuple[float, float], ice: Tensor) -> Tensor:
    """Ice over images.

    Args:
        images: (B, 3, H, W) uint8.
        constants: Weights of the image and of the ice.
        ice: (B, 3, H, W) uint8, as :func:`crop_textures` returns it.

    Returns:
        (B, 3, H, W) float64 grey levels.
    """
    return (constants[0] * images.double() + constants[1] * ice.double()).clamp(0, 255)


def resize_texture(texture: Tensor, factor: float) -> Tensor:
    """A texture in another size, by bilinear interpolation between pixels, without smoothing.

    Args:
        texture: (h, w, 3) uint8.
        factor: Of both sides.

    Returns:
        (round(factor h), round(factor w), 3) uint8.
    """
    if factor == 1:
        return texture
    rows, columns = (_sampling(factor, side) for side in texture.shape[:2])
    levels = along_both_axes_unequal(texture.double().permute(2, 0, 1), rows, columns)
    return (levels + 0.5).floor().to(torch.uint8).permute(1, 2, 0)


def along_both_axes_unequal(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """As :func:`along_both_axes`, for matrices (h, H) and (w, W) that change the size."""
    return rows @ x @ columns.T


def _sampling(factor: float, count: int) -> Tensor:
    """Linear interpolation at pixel centres as a matrix (round(factor count), count)."""
    length = round(factor * count)
    places = (torch.arange(length, dtype=torch.float64) + 0.5) / factor - 0.5
    low = places.floor()
    share = (places - low)[:, None]
    matrix = torch.zeros(length, count, dtype=torch.float64)
    matrix.scatter_add_(1, edge(low.long()[:, None], count), 1 - share)
    return matrix.scatter_add_(1, edge(low.long()[:, None] + 1, count), share)


def crop_textures(
    textures: Sequence[Tensor], which: Tensor, start: Tensor, size: tuple[int, int]
) -> Tensor:
    """A part of a texture for each image.

    Args:
        textures: (h, w, 3) uint8 each, already resized.
        which: (B,) int64 texture of each image.
        start: (B, 2) int64 its first row and column.
        size: Height and width of the images.

    Returns:
        (B, 3, H, W) uint8.
    """
    device = which.device
    rows = start[:, 0, None] + torch.arange(size[0], device=device)
    columns = start[:, 1, None] + torch.arange(size[1], device=device)
    found = torch.empty(len(which), *size, 3, dtype=torch.uint8, device=device)
    for number, texture in enumerate(textures):
        mine = torch.nonzero(which == number)[:, 0]
        found[mine] = texture.to(device)[rows[mine, :, None], columns[mine, None, :]]
    return found.permute(0, 3, 1, 2).contiguous()


def plasma_side(height: int, width: int) -> int:
    """Side of the plasma map for images: the next power of two."""
    return 1 << (max(height, width) - 1).bit_length()


def plasma_map(u: Tensor, decay: float) -> Tensor:
    """Clouds by diamonds and squares.

    Each level halves the distance of known values: first in the middle of squares, then along rows
    and along columns, each a mean of four neighbours and a random change. The last mean takes the
    right neighbour where the lower one is meant, as in the authors' code.

    Args:
        u: (B, N N - 1) uniform numbers, three n x n arrays for each level n = 1, 2, ... N / 2.
        decay: Factor by which changes become smaller from level to level.

    Returns:
        (B, N, N) float64 in [0, 1].
    """
    side = round((u.shape[1] + 1) ** 0.5)
    grid = torch.zeros(len(u), side, side, dtype=torch.float64, device=u.device)
    place, step, wibble = 0, side, WIBBLE

    def changed(total: Tensor) -> Tensor:
        nonlocal place
        n = total.shape[1]
        drawn = u[:, place : place + n * n].double().view(-1, n, n)
        place += n * n
        return total / 4 + wibble * (2 * wibble * drawn - wibble)

    while step >= 2:
        half = step // 2
        corners = grid[:, ::step, ::step]
        squares = corners + corners.roll(-1, 1)
        squares = squares + squares.roll(-1, 2)
        grid[:, half::step, half::step] = changed(squares)
        middle = grid[:, half::step, half::step]
        rows = middle + middle.roll(1, 1) + (corners + corners.roll(-1, 2))
        grid[:, ::step, half::step] = changed(rows)
        columns = middle + middle.roll(1, 2) + (corners + corners.roll(-1, 1))
        grid[:, half::step, ::step] = changed(columns)
        step, wibble = half, wibble / decay
    grid = grid - grid.amin(dim=(1, 2), keepdim=True)
    return grid / grid.amax(dim=(1, 2), keepdim=True)


def fog(images: Tensor, constants: tuple[float, float], plasma: Tensor) -> Tensor:
    """Clouds in front of images, which lose brightness for it.

    Args:
        images: (B, 3, H, W) uint8.
        constants: Amount of the fog, and the decay of :func:`plasma_map`.
        plasma: (B, N N - 1) uniform numbers, N of :func:`plasma_side`.

    Returns:
        (B, 3, H, W) float64 grey levels.
    """
    amount, decay = constants
    height, width = images.shape[-2:]
    x = unit_pixels(images)
    top = x.amax(dim=(1, 2, 3), keepdim=True)
    clouds = plasma_map(plasma, decay)[:, None, :height, :width]
    return ((x + amount * clouds) * top / (top + amount)).clamp(0, 1) * 255


def brightness(images: Tensor, amount: float) -> Tensor:
    """The value of hue, saturation and value raised by ``amount``, of images (B, 3, H, W) uint8.

    Colours keep their proportions, so that they need not be taken apart.
    """
    x = unit_pixels(images)
    value = x.amax(dim=1, keepdim=True)
    raised = (value + amount).clamp(0, 1)
    return torch.where(x == value, raised, x / value.clamp(min=1e-9) * raised).clamp(0, 1) * 255
