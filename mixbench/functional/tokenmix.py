"""TokenMix: paste patches of a partner in blocks, weigh labels by what a map says of each patch.

Liu et al., ECCV 2022, arXiv:2207.08409; official code Sense-X/TokenMix.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from mixbench.functional.draws import draw_lam, draw_perm
from mixbench.functional.mixed import Mixed, check_batch, check_lam, check_perm, mix_targets, take

MASK_KINDS = ("block", "random")
ASPECT = math.log(1 / 0.3)  # of blocks: largest logarithm of the ratio of height and width
TRIES = 10  # attempts in a row that may fail before a mask is left as it is
DRAWN = 200  # attempts of a mask, of which a few dozen are read


class MaskedTokens(NamedTuple):
    """What stays of each image, and how much its label weighs in the loss.

    ``mask`` (B or 1, R, C) is 1 where a patch stays and 0 where it is the partner's. ``weight``
    (B,) is the sum of the weights of both labels, and ``maps`` (B, R, C) are the shares of the
    patches in the label of each image.
    """

    mask: Tensor
    weight: Tensor
    maps: Tensor


def block_mask(
    count: int,
    grid: tuple[int, int],
    *,
    attempts: Tensor | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """Draw a mask out of blocks, as BEiT does (Bao et al., arXiv:2106.08254).

    Blocks are tried until the patches are covered or ten in a row do not fit: those that are as
    high or wide as the grid, cover nothing anew, or cover more than is left.

    Args:
        count: Patches to cover.
        grid: Rows R and columns C of patches.
        attempts: (A, 4) area in patches, logarithm of height to width, row and column of the first
            patch of each block that is tried; the last two are not read of blocks too large.
        generator: CPU random source.

    Returns:
        (R, C) float32, 0 on the covered patches and 1 elsewhere.

    Example:
        >>> block_mask(5, (3, 4), attempts=torch.tensor([[4.0, 0.0, 1, 1], [1.0, 0.0, 0, 0]]))
        tensor([[0., 1., 1., 1.],
                [1., 0., 0., 1.],
                [1., 0., 0., 1.]])
    """
    given = attempts is not None
    # Plain numbers of the host: a mask of tensors would take some hundred tiny operations.
    drawn = (attempts if given else torch.rand(DRAWN, 4, generator=generator)).tolist()
    rows, columns = grid
    mask, missing, failed = torch.ones(rows, columns), count, 0
    for area, log_aspect, row, column in drawn:
        if missing <= 0 or failed == TRIES:
            break
        if not given:
            area, log_aspect = 1 + area * (missing - 1), ASPECT * (2 * log_aspect - 1)
        aspect = math.exp(log_aspect)
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        failed += 1
        if height < rows and width < columns:
            if not given:
                row, column = row * (rows - height + 1), column * (columns - width + 1)
            top, left = int(row), int(column)
            block = mask[top : top + height, left : left + width]
            anew = int(block.sum())
            if 0 < anew <= missing:
                block.zero_()
                missing, failed = missing - anew, 0
    return mask


def label_map(
    score: Tensor, classes: Tensor, y: Tensor, crop: Tensor, grid: tuple[int, int]
) -> Tensor:
    """Maps of the labels of images from the best scores that a teacher gave each cell.

    Args:
        score: (B, K, h, w) the K best scores of each cell of the whole image.
        classes: (B, K, h, w) their classes.
        y: (B,) labels.
        crop: (B, 4) left, top, width and height of what is seen of each image, as shares of it.
        grid: Rows R and columns C wanted.

    Returns:
        (B, R, C) float32 of sum 1: the score of the label in the middle of each cell of what is
        seen, interpolated, as RoIAlign of the authors does on square maps. Zero where a label is
        never among the best.

    Example:
        >>> score, whole = torch.tensor([[[[1.0, 3.0]]]]), torch.tensor([[0.0, 0.0, 1.0, 1.0]])
        >>> classes = torch.zeros(1, 1, 1, 2)
        >>> label_map(score, classes, torch.tensor([0]), whole, (1, 2))
        tensor([[[0.2500, 0.7500]]])
    """
    found = (score.float() * (classes == y[:, None, None, None])).amax(1)
    left, top, width, height = crop.float().unbind(1)
    rows = _interpolation(top, height, found.shape[1], grid[0])
    columns = _interpolation(left, width, found.shape[2], grid[1])
    found = rows @ found @ columns.transpose(1, 2)
    return found / (found.sum((1, 2), keepdim=True) + 1e-8)


def _interpolation(start: Tensor, length: Tensor, size: int, bins: int) -> Tensor:
    """(B, bins, size) weights of the cells of a side in the means over bins of a part of it."""
    first, length = start * size - 0.5, (length * size).clamp(min=1)
    # As many places of a bin are read as cells may lie in it.
    samples = (length / bins).ceil().clamp(min=1)[:, None, None]
    most = max(1, math.ceil(size / bins))
    place = torch.arange(most, device=start.device)
    inside = torch.arange(bins, device=start.device)[:, None] + (place + 0.5) / samples
    at = first[:, None, None] + inside * (length / bins)[:, None, None]
    read = (place < samples) & (at >= -1) & (at <= size)
    distance = at.clamp(0, size - 1)[..., None] - torch.arange(size, device=start.device)
    return ((1 - distance.abs()).clamp(min=0) * (read / samples)[..., None]).sum(2)


def tokenmix(
    x: Tensor,
    targets: Tensor,
    maps: Tensor | None = None,
    *,
    grid: tuple[int, int] = (14, 14),
    alpha: float = 0.0,
    extra: int | None = None,
    kind: str = "block",
    per_sample: bool = False,
    official: bool = False,
    smoothing: float = 0.0,
    partner: str = "flip",
    lam: Tensor | None = None,
    mask: Tensor | None = None,
    perm: Tensor | None = None,
    generator: Generator | None = None,
) -> Mixed:
    """Paste patches of each image's partner in their places. What is not given is drawn.

    The own label weighs what its map has on the patches that stay, the partner's what its map has
    on those that are pasted; the two need not sum to 1.

    Args:
        x: (B, C, H, W) images of any type.
        targets: (B, K) soft labels.
        maps: (B, R, C) maps of each image for its label, not negative; of another size they are
            averaged over patches. Labels are by area without them.
        grid: Rows R and columns C of patches.
        alpha: Beta(alpha, alpha) of the kept share; with 0 it is one half, as in the official code,
            which draws it and does not use it. Unused when ``lam`` or ``mask`` is given.
        extra: Patches that are pasted beyond that share; None for one in 14, the 14 of 196 of the
            official code.
        kind: ``block`` for masks of :func:`block_mask`, ``random`` for patches anywhere.
        per_sample: Draw one mask per image; the authors draw one per batch.
        official: Give an image whose map is empty no weight, and take the smoothing of both labels
            from their weights in equal parts, so that a class may get less than nothing.
        smoothing: Label smoothing that ``targets`` have, read with ``official``.
        partner: How partners are drawn, see :func:`draw_perm`; unused when ``perm`` is given.
        lam: (B,) or (1,) share to keep before ``extra``, in [0, 1], on the CPU.
        mask: (B, R, C) or (1, R, C), 1 where a patch stays and 0 where it is pasted.
        perm: (B,) index of each image's partner.
        generator: CPU random source of the drawn decisions.

    Returns:
        Mixed batch with targets that sum to 1; ``lam`` (B,) is the own label's part of both weights
        and ``aux`` a :class:`MaskedTokens`, whose ``weight`` belongs to the loss, as the authors'
        targets are ``mixed.targets * mixed.aux.weight[:, None]``. An image whose map is empty is
        weighed by area.

    Raises:
        ValueError: If a shape or a value does not fit, or as :func:`check_batch`.

    Example:
        >>> x, targets, mask = torch.rand(2, 3, 2, 2), torch.eye(2), torch.tensor([[[1.0, 0.0]]])
        >>> maps = torch.tensor([[[1.0, 3.0]], [[1.0, 1.0]]])
        >>> mixed = tokenmix(x, targets, maps, grid=(1, 2), mask=mask)
        >>> mixed.aux.weight, mixed.lam
        (tensor([0.7500, 1.2500]), tensor([0.3333, 0.4000]))
    """
    check_batch(x, targets, integer_x=True)
    if x.ndim != 4 or x.shape[2] < grid[0] or x.shape[3] < grid[1]:
        raise ValueError(
            f"tokenmix needs images (B, C, H, W) of at least {grid[0]}x{grid[1]} pixels, got "
            f"{tuple(x.shape)}"
        )
    if kind not in MASK_KINDS:
        raise ValueError(f"kind must be one of {', '.join(MASK_KINDS)}, got {kind!r}")
    batch, size = len(x), (x.shape[2], x.shape[3])
    if perm is None:
        perm = draw_perm(batch, generator, rule=partner)
    check_perm(perm, batch)
    if mask is None:
        count = batch if per_sample else 1
        if lam is None:
            lam = draw_lam(count, alpha, generator) if alpha else torch.full((count,), 0.5)
        check_lam(lam, batch)
        mask = _draw_masks(lam, grid, extra, kind, generator)
    if mask.ndim != 3 or len(mask) not in (1, batch) or mask.shape[1:] != grid:
        raise ValueError(f"mask must be 1 or {batch} of {grid}, got {tuple(mask.shape)}")
    perm, mask = (t.to(x.device, non_blocking=True) for t in (perm, mask.float()))
    kept = F.interpolate(mask[:, None], size)
    mixed = torch.where(kept > 0.5, x, take(x, perm))

    area = mask.mean((1, 2)).expand(batch)
    even = mask.new_full((batch, *grid), 1 / math.prod(grid))
    maps = even if maps is None else _normalised(maps.detach().to(x.device), grid, even, official)
    own, other = (maps * mask).sum((1, 2)), (take(maps, perm) * (1 - mask)).sum((1, 2))
    weight = own + other
    lam = torch.where(weight > 0, own / weight.where(weight > 0, 1), area)
    labels = mix_targets(targets, perm, lam)
    if official and smoothing:
        classes = targets.shape[1]
        hard = F.one_hot(targets.argmax(1), classes).to(targets.dtype)
        both = smoothing * (1 / classes - (hard + take(hard, perm)) / 2)
        both = both / weight.where(weight > 0, 1)[:, None]
        labels = mix_targets(hard, perm, lam) + both
    return Mixed(mixed, labels, lam, perm, MaskedTokens(mask, weight, maps))


def _draw_masks(
    lam: Tensor, grid: tuple[int, int], extra: int | None, kind: str, generator: Generator | None
) -> Tensor:
    """(N, R, C) masks, one for each share."""
    tokens = math.prod(grid)
    extra = tokens // 14 if extra is None else extra
    counts = (((1 - lam.double()) * tokens).long() + extra).clamp(max=tokens)
    if kind == "random":
        rank = torch.rand(len(lam), tokens, generator=generator).argsort(1).argsort(1)
        return (rank >= counts[:, None]).float().unflatten(1, grid)
    return torch.stack([block_mask(n, grid, generator=generator) for n in counts.tolist()])


def _normalised(maps: Tensor, grid: tuple[int, int], even: Tensor, official: bool) -> Tensor:
    """Maps (B, R, C) of sum 1; an empty one is even, unless that of the authors is wanted."""
    if maps.ndim != 3 or len(maps) != len(even):
        raise ValueError(f"maps must be ({len(even)}, R, C), got {tuple(maps.shape)}")
    maps = maps.float()
    if maps.shape[1:] != grid:
        maps = F.adaptive_avg_pool2d(maps[:, None], grid)[:, 0]
    total = maps.sum((1, 2), keepdim=True)
    shares = maps / total.where(total > 0, 1)
    return shares if official else torch.where(total > 0, shares, even)
