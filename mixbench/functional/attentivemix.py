"""Attentive CutMix: keep the most attended cells of an image, and show its partner elsewhere.

Walawalkar et al., ICASSP 2020, arXiv:2003.13048. The public script, xden2331/attentive_cutmix, is
no training code; the formulas are those of Westlake-AI/openmixup.
"""

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from mixbench.functional.draws import draw_lam, draw_perm
from mixbench.functional.maskmix import maskmix
from mixbench.functional.mixed import Mixed, check_batch, check_lam


def attended_cells(maps: Tensor, count: Tensor) -> Tensor:
    """Cells of maps with the largest values, of equal ones the first from the upper left.

    Args:
        maps: (N, h, w) maps of any range.
        count: (N,) or (1,) int64 number of cells, from 0 to h * w.

    Returns:
        (N, h, w) float32, 1 at these cells and 0 elsewhere.

    Example:
        >>> attended_cells(torch.tensor([[[0.2, 0.9], [0.9, 0.1]]]), torch.tensor([1]))
        tensor([[[0., 1.],
                 [0., 0.]]])
    """
    flat = maps.flatten(1)
    order = flat.argsort(dim=1, descending=True, stable=True)
    rank = torch.arange(flat.shape[1], device=flat.device)
    count = count.to(flat.device, non_blocking=True).reshape(-1, 1)
    among = (rank < count).float().expand_as(flat)
    return torch.zeros_like(flat, dtype=torch.float32).scatter_(1, order, among).view(maps.shape)


def attentivemix(
    x: Tensor,
    targets: Tensor,
    maps: Tensor,
    *,
    top_k: int = 6,
    alpha: float = 1.0,
    per_sample: bool = False,
    partner: str = "random",
    lam: Tensor | None = None,
    perm: Tensor | None = None,
    generator: Generator | None = None,
) -> Mixed:
    """Keep the most attended cells of each image, and show its partner everywhere else.

    Args:
        x: (B, C, H, W) images of a floating type.
        targets: (B, K) soft or multi-hot labels.
        maps: (B, h, w) how much each cell of an image is attended to; its number of cells need not
            divide the image.
        top_k: Cells that are kept; 0 to keep the share ``lam`` of them, rounded down, but at least
            one.
        alpha: Beta(alpha, alpha) of that share; unused when ``lam`` is given or ``top_k`` is not 0.
        per_sample: Draw one share per image; OpenMixup draws one per batch.
        partner: How partners are drawn, see :func:`draw_perm`; unused when ``perm`` is given.
        lam: (B,) or (1,) share of the cells to keep, in [0, 1], with ``top_k`` 0.
        perm: (B,) index of each image's partner.
        generator: Random source of the drawn decisions (CPU by default).

    Returns:
        Mixed batch; ``lam`` (B,) is the share of pixels that the cells have, and ``aux`` the
        (B, 1, H, W) mask, 1 where the image stays.

    Raises:
        ValueError: If the maps do not fit the batch or have fewer than ``top_k`` cells, or as
            :func:`mixbench.functional.maskmix`.

    Note:
        In the text the attended cells are cut out of one image and pasted into another, which is
        this with the names of both exchanged.

    Example:
        >>> x, targets = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 1, 2, 4), torch.eye(2)
        >>> maps = torch.tensor([[[0.1, 0.4]], [[0.3, 0.2]]])
        >>> mixed = attentivemix(x, targets, maps, top_k=1, perm=torch.tensor([1, 0]))
        >>> mixed.x[:, 0, 0], mixed.lam
        (tensor([[1., 1., 0., 0.],
                [1., 1., 0., 0.]]), tensor([0.5000, 0.5000]))
    """
    check_batch(x, targets)
    if x.ndim != 4:
        raise ValueError(f"attentivemix needs images (B, C, H, W), got {tuple(x.shape)}")
    if maps.ndim != 3 or len(maps) != len(x):
        raise ValueError(f"maps must be {len(x)} maps (B, h, w), got {tuple(maps.shape)}")
    cells = maps[0].numel()
    if not 0 <= top_k <= cells:
        raise ValueError(f"top_k must lie in [0, {cells}], the cells of a map, got {top_k}")
    if perm is None:
        perm = draw_perm(len(x), generator, rule=partner)
    if top_k == 0:
        lam = draw_lam(len(x) if per_sample else 1, alpha, generator) if lam is None else lam
        check_lam(lam, len(x))
        count = (lam.reshape(-1).double() * cells).long().clamp(1, cells)
    else:
        count = torch.full((1,), top_k)
    kept = attended_cells(maps, count)
    mask = F.interpolate(kept[:, None], (x.shape[2], x.shape[3]), mode="nearest")
    shown = mask.mean((1, 2, 3))
    return maskmix(x, targets, mask=mask, lam=shown, perm=perm)._replace(aux=mask)
