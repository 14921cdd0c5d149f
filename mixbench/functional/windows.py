"""TdAttenMix: the most attended window of a partner image over the least attended of the image.

Wang, Gu, Lu, AAAI 2025, arXiv:2501.15409; official code morning12138/TdAttenMix. Windows of this
kind come from SMMix: Chen et al., ICCV 2023, arXiv:2212.12977; official code ChenMnZ/SMMix.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from mixbench.functional.draws import draw_perm
from mixbench.functional.mixed import Mixed, check_batch, check_perm, mix_targets, take

RATIOS = ("fixed", "official")
MAP_NORMS = ("none", "sum")


class Pasted(NamedTuple):
    """Places of windows in images and in their partners, on a grid of R x C cells.

    ``target`` (B, 2) and ``source`` (B, 2) are the row and column of the first cell of the window
    in the image and in its partner, ``kept`` (B, R, C) is True where the image stays, ``maps``
    (B, R, C) are the maps that decided, and ``side`` is that of the windows in cells, (B,) where
    each image has its own.
    """

    target: Tensor
    source: Tensor
    kept: Tensor
    maps: Tensor
    side: int | Tensor


def window_grid(height: int, width: int, side: int | None = None) -> tuple[int, int]:
    """Rows and columns of a grid of square cells on images.

    Args:
        height: Height of the images in pixels.
        width: Their width.
        side: Cells along the shorter side. None for cells of 16 pixels from 112 pixels on and of 4
            below, 14 cells at 224 pixels, 16 at 64 and 8 at 32, or the largest smaller cells that
            divide the images.

    Returns:
        Rows and columns.

    Raises:
        ValueError: If so many cells do not divide the images, with those that do.

    Example:
        >>> window_grid(224, 224), window_grid(64, 32), window_grid(32, 32, 4)
        ((14, 14), (16, 8), (4, 4))
    """
    both, short = math.gcd(height, width), min(height, width)
    if side is None:
        most = 16 if short >= 112 else 4
        cell = max(n for n in range(1, most + 1) if both % n == 0)
    else:
        cell = max(1, short // side)
        if cell * side != short or both % cell:
            fitting = [str(short // n) for n in range(both, 0, -1) if both % n == 0]
            raise ValueError(
                f"{side} cells do not divide images of {height}x{width} pixels; use a side of "
                f"{' or '.join(fitting)}"
            )
    return height // cell, width // cell


def draw_window(
    cells: int, low: float = 0.25, high: float = 0.75, generator: Generator | None = None
) -> int:
    """Draw the side of a window, all whole sides between two shares of the grid alike.

    Args:
        cells: Cells along the (shorter) side of the grid.
        low: Smallest side as a share of the grid, rounded down, but at least one cell.
        high: Largest side as a share of the grid, rounded down, but at least one cell.
        generator: CPU random source.

    Returns:
        Side in cells, a number of the host.

    Example:
        >>> draw_window(14, 0.5, 0.5)
        7
    """
    first, last = max(1, int(low * cells)), max(1, int(high * cells))
    return int(torch.randint(first, last + 1, (), generator=generator))


def resize_maps(maps: Tensor, size: tuple[int, int], mode: str = "area") -> Tensor:
    """Bring maps to another grid.

    Args:
        maps: (B, R, C) maps.
        size: Rows and columns wanted.
        mode: ``area``, the mean of what a cell covers, or ``bilinear``.

    Returns:
        (B, rows, columns) float32.

    Example:
        >>> resize_maps(torch.tensor([[[0.0, 1.0], [2.0, 3.0]]]), (1, 2))
        tensor([[[1., 2.]]])
    """
    maps = maps.float()
    if maps.shape[1:] == size:
        return maps
    if mode == "bilinear":
        return F.interpolate(maps[:, None], size, mode=mode, align_corners=False)[:, 0]
    return F.adaptive_avg_pool2d(maps[:, None], size)[:, 0]


def window_sums(maps: Tensor, side: int) -> Tensor:
    """Sum of a map inside of every window.

    Each window is added up by itself: in differences of running sums a window of zeros would not
    be exactly 0, and windows that tie would be told apart by rounding.

    Args:
        maps: (B, R, C) maps.
        side: Side k of the window in cells.

    Returns:
        (B, R-k+1, C-k+1) float32.

    Raises:
        ValueError: If there are no such windows.

    Example:
        >>> window_sums(torch.arange(6.0).reshape(1, 2, 3), 2)
        tensor([[[ 8., 12.]]])
    """
    if maps.ndim != 3:
        raise ValueError(f"maps must be (B, R, C), got {tuple(maps.shape)}")
    cells = min(maps.shape[1:])
    if not 1 <= side <= cells:
        raise ValueError(f"a window has a side of 1 to {cells} cells, got {side}")
    return F.avg_pool2d(maps.float()[:, None], side, stride=1, divisor_override=1)[:, 0]


def least_attended(sums: Tensor, order: Tensor | None = None) -> Tensor:
    """Window of the smallest sum.

    Args:
        sums: (B, P, Q) sums as of :func:`window_sums`.
        order: (B, P, Q) finite numbers; of several smallest windows that of the smallest number is
            taken, without them the first one, row by row. The same on every device.

    Returns:
        (B, 2) int64 row and column of the window's first cell.

    Example:
        >>> least_attended(torch.tensor([[[2.0, 1.0, 1.0]]]))
        tensor([[0, 1]])
    """
    flat = sums.flatten(1)
    if order is not None:  # in less than float32 two of its numbers could become one
        flat = flat.to(torch.promote_types(flat.dtype, torch.float32))
        order = order.to(flat.device, flat.dtype, non_blocking=True).flatten(1)
        flat = torch.where(flat == flat.amin(1, keepdim=True), order, torch.inf)
    # Without argmin, which promises no order among equal values.
    count = flat.shape[1]
    places = torch.arange(count, device=flat.device)
    ties = flat == flat.amin(1, keepdim=True)
    best = torch.where(ties, places, count - 1).amin(1)
    width = sums.shape[2]
    return torch.stack([best.div(width, rounding_mode="floor"), best % width], dim=1)


def most_attended(sums: Tensor) -> Tensor:
    """Window of the largest sum; of several the first one, row by row.

    Args:
        sums: (B, P, Q) sums as of :func:`window_sums`.

    Returns:
        (B, 2) int64 row and column of the window's first cell.

    Example:
        >>> most_attended(torch.tensor([[[1.0, 2.0], [2.0, 0.0]]]))
        tensor([[0, 1]])
    """
    return least_attended(-sums)


def window_mask(corner: Tensor, side: int | Tensor, size: tuple[int, int]) -> Tensor:
    """Cells inside of windows.

    Args:
        corner: (B, 2) row and column of the first cell of each window.
        side: Side of the windows in cells, or (B,) that of each.
        size: Rows R and columns C of the grid.

    Returns:
        (B, R, C) bool.

    Example:
        >>> window_mask(torch.tensor([[0, 1]]), 1, (1, 3))
        tensor([[[False,  True, False]]])
    """
    side = side[:, None] if isinstance(side, Tensor) else side
    inside = []
    for start, cells in zip(corner.unbind(1), size, strict=True):
        places = torch.arange(cells, device=corner.device) - start[:, None]
        inside.append((places >= 0) & (places < side))
    return inside[0][:, :, None] & inside[1][:, None]


def paste_window(
    x: Tensor,
    perm: Tensor,
    target: Tensor,
    source: Tensor,
    side: int | Tensor,
    size: tuple[int, int],
) -> Tensor:
    """Copy a window of each image's partner to another place in the image.

    Args:
        x: (B, C, H, W) images of any type, which the grid cuts into square cells.
        perm: (B,) index of each image's partner.
        target: (B, 2) row and column of the window's first cell in the image.
        source: (B, 2) the same in the partner.
        side: Side of the windows in cells, or (B,) that of each.
        size: Rows and columns of the grid.

    Returns:
        (B, C, H, W) images in the memory format of ``x``.

    Example:
        >>> x = torch.arange(4.0).reshape(2, 1, 1, 2)
        >>> corners = torch.tensor([[0, 0], [0, 1]])
        >>> paste_window(x, torch.tensor([1, 0]), corners, corners.flip(0), 1, (1, 2)).flatten()
        tensor([3., 1., 2., 0.])
    """
    height, width = x.shape[2:]
    cell = height // size[0]
    # Rows and columns of the partner; outside of the window any will do.
    moved = (source - target) * cell
    rows, cols = (
        (torch.arange(n, device=x.device) + moved[:, axis, None]).clamp(0, n - 1)
        for axis, n in enumerate((height, width))
    )
    last = torch.channels_last
    if not x.is_contiguous() and x.is_contiguous(memory_format=last):
        found = x.permute(0, 2, 3, 1)[perm[:, None, None], rows[:, :, None], cols[:, None]]
        found = found.permute(0, 3, 1, 2)
    else:
        index = (rows[:, :, None] * width + cols[:, None]).flatten(1)
        index = index[:, None].expand(-1, x.shape[1], -1)
        found = take(x, perm).flatten(2).gather(2, index).view(x.shape)
    inside = window_mask(target * cell, side * cell, (height, width))
    return torch.where(inside[:, None], found, x)


def window_shares(pasted: Pasted, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Shares of pixels that a pasted window shows of an image, and of its partner.

    Args:
        pasted: Where the windows are.
        size: Height H and width W of the images.

    Returns:
        Two shares (B, H, W) of the pixels, 0 or 1.

    Example:
        >>> kept = torch.tensor([[[True, False]]])
        >>> pasted = Pasted(torch.tensor([[0, 1]]), torch.tensor([[0, 0]]), kept, kept.float(), 1)
        >>> window_shares(pasted, (1, 2))
        (tensor([[[1., 0.]]]), tensor([[[1., 0.]]]))
    """
    grid = (pasted.kept.shape[1], pasted.kept.shape[2])
    theirs = window_mask(pasted.source, pasted.side, grid)
    own, theirs = (F.interpolate(m[:, None].float(), size)[:, 0] for m in (pasted.kept, theirs))
    return own, theirs


