"""Kinds of saliency maps that methods read: of a network, or of the images alone."""

import logging
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixbench.config.schema import DataInfo
from mixbench.errors import UserError
from mixbench.nn.saliency import (
    attention_of_patches,
    class_activation,
    has_class_map,
    resize_images,
)
from mixbench.nn.teacher import UnregisteredModule, frozen_eval

log = logging.getLogger("mixbench")
LEAST_CELLS = 4


def chosen_kind(
    kind: str, net: Any, num_classes: int | None, where: str, *, prefer: str = ""
) -> str:
    """The kind of map that a network gives.

    Args:
        kind: Value of ``method.saliency``.
        net: The network.
        num_classes: Classes of the data; None if they are others than those of the network.
        where: Config key and value for the message.
        prefer: Kind that ``auto`` is where the network gives it.

    Returns:
        The kind, ``auto`` resolved.

    Raises:
        UserError: If it gives no such map of these classes.
    """
    provides = getattr(net, "provides", frozenset())
    classes, attention = has_class_map(net, num_classes or 0), "attention" in provides
    able = {"attention": attention, "cam": classes, "norm": "maps" in provides, "spectral": True}
    able["mean"] = {"maps", "stages"} <= provides
    if kind == "auto":
        return next(name for name in (prefer, *able) if able.get(name))
    known = getattr(getattr(getattr(net, "head", None), "fc", None), "weight", None)
    able["input_grad"] = able["loss_grad"] = known is not None and len(known) == num_classes
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
        (B, h, w) float32 maps; below 0 only in a mean, and where ``signed``.
    """
    with torch.autocast(x.device.type, enabled=False), frozen_eval(net):
        x = x.float()
        if kind == "spectral":
            return spectral_residual(x)
        if kind in GRADIENTS:
            return GRADIENTS[kind](net, x, y)
        if kind == "mean":
            return feature_mean(net, x)
        if kind == "attention":
            return attention_of_patches(net, x)[1]
        h = net.head.norm(net.forward_stages(x)).float()
        # The norm is how strongly features answer at each place, whatever the classes.
        found = h.norm(dim=1) if kind == "norm" else class_activation(h, net.head.fc.weight, y)
        return found if signed else found.relu()


def feature_mean(net: Any, x: Tensor) -> Tensor:
    """Mean over channels of the last layer that has ``LEAST_CELLS`` cells a side.

    Small images have fewer on the last layers, of which one cell would tell nothing.

    Args:
        net: A network that provides maps and stages.
        x: (B, C, H, W) normalised images.

    Returns:
        (B, h, w) mean; of the last layer after its normalisation.
    """
    h = net.forward_stages(x, stop=1)
    for layer in range(1, len(net.stages)):
        deeper = net.forward_stages(h, start=layer, stop=layer + 1)
        if min(deeper.shape[2:]) < LEAST_CELLS:
            return h.float().mean(dim=1)
        h = deeper
    return net.head.norm(h).float().mean(dim=1)


def pixel_gradient(net: Any, x: Tensor, y: Tensor) -> Tensor:
    """How much the logit of the label changes with each pixel (Simonyan et al., arXiv:1312.6034).

    Args:
        net: The network; its parameters get no gradient.
        x: (B, C, H, W) normalised images.
        y: (B,) classes.

    Returns:
        (B, H, W) largest absolute derivative over channels.
    """
    return _slope(net, x, lambda logits: logits.gather(1, y[:, None]).sum()).abs().amax(dim=1)


def loss_slope(net: Any, x: Tensor, y: Tensor) -> Tensor:
    """Derivative of the cross-entropy of the label by each value of an image.

    Args:
        net: The network; its parameters get no gradient.
        x: (B, C, H, W) normalised images.
        y: (B,) classes.

    Returns:
        (B, C, H, W) derivatives.
    """
    return _slope(net, x, lambda logits: F.cross_entropy(logits, y, reduction="sum"))


def _slope(net: Any, x: Tensor, score: Callable[[Tensor], Tensor]) -> Tensor:
    with torch.enable_grad():
        x = x.detach().float().requires_grad_()
        return torch.autograd.grad(score(net(x).float()), x)[0]


def loss_gradient(net: Any, x: Tensor, y: Tensor) -> Tensor:
    """How much the cross-entropy changes: root mean square (B, H, W) of it over channels."""
    return loss_slope(net, x, y).square().mean(dim=1).sqrt()


GRADIENTS = {"input_grad": pixel_gradient, "loss_grad": loss_gradient}


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


class TeacherSaliency(nn.Module):
    """Maps of the network of another run, which is no part of what is trained or saved.

    Args:
        net: The network.
        info: Facts of the data that it was trained on.
        kind: Value of ``method.saliency``.
        data: Facts of the data that it looks at.
        where: Config key and value that name the network.
        prefer: As of :func:`chosen_kind`.

    Raises:
        UserError: If it gives no such maps.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        net: nn.Module,
        info: DataInfo,
        kind: str,
        data: DataInfo,
        where: str,
        *,
        prefer: str = "",
    ) -> None:
        super().__init__()
        named = bool(info.class_names and data.class_names)
        others = named and info.class_names != data.class_names  # as many they may be all the same
        classes = None if others else data.num_classes
        self.kind = chosen_kind(kind, net, classes, where, prefer=prefer)
        self.size, self.teacher = (info.height, info.width), UnregisteredModule(net)
        for name, values in (("mean", info.mean), ("std", info.std)):
            value = torch.tensor(values)[:, None, None]
            self.register_buffer(name, value, persistent=False)
        told = type(net).__name__, info.name, info.num_classes, self.kind
        log.info("maps: %s, trained on %s of %d classes; method.saliency=%s", *told)

    def forward(self, pixels: Tensor, y: Tensor) -> Tensor:
        """Maps (B, h, w) of images (B, C, H, W) in [0, 1] with labels (B,)."""
        x = (resize_images(pixels, self.size) - self.mean) / self.std
        return find_maps(self.teacher.module, self.kind, x, y)
