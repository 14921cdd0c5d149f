"""Spatter of water or mud: a corruption by weather, made on the CPU.

Drops of water get a rim from the outline of the layer: Canny's edges, the distance from them by the
5 x 5 chamfer mask (Borgefors, 1986), equalised and sharpened. Every step counts in whole numbers
or fixed points where OpenCV does.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mixbench.evaluation.corruptions.filters import (
    SETTLED,
    gaussian_blur_of,
    unit_pixels,
)

WATER = (175 / 255, 238 / 255, 238 / 255)
MUD = (63 / 255, 42 / 255, 20 / 255)
LOW, HIGH = 50, 150  # gradients of a weak and a strong edge
FAR = 20  # pixels of distance beyond which nothing is told apart
_FIXED = 1 << 16
_STRAIGHT, _DIAGONAL, _KNIGHT = _FIXED, round(1.4 * _FIXED), round(2.1969 * _FIXED)
_TANGENT = 13573  # of 22.5 degrees, in units of 2^-15
_SHARPEN = torch.tensor([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])


def spatter(images: Tensor, constants: Sequence[float], layer: Tensor) -> Tensor:
    """Drops over images.

    Args:
        images: (B, 3, H, W) uint8.
        constants: Mean, deviation and blur of the layer, the threshold of a drop, its strength, and
            0 for water or 1 for mud.
        layer: (B, H, W) standard normal numbers.

    Returns:
        (B, 3, H, W) float64 grey levels.
    """
    mean, sd, sigma, threshold, strength, mud = constants
    drops = gaussian_blur_of(mean + sd * layer.double().cpu(), sigma)
    drops = torch.where(drops < threshold, 0.0, drops)
    x = unit_pixels(images)
    if mud:
        cover = gaussian_blur_of((drops > threshold).double(), strength)
        cover = torch.where(cover < 0.8 - SETTLED, 0.0, cover).to(x.device)[:, None]
        x = x * (1 - cover) + cover * _colour(MUD, x)
    else:
        x = x + strength * _rims(drops).to(x.device)[:, None] * _colour(WATER, x)
    return x.clamp(0, 1) * 255


def _colour(values: Sequence[float], x: Tensor) -> Tensor:
    return torch.tensor(values, dtype=x.dtype, device=x.device)[:, None, None]


def _rims(drops: Tensor) -> Tensor:
    """Brightness (B, H, W) of water in [0, 1], from its layer."""
    levels = (drops * 255).clamp(max=255).floor().long()
    far = edge_distance(canny_edges(levels)).clamp(max=FAR)
    near = equalize(_mean9(far).add(SETTLED / 255).floor().long())
    sharp = F.conv2d(_mirror(near.double()), _SHARPEN[None, None].double())[:, 0].clamp(0, 255)
    rims = levels * (_mean9(sharp) + 0.5).floor()
    return rims / rims.amax(dim=(1, 2), keepdim=True).clamp(min=1)


def _mirror(x: Tensor) -> Tensor:
    return F.pad(x[:, None], (1, 1, 1, 1), mode="reflect")


def _mean9(x: Tensor) -> Tensor:
    """Mean of each value and its eight neighbours, mirrored at the border."""
    return _sum3(_mirror(x.double())[:, 0]) / 9


def _sum3(x: Tensor) -> Tensor:
    x = x[:, :-2] + x[:, 1:-1] + x[:, 2:]
    return x[:, :, :-2] + x[:, :, 1:-1] + x[:, :, 2:]


def canny_edges(levels: Tensor) -> Tensor:
    """Edges by Canny (1986): ridges of the gradient that are strong, or touch one that is.

    Args:
        levels: (B, H, W) int64 grey levels.

    Returns:
        (B, H, W) bool.
    """
    x = F.pad(levels[:, None].double(), (1, 1, 1, 1), mode="replicate")[:, 0].long()
    smooth = x[:, :-2] + 2 * x[:, 1:-1] + x[:, 2:]
    across = smooth[:, :, 2:] - smooth[:, :, :-2]
    smooth = x[:, :, :-2] + 2 * x[:, :, 1:-1] + x[:, :, 2:]
    down = smooth[:, 2:] - smooth[:, :-2]
    size = across.abs() + down.abs()
    around = F.pad(size, (1, 1, 1, 1))
    height, width = size.shape[1:]

    def beside(row: int, column: int) -> Tensor:
        return around[:, 1 + row : 1 + row + height, 1 + column : 1 + column + width]

    x_size, y_size = across.abs(), down.abs() << 15
    flat = x_size * _TANGENT
    steep = flat + (x_size << 16)
    level, upright = y_size < flat, y_size > steep
    ridge_level = (size > beside(0, -1)) & (size >= beside(0, 1))
    ridge_upright = (size > beside(-1, 0)) & (size >= beside(1, 0))
    falling = (size > beside(-1, -1)) & (size > beside(1, 1))
    rising = (size > beside(-1, 1)) & (size > beside(1, -1))
    ridge = torch.where((across ^ down) < 0, rising, falling)
    ridge = torch.where(upright, ridge_upright, ridge)
    ridge = torch.where(level, ridge_level, ridge) & (size > LOW)
    found = ridge & (size > HIGH)
    while True:
        touched = F.max_pool2d(found[:, None].float(), 3, 1, 1)[:, 0] > 0
        touched &= ridge
        if torch.equal(touched, found):
            return found
        found = touched


def edge_distance(edges: Tensor) -> Tensor:
    """Distance of each pixel from the nearest edge.

    Two passes over the rows, down and up, in which a row looks at the two rows before it, and
    values then spread along the row.

    Args:
        edges: (B, H, W) bool.

    Returns:
        (B, H, W) float64 pixels; large where there is no edge.
    """
    batch, height, width = edges.shape
    nothing = 1 << 28
    grid = torch.full((batch, height + 4, width + 4), nothing, dtype=torch.int64)
    grid[:, 2:-2, 2:-2] = torch.where(edges, 0, nothing)
    steps = torch.arange(width) * _STRAIGHT
    for direction in (1, -1):
        rows = range(2, height + 2)
        for row in rows if direction == 1 else reversed(rows):
            one, two = grid[:, row - direction], grid[:, row - 2 * direction]

            def shifted(line: Tensor, shift: int, cost: int) -> Tensor:
                return line[:, 2 + shift : 2 + shift + width] + cost

            best = grid[:, row, 2:-2]
            for line, shift, cost in (
                (one, 0, _STRAIGHT),
                (one, -1, _DIAGONAL),
                (one, 1, _DIAGONAL),
                (one, -2, _KNIGHT),
                (one, 2, _KNIGHT),
                (two, -1, _KNIGHT),
                (two, 1, _KNIGHT),
            ):
                best = torch.minimum(best, shifted(line, shift, cost))
            right = (best - steps).cummin(dim=1).values + steps
            left = (best + steps).flip(1).cummin(dim=1).values.flip(1) - steps
            grid[:, row, 2:-2] = torch.minimum(right, left)
    return grid[:, 2:-2, 2:-2].double() / _FIXED


def equalize(levels: Tensor) -> Tensor:
    """Grey levels spread so that their histogram is even.

    Args:
        levels: (B, H, W) int64 in 0..255.

    Returns:
        (B, H, W) int64; images of a single level are left as they are.
    """
    flat = levels.flatten(1)
    counts = torch.zeros(len(flat), 256, dtype=torch.int64)
    counts.scatter_add_(1, flat, torch.ones_like(flat))
    first = (counts > 0).long().argmax(dim=1, keepdim=True)
    lowest = counts.gather(1, first)
    total = flat.shape[1]
    scale = 255 / (total - lowest).float()  # the steps of the table are of 32 bits
    table = ((counts.cumsum(dim=1) - lowest).float() * scale).round().clamp(0, 255).long()
    table = torch.where(lowest == total, first, table)
    return table.gather(1, flat).view_as(levels)
