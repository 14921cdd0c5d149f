"""Corruptions by blur: defocus, glass, motion, zoom and Gaussian."""

import math
from functools import cache

import numpy as np
import torch
from torch import Tensor

from mixbench.evaluation.corruptions.filters import (
    along_both_axes,
    filter_matrix,
    gaussian_blur_of,
    mirrored,
    motion_blur_of,
    settle,
    zoom_matrix,
)


def gaussian_blurred(images: Tensor, sigma: float) -> Tensor:
    """A Gaussian of ``sigma`` pixels over images (B, 3, H, W) uint8, as float64 grey levels."""
    return settle(gaussian_blur_of(images.double(), sigma))


def defocus_disk(radius: float, sigma: float) -> Tensor:
    """A disk whose edge is blurred.

    Args:
        radius: In pixels.
        sigma: Standard deviation of the blur of its edge.

    Returns:
        (2r + 1, 2r + 1) float64 weights, r at least 8.
    """
    reach = max(8, math.ceil(radius))
    places = torch.arange(-reach, reach + 1, dtype=torch.float64)
    disk = (places.square()[:, None] + places.square() <= radius**2).double()
    half = 1 if radius <= 8 else 2
    x = torch.arange(-half, half + 1, dtype=torch.float64)
    weights = (-0.5 * (x / sigma).square()).exp()
    smooth = filter_matrix(weights / weights.sum(), len(places), mirrored)
    # In 32 bits the weights do not add up to 1, which decides whether a flat part gets darker.
    disk = (disk.float() / disk.sum().float()).double()
    return along_both_axes(disk, smooth, smooth).float().double()


def defocus_blur(images: Tensor, constants: tuple[float, float]) -> Tensor:
    """A disk over images.

    Args:
        images: (B, 3, H, W) uint8.
        constants: Radius of the disk and blur of its edge, in pixels.

    Returns:
        (B, 3, H, W) float64 grey levels.
    """
    height, width = images.shape[-2:]
    weights = _bare_disk(*constants)
    reach = len(weights) // 2
    rows, columns = (
        mirrored(torch.arange(-reach, side + reach, device=images.device), side)
        for side in (height, width)
    )
    x = images.double()[..., rows, :][..., columns]
    found = torch.zeros(images.shape, dtype=torch.float64, device=images.device)
    for row, line in enumerate(weights.tolist()):
        for column, weight in enumerate(line):
            if weight:
                found.add_(x[..., row : row + height, column : column + width], alpha=weight)
    return settle(found)


@cache
def _bare_disk(radius: float, sigma: float) -> Tensor:
    """The disk without the rows and columns at its border that weigh nothing."""
    disk = defocus_disk(radius, sigma)
    disk = torch.where(disk < 1e-12, 0.0, disk)
    bare = int((disk.sum(dim=0) > 0).long().argmax())
    return disk[bare : len(disk) - bare, bare : len(disk) - bare]


def glass_blur(images: Tensor, constants: tuple[float, int, int], moves: Tensor) -> Tensor:
    """Pixels that take the value of a pixel nearby, one after another, between two blurs.

    Pixels are visited from the last row and column to the first, but for a border. Each takes the
    value that the other pixel has by then: to find where it comes from, the chains of pixels that
    had been visited before are followed by doubling.

    Args:
        images: (B, 3, H, W) uint8.
        constants: Blur in pixels, largest move, number of rounds.
        moves: (B, rounds, H, W, 2) int64 right and down of each pixel's move.

    Returns:
        (B, 3, H, W) float64 grey levels.
    """
    sigma, reach, rounds = constants
    batch, channels, height, width = images.shape
    x = settle(gaussian_blur_of(images.double(), sigma)).floor().flatten(2)
    row = torch.arange(height, device=images.device)[:, None]
    column = torch.arange(width, device=images.device)
    visited = (row > reach) & (row <= height - reach)
    visited = visited & (column > reach) & (column <= width - reach)
    place = row * width + column
    count = height * width
    for number in range(rounds):
        move = moves[:, number].long()
        source = place + (move[..., 1] * width + move[..., 0]) * visited
        # Places from count on are pixels as they were; those before, as they are after this round.
        link = torch.where((source > place) & visited, source, source + count).flatten(1)
        link = torch.cat([link, torch.arange(count, 2 * count).to(link).expand(batch, -1)], dim=1)
        for _ in range(count.bit_length()):
            further = link.gather(1, link)
            if torch.equal(further, link):
                break
            link = further
        origin = (link[:, :count] - count)[:, None].expand(-1, channels, -1)
        x = x.gather(2, origin)
    return settle(gaussian_blur_of(x.view(images.shape), sigma)).clamp(max=255)


def motion_blur(images: Tensor, constants: tuple[float, float], angle: Tensor) -> Tensor:
    """A line of ``constants`` radius and sigma at an ``angle`` (B,) in degrees."""
    return motion_blur_of(images, *constants, angle)


def zoom_factors(constants: tuple[float, float]) -> np.ndarray:
    """Magnifications from 1 to a stop by a step, as ``numpy.arange`` counts them."""
    stop, step = constants
    return np.arange(1, stop, step)


def zoom_blur(images: Tensor, constants: tuple[float, float]) -> Tensor:
    """The mean of images (B, 3, H, W) uint8 and their magnifications, as float64 grey levels."""
    height, width = images.shape[-2:]
    x = images.double()
    factors = zoom_factors(constants).tolist()
    total = x.clone()
    for factor in factors:
        total += along_both_axes(x, zoom_matrix(factor, height), zoom_matrix(factor, width))
    return settle(total / (len(factors) + 1)).clamp(max=255)