def attention_mass(
    maps: Tensor, kept: Tensor, perm: Tensor, source: Tensor, side: int, *, official: bool = False
) -> tuple[Tensor, Tensor]:
    """Attention that an image keeps, and that its partner's window brings.

    Args:
        maps: (B, R, C) maps.
        kept: (B, R, C) True where the image stays.
        perm: (B,) index of each image's partner.
        source: (B, 2) row and column of the window's first cell in the partner.
        side: Side of the windows in cells.
        official: Read the partner's window in the map of the image itself, as the authors do.

    Returns:
        (B,) both, in float32.

    Example:
        >>> maps = torch.tensor([[[1.0, 2.0]], [[4.0, 8.0]]])
        >>> kept, source = torch.tensor([[[False, True]]] * 2), torch.tensor([[0, 1], [0, 1]])
        >>> attention_mass(maps, kept, torch.tensor([1, 0]), source, 1)
        (tensor([2., 8.]), tensor([8., 2.]))
    """
    maps = maps.float()
    theirs = maps if official else take(maps, perm)
    window = window_mask(source, side, (maps.shape[1], maps.shape[2]))
    return (maps * kept).sum((1, 2)), (theirs * window).sum((1, 2))


def tdattenmix(
    x: Tensor,
    targets: Tensor,
    maps: Tensor,
    *,
    beta: float = 0.5,
    ratio: str = "fixed",
    map_norm: str = "none",
    partner: str = "random",
    side: int | None = None,
    perm: Tensor | None = None,
    target: Tensor | None = None,
    source: Tensor | None = None,
    order: Tensor | None = None,
    generator: Generator | None = None,
) -> Mixed:
    """Paste each partner's most attended window over the least attended one of the image.

    The label weighs area and attention, ``lam = beta * area + (1 - beta) * attention``.

    Args:
        x: (B, C, H, W) images, integer pixels included.
        targets: (B, K) soft targets.
        maps: (B, R, C) attention to each cell of a grid that divides the images into squares; not
            negative.
        beta: Weight of the area in the label, in [0, 1].
        ratio: Attention share of the label. ``fixed``: of each image by itself, its own kept
            attention against the attention of the partner to the window. ``official``: one share
            for the whole batch, with the partner's window read in the map of the image itself.
        map_norm: ``sum`` divides every map by its sum before two images are weighed against each
            other, so that the scale of their maps does not count; ``none`` does not.
        partner: How partners are drawn, as of :func:`mixbench.functional.draw_perm`; the authors'
            ``flip`` needs an even batch, so that no image is its own partner.
        side: Side of the window in cells; drawn as by :func:`draw_window` if None.
        perm: (B,) index of each image's partner.
        target: (B, 2) row and column of the first cell that is pasted over; searched if None.
        source: (B, 2) row and column of the partner's first cell; searched if None.
        order: (B, R-side+1, C-side+1) numbers that choose among equally attended targets, as of
            :func:`least_attended`; the first is chosen without them.
        generator: CPU generator for the drawn decisions.

    Returns:
        Mixed batch; ``lam`` (B,) is the weight of the own label, ``aux`` a :class:`Pasted`.

    Raises:
        ValueError: If a shape does not fit, the grid does not divide the images, or as
            :func:`mixbench.functional.check_batch`.

    Note:
        An image without attention in either part has the area as its share; the official code
        divides 0 by 0. The same partner rule pairs labels and images.

    Example:
        >>> x, targets = torch.arange(8.0).reshape(2, 1, 2, 2), torch.eye(2)
        >>> maps = torch.tensor([[[0.0, 1.0], [1.0, 1.0]], [[1.0, 1.0], [1.0, 3.0]]])
        >>> mixed = tdattenmix(x, targets, maps, side=1, perm=torch.tensor([1, 0]))
        >>> mixed.x[0].flatten(), mixed.lam
        (tensor([7., 1., 2., 3.]), tensor([0.6250, 0.7917]))
    """
    check_batch(x, targets, integer_x=True)
    size = check_grid(x, maps)
    if ratio not in RATIOS or map_norm not in MAP_NORMS:
        raise ValueError(
            f"ratio must be one of {', '.join(RATIOS)} and map_norm one of "
            f"{', '.join(MAP_NORMS)}, got {ratio!r} and {map_norm!r}"
        )
    batch = len(x)
    if side is None:
        side = draw_window(min(size), generator=generator)
    if perm is None:
        if partner == "flip" and batch % 2:
            raise ValueError(f"flip pairing needs an even batch, got B={batch}")
        perm = draw_perm(batch, generator, rule=partner)
    check_perm(perm, batch)
    maps, perm = maps.detach().float(), perm.to(x.device, non_blocking=True)
    sums = window_sums(maps, side)
    target = least_attended(sums, order) if target is None else target
    source = take(most_attended(sums), perm) if source is None else source
    target, source = (place.to(x.device, non_blocking=True) for place in (target, source))
    kept = ~window_mask(target, side, size)
    area = 1 - side**2 / (size[0] * size[1])
    weighed = maps
    if map_norm == "sum":
        whole = maps.sum((1, 2), keepdim=True)
        weighed = torch.where(whole > 0, maps / whole, maps)
    share = _attention_share(weighed, kept, perm, source, side, area, ratio == "official")
    lam = beta * area + (1 - beta) * share
    mixed = paste_window(x, perm, target, source, side, size)
    pasted = Pasted(target, source, kept, maps, side)
    return Mixed(mixed, mix_targets(targets, perm, lam), lam, perm, pasted)


