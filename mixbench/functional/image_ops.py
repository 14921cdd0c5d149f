"""The operations of AugMix on batches of uint8 images, each row with its own, as Pillow does them.

Hendrycks et al., ICLR 2020, arXiv:1912.02781; official code google-research/augmix. Which row has
which operation lies on the CPU, so that each runs on its own rows and no device is waited for.
"""

import math
from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from mixbench.native.library import call, serves

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
MAX_DEGREES, MAX_SLOPE = 30, 0.3  # of rotations and shears, at that level
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
    made = _passed_by_c(x, ops, values)
    if made is not None:
        return made
    with torch.inference_mode():  # spares a tenth of the time, and bytes have no gradient
        made, order = _passed(x, ops, values)
    return made.index_select(0, order.argsort().to(x.device, non_blocking=True))


def _passed_by_c(x: Tensor, ops: Tensor, values: Tensor) -> Tensor | None:
    """Images (N, C, H, W) behind all operations; None where the C code is of no use."""
    fits = x.ndim == 4 and x.shape[1] in (1, 3) and x.numel() and ops.shape == values.shape
    if not fits or x.dtype != torch.uint8 or not (serves(x) and serves(ops) and serves(values)):
        return None
    height, width = x.shape[2:]
    made, spare = x.new_empty(len(ops), *x.shape[1:]), x.new_empty(x.shape[1:])
    packed = x.new_empty(height + 1, width + 1, dtype=torch.int32)
    turned = bool((ops == OPERATIONS.index("rotate")).any())
    turns = _turns(height, width, x.device) if turned else (x, x)  # which are not read
    given = (x.contiguous(), ops.long().contiguous(), values.double().contiguous())
    sizes = (len(x), *ops.shape, *x.shape[1:])
    return made if call("apply_ops", *given, *turns, packed, spare, made, *sizes) else None


