"""CutMix: paste a rectangle of a partner image, weigh the labels by visible area.

Yun et al., ICCV 2019, arXiv:1905.04899; official code clovaai/CutMix-PyTorch.
"""

import math

import torch
from torch import Generator, Tensor

from mixbench.functional.draws import draw_chosen, draw_lam, draw_perm, draw_uniform
from mixbench.functional.mixed import (
    Mixed,
    check_batch,
    check_lam,
    check_perm,
    mix_targets,
    readable,
    take,
)

BOX_RULES = ("official", "timm", "torchvision", "inside")


def cutmix_box(
    lam: Tensor, center: Tensor, height: int, width: int, *, rule: str = "official"
) -> Tensor:
    """Boxes of area share ``1 - lam``, clipped at the image border.

    Args:
        lam: (N,) share of the image to keep, in [0, 1].
        center: (N, 2) row and column of the box centre as fractions of the image, in [0, 1).
        height: Image height in pixels.
        width: Image width in pixels.
        rule: How a side becomes pixels. ``official`` floors the side and takes floor(side/2) both
            ways, so an odd side loses a pixel, and ``torchvision`` makes the same box; ``timm``
            keeps the pixel; ``inside`` keeps the whole box in the image, every origin equally
            likely, so that the mean kept share is close to that of ``lam`` (an addition of this
            package).

    Returns:
        (N, 4) int64 ``top, left, bottom, right`` in pixels; the ends are exclusive.

    Raises:
        ValueError: If ``rule`` is unknown.

    Example:
        >>> cutmix_box(torch.tensor([0.75]), torch.tensor([[0.0, 0.99]]), height=8, width=8)
        tensor([[0, 5, 2, 8]])
    """
    if rule not in BOX_RULES:
        raise ValueError(f"box rule must be one of {', '.join(BOX_RULES)}, got {rule!r}")
    if len(lam) == len(center) == 1 and readable(lam) and readable(center):
        return _one_box(lam.tolist()[0], center[0].tolist(), (height, width), rule)
    size = _size(height, width, center)
    # float64: in float32 sqrt(1 - lam) * size can round up across an integer.
    side = ((1 - lam.double())[:, None].sqrt() * size).long()
    if rule == "inside":
        return _inside(side, center, size)
    middle = (center * size).long()
    half = side >> 1  # torchvision floors half the side, which is the same number
    rest = side - half if rule == "timm" else half
    ends = torch.minimum(middle + rest, size.long())
    return torch.cat([(middle - half).clamp_(min=0), ends], dim=1)


def _one_box(lam: float, center: list[float], size: tuple[int, int], rule: str) -> Tensor:
    """The same arithmetic in plain numbers: a box for the whole batch costs a quarter of the time.

    A dozen operations on two elements each would take as long as pasting the box at 32 pixels.
    """
    starts, ends = [], []
    for spot, pixels in zip(center, size, strict=True):
        side = int(math.sqrt(1 - lam) * pixels)
        if rule == "inside":
            start = int(spot * (pixels - side + 1))
            starts.append(start)
            ends.append(start + side)
        else:
            middle, half = int(spot * pixels), side // 2
            starts.append(max(middle - half, 0))
            ends.append(min(middle + (side - half if rule == "timm" else half), pixels))
    return torch.tensor([starts + ends])


def cutmix_minmax_box(sides: Tensor, origin: Tensor, height: int, width: int) -> Tensor:
    """Boxes with independently drawn sides that always lie inside the image.

    Args:
        sides: (N, 2) height and width of the box as fractions of the image, in [0, 1].
        origin: (N, 2) position among the valid origins, each in [0, 1).
        height: Image height in pixels.
        width: Image width in pixels.

    Returns:
        (N, 4) int64 ``top, left, bottom, right`` in pixels; the ends are exclusive.

    Example:
        >>> cutmix_minmax_box(torch.tensor([[0.5, 0.25]]), torch.tensor([[0.0, 0.99]]), 8, 8)
        tensor([[0, 6, 4, 8]])
    """
    size = _size(height, width, origin)
    return _inside((sides * size).long(), origin, size)


