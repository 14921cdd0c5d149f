"""Maps of saliency for TransformMix, of a frozen network or of the images alone."""

import logging
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixbench.config.schema import DataInfo
from mixbench.data.augment.batches import to_float
from mixbench.data.sampling import BatchIndex
from mixbench.errors import UserError
from mixbench.functional.transformmix import scaled_saliency
from mixbench.nn.saliency import (
    has_class_map,
    resize_images,
    saliency_map,
)
from mixbench.nn.teacher import UnregisteredModule, frozen_eval
from mixbench.records.weights import load_network

log = logging.getLogger("mixbench")
AHEAD = 128  # images in a pass over the training set
SIDE, LARGE = (8, 14), 96  # cells of a cached map; of images of LARGE pixels or more, the second


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


def find_maps(net: Any, kind: str, x: Tensor, y: Tensor) -> Tensor:
    """Maps of a network, which is left as it is.

    Args:
        net: The network.
        kind: As :func:`chosen_kind` gave it.
        x: (B, C, H, W) images, normalised as the network wants them.
        y: (B,) labels.

    Returns:
        (B, h, w) float32 maps.
    """
    with torch.autocast(x.device.type, enabled=False), frozen_eval(net):
        x = x.float()
        if kind == "spectral":
            return spectral_residual(x)
        if kind == "input_grad":
            return pixel_gradient(net, x, y)
        return feature_norm(net, x) if kind == "norm" else saliency_map(net, x, y)[1].float()


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


def fitted_maps(maps: Tensor, size: Any) -> Tensor:
    """Maps (B, h, w) in the size of the images, from 0 to 1."""
    if maps.shape[1:] != tuple(size):
        maps = F.interpolate(maps[:, None].float(), tuple(size), mode="bilinear")[:, 0]
    return scaled_saliency(maps)


class TeacherSaliency(nn.Module):
    """Maps of the network of another run, which is no part of what is trained or saved.

    Args:
        given: Checkpoint or folder of the run.
        key: Config key that it is the value of.
        kind: Value of ``method.saliency``.
        data: Facts of the data.

    Raises:
        UserError: If there is no such run, or it gives no such maps.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, given: str, key: str, kind: str, data: DataInfo) -> None:
        super().__init__()
        net, info = load_network(given, key)
        named = bool(info.class_names and data.class_names)
        others = named and info.class_names != data.class_names  # as many they may be all the same
        classes = None if others else data.num_classes
        self.kind = chosen_kind(kind, net, classes, f"{key}={given}")
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

    def whole_set(self, train_set: Any) -> Tensor:
        """Small maps of all images of a set, as they are before augmentation.

        Args:
            train_set: The images.

        Returns:
            (N, 8, 8) uint8 from 0 to 255, (N, 14, 14) of large images.
        """
        found = []
        for rows in torch.arange(len(train_set)).split(AHEAD):
            batch = train_set[BatchIndex(rows, 0)]
            pixels = to_float(batch.images.to(self.mean.device))
            maps = scaled_saliency(self(pixels, batch.labels.to(self.mean.device)))
            side = SIDE[max(pixels.shape[2:]) >= LARGE]
            small = F.interpolate(maps[:, None], (side, side), mode="bilinear", antialias=True)
            found.append((scaled_saliency(small[:, 0]) * 255).round().to(torch.uint8))
        return torch.cat(found)