def _passed(x: Tensor, ops: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Images (N, C, H, W) behind all operations, and which row of ``ops`` (N,) each is of."""
    count, steps = ops.shape
    left = whole = x.new_empty(count, *x.shape[1:])
    rows, done = torch.arange(count), []
    places = rows % len(x)
    for step in range(steps):
        # In front those that have ended, then those that wait, then by operation.
        over = (ops[:, step:] < 0).all(1)
        kind = (ops[:, step] + 1 - over.long()).index_select(0, rows)
        order = kind.argsort(stable=True)
        rows, places = rows.index_select(0, order), places.index_select(0, order)
        value = values[:, step].index_select(0, rows).to(x.device, non_blocking=True)
        there = places.to(x.device, non_blocking=True)
        counts = (kind + 1).bincount(minlength=len(_CHANGES) + 1).tolist()
        ended, *counts = counts
        torch.index_select(x, 0, there[:ended], out=left[:ended])
        done.append(rows[:ended])
        left, rows, places = left[ended:], rows[ended:], torch.arange(sum(counts))
        made = left if step == steps - 1 else torch.empty_like(left)
        parts = (t.split(counts) for t in (there[ended:], value[ended:], made))
        for change, rest, where, numbers, out in zip(_CHANGES, counts, *parts, strict=True):
            if rest:
                change(x.index_select(0, where), numbers, out)
        x = made
    return whole, torch.cat([*done, rows])


def _same(x: Tensor, value: Tensor, out: Tensor) -> None:
    del value
    out.copy_(x)


def _autocontrast(x: Tensor, value: Tensor, out: Tensor) -> None:
    del value
    low, high = (end[..., None, None].double() for end in (x.amin((2, 3)), x.amax((2, 3))))
    flat = high <= low
    scale = torch.where(flat, 1, torch.full_like(high, 255) / (high - low))
    offset = torch.where(flat, 0, -low * scale)
    out.copy_(_whole(x.double().mul_(scale).add_(offset).clamp_(0, 255)))


def _equalize(x: Tensor, value: Tensor, out: Tensor) -> None:
    del value
    flat = x.flatten(2).long()
    one = torch.ones(1, dtype=torch.int32, device=x.device).expand_as(flat)
    counts = torch.zeros(*flat.shape[:2], 256, dtype=torch.int32, device=x.device)
    counts.scatter_add_(2, flat, one)
    values = torch.arange(256, device=x.device, dtype=torch.float64)
    largest = x.amax((2, 3)).long()[..., None]
    step = (flat.shape[2] - counts.gather(2, largest)) // 255
    whole = step.clamp(min=1)
    below = counts.cumsum(2, dtype=torch.int32).sub_(counts).add_(whole // 2)
    # Whole numbers below 2^53 over whole numbers: floor cannot meet a quotient that was rounded up.
    table = (below.double() / whole).clamp_(max=255)
    table = _whole(torch.where(step > 0, table, values)).to(torch.uint8)
    torch.gather(table, 2, flat, out=out.view_as(flat))


def _posterize(x: Tensor, value: Tensor, out: Tensor) -> None:
    torch.bitwise_and(x, _wide(256 - 2 ** (8 - value)).to(torch.uint8), out=out)


def _solarize(x: Tensor, value: Tensor, out: Tensor) -> None:
    last = _wide(value - 1)  # that stays; -1 if none does
    kept = last.clamp(min=0).to(torch.uint8)
    beyond = x.maximum(kept).sub_(kept).clamp_(max=1)  # a comparison would take four times as long
    beyond = beyond.maximum((last < 0).view(torch.uint8))
    torch.bitwise_xor(x, beyond.mul_(255), out=out)  # 255 less a value


def _rotate(x: Tensor, value: Tensor, out: Tensor) -> None:
    grids, frames = _turns(*x.shape[2:], x.device)
    angle = value.long() + MAX_DEGREES
    grid = grids.index_select(0, angle)
    turned = F.grid_sample(x.float(), grid, padding_mode="border", align_corners=False)
    torch.mul(_whole(turned.add_(_ROUNDING)).to(torch.uint8), frames[angle], out=out)


@lru_cache(maxsize=4)
def _turns(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Sources (D, H, W, 2) of pixels turned by each whole number of degrees, and frames.

    Columns and rows are those of ``grid_sample``. Frames (D, 1, H, W) uint8 are 1 where the source
    lies in the image.
    """
    degrees = torch.arange(-MAX_DEGREES, MAX_DEGREES + 1, dtype=torch.float64)
    down = (
        2 * _centres(height, degrees.device)[:, None] / height - 1
    )  # 1 at the border of the image
    across = 2 * _centres(width, degrees.device) / width - 1
    angle, ratio = degrees.deg2rad()[:, None, None], height / width
    col = angle.cos() * across - ratio * angle.sin() * down
    row = angle.sin() / ratio * across + angle.cos() * down
    inside = (col >= -1) & (col < 1) & (row >= -1) & (row < 1)
    grid = torch.stack([col, row], dim=3).float()
    return grid.to(device), inside[:, None].to(device, torch.uint8)


def _shear_x(x: Tensor, value: Tensor, out: Tensor) -> None:
    height, width = x.shape[2:]
    shift = value[:, None] * _centres(height, x.device)  # (N, H) pixels
    room = math.ceil(MAX_SLOPE * height) + 1
    left, right = (x[..., end : end + 1].expand(-1, -1, -1, room) for end in (0, width - 1))
    start = shift.floor()
    line = _lines(torch.cat([left, x, right], dim=3), start.long() + room, width + 1)
    first, second = line[..., :-1].float(), line[..., 1:].float()
    # Where both are equal, so is the result.
    mixed = first.addcmul_(second.sub_(first), (shift - start).float()[:, None, :, None])
    frame = F.pad(x.new_ones(1, 1, 1, width), (room, room))
    inside = _lines(frame, (shift + 0.5).floor().long().flatten()[:, None] + room, width)
    torch.mul(_whole(mixed).to(torch.uint8), inside.view(-1, 1, height, width), out=out)


def _shear_y(x: Tensor, value: Tensor, out: Tensor) -> None:
    turned = x.transpose(2, 3).contiguous()
    made = torch.empty_like(turned)
    _shear_x(turned, value, made)
    out.copy_(made.transpose(2, 3))


def _translate_x(x: Tensor, value: Tensor, out: Tensor) -> None:
    height, width = x.shape[2:]
    start = (value.long()[:, None] + width).expand(-1, height)
    out.copy_(_lines(F.pad(x, (width, width)), start, width))


def _translate_y(x: Tensor, value: Tensor, out: Tensor) -> None:
    count, channels, height, width = x.shape
    high = F.pad(x, (0, 0, height, height)).view(-1, width)
    planes = torch.arange(count * channels, device=x.device).view(count, channels, 1)
    rows = torch.arange(height, 2 * height, device=x.device) + value.long()[:, None, None]
    places = (rows + 3 * height * planes).flatten()
    torch.index_select(high, 0, places, out=out.view(-1, width))


def _color(x: Tensor, value: Tensor, out: Tensor) -> None:
    _enhance(x, _luma(x), value, out)


def _contrast(x: Tensor, value: Tensor, out: Tensor) -> None:
    luma = _luma(x).flatten(1).int()
    total, count = luma.sum(1), luma.shape[1]
    _enhance(x, _wide((2 * total + count) // (2 * count)), value, out)


def _brightness(x: Tensor, value: Tensor, out: Tensor) -> None:
    _enhance(x, x.new_zeros(1), value, out)


def _sharpness(x: Tensor, value: Tensor, out: Tensor) -> None:
    smooth = x.int()
    height, width = x.shape[2:]
    if min(height, width) > 2:
        parts = [
            smooth[:, :, top : height - 2 + top, left : width - 2 + left]
            for top in range(3)
            for left in range(3)
        ]
        around = torch.stack(parts).sum(0)
        smooth = smooth.clone()
        smooth[:, :, 1:-1, 1:-1] = (2 * (around + 4 * parts[4]) + 13) // 26
    _enhance(x, smooth, value, out)


# Each writes what becomes of images (N, C, H, W) into ``out``; values (N,) lie on their device.
_CHANGES: tuple[Callable[[Tensor, Tensor, Tensor], None], ...] = (
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


def _whole(x: Tensor) -> Tensor:
    """Values cut off to whole numbers, from which the way to uint8 is quicker than at once."""
    return x.short()


@lru_cache(maxsize=16)
def _centres(side: int, device: torch.device) -> Tensor:
    """Centres of the pixels along a side, in pixels."""
    return torch.arange(side, device=device, dtype=torch.float64) + 0.5


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


def _enhance(x: Tensor, plain: Tensor, factor: Tensor, out: Tensor) -> None:
    """Multiply the distance of images from a plainer version by a factor."""
    start = plain.float()
    moved = start + _wide(factor.float()) * (x.float() - start)
    out.copy_(_whole(moved.clamp_(0, 255)))
