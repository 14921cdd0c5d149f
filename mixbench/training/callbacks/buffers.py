"""Normalisation statistics of several processes: one set is tested and saved."""

from typing import Any

import torch.distributed as dist
from lightning.pytorch import Callback, Trainer

from mixbench.distributed.process_group import ProcessGroup


class OneSetOfBuffers(Callback):
    """Gives every process the buffers of the leading one before an evaluation.

    Batch normalisation keeps statistics of its own in each process; the leading one's are what a
    checkpoint holds, and so they are what is tested.

    Args:
        group: The processes that train together.
    """

    def __init__(self, group: ProcessGroup) -> None:
        self.group = group

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Broadcast the buffers of the leading process."""
        if self.group.world > 1:
            for buffer in pl_module.buffers():
                dist.broadcast(buffer, 0)

    on_test_epoch_start = on_validation_epoch_start
