"""MixPro: keep random cells of each image, and trust attention as far as the prediction has come.

Zhao et al., ICLR 2023, arXiv:2304.12043; official code fistyee/MixPro.
"""

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from mixbench.functional.draws import draw_lam, draw_perm
from mixbench.functional.mixed import Mixed, check_batch, check_lam, check_perm, mix_targets, take

AREAS = ("pixels", "cells")


def default_cell(height: int, width: int, patch: int = 1) -> int:
    """Side of cells that are a quarter of the shorter side, or the next larger whole patches.

    Args:
        height: Height of the images in pixels.
        width: Their width.
        patch: Pixels along a side of a patch.

    Returns:
        Pixels along a side of a cell.

    Example:
        >>> default_cell(224, 224, 4), default_cell(224, 224, 16), default_cell(32, 32, 4)
        (56, 64, 8)
    """
    return patch * math.ceil(min(height, width) / (4 * patch))


def cell_pixels(mask: Tensor, cell: int, size: tuple[int, int]) -> Tensor:
    """Masks of cells as masks of pixels.

    Args:
        mask: (B, R, C) a value per cell.
        cell: Pixels along a side of a cell.
        size: Height H and width W of the images, which may cut the last cells.

    Returns:
        (B, 1, H, W) the same values.

    Example:
        >>> cell_pixels(torch.tensor([[[1.0, 0.0]]]), 2, (1, 3))
        tensor([[[[1., 1., 0.]]]])
    """
    rows, columns = (torch.arange(n, device=mask.device) // cell for n in size)
    return mask.index_select(1, rows).index_select(2, columns)[:, None]


def progressive_lam(
    attn: Tensor,
    kept: Tensor,
    area: Tensor,
    targets: Tensor,
    logits: Tensor,
    *,
    detach: bool = True,
) -> Tensor:
    """Weight of the first image: its attention as far as the prediction is right, else its area.

    Args:
        attn: (B, N) attention to each token, such as that of the class token as the mean over
            heads; not normalised.
        kept: (B, ...) of N values, the share of the first image in each token, in [0, 1].
        area: (B,) share of the first image, in [0, 1].
        targets: (B, K) labels mixed by area.
        logits: (B, K) prediction for the mixed images.
        detach: Let no gradient pass through the weight. The official code does, so that the loss
            also falls where the prediction moves the weight towards the easier label.

    Returns:
        (B,) float32 ``c * attention + (1 - c) * area`` with the cosine ``c`` of targets and softmax
        of the logits. An image without any attention keeps its area.

    Raises:
        ValueError: If the numbers of tokens differ.

    Example:
        >>> attn, kept = torch.tensor([[0.6, 0.2]]), torch.tensor([[1.0, 0.0]])
        >>> labels, logits = torch.tensor([[1.0, 0.0]]), torch.tensor([[30.0, 0.0]])
        >>> progressive_lam(attn, kept, torch.tensor([0.5]), labels, logits)
        tensor([0.7500])
    """
    attn, kept = attn.detach().float(), kept.flatten(1).float()
    if attn.shape != kept.shape:
        raise ValueError(
            f"attn {tuple(attn.shape)} and kept {tuple(kept.shape)} must have equal tokens; leave "
            "out the columns of class and other prefix tokens"
        )
    area, total = area.float(), attn.sum(1)
    seen = torch.where(total > 0, (attn * kept).sum(1) / total.where(total > 0, 1), area)
    with torch.autocast(logits.device.type, enabled=False):
        trust = F.cosine_similarity(targets.float(), logits.float().softmax(1), dim=1)
        lam = torch.lerp(area, seen, trust)
    return lam.detach() if detach else lam


def mixpro(
    x: Tensor,
    targets: Tensor,
    *,
    cell: int,
    alpha: float = 1.0,
    area: str = "pixels",
    per_sample: bool = False,
    partner: str = "random",
    lam: Tensor | None = None,
    order: Tensor | None = None,
    mask: Tensor | None = None,
    perm: Tensor | None = None,
    generator: Generator | None = None,
) -> Mixed:
    """Keep random cells of a grid of each image, the others are its partner's; MaskMix.

    Args:
        x: (B, C, H, W) images of any type.
        targets: (B, K) soft or multi-hot labels.
        cell: Pixels along a side of a cell; the last ones may be cut.
        alpha: Beta(alpha, alpha) of the kept share; unused when ``lam`` is given.
        area: How the kept share is counted: ``pixels``, or ``cells`` as in the official code, which
            is another where the images cut cells.
        per_sample: Draw one share per image; the authors draw one per batch. Cells are drawn for
            each image in any case.
        partner: How partners are drawn, see :func:`draw_perm`; unused when ``perm`` is given.
        lam: (B,) or (1,) share of the cells that are kept, rounded up to whole cells.
        order: (B, R * C) permutation of the cells of each image, the first of which are kept.
        mask: (B, R, C) 1 where a cell is kept and 0 elsewhere, instead of both.
        perm: (B,) index of each image's partner.
        generator: Random source of the drawn decisions (CPU by default).

    Returns:
        Mixed batch; ``lam`` (B,) is the kept share and ``aux`` the (B, R, C) mask. The weights of
        the labels by attention are those of :func:`progressive_lam`.

    Raises:
        ValueError: If a shape or a value does not fit, or as :func:`check_batch`.

    Example:
        >>> x, targets = torch.arange(8.0).view(2, 1, 2, 2), torch.eye(2)
        >>> mask = torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[1.0, 1.0], [1.0, 0.0]]])
        >>> mixed = mixpro(x, targets, cell=1, mask=mask, perm=torch.tensor([1, 0]))
        >>> mixed.x.flatten(1), mixed.lam
        (tensor([[0., 5., 6., 7.],
                [4., 5., 6., 3.]]), tensor([0.2500, 0.7500]))
    """
    check_batch(x, targets, integer_x=True)
    if x.ndim != 4 or cell < 1:
        raise ValueError(
            f"mixpro needs images (B, C, H, W) and cells of 1 pixel or more, got {tuple(x.shape)} "
            f"and {cell}"
        )
    if area not in AREAS:
        raise ValueError(f"area must be one of {', '.join(AREAS)}, got {area!r}")
    batch, size = len(x), (x.shape[2], x.shape[3])
    grid = (math.ceil(size[0] / cell), math.ceil(size[1] / cell))
    if perm is None:
        perm = draw_perm(batch, generator, rule=partner)
    check_perm(perm, batch)
    if mask is None:
        cells = math.prod(grid)
        if lam is None:
            lam = draw_lam(batch if per_sample else 1, alpha, generator)
        check_lam(lam, batch)
        if order is None:
            device = generator.device if generator is not None else None
            order = torch.rand(batch, cells, generator=generator, device=device).argsort(1)
        lam = lam.to(order.device, torch.float64, non_blocking=True).reshape(-1, 1)
        first = torch.arange(cells, device=order.device) < (cells * lam).ceil()
        first = first.float().expand(order.shape)
        mask = torch.zeros_like(first).scatter_(1, order, first).unflatten(1, grid)
    if mask.shape != (batch, *grid):
        raise ValueError(f"mask must be {(batch, *grid)}, got {tuple(mask.shape)}")
    perm, mask = (t.to(x.device, non_blocking=True) for t in (perm, mask.float()))
    kept = cell_pixels(mask, cell, size)
    mixed = torch.where(kept > 0.5, x, take(x, perm))
    share = (kept if area == "pixels" else mask[:, None]).mean((1, 2, 3))
    return Mixed(mixed, mix_targets(targets, perm, share), share, perm, mask)
