"""Where the maps of TdAttenMix come from.

A source takes the method and a normalised batch, and returns the network's own predictions of it,
which every source needs, with its maps. It leaves no trace in the network.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from mixbench.data.maps import MappedImages, check_count, read_maps
from mixbench.errors import UserError
from mixbench.nn.saliency import check_saliency_map, resize_images, saliency_map
from mixbench.nn.teacher import UnregisteredModule
from mixbench.records.weights import load_network


class Source(nn.Module):
    """Base of the sources; by itself every place counts alike.

    Args:
        method: The method, with its network and settings.
    """

    resize = "area"  # how its maps are brought to the grid
    unfit_for_tests = ""  # why it has no maps of test images

    def __init__(self, method: Any) -> None:
        super().__init__()
        del method

    def forward(self, method: Any, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, K) of the method's network for ``x`` (B, C, H, W), and maps (B, R, C)."""
        return method.net(x), self.maps(method.to_pixels(x), y)

    def maps(self, pixels: Tensor, y: Tensor) -> Tensor:
        """Maps (B, R, C) of images (B, C, H, W) in [0, 1] with labels (B,)."""
        del y
        return pixels.new_ones(len(pixels), 1, 1)

    def places(self, batch: int, windows: tuple[int, int], generator: Generator) -> dict[str, Any]:
        """Windows that are drawn instead of searched, as keys of ``mf.tdattenmix``."""
        del batch, windows, generator
        return {}

    def wrap(self, method: Any, train_set: Any) -> Any:
        """The training set as this source wants to see it, once before training."""
        del method
        return train_set


class Own(Source):
    """The trained network itself, in the pass that its predictions need anyway."""

    resize = "bilinear"

    def __init__(self, method: Any) -> None:
        super().__init__(method)
        check_saliency_map(method.net, "method.attention=self")

    def forward(self, method: Any, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, K) and maps (B, R, C) in one pass."""
        return saliency_map(method.net, x, y)


class Random(Source):
    """Windows anywhere, as a control; the label is their area."""

    def places(self, batch: int, windows: tuple[int, int], generator: Generator) -> dict[str, Any]:
        """Draw both windows of every image."""
        count = torch.tensor(windows)
        draw = torch.rand(2, batch, 2, dtype=torch.float64, generator=generator)
        target, source = (draw * count).long()
        return {"target": target, "source": source}


class Given(Source):
    """Maps on disk, cropped and mirrored with their images."""

    unfit_for_tests = "method.maps holds maps of the training images alone"

    def __init__(self, method: Any) -> None:
        super().__init__(method)
        if method.run.data.auto_augment is not None:
            raise UserError(
                "maps cannot follow a policy that turns and shears images",
                "data.auto_augment",
                "use data.auto_augment=null; maps follow data.crop, data.crop_area and data.flip",
            )
        self.stored = read_maps(Path(method.config.maps), "method.maps")

    def maps(self, pixels: Tensor, y: Tensor) -> Tensor:
        """They come with the batch."""
        raise UserError(
            "this batch has no maps",
            "method.maps",
            "read it through the method's wrap_dataset and mix it with mix_batch, or pass maps=",
        )

    def wrap(self, method: Any, train_set: Any) -> MappedImages:
        """Let every batch bring its maps."""
        check_count(self.stored, len(train_set), "training", f"method.maps={method.config.maps}")
        return MappedImages(train_set, self.stored)


class Taught(Source):
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
        """What the teacher looks at."""
        x = (resize_images(pixels, self.size) - self.mean) / self.std
        return saliency_map(self.teacher.module, x, y)[1]
