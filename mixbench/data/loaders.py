"""The loaders of a run."""

import logging
import signal
import sys
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset
from torch.utils.data._utils import signal_handling

from mixbench.config.schema import RunConfig
from mixbench.data.augment.epochs import BY_BATCH, BY_EPOCH, EpochImages, augmented_by_epoch
from mixbench.data.augment.images import augment_images
from mixbench.data.images import ImageSet, Splits
from mixbench.data.maps import MappedImages, read_test_maps
from mixbench.data.sampling import BatchIndex, KeyedBatches, OrderedBatches

log = logging.getLogger("mixbench")

EVAL_BATCH = 256
WORKER_TIMEOUT = 300  # seconds without a batch after which a worker counts as stuck


class MixData(LightningDataModule):
    """Training batches in keyed order, evaluation batches in file order.

    The sampler hands whole batches of rows to the data set, so that a resident set answers with
    one gather on its device.

    Args:
        splits: The images.
        config: The run.
        wrap: A method's own view of the training set.
        rank: This process among ``world``.
        world: Number of processes that train together.
        takes_augmented: Whether the method trains on images that are cropped already.
    """

    def __init__(
        self,
        splits: Splits,
        config: RunConfig,
        wrap: Callable[[Dataset[Any]], Dataset[Any]] = lambda dataset: dataset,
        rank: int = 0,
        world: int = 1,
        takes_augmented: bool = False,
    ) -> None:
        super().__init__()
        self.splits, self.config, self.wrap = splits, config, wrap
        self.rank, self.world = rank, world
        #: ``epoch`` or ``batch``, whose images are cropped and mirrored at once, and the reason.
        self.augment_by = BY_BATCH
        if config.data.augment_by == BY_EPOCH:
            self.augment_by = augmented_by_epoch(config.data, splits.train, takes_augmented)
        self.batches = KeyedBatches(
            len(splits.train),
            config.batch_size,
            config.seed,
            rank,
            world,
            config.optim.accumulate,
            config.data.repeats,
        )

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps per epoch."""
        return len(self.batches) // self.config.optim.accumulate

    def train_dataloader(self) -> DataLoader[Any]:
        """Keyed batches of the training images."""
        images = self._placed(augment_images(self.splits.train, self.config.data))
        wrapped = self.wrap(images)
        if self.augment_by == BY_EPOCH and wrapped is not images:  # of which it did not tell
            self.augment_by = f"{BY_BATCH}: the method has a view of its own of the images"
            log.warning("data.augment_by=epoch has no effect: %s", self.augment_by)
        if self.augment_by == BY_EPOCH:
            wrapped = EpochImages(images, self.batches, self.config.data)
        return self._loader(wrapped, self.batches)

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """The hold-out, or nothing where the last epoch is selected."""
        return self._evaluation(self.splits.val) if self.splits.val is not None else []

    def test_dataloader(self) -> DataLoader[Any]:
        """The test images."""
        return self._evaluation(self.splits.test)

    def plain_train_dataloader(self) -> DataLoader[Any]:
        """The training images as evaluation sees them, each once."""
        return self._evaluation(self.splits.train)

    def part_of(
        self, images: ImageSet, draws: list[BatchIndex], maps: str | None = None
    ) -> DataLoader[Any]:
        """Some images of a set, as evaluation sees them.

        Args:
            images: The set, such as the test images.
            draws: Rows of each batch.
            maps: Value of ``eval.gaze``, if batches are to bring their maps.

        Returns:
            Batches, on the device where a trainer is at work and the images can lie there.
        """
        images = self._placed(images)
        if maps is None:
            return self._loader(images, draws)
        return self._loader(MappedImages(images, read_test_maps(maps, self.splits)), draws)

    def _evaluation(self, images: ImageSet) -> DataLoader[Any]:
        rows = OrderedBatches(len(images), EVAL_BATCH, self.rank, self.world)
        return self._loader(self._placed(images), rows)

    def _placed(self, images: ImageSet) -> ImageSet:
        """The images where they are read: on the device, unless other processes read them."""
        if self.trainer is None or self.config.data.workers:
            return images
        return images.to(self.trainer.strategy.root_device)

    def _loader(self, dataset: Dataset[Any], sampler: Any) -> DataLoader[Any]:
        workers = self.config.data.workers
        if workers:
            _notice_dead_workers()
        return DataLoader(
            dataset,
            batch_size=None,
            sampler=sampler,
            num_workers=workers,
            # Forked workers share the images; other ways import everything and copy them.
            multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
            persistent_workers=workers > 0,
            timeout=WORKER_TIMEOUT if workers else 0,
            pin_memory=workers > 0 and torch.cuda.is_available(),
        )


def _notice_dead_workers() -> None:
    """Let PyTorch handle SIGCHLD again.

    It learns of dead workers by a handler that it sets once a process, and Lightning puts back
    the handlers from before each fit: without this, a later loader waits for its timeout.
    """
    handler = signal.getsignal(signal.SIGCHLD) if sys.platform != "win32" else None
    if getattr(handler, "__module__", None) != signal_handling.__name__:
        signal_handling._SIGCHLD_handler_set = False
