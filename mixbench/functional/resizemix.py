"""ResizeMix: paste the whole of a partner, made smaller, into an image.

Qin et al., arXiv:2012.11101; the authors' code could not be read, and the formulas are those of
Westlake-AI/openmixup.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from mixbench.functional.cutmix import box_shares
from mixbench.functional.draws import draw_lam, draw_perm, draw_uniform
from mixbench.functional.mixed import (
    Mixed,
    check_batch,
    check_lam,
    check_perm,
    mix_targets,
    readable,
    take,
)

RESIZE_MODES = ("nearest", "bilinear")


def resize_box(tau: Tensor, center: Tensor, height: int, width: int) -> Tensor:
    """Boxes whose sides are ``tau`` times those of the image, clipped at its border.

    Args:
        tau: (N,) side of the box as a share of that of the image, in [0, 1].
        center: (N, 2) row and column of the box centre as fractions of the image, in [0, 1).
        height: Image height in pixels.
        width: Image width in pixels.

    Returns:
        (N, 4) int64 ``top, left, bottom, right`` in pixels; the ends are exclusive. A side reaches
        half its floor both ways, so that an odd side loses a pixel.

    Example:
        >>> resize_box(torch.tensor([0.5]), torch.tensor([[0.0, 0.5]]), 8, 8)
        tensor([[0, 2, 2, 6]])
    """
    ends = []
    for axis, size in enumerate((height, width)):
        middle = (center[:, axis].double() * size).long()
        half = (tau.double() * size).long() // 2
        ends.append(((middle - half).clamp(min=0), (middle + half).clamp(max=size)))
    starts, stops = zip(*ends, strict=True)
    return torch.stack(torch.broadcast_tensors(*starts, *stops), dim=1)


def paste_resized(
    x: Tensor,
    perm: Tensor,
    box: Tensor,
    *,
    mode: str = "nearest",
    source: Tensor | None = None,
    align_corners: bool = False,
) -> Tensor:
    """Overwrite a box of every image by another image, or a part of it, resized to the box.

    Args:
        x: (B, C, H, W) images of a floating type.
        perm: (B,) index of the image to paste.
        box: (B, 4) or (1, 4) ``top, left, bottom, right`` in pixels within the image, ends
            exclusive. Where it is empty nothing is pasted.
        mode: ``nearest`` or ``bilinear``, both without anti-aliasing, as ``F.interpolate`` does.
        source: (B, 4) or (1, 4) the part that is pasted, as ``box``; nothing is where it is empty,
            and None stands for the whole image.
        align_corners: With ``bilinear``, let the outer pixels of the part and of the box coincide.

    Returns:
        (B, C, H, W) images.

    Raises:
        ValueError: If ``mode`` is unknown.

    Example:
        >>> x = torch.arange(16.0).view(1, 1, 4, 4)
        >>> paste_resized(x, torch.tensor([0]), torch.tensor([[0, 0, 2, 2]]))[0, 0, :2]
        tensor([[ 0.,  2.,  2.,  3.],
                [ 8., 10.,  6.,  7.]])
    """
    if mode not in RESIZE_MODES:
        raise ValueError(f"mode must be one of {', '.join(RESIZE_MODES)}, got {mode!r}")
    wide = torch.promote_types(x.dtype, torch.float32)
    recorded = x.requires_grad and torch.is_grad_enabled()
    if source is None:
        source = torch.tensor([[0, 0, *x.shape[2:]]]).to(box.device, non_blocking=True)
    if len(box) == len(source) == 1 and readable(box) and readable(source) and not recorded:
        top, left, bottom, right = box[0].tolist()
        above, before, below, behind = source[0].tolist()
        mixed = x.clone()
        if min(bottom - top, right - left, below - above, behind - before) > 0:
            part = x[:, :, above:below, before:behind].to(wide)
            corners = {"align_corners": align_corners} if mode == "bilinear" else {}
            small = F.interpolate(part, (bottom - top, right - left), mode=mode, **corners)
            mixed[:, :, top:bottom, left:right] = take(small, perm).to(x.dtype)
        return mixed
    # Gathered, not sliced: the boxes never visit the host and every image may have its own.
    way = "corners" if align_corners and mode == "bilinear" else mode
    all_rows, all_cols = (
        _sources(x.shape[2 + axis], box[:, axis::2], source[:, axis::2], way) for axis in (0, 1)
    )
    total = torch.zeros_like(x, dtype=wide)  # in the memory format of the images
    for rows, row_weight in all_rows:
        for cols, col_weight in all_cols:
            weight = row_weight[:, None, :, None] * col_weight[:, None, None, :]
            total = total + weight * _gather(x, perm, rows, cols).to(wide)
    pasted = box_shares(box, (x.shape[2], x.shape[3]))[1][:, None] == 1
    there = (source[:, 2] > source[:, 0]) & (source[:, 3] > source[:, 1])
    return torch.where(pasted & there[:, None, None, None], total.to(x.dtype), x)


def _sources(size: int, ends: Tensor, source: Tensor, way: str) -> list[tuple[Tensor, Tensor]]:
    """Pixels (N, size) of a partner along one side that each pixel of a box shows, and weights.

    ``ends`` (N, 2) are those of the box, ``source`` (N, 2) those of the part of the partner.
    """
    offset = torch.arange(size, device=ends.device) - ends[:, :1]
    length = (ends[:, 1:] - ends[:, :1]).clamp(min=1)
    first, whole = source[:, :1], (source[:, 1:] - source[:, :1]).clamp(min=1)
    last = whole - 1
    if way == "nearest":  # with the rounding errors of F.interpolate, which may cost a pixel
        found = (offset.float() * (whole / length.float())).floor().long()
        found = torch.minimum(found.clamp(min=0), last)
        return [((found + first).clamp(max=size - 1), torch.ones_like(found, dtype=torch.float32))]
    if way == "corners":
        exact = offset * (last.double() / (length - 1).clamp(min=1))
    else:
        exact = (offset + 0.5) * (whole / length.double()) - 0.5
    exact = torch.minimum(exact.clamp(min=0), last.double())
    before = exact.floor()
    share, before = (exact - before).float(), before.long()
    after = torch.minimum(before + 1, last)
    pixels = ((place + first).clamp(max=size - 1) for place in (before, after))
    return list(zip(pixels, (1 - share, share), strict=True))


def _gather(x: Tensor, perm: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
    """Pixels (B, C, H, W) of partners at rows (B or 1, H) and columns (B or 1, W)."""
    channels = torch.arange(x.shape[1], device=x.device)[None, :, None, None]
    return x[perm[:, None, None, None], channels, rows[:, None, :, None], cols[:, None, None, :]]


def resize_shares(box: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Shares of pixels that a resized and pasted partner leaves of an image and shows of itself.

    Args:
        box: (B, 4) or (1, 4) ``top, left, bottom, right`` in pixels, ends exclusive.
        size: Height H and width W of the images.

    Returns:
        Share (B or 1, H, W) of the image's pixels, 0 or 1, and (B or 1, 1, 1) of those of its
        partner, all of which are seen, as small as the box.

    Example:
        >>> resize_shares(torch.tensor([[0, 0, 1, 2]]), (1, 4))
        (tensor([[[0., 0., 1., 1.]]]), tensor([[[0.5000]]]))
    """
    kept, covered = box_shares(box, size)
    return kept, covered.mean((1, 2), keepdim=True)


