"""Patches of images: grids, orders in which they disappear, and images without or with moved ones.

The patterns belong to the image (seed and number), are nested over the ratios, and are the same
for every network; OpenMixup's tool draws one pattern per batch.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mixbench.evaluation.per_image_random import orders

RATIOS = tuple(tenth / 10 for tenth in range(10))
SHUFFLES = (2, 4, 8)  # patches per side


def patch_grid(side: int) -> int:
    """Patches per side that images of a size are divided into.

    Args:
        side: Pixels of the image's side.

    Returns:
        14 from 224 pixels on, else 8, or fewer where 8 does not divide the side.

    Raises:
        ValueError: If the side is 1 pixel or a prime number, so that no grid divides it.
    """
    wanted = 14 if side >= 224 else 8
    for grid in range(wanted, 1, -1):
        if side % grid == 0:
            return grid
    raise ValueError(f"images of {side} pixels fit no grid of patches; resize them")


def drop_orders(seed: int, index: Tensor, grid: int) -> Tensor:
    """The order in which patches of each image disappear.

    Args:
        seed: Seed of the patterns.
        index: (B,) int64 numbers of the images.
        grid: Patches per side.

    Returns:
        (B, grid * grid) int64 patches, counted row by row.
    """
    return orders(seed, index, grid * grid)


def salient_orders(saliency: Tensor, grid: int, *, lowest_first: bool = False) -> Tensor:
    """Patches by the saliency that they hold; of equal ones the lower patch comes first.

    Args:
        saliency: (B, H, W) map, such as the class activation of a teacher.
        grid: Patches per side, a divisor of H and W.
        lowest_first: Begin with the background instead of the object.

    Returns:
        (B, grid * grid) int64 patches, counted row by row.

    Raises:
        ValueError: If the grid does not divide the map.
    """
    sums = patch_sums(saliency, grid)
    return sums.argsort(dim=1, stable=True, descending=not lowest_first)


def patch_sums(saliency: Tensor, grid: int) -> Tensor:
    """Sum of a map over each patch, (B, grid * grid).

    Args:
        saliency: (B, H, W) map.
        grid: Patches per side, a divisor of H and W.

    Returns:
        Sums in float64, or in the map's own type if that counts whole numbers.

    Raises:
        ValueError: If the grid does not divide the map.
    """
    values = saliency.double() if saliency.is_floating_point() else saliency
    return _to_patches(values[:, None], grid).sum(dim=(2, 3, 4))


def dropped(order: Tensor, ratios: Sequence[float]) -> Tensor:
    """Mask of the patches that are gone at each ratio.

    Args:
        order: (B, P) patches in the order in which they disappear.
        ratios: Shares of the patches, in [0, 1].

    Returns:
        (B, R, P) bool, True where a patch is gone; the sets of larger ratios hold the smaller.
    """
    rank = order.argsort(dim=1)
    counts = torch.tensor([drop_count(ratio, order.shape[1]) for ratio in ratios])
    return rank[:, None] < counts.to(order.device)[:, None]


def drop_count(ratio: float, patches: int) -> int:
    """Number of patches that make up a share, rounded half up.

    Args:
        ratio: Share in [0, 1].
        patches: Number of patches.

    Returns:
        The number.
    """
    return math.floor(ratio * patches + 0.5)


def occlude(x: Tensor, gone: Tensor, fill: Tensor) -> Tensor:
    """Replace patches by a colour.

    Args:
        x: (B, C, H, W) images.
        gone: (B, P) bool, patches to replace, of a square grid whose side divides H and W.
        fill: (C,) colour; the mean colour in pixels is 0 after normalisation.

    Returns:
        (B, C, H, W) images.

    Raises:
        ValueError: If the grid is not square or does not divide the image.
    """
    grid = _side(gone.shape[1])
    _check_grid(x, grid)
    mask = gone.view(-1, 1, grid, grid).float()
    mask = F.interpolate(mask, size=x.shape[2:], mode="nearest") > 0
    return torch.where(mask, fill.to(x)[:, None, None], x)


def shuffle(x: Tensor, order: Tensor) -> Tensor:
    """Move patches: patch p of the result is patch ``order[p]`` of the image.

    Args:
        x: (B, C, H, W) images.
        order: (B, P) permutations of a square grid of patches.

    Returns:
        (B, C, H, W) images.

    Raises:
        ValueError: If the grid is not square or does not divide the image.
    """
    grid = _side(order.shape[1])
    patches = _to_patches(x, grid)
    moved = patches.gather(1, order[:, :, None, None, None].expand_as(patches))
    batch, _, channels, high, wide = moved.shape
    moved = moved.view(batch, grid, grid, channels, high, wide).permute(0, 3, 1, 4, 2, 5)
    return moved.reshape(x.shape)


def occlusion_auc(ratios: Tensor, accuracy: Tensor) -> Tensor:
    """Area under accuracy against ratio by the trapezoid rule, divided by the range of ratios.

    Args:
        ratios: (R,) ascending ratios, evenly spaced or not.
        accuracy: (R,) accuracy at each ratio.

    Returns:
        Scalar in the unit of the accuracy.

    Raises:
        ValueError: If there are fewer than two ratios or they do not ascend.
    """
    if len(ratios) < 2 or not (ratios.diff() > 0).all():
        raise ValueError(f"ratios must be two or more and ascend, got {ratios.tolist()}")
    return torch.trapezoid(accuracy.double(), ratios.double()) / (ratios[-1] - ratios[0]).double()


def _side(patches: int) -> int:
    grid = math.isqrt(patches)
    if grid * grid != patches:
        raise ValueError(f"patches must form a square grid, got {patches}")
    return grid


def _check_grid(x: Tensor, grid: int) -> None:
    height, width = x.shape[2:]
    if grid < 1 or height % grid or width % grid:
        raise ValueError(f"a grid of {grid} does not divide images of {height} x {width} pixels")


def _to_patches(x: Tensor, grid: int) -> Tensor:
    """(B, C, H, W) to (B, grid * grid, C, H / grid, W / grid)."""
    _check_grid(x, grid)
    batch, channels, height, width = x.shape
    high, wide = height // grid, width // grid
    parts = x.view(batch, channels, grid, high, grid, wide).permute(0, 2, 4, 1, 3, 5)
    return parts.reshape(batch, grid * grid, channels, high, wide)
