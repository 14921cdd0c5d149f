"""Distillation: a network learns what a teacher sees in the mixed images.

Hinton et al., arXiv:1503.02531. Teacher and network see the same mixture, whatever was drawn for
it (Beyer et al., "Knowledge distillation: A good teacher is patient and consistent", CVPR 2022,
arXiv:2106.05237).
"""

from typing import Any

import torch
from torch import Tensor, nn

import mixbench.functional as mf
from mixbench.config.schema import RunConfig
from mixbench.errors import UserError
from mixbench.methods.base import Method
from mixbench.nn.saliency import resize_images
from mixbench.nn.teacher import UnregisteredModule
from mixbench.records.weights import check_classes, load_network

FITTING = "use a method that mixes the pixels of a batch, such as mixup or cutmix"


class Distillation(nn.Module):
    """The teacher of a run, which is no part of what is trained or saved.

    Args:
        method: The method that trains the network.
        config: Reads ``distill`` and its keys.

    Raises:
        UserError: If there is no such run, it knows other classes, or the method shows its network
            no mixed images that a teacher could see.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, method: Method, config: RunConfig) -> None:
        super().__init__()
        where = f"distill={config.distill}"
        name = config.method["name"]
        for part in (method, *getattr(method, "members", ())):
            reason = _refusal(part)
            if reason:
                raise UserError(f"{name}: {reason}", where, FITTING)
        if method.task.name != "multiclass":
            what = (
                f"a teacher predicts one class for each image, but the task is {method.task.name}"
            )
            raise UserError(what, where, "leave distill out")
        net, info = load_network(str(config.distill), "distill")
        check_classes(info, method.info, where)
        self.name, self.where = name, where
        self.size, self.teacher = (info.height, info.width), UnregisteredModule(net)
        self.temperature, self.labels = config.distill_temperature, config.distill_labels
        for key, values in (("mean", info.mean), ("std", info.std)):
            value = torch.tensor(values)[:, None, None]
            self.register_buffer(key, value, persistent=False)

    def terms(self, own: Any, logits: Any, pixels: Tensor) -> dict[str, Tensor]:
        """The terms of a loss that is drawn to the teacher.

        Args:
            own: The method's loss, or its terms by name.
            logits: (B, K) output of the network.
            pixels: (B, C, H, W) the mixed images that it is of, in [0, 1].

        Returns:
            ``distill`` and the weighted terms of the method, by name.

        Raises:
            UserError: If the output is of several passes, or of other images.
        """
        if not isinstance(logits, Tensor) or len(logits) != len(pixels):
            what = (
                f"{self.name} passes several batches through the network, not the mixed images "
                "alone"
            )
            raise UserError(what, self.where, FITTING)
        x = (resize_images(pixels, self.size) - self.mean) / self.std
        with torch.autocast(pixels.device.type, enabled=False):
            seen = self.teacher(x)
        parts = own if isinstance(own, dict) else {"labels": own}
        # Weighed and not left out: parameters that a term alone reaches still get a gradient.
        weighed = {key: self.labels * value for key, value in parts.items()}
        return {"distill": mf.distillation_loss(logits, seen, self.temperature)} | weighed


def _refusal(method: Any) -> str:
    """The reason why a teacher cannot see what a method shows its network; empty if it can."""
    if type(method).normalize is not Method.normalize:
        return "it normalises images in its own way"
    if not any(p.requires_grad for p in method.net.parameters()):
        return "it does not train its network"
    inside = type(method).predict is not Method.predict
    if inside and type(method).pixel_weights is Method.pixel_weights:
        return "it mixes inside of its network, or passes more than mixed images"
    return ""