def _attention_share(
    maps: Tensor, kept: Tensor, perm: Tensor, source: Tensor, side: int, area: float, official: bool
) -> Tensor:
    """(B,) share of the image's own attention; the area where there is none at all."""
    own, theirs = attention_mass(maps, kept, perm, source, side, official=official)
    if official:
        own, theirs = own.sum().expand(len(maps)), theirs.sum().expand(len(maps))
    both = own + theirs
    return torch.where(both > 0, own / both, area)


def check_grid(x: Tensor, maps: Tensor) -> tuple[int, int]:
    """Refuse maps whose grid does not cut the images into squares.

    Args:
        x: (B, C, H, W) images.
        maps: (B, R, C) maps of them.

    Returns:
        Rows R and columns C.

    Raises:
        ValueError: If a shape does not fit.
    """
    if x.ndim != 4 or maps.ndim != 3 or len(maps) != len(x):
        raise ValueError(
            f"maps must be (B, R, C) for images (B, C, H, W), got {tuple(maps.shape)} for "
            f"{tuple(x.shape)}"
        )
    rows, columns = maps.shape[1:]
    height, width = x.shape[2:]
    if height % rows or width % columns or height // rows != width // columns:
        raise ValueError(
            f"a grid of {rows}x{columns} cells does not cut images of {height}x{width} pixels into "
            f"squares; resize the maps with mixbench.functional.resize_maps"
        )
    return rows, columns
