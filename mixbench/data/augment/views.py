"""Random views of images for learning without labels, made of whole batches on their device.

The augmentation of MoCo v2: Chen et al., 2020, arXiv:2003.04297; official code
facebookresearch/moco. Every decision is drawn on the CPU, so that the rows that share an operation
are known there and each operation runs on its own rows only.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

RATIO = (3 / 4, 4 / 3)  # of width to height of a crop
CROP_ATTEMPTS = 10  # at a crop that fits
# How far brightness, contrast and saturation go from 1, and hue from 0 in turns of the circle.
STRENGTH = (0.4, 0.4, 0.4, 0.1)
SIGMA = (0.1, 2.0)  # pixels
_GREY = (0.2989, 0.587, 0.114)  # ITU-R BT.601, as in torchvision


class ViewDraws(NamedTuple):
    """Decisions of one view of a batch, on the CPU.

    ``boxes`` (B, 4) int64 top, left, height and width in pixels; ``flips`` (B,) bool; ``jittered``
    (B,) bool; ``order`` (B, 4) int64, the operation in each place: 0 brightness, 1 contrast,
    2 saturation, 3 hue; ``factors`` (B, 4) float32 of the operations by their number; ``grey``
    (B,) bool; ``sigma`` (B,) float32 in pixels, 0 where an image is not blurred.
    """

    boxes: Tensor
    flips: Tensor
    jittered: Tensor
    order: Tensor
    factors: Tensor
    grey: Tensor
    sigma: Tensor


def draw_view(
    batch: int,
    height: int,
    width: int,
    *,
    area: float = 0.2,
    flip: float = 0.5,
    jitter: float = 0.8,
    grey: float = 0.2,
    blur: float = 0.5,
    generator: Generator | None = None,
) -> ViewDraws:
    """Draw all that makes a view of each image.

    Args:
        batch: Number of images B.
        height: Image height in pixels.
        width: Image width in pixels.
        area: Smallest share of the image that a crop shows.
        flip: Share of images that are mirrored.
        jitter: Share of images whose colours are changed.
        grey: Share of images that lose their colours.
        blur: Share of images that are blurred.
        generator: CPU random source.

    Returns:
        The decisions.
    """
    boxes = draw_boxes(batch, height, width, area, generator)
    chances = torch.tensor([flip, jitter, grey, blur])
    flips, jittered, greys, blurred = (
        torch.rand(batch, 4, generator=generator, dtype=torch.float64) < chances
    ).unbind(1)
    order = torch.rand(batch, 4, generator=generator).argsort(dim=1)
    factors = (2 * torch.rand(batch, 4, generator=generator) - 1) * torch.tensor(STRENGTH)
    factors[:, :3] += 1
    low, high = SIGMA
    sigma = low + (high - low) * torch.rand(batch, generator=generator)
    return ViewDraws(boxes, flips, jittered, order, factors, greys, sigma * blurred)


def draw_boxes(
    batch: int, height: int, width: int, area: float, generator: Generator | None = None
) -> Tensor:
    """Draw random crops of random shape, as torchvision's RandomResizedCrop does one by one.

    Args:
        batch: Number of images B.
        height: Image height in pixels.
        width: Image width in pixels.
        area: Smallest share of the image; the largest is 1.
        generator: CPU random source.

    Returns:
        (B, 4) int64 top, left, height, width in pixels. Where ten attempts give none that fits,
        the largest crop in the middle whose shape is allowed.
    """
    shares, ratios, places = torch.rand(
        3, batch, CROP_ATTEMPTS, generator=generator, dtype=torch.float64
    )
    low, high = (math.log(end) for end in RATIO)
    wanted = height * width * (area + (1 - area) * shares)
    ratios = (low + (high - low) * ratios).exp()
    sides = torch.stack([(wanted / ratios).sqrt(), (wanted * ratios).sqrt()], dim=2).round().long()
    whole = torch.tensor([height, width])
    fits = ((sides > 0) & (sides <= whole)).all(dim=2)
    found = sides[torch.arange(batch), fits.int().argmax(dim=1)]
    room = torch.minimum(whole, (whole.flip(0) * torch.tensor([RATIO[1]] * 2)).round().long())
    missed = ~fits.any(dim=1, keepdim=True)
    found = torch.where(missed, room, found)
    corner = (places[:, :2] * (whole - found + 1)).long()
    corner = torch.where(missed, (whole - found) // 2, corner)
    return torch.cat([corner, found], dim=1)


def make_view(x: Tensor, draws: ViewDraws) -> Tensor:
    """Crop, change colours, blur and mirror each image as it was drawn for it.

    Args:
        x: (B, C, H, W) pixels in [0, 1] of a floating type.
        draws: As :func:`draw_view` returns them.

    Returns:
        (B, C, H, W) pixels in [0, 1], in float32. Images of one channel have no colours to change.
    """
    x = resized_crop(x.float().clamp(0, 1), draws.boxes, draws.flips)
    coloured = x.shape[1] == 3
    changes = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)[
        : 4 if coloured else 2
    ]
    for place in draws.order.unbind(1):
        for number, change in enumerate(changes):
            rows = (draws.jittered & (place == number)).nonzero()[:, 0]
            _on_rows(x, rows, change, draws.factors[:, number])
    if coloured:
        _on_rows(x, draws.grey.nonzero()[:, 0], adjust_saturation, torch.zeros(len(x)))
    _on_rows(x, (draws.sigma > 0).nonzero()[:, 0], gaussian_blur, draws.sigma)
    return x


def resized_crop(x: Tensor, boxes: Tensor, flips: Tensor | None = None) -> Tensor:
    """Cut a box of each image and bring it to the size of the image, bilinearly.

    Args:
        x: (B, C, H, W) images of a floating type.
        boxes: (B, 4) int64 top, left, height, width in pixels.
        flips: (B,) bool, True to mirror left and right; none if None.

    Returns:
        (B, C, H, W). Nothing from outside of a box gets in at its border.
    """
    height, width = x.shape[2:]
    boxes = boxes.to(x.device, non_blocking=True).float()
    top, left, tall, wide = boxes.unbind(1)
    rows = _sources(height, top, tall)
    cols = _sources(width, left, wide)
    if flips is not None:
        flips = flips.to(x.device, non_blocking=True)
        cols = torch.where(flips[:, None], cols.flip(1), cols)
    # Pixel centres in the [-1, 1] of grid_sample.
    rows, cols = (2 * rows + 1) / height - 1, (2 * cols + 1) / width - 1
    shape = (len(x), height, width)
    grid = torch.stack([cols[:, None].expand(shape), rows[:, :, None].expand(shape)], dim=3)
    return F.grid_sample(x, grid.to(x.dtype), padding_mode="border", align_corners=False)


def adjust_brightness(x: Tensor, factor: Tensor) -> Tensor:
    """Images (N, C, H, W) in [0, 1] times a factor (N,) each, cut off at 1."""
    return (x * _wide(factor)).clamp(0, 1)


def adjust_contrast(x: Tensor, factor: Tensor) -> Tensor:
    """Images (N, C, H, W) in [0, 1] with their distance from their mean grey times a factor."""
    mean = _grey(x).mean(dim=(2, 3), keepdim=True)
    return mean.lerp(x, _wide(factor)).clamp(0, 1)


def adjust_saturation(x: Tensor, factor: Tensor) -> Tensor:
    """Images (N, 3, H, W) in [0, 1] with their distance from grey times a factor; 0 is grey."""
    return _grey(x).lerp(x, _wide(factor)).clamp(0, 1)


def adjust_hue(x: Tensor, turn: Tensor) -> Tensor:
    """Images (N, 3, H, W) in [0, 1] with their hue moved by a share (N,) of the circle."""
    red, green, blue = x.unbind(1)
    high, low = x.amax(dim=1), x.amin(dim=1)
    spread = high - low
    scale = torch.where(spread > 0, spread, 1.0)
    of_blue = 4 + (red - green) / scale
    of_green = 2 + (blue - red) / scale
    of_red = (green - blue) / scale
    hue = torch.where(high == red, of_red, torch.where(high == green, of_green, of_blue))
    hue = hue + 6 * turn.reshape(-1, 1, 1)
    # How far each channel is below the largest one, over the circle (hexcone of Smith, 1978).
    place = (hue[:, None] + torch.arange(5, 0, -2, device=x.device).reshape(3, 1, 1)) % 6
    below = torch.minimum(place, 4 - place).clamp(0, 1)
    return high[:, None] - spread[:, None] * below


def gaussian_blur(x: Tensor, sigma: Tensor) -> Tensor:
    """Images blurred by a Gaussian, its weights within the image summing to 1.

    Args:
        x: (N, C, H, W) images.
        sigma: (N,) standard deviation in pixels, > 0.

    Returns:
        (N, C, H, W), by two products with matrices, which no kernel size cuts off.
    """
    rows, cols = (_gaussian(side, sigma)[:, None].to(x.dtype) for side in x.shape[2:])
    return rows @ x @ cols.transpose(2, 3)


def _gaussian(side: int, sigma: Tensor) -> Tensor:
    place = torch.arange(side, device=sigma.device)
    distance = (place[:, None] - place) / sigma.reshape(-1, 1, 1)
    return (-0.5 * distance.square()).softmax(dim=2)


def _sources(side: int, start: Tensor, length: Tensor) -> Tensor:
    """(B, side) places in the image from which a row of the result is interpolated."""
    centres = torch.arange(side, device=start.device) + 0.5
    inside = centres * (length / side)[:, None] - 0.5
    last = (length - 1)[:, None]
    return start[:, None] + torch.minimum(inside.clamp(min=0), last)


def _on_rows(
    x: Tensor, rows: Tensor, change: Callable[[Tensor, Tensor], Tensor], values: Tensor
) -> None:
    """Change some images in place; ``rows`` and ``values`` are on the CPU."""
    if not len(rows):
        return
    values = values[rows].to(x.device, x.dtype, non_blocking=True)
    rows = rows.to(x.device, non_blocking=True)
    x.index_copy_(0, rows, change(x.index_select(0, rows), values))


def _grey(x: Tensor) -> Tensor:
    if x.shape[1] == 1:
        return x
    red, green, blue = x.split(1, dim=1)  # numbers, as a tensor of them would have to be sent
    return _GREY[0] * red + _GREY[1] * green + _GREY[2] * blue


def _wide(factor: Tensor) -> Tensor:
    return factor.reshape(-1, 1, 1, 1)
