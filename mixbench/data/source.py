"""What every data set is: something that can be named, identified and read."""

from abc import ABC, abstractmethod
from pathlib import Path

import torch

from mixbench.data.encoded import Part, read_part
from mixbench.data.images import (
    HOLDOUT_LIMIT,
    Content,
    ImageSet,
    ResidentImages,
    Splits,
    Stats,
    image_stats,
    stratified,
)
from mixbench.data.prepared import prepared
from mixbench.errors import UserError
from mixbench.schema import DataConfig, DataInfo


class DataSource(ABC):
    """A data set that can be named, identified and read.

    Args:
        config: The ``data`` part of a run.
    """

    task = "multiclass"
    constants: Stats | None = None  # as published; else those of the training images are used

    def __init__(self, config: DataConfig) -> None:
        self.config = config

    @property
    def official(self) -> bool | None:
        """Whether the files are those that the authors distribute; None where that is not known."""
        return None

    @property
    def name(self) -> str:
        """Shown name, part of every run id."""
        return self.config.name or self.config.kind

    @abstractmethod
    def fingerprint(self) -> str:
        """Content hash of the files, without decoding them."""

    def parts(self) -> tuple[Part, Part, list[str]] | None:
        """Files of the training and of the test images, and class names; None if it has none."""
        return None

    def class_ids(self) -> list[str]:
        """WordNet ids of the classes, in the order of the labels; empty where they have none."""
        return []

    def read(self) -> Content:
        """Read everything; to be written anew for a set that does not consist of image files."""
        parts = self.parts()
        if parts is None:
            raise NotImplementedError(f"{type(self).__name__} needs parts() or read()")
        train, test, class_names = parts
        (train_set, skipped), (test_set, more) = (
            read_part(part, self.config) for part in (train, test)
        )
        return Content(train_set, test_set, class_names, skipped + more)

    def load(self, *, holdout: bool = False) -> Splits:
        """Read, take the subsets that the configuration asks for, and describe the result.

        Args:
            holdout: Set aside a stratified part of the training images.

        Returns:
            The splits; the hold-out is no longer part of ``train``.

        Raises:
            UserError: If files are missing, unreadable or do not fit together.
        """
        config = self.config
        train, test, class_names, skipped, stats = prepared(self) or self.read()
        if config.size is not None:  # files have it from decoding; what was stored as pixels not
            train, test = (
                part.resized(config.size)
                if isinstance(part, ResidentImages) and part.shape[1:] != (config.size,) * 2
                else part
                for part in (train, test)
            )
        whole = len(train)
        keep = len(train)
        if config.train_fraction < 1:
            keep = max(1, round(keep * config.train_fraction))
        train = train.subset(stratified(train.labels, min(keep, config.limit or keep)))
        test = test.subset(stratified(test.labels, min(len(test), config.limit or len(test))))
        val = None
        if holdout:
            count = min(round(len(train) * config.val_fraction), HOLDOUT_LIMIT)
            if not 0 < count < len(train):
                raise UserError(
                    f"a hold-out of {count} of {len(train)} training images is not usable",
                    "data.val_fraction",
                    "change the fraction or use select=last",
                )
            rows = stratified(train.labels, count)
            rest = torch.ones(len(train), dtype=torch.bool)
            rest[rows] = False
            train, val = train.subset(rest.nonzero().flatten()), train.subset(rows)
        if stats is None or (len(train) < whole and isinstance(train, ResidentImages)):
            stats = self._stats(train)
        channels, height, width = train.shape
        info = DataInfo(
            num_classes=len(class_names),
            height=height,
            width=width,
            channels=channels,
            task=self.task,
            **stats._asdict(),
            class_names=class_names,
            class_ids=self.class_ids(),
            name=self.name,
            train_size=len(train),
            test_size=len(test),
            skipped=skipped,
            official=self.official,
        )
        return Splits(train, test, info, val)

    def _stats(self, train: ImageSet) -> Stats:
        """Published constants where there are any; what only BC+ needs is not read from files."""
        if self.constants is None:
            return image_stats(train.sample())
        if not isinstance(train, ResidentImages):
            return self.constants
        stats = image_stats(train.sample())
        return stats._replace(mean=self.constants.mean, std=self.constants.std)


def existing(path: str | None, key: str) -> Path:
    """A file or folder that the configuration names.

    Args:
        path: Value of the key.
        key: The key, for the message.

    Returns:
        The path.

    Raises:
        UserError: If it is not given or does not exist.
    """
    if path is None:
        raise UserError(f"{key} is not given", "data", f"add {key}=PATH")
    if not Path(path).exists():
        raise UserError(f"no such file or folder: {path}", key, f"correct {key}=")
    return Path(path)
