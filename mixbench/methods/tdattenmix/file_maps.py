"""Attention maps that lie on disk."""

from pathlib import Path
from typing import Any

from torch import Tensor

from mixbench.data.maps import MappedImages, check_count, read_label_maps
from mixbench.errors import UserError
from mixbench.methods.tdattenmix.maps import AttentionMaps


class FileMaps(AttentionMaps):
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
        self.stored: Any = read_label_maps(Path(method.config.maps), "method.maps")

    def maps(self, pixels: Tensor, y: Tensor) -> Tensor:
        """Refuse a batch that brought no maps."""
        raise UserError(
            "the batch has no attention maps",
            "method.maps",
            "read it through the method's wrap_dataset and mix it with mix_batch, or pass maps=",
        )

    def wrap(self, method: Any, train_set: Any) -> MappedImages:
        """Let every batch bring its maps."""
        stored = self.stored[0] if isinstance(self.stored, tuple) else self.stored
        check_count(stored, len(train_set), "training", f"method.maps={method.config.maps}")
        if isinstance(self.stored, tuple):  # best scores of each cell, and their classes
            score, classes = self.stored
            of_label = classes == train_set.labels.cpu()[:, None, None, None].to(classes.dtype)
            self.stored = (score * of_label).amax(1).float()
        return MappedImages(train_set, self.stored)
