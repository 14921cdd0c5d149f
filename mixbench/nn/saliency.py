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
