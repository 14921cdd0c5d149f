"""Kinds of saliency maps that methods read: of a network, or of the images alone."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mixbench.errors import UserError
from mixbench.nn.saliency import attention_of_patches, class_activation, has_class_map
from mixbench.nn.teacher import frozen_eval


def chosen_kind(kind: str, net: Any, num_classes: int | None, where: str) -> str:
    """The kind of map that a network gives.

    Args:
        kind: Value of ``method.saliency``.
        net: The network.
        num_classes: Classes of the data; None if they are others than those of the network.
        where: Config key and value for the message.

    Returns:
        The kind, ``auto`` resolved.

    Raises:
        UserError: If it gives no such map of these classes.
    """
    provides = getattr(net, "provides", frozenset())
    classes, attention = has_class_map(net, num_classes or 0), "attention" in provides
    able = {"attention": attention, "cam": classes, "norm": "maps" in provides, "spectral": True}
    if kind == "auto":
        return next(name for name, can in able.items() if can)
    known = getattr(getattr(getattr(net, "head", None), "fc", None), "weight", None)
    able["input_grad"] = known is not None and len(known) == num_classes
    if not able[kind]:
        count = "no" if known is None else len(known)
        wanted = "other" if num_classes is None else num_classes
        raise UserError(
            f"the network gives no such map of {wanted} classes: it knows {count} classes",
            f"method.saliency={kind} {where}".strip(),
            "use method.saliency=auto, or a teacher of the same classes",
        )
    return kind


def find_maps(net: Any, kind: str, x: Tensor, y: Tensor, *, signed: bool = False) -> Tensor:
    """Maps of a network, which is left as it is.

    Args:
        net: The network.
        kind: As :func:`chosen_kind` gave it.
        x: (B, C, H, W) images, normalised as the network wants them.
        y: (B,) labels.
        signed: Keep what speaks against the class in a class activation map; else it is 0.

    Returns:
        (B, h, w) float32 maps, not negative unless ``signed``.
    """
    with torch.autocast(x.device.type, enabled=False), frozen_eval(net):
        if kind in ("spectral", "input_grad"):  # of each pixel
            return spectral_residual(x) if kind == "spectral" else pixel_gradient(net, x, y)
        if kind == "attention":
            return attention_of_patches(net, x.float())[1]
        h = net.head.norm(net.forward_stages(x.float())).float()
        # The norm is how strongly features answer at each place, whatever the classes.
        found = h.norm(dim=1) if kind == "norm" else class_activation(h, net.head.fc.weight, y)
        return found if signed else found.relu()


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
