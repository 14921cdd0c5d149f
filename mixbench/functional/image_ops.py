"""The operations of AugMix on batches of uint8 images, each row with its own, as Pillow does them.

Hendrycks et al., ICLR 2020, arXiv:1912.02781; official code google-research/augmix. Which row has
which operation lies on the CPU, so that each runs on its own rows and no device is waited for.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

OPERATIONS = (
    "autocontrast",
    "equalize",
    "posterize",
    "rotate",
    "solarize",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "color",
    "contrast",
    "brightness",
    "sharpness",
)
MAX_LEVEL = 10
DEFAULT_OPS = 9  # the others are corruptions that robustness is tested with
_ROUNDING = 1e-4  # by which float32 falls short of a whole number between equal pixels
_GREY = (19595, 38470, 7471)  # ITU-R 601-2 luma in units of 2^-16


def op_values(ops: Tensor, levels: Tensor, signs: Tensor, height: int, width: int) -> Tensor:
    """Parameters of operations in units of their own.

    Args:
        ops: Places in ``OPERATIONS``, of any shape; -1 for none.
        levels: Strengths in [0, 10], of the same shape.
        signs: 1 or -1, of the same shape; read by operations that have a direction.
        height: Image height in pixels.
        width: Image width in pixels.

    Returns:
        Float64 of the same shape: bits that posterize keeps, degrees, the first value that
        solarize inverts, the slope of a shear, pixels, or the factor of an enhancement; 0 for
        autocontrast and equalize, which have none.

    Raises:
        ValueError: If a level is out of range.

    Example:
        >>> op_values(torch.tensor([3, 8]), torch.tensor([2.5, 3.0]), torch.tensor([-1, 1]), 40, 20)
        tensor([-7.,  4.], dtype=torch.float64)
    """
    if levels.numel() and not bool(((levels >= 0) & (levels <= MAX_LEVEL)).all()):
        found = f"{levels.min()} to {levels.max()}"
        raise ValueError(f"levels must lie in [0, {MAX_LEVEL}], got {found}")
    level, sign = levels.double(), signs.double()
    none, shear, factor = torch.zeros_like(level), sign * level * 0.3 / 10, level * 1.8 / 10 + 0.1
    values = (
        none,
        none,
        4 - (level * 4 / 10).trunc(),
        sign * (level * 30 / 10).trunc(),
        256 - (level * 256 / 10).trunc(),
        shear,
        shear,
        sign * (level * (width / 3) / 10).trunc(),
        sign * (level * (height / 3) / 10).trunc(),
        *[factor] * 4,
    )
    return torch.stack(values).gather(0, ops.clamp(min=0)[None])[0]


def apply_ops(x: Tensor, ops: Tensor, values: Tensor) -> Tensor:
    """Change images by operations, several of them in turn.

    Args:
        x: (B, C, H, W) uint8 images.
        ops: (N, S) places in ``OPERATIONS`` on the CPU; -1 leaves an image as it is. N is a
            multiple of B.
        values: (N, S) float64 on the CPU, as :func:`op_values` gives them.

    Returns:
        (N, C, H, W) uint8 on the device of ``x``; row n is made of image n mod B. Equal to Pillow's
        in every bit, but for rotations and shears: there a value is off by 1 where float32 rounds
        it past an integer.

    Example:
        >>> x = torch.tensor([[[[10, 200]]]], dtype=torch.uint8)
        >>> ops = torch.tensor([[0, -1], [4, 0]])
        >>> apply_ops(x, ops, torch.tensor([[0, 0], [128, 0]]).double()).flatten(1)
        tensor([[  0, 255],
                [  0, 255]], dtype=torch.uint8)
    """
    rows = torch.arange(len(ops))
    places, parts, ended = rows % len(x), [], []
    for step in range(ops.shape[1]):
        over = (ops[rows, step:] < 0).all(1)
        parts.append(_take(x, places[over]))
        ended.append(rows[over])
        rows, places = rows[~over], places[~over]
        now = ops[rows, step]
        order = now.argsort(stable=True)
        rows, places = rows[order], places[order]
        counts = (now + 1).bincount(minlength=len(_CHANGES)).tolist()
        groups = zip(_CHANGES, rows.split(counts), places.split(counts), strict=True)
        made = [
            change(_take(x, where), values[each, step].to(x.device, non_blocking=True))
            for change, each, where in groups
            if len(each)
        ]
        x, places = torch.cat([x[:0], *made]), torch.arange(len(rows))
    whole, back = torch.cat([*parts, _take(x, places)]), torch.cat([*ended, rows]).argsort()
    return _take(whole, back)


def _take(x: Tensor, rows: Tensor) -> Tensor:
    return x.index_select(0, rows.to(x.device, non_blocking=True))


def _same(x: Tensor, value: Tensor) -> Tensor:
    del value
    return x


def _autocontrast(x: Tensor, value: Tensor) -> Tensor:
    del value
    low, high = (end[..., None, None].double() for end in (x.amin((2, 3)), x.amax((2, 3))))
    flat = high <= low
    scale = torch.where(flat, 1, torch.full_like(high, 255) / (high - low))
    offset = torch.where(flat, 0, -low * scale)
    return _to_uint8(x.double().mul_(scale).add_(offset).clamp_(0, 255))


def _equalize(x: Tensor, value: Tensor) -> Tensor:
    del value
    flat = x.flatten(2).long()
    one = torch.ones(1, dtype=torch.int32, device=x.device).expand_as(flat)
    counts = torch.zeros(*flat.shape[:2], 256, dtype=torch.int32, device=x.device)
    counts.scatter_add_(2, flat, one)
    values = torch.arange(256, device=x.device)
    largest = x.amax((2, 3)).long()[..., None]
    step = (flat.shape[2] - counts.gather(2, largest)) // 255
    whole = step.clamp(min=1)
    below = counts.cumsum(2, dtype=torch.int32) - counts
    # Whole numbers below 2^53 over whole numbers: floor cannot meet a quotient that was rounded up.
    table = ((below + whole // 2).double() / whole).clamp_(max=255)
    table = torch.where(step > 0, table, values).short().to(torch.uint8)
    return table.gather(2, flat).view_as(x)


def _posterize(x: Tensor, value: Tensor) -> Tensor:
    return x & _wide(256 - 2 ** (8 - value)).to(torch.uint8)


def _solarize(x: Tensor, value: Tensor) -> Tensor:
    first = _wide(value)
    inverted = x > (first - 1).clamp(min=0).to(torch.uint8)
    # The exclusive or with 255 is 255 less a value.
    return x ^ (inverted.view(torch.uint8) * 255 | (first <= 0).view(torch.uint8) * 255)


def _rotate(x: Tensor, value: Tensor) -> Tensor:
    height, width = x.shape[2:]
    down, across = 2 * _centres(height, x) / height - 1, 2 * _centres(width, x) / width - 1
    angle = value.deg2rad()[:, None, None]
    cos, sin, ratio = angle.cos(), angle.sin(), height / width
    col = cos * across - sin * ratio * down[:, None]  # 1 at the border of the image
    row = sin / ratio * across + cos * down[:, None]
    grid = x.new_empty(len(x), height, width, 2, dtype=torch.float32)
    grid[..., 0], grid[..., 1] = col, row
    turned = F.grid_sample(x.float(), grid, padding_mode="border", align_corners=False)
    inside = col.abs_().maximum(row.abs_()) < 1
    return _to_uint8(turned.add_(_ROUNDING)) * inside[:, None]


def _shear_x(x: Tensor, value: Tensor) -> Tensor:
    height, width = x.shape[2:]
    shift = value[:, None] * _centres(height, x)  # (N, H) pixels
    room = math.ceil(0.3 * height) + 1
    left, right = (x[..., end : end + 1].expand(-1, -1, -1, room) for end in (0, width - 1))
    wide = torch.cat([left, x, right], dim=3)
    whole = shift.floor()
    first = _lines(wide, whole.long() + room, width).float()
    second = _lines(wide, whole.long() + room + 1, width).float()
    # Where both are equal, so is the result.
    mixed = first.addcmul_(second.sub_(first), (shift - whole).float()[:, None, :, None])
    image = F.pad(x.new_ones(1, 1, 1, width), (room, room))
    inside = _lines(image, (shift + 0.5).floor().long().flatten()[:, None] + room, width)
    return _to_uint8(mixed) * inside.view(-1, 1, height, width)


def _shear_y(x: Tensor, value: Tensor) -> Tensor:
    return _shear_x(x.transpose(2, 3).contiguous(), value).transpose(2, 3).contiguous()


def _translate_x(x: Tensor, value: Tensor) -> Tensor:
    height, width = x.shape[2:]
    shift = (value.long()[:, None] + width).expand(-1, height)
    return _lines(F.pad(x, (width, width)), shift, width)


def _translate_y(x: Tensor, value: Tensor) -> Tensor:
    count, channels, height, width = x.shape
    high = F.pad(x, (0, 0, height, height)).view(-1, width)
    planes = torch.arange(count * channels, device=x.device).view(count, channels, 1)
    rows = torch.arange(height, 2 * height, device=x.device) + value.long()[:, None, None]
    return high.index_select(0, (rows + 3 * height * planes).flatten()).view_as(x)


def _color(x: Tensor, value: Tensor) -> Tensor:
    return _enhanced(x, _luma(x), value)


def _contrast(x: Tensor, value: Tensor) -> Tensor:
    luma = _luma(x).flatten(1).int()
    total, count = luma.sum(1), luma.shape[1]
    return _enhanced(x, _wide((2 * total + count) // (2 * count)), value)


def _brightness(x: Tensor, value: Tensor) -> Tensor:
    return _enhanced(x, torch.zeros_like(x[:1, :1, :1, :1]), value)


def _sharpness(x: Tensor, value: Tensor) -> Tensor:
    whole = x.int()
    middle = whole[:, :, 1:-1, 1:-1]
    height, width = x.shape[2:]
    around = sum(
        whole[:, :, top : height - 2 + top, left : width - 2 + left]
        for top in range(3)
        for left in range(3)
    )
    smooth = whole.clone()
    smooth[:, :, 1:-1, 1:-1] = (2 * (around + 4 * middle) + 13) // 26
    return _enhanced(x, smooth, value)


_CHANGES: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    _same,
    _autocontrast,
    _equalize,
    _posterize,
    _rotate,
    _solarize,
    _shear_x,
    _shear_y,
    _translate_x,
    _translate_y,
    _color,
    _contrast,
    _brightness,
    _sharpness,
)


def _wide(value: Tensor) -> Tensor:
    return value.reshape(-1, 1, 1, 1)


def _to_uint8(x: Tensor) -> Tensor:
    return x.short().to(torch.uint8)  # faster than at once


def _centres(side: int, x: Tensor) -> Tensor:
    """Centres of the pixels along a side, in pixels."""
    return torch.arange(side, device=x.device, dtype=torch.float64) + 0.5


def _lines(x: Tensor, start: Tensor, width: int) -> Tensor:
    """The part of each row of images (N, C, H, L) that begins at ``start`` (N, H)."""
    count, channels, height, length = x.shape
    rows = torch.arange(0, x.numel(), length, device=x.device).view(count, channels, height)
    places = (rows + start[:, None]).flatten()
    parts = x.flatten().unfold(0, width, 1).index_select(0, places)  # whole lines, not by pixel
    return parts.view(-1, channels, height, width)


def _luma(x: Tensor) -> Tensor:
    if x.shape[1] == 1:
        return x
    red, green, blue = x.int().split(1, dim=1)
    return (_GREY[0] * red + _GREY[1] * green + _GREY[2] * blue + 32768) >> 16


def _enhanced(x: Tensor, plain: Tensor, factor: Tensor) -> Tensor:
    """Images with their distance from a plainer version times a factor."""
    start = plain.float()
    moved = start + _wide(factor.float()) * (x.float() - start)
    return moved.clamp(0, 255).to(torch.uint8)
