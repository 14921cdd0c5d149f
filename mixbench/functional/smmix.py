"""SMMix: the most attended window of a partner over the least attended one, labelled by area.

Chen et al., ICCV 2023, arXiv:2212.12977; official code ChenMnZ/SMMix.
"""

import torch
from torch import Generator, Tensor

from mixbench.functional.draws import draw_perm
from mixbench.functional.mixed import Mixed, check_batch, check_perm, mix_targets, take
from mixbench.functional.windows import (
    Pasted,
    check_grid,
    draw_window,
    least_attended,
    most_attended,
    paste_window,
    window_mask,
    window_sums,
)


def smmix(
    x: Tensor,
    targets: Tensor,
    maps: Tensor,
    *,
    low: float = 0.25,
    high: float = 0.75,
    per_sample: bool = False,
    partner: str = "flip",
    side: int | Tensor | None = None,
    perm: Tensor | None = None,
    target: Tensor | None = None,
    source: Tensor | None = None,
    generator: Generator | None = None,
) -> Mixed:
    """Paste each partner's most attended window over the least attended one of the image.

    Args:
        x: (B, C, H, W) images, integer pixels included.
        targets: (B, K) soft or multi-hot labels.
        maps: (B, R, C) attention to each cell of a grid that divides the images into squares; not
            negative.
        low: Smallest side of a window as a share of the grid's shorter one.
        high: Largest side, as a share of it.
        per_sample: Draw one side per image; the authors draw one per batch.
        partner: How partners are drawn, as of :func:`mixbench.functional.draw_perm`.
        side: Side of all windows in cells, or (B,) int64 that of each; drawn if None, all whole
            sides alike.
        perm: (B,) index of each image's partner.
        target: (B, 2) row and column of the first cell that is pasted over; searched if None, of
            equal ones the first.
        source: (B, 2) row and column of the partner's first cell; searched if None.
        generator: CPU generator for the drawn decisions.

    Returns:
        Mixed batch; ``lam`` (B,) is the area that stays and ``aux`` a
        :class:`mixbench.functional.Pasted`.

    Raises:
        ValueError: If a shape does not fit, the grid does not divide the images, or as
            :func:`mixbench.functional.check_batch`.

    Example:
        >>> x, targets = torch.arange(8.0).reshape(2, 1, 2, 2), torch.eye(2)
        >>> maps = torch.tensor([[[0.0, 1.0], [1.0, 1.0]], [[1.0, 1.0], [1.0, 3.0]]])
        >>> mixed = smmix(x, targets, maps, side=1)
        >>> mixed.x[0].flatten(), mixed.lam
        (tensor([7., 1., 2., 3.]), tensor([0.7500, 0.7500]))
    """
    check_batch(x, targets, integer_x=True)
    size, batch = check_grid(x, maps), len(x)
    cells = min(size)
    if side is None:
        drawn = (draw_window(cells, low, high, generator) for _ in range(batch))
        side = torch.tensor(list(drawn)) if per_sample else draw_window(cells, low, high, generator)
    if perm is None:
        perm = draw_perm(batch, generator, rule=partner)
    check_perm(perm, batch)
    maps, perm = maps.detach().float(), perm.to(x.device, non_blocking=True)
    if isinstance(side, Tensor):
        side = side.to(x.device, non_blocking=True)
    if target is None:
        target = _searched(maps, side, cells, least=True)
    if source is None:  # as large as the place that it goes to
        source = _searched(take(maps, perm), side, cells, least=False)
    target, source = (place.to(x.device, non_blocking=True) for place in (target, source))
    kept = ~window_mask(target, side, size)
    lam = kept.float().mean((1, 2))
    mixed = paste_window(x, perm, target, source, side, size)
    labels = mix_targets(targets, perm, lam)
    return Mixed(mixed, labels, lam, perm, Pasted(target, source, kept, maps, side))


def _searched(maps: Tensor, side: int | Tensor, cells: int, *, least: bool) -> Tensor:
    """(B, 2) first cell of the least or most attended window of each map."""
    search = least_attended if least else most_attended
    if not isinstance(side, Tensor):
        return search(window_sums(maps, side))
    # Of every side that there is: no side of an image visits the host.
    found = torch.stack([search(window_sums(maps, n)) for n in range(1, cells + 1)])
    return found[side - 1, torch.arange(len(maps), device=maps.device)]
