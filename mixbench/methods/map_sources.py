"""Sources of the maps that a method is given: its network, that of another run, or files."""

from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from mixbench.data.maps import MappedImages, check_count, read_label_maps
from mixbench.errors import UserError
from mixbench.nn.saliency import check_saliency_map, saliency_map
from mixbench.nn.saliency_kinds import TeacherSaliency
from mixbench.records.weights import check_classes, load_network


class MapSource(nn.Module):
    """Base of the sources: maps of images in [0, 1] by their labels; its own are even.

    Args:
        method: The method, with its network and settings.
    """

    resize = "area"  # how its maps are brought to the grid
    unfit_for_tests = ""  # why it has no maps of test images

    def __init__(self, method: Any) -> None:
        super().__init__()
        del method

    def forward(self, pixels: Tensor, y: Tensor) -> Tensor:
        """Maps (B, h, w) of images (B, C, H, W) in [0, 1] with labels (B,)."""
        del y
        return pixels.new_ones(len(pixels), 1, 1)

    def look(self, method: Any, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, K) of the method's network for ``x`` (B, C, H, W), and maps (B, h, w)."""
        return method.net(x), self(method.to_pixels(x), y)

    def places(self, count: int, windows: tuple[int, int], generator: Generator) -> dict[str, Any]:
        """Decisions on windows that do not follow the maps; there are none."""
        return {}

    def wrap(self, train_set: Any) -> Any:
        """The training set as this source wants to see it, once before training."""
        return train_set


class RandomWindows(MapSource):
    """Even maps, and windows that lie anywhere."""

    def places(self, count: int, windows: tuple[int, int], generator: Generator) -> dict[str, Any]:
        """``target`` and ``source`` (B, 2), rows and columns among those of ``windows``."""
        draw = torch.rand(2, count, 2, dtype=torch.float64, generator=generator)
        return dict(zip(("target", "source"), (draw * torch.tensor(windows)).long(), strict=True))


class OwnMaps(MapSource):
    """The trained network itself, in the pass that its predictions need anyway."""

    resize = "bilinear"

    def __init__(self, method: Any) -> None:
        super().__init__(method)
        check_saliency_map(method.net, "method.attention=self")

    def look(self, method: Any, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and maps in one pass."""
        return saliency_map(method.net, x, y)


class TeacherMaps(MapSource):
    """A trained network of another run: its attention, or its activation map of the label."""

    resize = "bilinear"

    def __init__(self, method: Any) -> None:
        super().__init__(method)
        path = method.config.teacher_ckpt
        where = f"method.teacher_ckpt={path}"
        net, info = load_network(path, "method.teacher_ckpt")
        check_saliency_map(net, where)
        kind = "attention" if "attention" in net.provides else "cam"
        if kind == "cam":
            check_classes(info, method.info, where)
        # Both have the same classes, which the data may call by other names.
        self.saliency = TeacherSaliency(net, info, kind, info, where)

    def forward(self, pixels: Tensor, y: Tensor) -> Tensor:
        """Attention of the teacher, or its activation maps of the labels."""
        return self.saliency(pixels, y)


class FileMaps(MapSource):
    """Maps on disk, cropped and mirrored with their images."""

    unfit_for_tests = "method.maps holds maps of the training images alone"

    def __init__(self, method: Any) -> None:
        super().__init__(method)
        if method.run.data.auto_augment is not None:
            raise UserError(
                "attention maps cannot follow an augmentation policy that rotates and shears "
                "images",
                "data.auto_augment",
                "use data.auto_augment=null; maps follow random crops and data.flip",
            )
        self.path = method.config.maps
        self.stored: Any = read_label_maps(Path(self.path), "method.maps")

    def forward(self, pixels: Tensor, y: Tensor) -> Tensor:
        """Refuse a batch that brought no maps."""
        raise UserError(
            "the batch has no attention maps",
            "method.maps",
            "read it through the method's wrap_dataset and mix it with mix_batch, or pass maps=",
        )

    def wrap(self, train_set: Any) -> MappedImages:
        """Let every batch bring its maps."""
        stored = self.stored[0] if isinstance(self.stored, tuple) else self.stored
        check_count(stored, len(train_set), "training", f"method.maps={self.path}")
        if isinstance(self.stored, tuple):  # best scores of each cell, and their classes
            score, classes = self.stored
            of_label = classes == train_set.labels.cpu()[:, None, None, None].to(classes.dtype)
            self.stored = (score * of_label).amax(1).float()
        return MappedImages(train_set, self.stored)