def resizemix(
    x: Tensor,
    targets: Tensor,
    *,
    scope: Sequence[float] = (0.1, 0.8),
    alpha: float | None = None,
    mode: str = "nearest",
    per_sample: bool = False,
    partner: str = "random",
    tau: Tensor | None = None,
    center: Tensor | None = None,
    box: Tensor | None = None,
    perm: Tensor | None = None,
    generator: Generator | None = None,
) -> Mixed:
    """Paste the whole of each image's partner, made smaller. What is not given is drawn.

    Args:
        x: (B, C, H, W) images of a floating type.
        targets: (B, K) soft or multi-hot labels.
        scope: Smallest and largest ``tau``, which is drawn uniformly between them.
        alpha: Draw ``tau`` from Beta(alpha, alpha) instead, and uniformly where that is beyond the
            scope; 1 is the same law as None.
        mode: How the partner is resized, ``nearest`` or ``bilinear``.
        per_sample: Draw one box per image; the public code draws one per batch.
        partner: How partners are drawn, see :func:`draw_perm`; unused when ``perm`` is given.
        tau: (B,) or (1,) side of the box as a share of that of the image, in [0, 1].
        center: (B, 2) or (1, 2) box centre as fractions of the image, in [0, 1).
        box: (B, 4) or (1, 4) box as :func:`resize_box` returns it; both decisions above are then
            unused.
        perm: (B,) index of each image's partner.
        generator: Random source of the drawn decisions (CPU by default).

    Returns:
        Mixed batch; ``lam`` (B,) is the share outside of the clipped box and ``aux`` the (B, 4) or
        (1, 4) box. An empty box, at which the public code fails, leaves the image as it is.

    Raises:
        ValueError: If a shape or a value does not fit, or as :func:`check_batch`.

    Note:
        The partner is resized to the clipped box, so that its sides keep their ratio only away
        from the border, as in the public code, which is right for square images only.

    Example:
        >>> x, targets = torch.rand(2, 3, 8, 8), torch.eye(2)
        >>> mixed = resizemix(x, targets, box=torch.tensor([[0, 0, 4, 4]]))
        >>> mixed.lam
        tensor([0.7500, 0.7500])
    """
    check_batch(x, targets)
    if x.ndim != 4:
        raise ValueError(f"resizemix needs images (B, C, H, W), got {tuple(x.shape)}")
    batch, _, height, width = x.shape
    count = batch if per_sample else 1
    if perm is None:
        perm = draw_perm(batch, generator, rule=partner)
    check_perm(perm, batch)
    if box is None:
        if tau is None:
            tau = draw_uniform(generator, count, ends=scope)
            if alpha is not None:
                drawn = draw_lam(count, alpha, generator)
                tau = torch.where((drawn >= scope[0]) & (drawn <= scope[1]), drawn, tau)
        check_lam(tau, batch)
        if center is None:
            center = draw_uniform(generator, count, 2)
        box = resize_box(tau.reshape(-1).to(center.device), center, height, width)
    perm, box = (t.to(x.device, non_blocking=True) for t in (perm, box))
    lam = box_shares(box, (height, width))[0].mean((1, 2)).expand(batch)
    mixed = paste_resized(x, perm, box, mode=mode)
    return Mixed(mixed, mix_targets(targets, perm, lam), lam, perm, box)
