"""The base of methods whose masks follow saliency maps of a network or of the images."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mixbench.functional as mf
from mixbench.config.settings import OtherThan, setting
from mixbench.methods.base import MIXES_LABELS, SOME_MIXED, Method
from mixbench.methods.pictures.pixelmasks import draw_pixel_masks
from mixbench.nn.saliency_kinds import TeacherSaliency, chosen_kind, find_maps
from mixbench.records.weights import load_network

MAP_KINDS = ("auto", "attention", "cam", "norm", "mean", "input_grad", "loss_grad", "spectral")
MAP_LOSSES = ("ce", "bce_softmax")


class MapMix(Method):
    """Mix by masks that maps decide: of the network that is trained, or of one that was before.

    A pass of the network for its maps leaves no trace in it: it is in eval mode, counts no
    statistics and gives its parameters no gradient.
    """

    tasks = MIXES_LABELS
    files = ("teacher_ckpt",)
    prefer = ""  # kind that ``saliency: auto`` is where the network gives it

    @dataclass
    class Config(Method.Config):
        """Settings of the maps."""

        only_when, unconditional = SOME_MIXED, ("loss",)

        saliency: str = setting("auto", "maps that decide the masks", one_of=MAP_KINDS)
        teacher_ckpt: str | None = setting(
            None,
            "checkpoint, or folder, of a finished run whose network gives the maps; null: the one "
            "that is trained",
            only_when={"method.saliency": OtherThan("spectral")},
        )
        prob: float = setting(1.0, "share of batches mixed", within=(0, 1), official=1.0)
        loss: str = setting(
            "ce",
            "cross-entropy, or the binary one of softmax outputs: K/2 to K times smaller gradients",
            one_of=MAP_LOSSES,
        )

        @property
        def requires(self) -> frozenset[str]:
            """Attention for maps of it."""
            own = self.teacher_ckpt is None and self.saliency == "attention"
            return frozenset({"attention"} if own else ())

    def __init__(self, net: nn.Module, *args: Any, **kwargs: Any) -> None:
        super().__init__(net, *args, **kwargs)
        path, self.kind, self.teacher = self.config.teacher_ckpt, self.config.saliency, None
        if path is not None and self.kind != "spectral":
            other, info = load_network(path, "method.teacher_ckpt")
            given = (other, info, self.kind, self.info, f"method.teacher_ckpt={path}")
            self.teacher = TeacherSaliency(*given, prefer=self.prefer)
        else:
            classes = self.info.num_classes
            self.kind = chosen_kind(self.kind, net, classes, "", prefer=self.prefer)

    @classmethod
    def tasks_with(cls, config: Any) -> frozenset[str]:
        """Only one label per image with ``bce_softmax``, whose targets sum to 1."""
        return cls.tasks if config.loss == "ce" else frozenset({"multiclass"})

    def loss(self, logits: Tensor, mixed: mf.Mixed) -> Tensor | dict[str, Tensor]:
        """Cross-entropy, or the binary one of the softmax, as ``method.loss`` says."""
        if self.config.loss == "ce":
            return self.task.criterion(logits, mixed.targets)
        return mf.softmax_binary_cross_entropy(logits, mixed.targets)

    def find_saliency(self, x: Tensor, targets: Tensor) -> Tensor:
        """Maps (B, h, w) of normalised images (B, C, H, W), without a gradient."""
        labels = targets.argmax(1)
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            if self.teacher is not None:
                return self.teacher(self.to_pixels(x.float()), labels)
            return find_maps(self.net, self.kind, x, labels)

    def find_pixel_saliency(self, x: Tensor, targets: Tensor) -> Tensor:
        """The same in the size of the images, and not negative."""
        maps = self.find_saliency(x, targets)
        maps = maps - maps.amin((1, 2), keepdim=True).clamp(max=0)
        if maps.shape[1:] == x.shape[2:]:
            return maps
        return F.interpolate(maps[:, None], x.shape[2:], mode="bilinear")[:, 0]

    def pixel_weights(self, x: Tensor, mixed: mf.Mixed) -> tuple[Tensor, Tensor]:
        """The mask, and what it leaves to the partner."""
        del x
        own = mixed.aux[:, 0]
        return own, 1 - own

    picture = draw_pixel_masks
