"""A picture of the first batch as a method mixes it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from PIL import Image
from torch import Tensor

from mixbench.files import write_bytes
from mixbench.leaderboard.wandb_table import SEPARATED
from mixbench.methods.base import Method
from mixbench.pictures.raster import raster
from mixbench.pictures.sheet import Sheet, as_sheets


class Samples(Callback):
    """Draws what the method makes of the first training batch, before it is used.

    Generators are set anew for every step, and a method draws from a copy of its network, so that
    looking changes nothing.

    Args:
        path: The picture to write.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Draw once."""
        if trainer.current_epoch == 0 and batch_idx == 0 and trainer.is_global_zero:
            picture = draw_batch(pl_module, batch)
            write_bytes(self.path, lambda file: picture.save(file, "png"))

    def on_test_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Draw what the test has made, where a method makes something."""
        sheets = pl_module.tested_picture() if trainer.is_global_zero else []
        if sheets:
            picture = raster(as_sheets(sheets))
            target = self.path.with_name(SEPARATED)
            write_bytes(target, lambda file: picture.save(file, "png"))


@torch.no_grad()
def draw_batch(method: Method, batch: Any, epoch: int = 0, index: int = 0) -> Image.Image:
    """Mix a batch as training would, and draw what the method shows of it.

    Args:
        method: The method, in training mode.
        batch: Images, labels and ids.
        epoch: Epoch of the step.
        index: Batch of the step.

    Returns:
        The picture.
    """
    shown = show_batch(method, batch, epoch, index)
    return shown if isinstance(shown, Image.Image) else raster(as_sheets(shown))


@torch.no_grad()
def show_batch(
    method: Method, batch: Any, epoch: int = 0, index: int = 0
) -> Sequence[Sheet] | Image.Image:
    """Mix a batch as training would, and let the method show it.

    Args:
        method: The method, in training mode.
        batch: Images, labels and ids.
        epoch: Epoch of the step.
        index: Batch of the step.

    Returns:
        Its sheets, or a finished picture.
    """
    method.reseed(epoch, index)
    x, targets = method.prepare(batch)
    method.reseed(epoch, index)
    # A method may pass images through networks that write down statistics of them.
    buffers = [(buffer, buffer.clone()) for buffer in method.buffers()]
    mixed = method.mix_batch(batch)
    _put_back(buffers)
    shown = method.picture(x, targets, mixed)
    _put_back(buffers)
    return shown


def _put_back(buffers: list[tuple[Tensor, Tensor]]) -> None:
    for buffer, before in buffers:
        buffer.copy_(before)
