"""Image files: decoded once into memory, or whenever they are asked for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from mixbench.config.schema import DataConfig
from mixbench.data.files.decode import (
    dark_sample_notice,
    decode,
    decode_all,
    decode_crop,
    decode_multi_scale,
    find_unreadable,
    shown_part,
    size_of,
    unreadable_error,
)
from mixbench.data.images import Batch, ImageSet, ResidentImages
from mixbench.data.sampling import BatchIndex
from mixbench.errors import UnreadableImageError, UserError

Crop = tuple[float, float, float, float]  # top, left, bottom, right as shares of the sides
WHOLE_IMAGE: Crop = (0.0, 0.0, 1.0, 1.0)
SAMPLE_SIZE = 2_000  # images that stand for a set of files in statistics


@dataclass
class Part:
    """The image files of one split.

    Attributes:
        names: What messages call each file.
        load: Returns the content of file i.
        labels: (N,) or (N, K), as in :class:`mixbench.data.images.ImageSet`.
        boxes: (N, M, 5), as there.
        notices: What a user should know of the files, in full sentences.
        unused: Counts of what was left out, by a noun in the singular.
        hashes: Returns the SHA-256 of each file, where they are kept.
        pixels: Returns the pixels of file i, where they are kept; (H, W, 3) uint8.
    """

    names: Sequence[str]
    load: Callable[[int], bytes]
    labels: Tensor
    boxes: Tensor | None = None
    notices: list[str] = field(default_factory=list)
    unused: dict[str, int] = field(default_factory=dict)
    hashes: Callable[[], list[bytes]] | None = None
    pixels: Callable[[int], np.ndarray] | None = None


def part_of(part: Part, rows: Sequence[int]) -> Part:
    """The files of a split at some rows, in that order; what is not used is counted elsewhere."""
    where, hashes = torch.tensor(rows), part.hashes
    return Part(
        [part.names[row] for row in rows],
        lambda row: part.load(rows[row]),
        part.labels[where],
        None if part.boxes is None else part.boxes[where],
        hashes=None if hashes is None else lambda: [hashes()[row] for row in rows],
    )


def read_part(part: Part, config: DataConfig) -> tuple[ImageSet, dict[int, str]]:
    """The image set of a split.

    Args:
        part: Its files; a notice is added where their images are almost black.
        config: With random crops the files are read anew each time; otherwise once and for all.

    Returns:
        The set, and names and reasons of the files that were left out, by row.

    Raises:
        UserError: As :func:`mixbench.data.files.decode.decode_all`.
    """
    return _kept(part, config) if config.random_crops else _decoded(part, config)


class FileImages(ImageSet):
    """Image files that are decoded when a batch asks for them, best by worker processes.

    Training sees a random crop, which depends on the seed, the epoch and the image only; evaluation
    the resized image's centre, or the image squeezed. Mirroring and all that follows is left to the
    device.

    Args:
        part: The files.
        config: Reads ``size``, ``resize``, ``fit``, ``crop_area`` and ``crop_scales``.
        rows: (N,) rows of ``part`` that belong to the set; all of them if None.
    """

    def __init__(self, part: Part, config: DataConfig, rows: Tensor | None = None) -> None:
        self.rows = torch.arange(len(part.labels)) if rows is None else rows
        boxes = None if part.boxes is None else part.boxes[self.rows]
        super().__init__(part.labels[self.rows], boxes)
        self.part, self.config = part, config

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the crops."""
        assert self.config.size is not None
        return 3, self.config.size, self.config.size

    def __getitem__(self, draw: BatchIndex) -> Batch:
        indices = draw.indices.cpu()
        rows = self.rows[indices].tolist()
        whole = draw.crop_seed is None
        seeds = [None] * len(rows) if whole else draw.image_seeds(rows)
        read = [self._decode(row, seed) for row, seed in zip(rows, seeds, strict=True)]
        images = np.stack([image for image, _ in read])
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
        crops = None if whole else torch.tensor([crop for _, crop in read])
        return Batch(pixels, self.labels[indices], indices, crops=crops)

    def sample(self) -> Tensor:
        """Evenly spaced images, as evaluation sees them."""
        count = min(len(self), SAMPLE_SIZE)
        try:
            return self[BatchIndex(torch.arange(count) * len(self) // count, 0)].images
        except UnreadableImageError as error:  # nothing was started yet
            raise UserError(error.what, error.where, error.todo) from error

    def shown(self, rows: Tensor) -> Tensor:
        """The part of their files that images show in evaluation, by the heads of the files."""
        sizes = [size_of(self.part.load(row)) for row in self.rows[rows.cpu()].tolist()]
        how = (self.config.size, self.config.resize, self.config.fit)
        return torch.tensor([shown_part(*each, *how) for each in sizes]).view(-1, 4)

    def subset(self, rows: Tensor) -> "FileImages":
        """The images at ``rows`` (M,), in that order."""
        return FileImages(self.part, self.config, self.rows[rows]).with_labels(self.labels[rows])

    def stored(self, pixels: Callable[[int], np.ndarray]) -> "FileImages":
        """The same images, cut from pixels that are kept of each file of ``part``."""
        part = replace(self.part, pixels=pixels)
        return FileImages(part, self.config, self.rows).with_labels(self.labels)

    def _decode(self, row: int, seed: int | None) -> tuple[np.ndarray, Crop]:
        config, size = self.config, self.config.size
        assert size is not None
        try:
            raw = (self.part.pixels or self.part.load)(row)
            if seed is None:
                return decode(raw, size, config.resize, config.fit), WHOLE_IMAGE
            if config.crop_scales is not None:
                return decode_multi_scale(raw, size, config.resize, config.crop_scales, seed)
            assert config.crop_area is not None
            return decode_crop(raw, size, config.crop_area, seed)
        except OSError as error:
            name = self.part.names[row]
            raise UnreadableImageError(
                f"image {row} cannot be read: {name} ({error})",
                "data",
                "repair it, or leave such images out with data.on_corrupt=skip",
            ) from error


def _decoded(part: Part, config: DataConfig) -> tuple[ImageSet, dict[int, str]]:
    images, rows, bad, dim, extents = decode_all(part.names, part.load, config)
    _say(part, dim)
    boxes = None if part.boxes is None else part.boxes[rows]
    return ResidentImages(images, part.labels[rows], boxes, extents), bad


def _kept(part: Part, config: DataConfig) -> tuple[ImageSet, dict[int, str]]:
    _say(part, dark_sample_notice(len(part.names), part.load))
    if config.on_corrupt == "error":  # found when it is read, as reading all takes hours
        return FileImages(part, config), {}
    bad = find_unreadable(part.names, part.load)
    if len(bad) == len(part.names):
        raise unreadable_error(list(bad.values()), len(part.names))
    good = torch.tensor([row for row in range(len(part.names)) if row not in bad])
    return FileImages(part, config, good), bad


def _say(part: Part, notice: str) -> None:
    if notice and notice not in part.notices:
        part.notices.append(notice)
