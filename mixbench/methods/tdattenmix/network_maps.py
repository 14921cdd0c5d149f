"""Attention maps from the trained network itself, or from a teacher."""

from typing import Any

import torch
from torch import Tensor

from mixbench.errors import UserError
from mixbench.methods.tdattenmix.maps import AttentionMaps
from mixbench.nn.saliency import check_saliency_map, resize_images, saliency_map
from mixbench.nn.teacher import UnregisteredModule
from mixbench.records.weights import load_network


class SelfMaps(AttentionMaps):
    """The trained network itself, in the pass that its predictions need anyway."""

    resize = "bilinear"

    def __init__(self, method: Any) -> None:
        super().__init__(method)
        check_saliency_map(method.net, "method.attention=self")

    def forward(self, method: Any, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, K) and maps (B, R, C) in one pass."""
        return saliency_map(method.net, x, y)


class TeacherMaps(AttentionMaps):
    """A trained network of another run: its attention, or its activation map of the label."""

    resize = "bilinear"
    mean: Tensor
    std: Tensor

    def __init__(self, method: Any) -> None:
        super().__init__(method)
        key = f"method.teacher_ckpt={method.config.teacher_ckpt}"
        net, info = load_network(method.config.teacher_ckpt, "method.teacher_ckpt")
        check_saliency_map(net, key)
        if "attention" not in net.provides and info.num_classes != method.info.num_classes:
            raise UserError(
                f"the teacher knows {info.num_classes} classes, the data has "
                f"{method.info.num_classes}",
                key,
                "use a teacher of the same data set",
            )
        self.size = (info.height, info.width)
        self.teacher = UnregisteredModule(net)
        for name, values in (("mean", info.mean), ("std", info.std)):
            value = torch.tensor(values)[:, None, None]
            self.register_buffer(name, value, persistent=False)

    def maps(self, pixels: Tensor, y: Tensor) -> Tensor:
        """Attention of the teacher, or its activation maps of the labels."""
        x = (resize_images(pixels, self.size) - self.mean) / self.std
        return saliency_map(self.teacher.module, x, y)[1]
