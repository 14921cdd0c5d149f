"""GridMix: paste a partner through the holes of a grid.

Baek et al., Pattern Recognition 109, 2021; the authors' code could not be read, and the formulas
are those of Westlake-AI/openmixup and IlyaDobrynin/GridMixup.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from mixbench.functional.draws import draw_lam, draw_perm, draw_uniform
from mixbench.functional.maskmix import maskmix
from mixbench.functional.mixed import Mixed, check_batch, check_lam


class HoleGrid(NamedTuple):
    """Decisions about the grid of :func:`gridmix`, N of each.

    Attributes:
        holes: (N,) int64 cells of the grid from left to right.
        hole_aspect: (N,) height of a cell over its width.
        area: (N,) share of the image that the grid covers.
        aspect: (N,) height of the grid over its width.
        place: (N, 2) place of the grid among those that its size leaves it, rows and columns, each
            in [0, 1).
    """

    holes: Tensor
    hole_aspect: Tensor
    area: Tensor
    aspect: Tensor
    place: Tensor


def draw_hole_grid(
    count: int,
    *,
    holes: Sequence[int] = (2, 6),
    hole_aspect: Sequence[float] = (1.0, 1.0),
    cut_area: Sequence[float] = (0.5, 1.0),
    cut_aspect: Sequence[float] = (0.5, 2.0),
    generator: Generator | None = None,
) -> HoleGrid:
    """Draw grids, each number uniformly between two ends.

    Args:
        count: Grids N.
        holes: Smallest and largest number of cells from left to right.
        hole_aspect: Ends of a cell's height over its width.
        cut_area: Ends of the share of the image that a grid covers.
        cut_aspect: Ends of a grid's height over its width.
        generator: Random source; the result lies on its device (CPU by default).

    Returns:
        The grids.
    """
    device = generator.device if generator is not None else None
    low, high = holes
    cells = torch.randint(low, high + 1, (count,), generator=generator, device=device)
    shape, area, aspect = (
        draw_uniform(generator, count, ends=ends) for ends in (hole_aspect, cut_area, cut_aspect)
    )
    return HoleGrid(cells, shape, area, aspect, draw_uniform(generator, count, 2))


def hole_mask(
    lam: Tensor, grid: HoleGrid, height: int, width: int, *, official: bool = False
) -> Tensor:
    """Masks that are 0 in the holes of a grid.

    Args:
        lam: (N,) or (1,) share of each cell that stays, about; a hole is at least one pixel and one
            pixel less than its cell.
        grid: The N grids.
        height: Height H in pixels.
        width: Width W in pixels.
        official: Keep what the public code does with grids that are longer than the image, see
            the Note.

    Returns:
        (N, 1, H, W) float32 weight of the image, 0 or 1.

    Note:
        The public code lets a grid be longer than the image. Its place is then negative, which
        counts from the other end of the image: holes appear on the far side, and those that would
        lie across the edge are lost, if they are shorter than the image. Here such a grid is cut to
        the image. The public code fails where a cell has no height, or the grid more cells than
        pairs of pixels; here a cell has two pixels or more. It is right for square images only, as
        it takes the sides for each other.

    Example:
        >>> one = torch.ones(1)
        >>> grid = HoleGrid(2 * one.long(), one, one, one, torch.zeros(1, 2))
        >>> hole_mask(torch.tensor([0.75]), grid, 4, 4)[0, 0]
        tensor([[0., 1., 0., 1.],
                [1., 1., 1., 1.],
                [0., 1., 0., 1.],
                [1., 1., 1., 1.]])
    """
    hole_aspect, area, aspect, place = (t.double() for t in grid[1:])
    share = (1 - lam.double()).sqrt()
    cut_area = (height * width * area).floor()
    cut_width = (cut_area / aspect).sqrt().floor()
    cut_height = (cut_width * aspect).floor()
    if not official:
        cut_height, cut_width = cut_height.clamp(max=height), cut_width.clamp(max=width)
    cell_width = (cut_width / grid.holes).ceil().clamp(min=2)
    cell_height = (cell_width * hole_aspect).floor().clamp(min=1 if official else 2)
    pasted = [
        _pasted(size, cut, cell, (cell * share).floor(), where, official)
        for size, cut, cell, where in (
            (height, cut_height, cell_height, place[:, 0]),
            (width, cut_width, cell_width, place[:, 1]),
        )
    ]
    holes = pasted[0][:, None, :, None] & pasted[1][:, None, None, :]
    return 1 - holes.float()


def _pasted(
    size: int, cut: Tensor, cell: Tensor, hole: Tensor, place: Tensor, official: bool
) -> Tensor:
    """(N, size) bool, the pixels along one side that lie in a hole."""
    cut, cell, hole, place = (t[:, None] for t in torch.broadcast_tensors(cut, cell, hole, place))
    hole = torch.minimum(hole.clamp(min=1), cell - 1)
    start = ((size - cut) * place).trunc()

    def in_hole(at: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Whether a place lies in a hole, and the ends of the hole of its cell."""
        inside = at - start
        begin = inside - inside.remainder(cell)
        found = (inside >= 0) & (inside < cut) & (inside - begin < hole)
        return found, start + begin, start + torch.minimum(begin + hole, cut)

    at = torch.arange(size, device=cut.device, dtype=cut.dtype)
    found, begin, _ = in_hole(at)
    if not official:
        return found
    # A Python slice with a negative start counts from the end, and is empty if it ends at 0 or on.
    wrapped, _, end = in_hole(at - size)
    return (found & (begin >= 0)) | (wrapped & (end < 0))


