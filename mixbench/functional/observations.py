"""What is added to an image in an observation: straight lines and sinusoidal waves.

Soltani, Jain, Sambasivan, arXiv:1902.04664, say that lines and waves are random; width, amplitude
and frequency are not given there.
"""

import math

import torch
from torch import Tensor

AMPLITUDE, FREQUENCY = (0.3, 1.0), (1.0, 5.0)  # ranges of a wave; periods per side of the image


def line_image(places: Tensor, size: tuple[int, int]) -> Tensor:
    """Images of horizontal and vertical lines, one pixel wide.

    Args:
        places: (N, K) int64 in [0, H + W): row of a horizontal line, or H plus the column of a
            vertical one.
        size: Height H and width W in pixels.

    Returns:
        (N, 1, H, W) float32: 1 where a line is, also where two cross, and 0 elsewhere.

    Example:
        >>> line_image(torch.tensor([[0, 3]]), (2, 3))  # the first row and the second column
        tensor([[[[1., 1., 1.],
                  [0., 1., 0.]]]])
    """
    height, width = size
    drawn = torch.zeros(len(places), height + width, device=places.device)
    drawn = drawn.scatter(1, places, 1.0)
    rows, columns = drawn[:, :height, None], drawn[:, None, height:]
    return torch.maximum(rows, columns)[:, None]


def wave_image(
    amplitude: Tensor,
    frequency: Tensor,
    phase: Tensor,
    vertical: Tensor,
    size: tuple[int, int],
) -> Tensor:
    """Images of the sum of waves ``A sin(2 pi f r / side + phase)`` along rows or columns.

    Args:
        amplitude: (N, K) A in pixel values.
        frequency: (N, K) f, periods per side of the image.
        phase: (N, K) in radians.
        vertical: (N, K) bool; True where a wave runs along the rows, from top to bottom.
        size: Height and width in pixels.

    Returns:
        (N, 1, H, W) float32 of both signs, between -K and K for amplitudes up to 1.

    Example:
        >>> one = torch.ones(1, 1)
        >>> wave_image(one, one, 0 * one, one.bool(), (4, 1)).flatten().round()
        tensor([ 0.,  1., -0., -1.])
    """
    parts = []
    for side, chosen in ((size[0], vertical), (size[1], ~vertical)):
        place = torch.arange(side, device=amplitude.device) / side
        angle = 2 * math.pi * frequency[..., None] * place + phase[..., None]
        parts.append(((amplitude * chosen)[..., None] * angle.sin()).sum(dim=1))
    return (parts[0][:, :, None] + parts[1][:, None, :])[:, None]
