"""A frozen generator of small images, in the form that makes many images fastest on a CPU.

The images are those of the generator up to rounding. Batch normalisation is folded into the layer
before it, channels lie innermost, and transposed convolutions are computed without the kernel that
oneDNN has for them, which takes two to eight times as long.
"""

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# Of the four taps of a transposed convolution with stride 2 and padding 1, those that add the rows
# q - 1 and q of a map to row 2q - 1 of the larger one, and those that add them to row 2q.
WINDOW = ((2, 0), (3, 1))


class FoldedGenerator:
    """The function of an :class:`mixbench.nn.gan.ImageGenerator` that is frozen and in eval mode.

    Its weights are copies without a gradient; latent vectors get theirs once, not twice.

    Args:
        layers: The layers of the generator, with batch normalisation.
        span: Smallest and largest value that a pixel can have.
    """

    @torch.no_grad()
    def __init__(self, layers: nn.Sequential, span: tuple[float, float]) -> None:
        linear, unflatten, norm, _, inner, inner_norm, _, last = cast(Any, layers)
        self.latent, self.span, self.grid = linear.in_features, span, unflatten.unflattened_size
        channels, height, width = self.grid
        factor, bias = _factor(norm)
        matrix = linear.weight.view(channels, height * width, -1) * factor[:, None, None]
        self.matrix = matrix.permute(2, 1, 0).flatten(1).contiguous()
        self.bias = bias.repeat(height * width)
        factor, bias = _factor(inner_norm)
        weight = inner.weight * factor[:, None, None]
        self.inner = weight, _by_windows(weight, bias)
        self.last = last.weight, _by_taps(last.weight, last.bias)

    def __call__(self, z: Tensor) -> Tensor:
        """Images (N, C, H, W) inside of the span, of latent vectors (N, L)."""
        channels, height, width = self.grid
        h = torch.addmm(self.bias, z, self.matrix).view(-1, height, width, channels).relu_()
        doubled = cast(Any, _Doubling.apply)
        h = doubled(h, *self.inner).relu_()
        x = doubled(h, *self.last).sigmoid_().permute(0, 3, 1, 2)
        low, high = self.span
        return x if (low, high) == (0, 1) else low + (high - low) * x


class _Doubling(torch.autograd.Function):
    """A transposed convolution of maps (N, H, W, I) to (N, 2H, 2W, O), in the form ``form``."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, weight: Tensor, form: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.save_for_backward(weight)
        return form(h)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (weight,), (grad,) = ctx.saved_tensors, grads
        back = F.conv2d(grad.permute(0, 3, 1, 2), weight, stride=2, padding=1)
        return back.permute(0, 2, 3, 1), None, None


def _factor(norm: Any) -> tuple[Tensor, Tensor]:
    """Factor and bias (C,) of batch normalisation in eval mode."""
    factor = norm.weight / (norm.running_var + norm.eps).sqrt()
    return factor, norm.bias - norm.running_mean * factor


def _by_windows(weight: Tensor, bias: Tensor) -> Callable[[Tensor], Tensor]:
    """A convolution over windows of 2x2 pixels that makes four pixels of each; for many channels.

    Args:
        weight: (I, O, 4, 4) of the transposed convolution.
        bias: (O,) bias.
    """
    window = torch.tensor(WINDOW, device=weight.device)
    kernel = weight[:, :, window][..., window].permute(2, 4, 1, 0, 3, 5).flatten(0, 2)
    kernel, bias = kernel.contiguous(memory_format=torch.channels_last), bias.repeat(4)

    def doubled(h: Tensor) -> Tensor:
        rows, height, width, _ = h.shape
        made = F.conv2d(h.permute(0, 3, 1, 2), kernel, bias, padding=1).permute(0, 2, 3, 1)
        made = made.reshape(rows, height + 1, width + 1, 2, 2, -1)
        larger = h.new_empty(rows, 2 * height, 2 * width, made.shape[-1])
        places = larger.view(rows, height, 2, width, 2, -1)
        for odd, right in product((0, 1), repeat=2):
            part = made[:, odd : height + odd, right : width + right, 1 - odd, 1 - right]
            places[:, :, odd, :, right] = part
        return larger

    return doubled


def _by_taps(weight: Tensor, bias: Tensor) -> Callable[[Tensor], Tensor]:
    """One matrix product that makes all 16 taps, which are added up after it; for few channels.

    Args:
        weight: (I, O, 4, 4) of the transposed convolution.
        bias: (O,) bias.
    """
    matrix = weight.permute(2, 3, 1, 0).flatten(0, 2).contiguous()

    def doubled(h: Tensor) -> Tensor:
        rows, height, width, channels = h.shape
        taps = (matrix @ h.reshape(-1, channels).T).view(4, 4, -1, rows, height, width)
        larger = h.new_empty(rows, 2 * height, 2 * width, len(bias))
        places = larger.view(rows, height, 2, width, 2, -1)
        for odd, some in enumerate(_alternating(taps, -2)):
            for right, pixels in enumerate(_alternating(some, -1)):
                places[:, :, odd, :, right] = pixels.movedim(0, -1)
        return larger.add_(bias)

    return doubled


def _alternating(taps: Tensor, dim: int) -> Iterator[Tensor]:
    """Even and odd rows of a larger map, each the sum of two of four taps (4, ...), in place."""
    size = taps.shape[dim] - 1
    first, second, third, fourth = taps.unbind()
    second.narrow(dim, 1, size).add_(fourth.narrow(dim, 0, size))
    yield second
    third.narrow(dim, 0, size).add_(first.narrow(dim, 1, size))
    yield third