def gridmix(
    x: Tensor,
    targets: Tensor,
    *,
    alpha: float = 1.0,
    holes: Sequence[int] = (2, 6),
    hole_aspect: Sequence[float] = (1.0, 1.0),
    cut_area: Sequence[float] = (0.5, 1.0),
    cut_aspect: Sequence[float] = (0.5, 2.0),
    official: bool = False,
    per_sample: bool = False,
    partner: str = "random",
    lam: Tensor | None = None,
    grid: HoleGrid | None = None,
    mask: Tensor | None = None,
    perm: Tensor | None = None,
    generator: Generator | None = None,
) -> Mixed:
    """Paste each image's partner through the holes of a grid. What is not given is drawn.

    Args:
        x: (B, C, H, W) images of a floating type.
        targets: (B, K) soft or multi-hot labels.
        alpha: Beta(alpha, alpha) of the share of a cell that stays; unused when ``lam`` is given.
        holes: Ends of the number of cells from left to right.
        hole_aspect: Ends of a cell's height over its width.
        cut_area: Ends of the share of the image that the grid covers.
        cut_aspect: Ends of the grid's height over its width.
        official: Keep slips of the public code, see :func:`hole_mask`.
        per_sample: Draw one grid per image; the public code draws one per batch.
        partner: How partners are drawn, see :func:`draw_perm`; unused when ``perm`` is given.
        lam: (B,) or (1,) share of a cell that stays, in [0, 1].
        grid: The other decisions, one for each image or one for all.
        mask: (B or 1, 1, H, W) weight of each pixel of the first image, instead of both.
        perm: (B,) index of each image's partner.
        generator: Random source of the drawn decisions (CPU by default).

    Returns:
        Mixed batch; ``lam`` (B,) is the share that stays, which outside of the grid is all of the
        image, and ``aux`` the (B or 1, 1, H, W) mask.

    Raises:
        ValueError: If a shape or a value does not fit, or as :func:`mixbench.functional.maskmix`.

    Example:
        >>> x, targets, one = torch.rand(2, 3, 4, 4), torch.eye(2), torch.ones(1)
        >>> grid = HoleGrid(2 * one.long(), one, one, one, torch.zeros(1, 2))
        >>> gridmix(x, targets, lam=torch.tensor([0.75]), grid=grid).lam
        tensor([0.7500, 0.7500])
    """
    check_batch(x, targets)
    if x.ndim != 4:
        raise ValueError(f"gridmix needs images (B, C, H, W), got {tuple(x.shape)}")
    count = len(x) if per_sample else 1
    if perm is None:
        perm = draw_perm(len(x), generator, rule=partner)
    if mask is None:
        lam = draw_lam(count, alpha, generator) if lam is None else lam
        check_lam(lam, len(x))
        if grid is None:
            ranges = {"holes": holes, "hole_aspect": hole_aspect}
            ranges |= {"cut_area": cut_area, "cut_aspect": cut_aspect}
            grid = draw_hole_grid(count, **ranges, generator=generator)
        lam, *numbers = (t.to(x.device, non_blocking=True) for t in (lam, *grid))
        size = (x.shape[2], x.shape[3])
        mask = hole_mask(lam.reshape(-1), HoleGrid(*numbers), *size, official=official)
    kept = mask.float().mean((1, 2, 3))
    return maskmix(x, targets, mask=mask, lam=kept, perm=perm)._replace(aux=mask)