def _size(height: int, width: int, like: Tensor) -> Tensor:
    size = torch.tensor([height, width], dtype=torch.float64)
    return size.to(like.device, non_blocking=True)


def _inside(side: Tensor, origin: Tensor, size: Tensor) -> Tensor:
    corner = (origin * (size - side + 1)).long()
    return torch.cat([corner, corner + side], dim=1)


def paste_box(x: Tensor, partner: Tensor, box: Tensor) -> tuple[Tensor, Tensor]:
    """Overwrite a box of every image by the same box of another image.

    Args:
        x: (B, C, H, W) images.
        partner: (B, C, H, W) images to paste from.
        box: (B, 4) or (1, 4) ``top, left, bottom, right`` in pixels, ends exclusive.

    Returns:
        The (B, C, H, W) images and ``lam`` (B,), the share of each that stays visible.
    """
    batch, _, height, width = x.shape
    # Compared, not sliced: the box never visits the host and every image may have its own.
    top, left, bottom, right = box[:, :, None].unbind(1)
    rows, cols = (torch.arange(n, device=x.device) for n in (height, width))
    in_rows, in_cols = (rows >= top) & (rows < bottom), (cols >= left) & (cols < right)
    pasted = in_rows[:, None, :, None] & in_cols[:, None, None, :]
    area = in_rows.sum(1) * in_cols.sum(1)
    lam = (1 - area.double() / (height * width)).float()
    return torch.where(pasted, partner, x), lam.expand(batch)


