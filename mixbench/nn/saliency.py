"""Saliency maps of a network: its attention, or its class activation map."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mixbench.backbones.attention import Capture
from mixbench.errors import UserError


def saliency_map(net: Any, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of a network and its map, in one pass.

    Args:
        net: A network that provides attention, or maps.
        x: (B, C, H, W) normalised images.
        y: (B,) true labels.

    Returns:
        (B, K) logits and (B, R, C) map, not negative. Of a transformer, how much each patch is
        attended to in the last block, as the mean over heads and all tokens; of other networks
        the class activation map of the label.
    """
    if "attention" not in net.provides:
        h = net.forward_stages(x)
        return net.head(h), class_activation(net.head.norm(h), net.head.fc.weight, y).relu()
    h, attention = attention_of_patches(net, x)
    return net.head(h), attention


def class_activation(h: Tensor, weight: Tensor, y: Tensor) -> Tensor:
    """Class activation map (Zhou et al., CVPR 2016, arXiv:1512.04150), which may be negative.

    Args:
        h: (B, C, H, W) features that the pooling before the classifier reads.
        weight: (K, C) the classifier's.
        y: (B,) classes.

    Returns:
        (B, H, W) sum over channels of weight times feature.
    """
    return torch.einsum("bchw,bc->bhw", h, weight[y])


def attention_of_patches(net: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """How much each patch is attended to in the last block, as the mean over heads and all tokens.

    Args:
        net: A network that provides attention.
        x: (B, C, H, W) normalised images.

    Returns:
        Features of the last layer, and (B, R, C) map, not negative.
    """
    capture = Capture({-1: "received"})
    h = net.forward_stages(x, capture=capture)
    attention = capture.attention[-1][:, net.prefix :]
    size = h.shape[2:] if h.ndim == 4 else net.grid(x)
    return h, attention.unflatten(1, tuple(size))


def feature_norm(net: Any, x: Tensor) -> Tensor:
    """How strongly the last feature map answers at each place, whatever the classes.

    Args:
        net: A network that provides maps.
        x: (B, C, H, W) normalised images.

    Returns:
        (B, h, w) Euclidean norm over channels.
    """
    return torch.linalg.vector_norm(net.head.norm(net.forward_stages(x)).float(), dim=1)


def pixel_gradient(net: Any, x: Tensor, y: Tensor) -> Tensor:
    """How much the logit of the label changes with each pixel (Simonyan et al., arXiv:1312.6034).

    Args:
        net: The network; its parameters get no gradient.
        x: (B, C, H, W) normalised images.
        y: (B,) classes.

    Returns:
        (B, H, W) largest absolute derivative over channels.
    """
    with torch.enable_grad():
        x = x.detach().float().requires_grad_()
        logits = net(x).gather(1, y[:, None])
        return torch.autograd.grad(logits.sum(), x)[0].abs().amax(dim=1)


def spectral_residual(x: Tensor) -> Tensor:
    """Saliency of images by themselves (Hou and Zhang, CVPR 2007).

    Args:
        x: (B, C, H, W) images of any range.

    Returns:
        (B, H, W) map: the image of what the logarithm of the spectrum has beyond its local mean,
        squared and blurred.
    """
    spectrum = torch.fft.fft2(x.float().mean(dim=1))
    log_amplitude = spectrum.abs().clamp(min=1e-8).log()
    around = F.pad(log_amplitude[:, None], [1] * 4, mode="circular")
    residual = log_amplitude - F.avg_pool2d(around, 3, stride=1)[:, 0]
    found = torch.fft.ifft2(torch.polar(residual.exp(), spectrum.angle())).abs().square()
    return F.avg_pool2d(found[:, None], 5, stride=1, padding=2, count_include_pad=False)[:, 0]


def has_class_map(net: Any, num_classes: int) -> bool:
    """Whether a network has an activation map for each of so many classes."""
    weight = getattr(getattr(getattr(net, "head", None), "fc", None), "weight", None)
    provides = getattr(net, "provides", frozenset())
    return "maps" in provides and weight is not None and len(weight) == num_classes


def check_saliency_map(net: Any, key: str) -> None:
    """Refuse a network that has no map of its own.

    Args:
        net: The network.
        key: Config key that asks for it.

    Raises:
        UserError: With what to use.
    """
    if not getattr(net, "provides", frozenset()) & {"maps", "attention"}:
        raise UserError(
            f"{type(net).__name__} shows neither feature maps nor attention",
            key,
            "use a network that provides maps or attention (mixbench list nets --compat), or give "
            "maps: method.attention=absvit, teacher, file or random",
        )


def resize_images(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Images (B, C, H, W) in the size of another network, in float32."""
    pixels = pixels.float()
    if pixels.shape[2:] == size:
        return pixels
    return F.interpolate(pixels, size, mode="bilinear", antialias=True)
