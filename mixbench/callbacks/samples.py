"""A picture of what a method makes of its first batch."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer

from mixbench.methods.base import Method
from mixbench.pictures import mixed_sheet

ROWS = 8


class Samples(Callback):
    """Draws images, partners and mixed images of the first training batch, before it is used.

    Generators are set anew for every step, so that looking changes nothing.

    Args:
        path: The picture to write.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @torch.no_grad()
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Draw once."""
        if trainer.current_epoch == 0 and batch_idx == 0 and trainer.is_global_zero:
            draw_batch(pl_module, batch).save(self.path)


def draw_batch(method: Method, batch: Any, epoch: int = 0, index: int = 0) -> Any:
    """Mix a batch as training would, and draw it.

    Args:
        method: The method, in training mode.
        batch: Images, labels and ids.
        epoch: Epoch of the step.
        index: Batch of the step.

    Returns:
        A Pillow image.
    """
    method.reseed(epoch, index)
    x, targets = method.prepare(batch)
    mixed = method.mix(x, targets)
    labels = mixed.targets if isinstance(mixed.targets, torch.Tensor) else targets
    return mixed_sheet(
        method.to_pixels(x),
        targets,
        method.to_pixels(mixed.x),
        labels,
        mixed.perm,
        method.info.class_names or [str(k) for k in range(method.info.num_classes)],
        ROWS,
    )