def box_shares(box: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Shares of pixels that a pasted box shows of an image and of its partner.

    Args:
        box: (B, 4) or (1, 4) ``top, left, bottom, right`` in pixels, ends exclusive.
        size: Height H and width W of the images.

    Returns:
        Two shares (B or 1, H, W) of the pixels, 0 or 1.

    Example:
        >>> box_shares(torch.tensor([[0, 1, 1, 2]]), (1, 3))
        (tensor([[[1., 0., 1.]]]), tensor([[[0., 1., 0.]]]))
    """
    blank = torch.zeros(len(box), 1, *size, device=box.device)
    pasted = paste_box(blank, blank + 1, box)[0][:, 0]
    return 1 - pasted, pasted


def _paste_one_box(x: Tensor, perm: Tensor, box: Tensor) -> tuple[Tensor, Tensor]:
    """The same for one box whose ends the host knows: nothing outside of it is gathered."""
    batch, _, height, width = x.shape
    top, left, bottom, right = box[0].tolist()
    top, left = max(top, 0), max(left, 0)
    bottom, right = max(min(bottom, height), top), max(min(right, width), left)
    mixed = x.clone()
    source, place = (t[:, :, top:bottom, left:right] for t in (x, mixed))
    torch.index_select(source, 0, perm, out=place)
    kept = torch.tensor([1 - (bottom - top) * (right - left) / (height * width)])
    return mixed, kept.expand(batch)


def cutmix(
    x: Tensor,
    targets: Tensor,
    *,
    alpha: float = 1.0,
    per_sample: bool = False,
    prob: float = 1.0,
    partner: str = "random",
    box_rule: str = "official",
    minmax: tuple[float, float] | None = None,
    lam: Tensor | None = None,
    center: Tensor | None = None,
    sides: Tensor | None = None,
    box: Tensor | None = None,
    perm: Tensor | None = None,
    generator: Generator | None = None,
) -> Mixed:
    """Paste a box of each image's partner into it. Decisions that are not given are drawn.

    Args:
        x: (B, C, H, W) images of any type, integers included: pixels are moved, never mixed.
        targets: (B, K) soft or multi-hot labels.
        alpha: Beta(alpha, alpha) of the kept share; unused when ``lam`` or ``box`` is given.
        per_sample: Draw one box per image; the paper draws one per batch.
        prob: Chance that the batch is mixed, with ``per_sample`` that of each row; one that is not
            mixed has the weight 1. Unused when ``lam``, ``sides`` or ``box`` is given.
        partner: How partners are drawn, see :func:`draw_perm`; unused when ``perm`` is given.
        box_rule: How the box is placed, see :func:`cutmix_box`.
        minmax: Smallest and largest side as fractions of the image; sides are then drawn
            uniformly and independently instead of from ``alpha``, as timm's option does.
        lam: (B,) or (1,) share to keep before clipping, in [0, 1].
        center: (B, 2) or (1, 2) box centre as fractions of the image, in [0, 1).
        sides: (B, 2) or (1, 2) box sides as fractions, read with ``minmax`` only.
        box: (B, 4) or (1, 4) pasted region as :func:`cutmix_box` returns it; the three decisions
            above are then unused.
        perm: (B,) index of each image's partner.
        generator: Random source of the drawn decisions (CPU by default).

    Returns:
        Mixed batch; ``lam`` (B,) is the share that stays visible after clipping and ``aux`` the
        (B, 4) or (1, 4) box, which methods with token-wise labels read.

    Raises:
        ValueError: If ``targets`` are class indices, the batch sizes differ, ``x`` is not
            (B, C, H, W) or empty, or ``alpha``, ``lam``, ``prob`` or ``minmax`` is out of range.

    Example:
        >>> x, targets = torch.zeros(2, 1, 4, 4), torch.eye(2)
        >>> mixed = cutmix(x, targets, box=torch.tensor([[0, 0, 2, 2]]), perm=torch.tensor([1, 0]))
        >>> mixed.targets
        tensor([[0.7500, 0.2500],
                [0.2500, 0.7500]])
    """
    check_batch(x, targets, integer_x=True)
    if x.ndim != 4:
        raise ValueError(f"cutmix needs images (B, C, H, W), got {tuple(x.shape)}")
    if not alpha > 0:
        raise ValueError(f"cutmix: alpha must be > 0, got {alpha}")
    batch, _, height, width = x.shape
    count = batch if per_sample else 1
    if perm is None:
        perm = draw_perm(batch, generator, rule=partner)
    check_perm(perm, batch)
    if box is None:
        if lam is not None:
            check_lam(lam, batch)
        elif minmax is None:
            lam = draw_lam(count, alpha, generator, prob=prob)
        if center is None:
            center = draw_uniform(generator, count, 2)
        if minmax is not None:
            low, high = minmax
            if not 0 < low < high <= 1:
                raise ValueError(f"cutmix: minmax must be 0 < min < max <= 1, got {minmax}")
            if sides is None:
                sides = draw_uniform(generator, count, 2, ends=minmax)
                if prob != 1:  # a box without a side is none
                    sides = sides * draw_chosen(count, prob, generator)[:, None]
            sides, center = _together(sides, center)
            box = cutmix_minmax_box(sides, center, height, width)
        else:
            assert lam is not None
            lam, center = _together(lam.reshape(-1), center)
            box = cutmix_box(lam, center, height, width, rule=box_rule)
    perm, box = (t.to(x.device, non_blocking=True) for t in (perm, box))
    if len(box) == 1 and readable(box) and not (x.requires_grad and torch.is_grad_enabled()):
        mixed, kept = _paste_one_box(x, perm, box)
    else:
        mixed, kept = paste_box(x, take(x, perm), box)
    return Mixed(mixed, mix_targets(targets, perm, kept), kept, perm, box)


def _together(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Both decisions on one device: the one that is not the CPU, if they differ."""
    device = first.device if first.device.type != "cpu" else second.device
    return first.to(device, non_blocking=True), second.to(device, non_blocking=True)
