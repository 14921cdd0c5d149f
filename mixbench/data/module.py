"""The loaders of a run."""

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from mixbench.data.images import ResidentImages, Splits
from mixbench.data.keyed import KeyedBatches, OrderedBatches
from mixbench.schema import RunConfig

EVAL_BATCH = 256


class MixData(LightningDataModule):
    """Training batches in keyed order, evaluation batches in file order.

    The sampler hands whole batches of rows to the data set, so that a resident set answers with
    one gather on its device.

    Args:
        splits: The images.
        config: The run.
        wrap: A method's own view of the training set.
    """

    def __init__(
        self,
        splits: Splits,
        config: RunConfig,
        wrap: Callable[[Dataset[Any]], Dataset[Any]] = lambda dataset: dataset,
    ) -> None:
        super().__init__()
        self.splits, self.config, self.wrap = splits, config, wrap
        micro_batch = config.batch_size // (config.optim.accumulate * config.devices)
        self.batches = KeyedBatches(len(splits.train), micro_batch, config.seed)

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps per epoch; an incomplete accumulation window still ends in a step."""
        return -(-len(self.batches) // self.config.optim.accumulate)

    def train_dataloader(self) -> DataLoader[Any]:
        """Keyed batches of the training images."""
        return self._loader(self.wrap(self._resident(self.splits.train)), self.batches)

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """The hold-out, or nothing where the last epoch is selected."""
        return self._evaluation(self.splits.val) if self.splits.val is not None else []

    def test_dataloader(self) -> DataLoader[Any]:
        """The test images."""
        return self._evaluation(self.splits.test)

    def _evaluation(self, images: ResidentImages) -> DataLoader[Any]:
        return self._loader(self._resident(images), OrderedBatches(len(images), EVAL_BATCH))

    def _resident(self, images: ResidentImages) -> ResidentImages:
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        return images.to(device)

    def _loader(self, dataset: Dataset[Any], sampler: Any) -> DataLoader[Any]:
        return DataLoader(dataset, batch_size=None, sampler=sampler)
