"""Maps on disk that belong to images: where people looked, or what another program found."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.utils.data import Dataset

from mixbench.data.images import Batch, ImageSet
from mixbench.data.keyed import Draw
from mixbench.data.transforms import crop_flip, draw_crop_flip
from mixbench.errors import UserError
from mixbench.schema import DataConfig

LAYOUT = "a .npy file, or an .npz file with `maps`: (N, h, w) numbers >= 0, one map per image"


def read_maps(path: Path, key: str) -> Tensor:
    """Read a file of maps.

    Args:
        path: An ``.npy`` file of (N, h, w), or an ``.npz`` file that holds it as ``maps``.
        key: Config key for the message.

    Returns:
        (N, h, w) float32.

    Raises:
        UserError: If it cannot be read, is of another shape, or holds negative numbers or NaN.
    """
    where = f"{key}={path}"
    try:
        content = np.load(path, allow_pickle=False)
        if not isinstance(content, np.ndarray):
            with content as archive:
                content = archive["maps"]
        maps = torch.from_numpy(content.astype(np.float32))
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as error:
        why = "no such file" if isinstance(error, FileNotFoundError) else "no file of maps"
        raise UserError(f"{why}: {path.name}", where, f"give {LAYOUT}") from error
    if maps.ndim != 3 or not maps.numel():
        raise UserError(f"maps are {tuple(maps.shape)}", where, f"give {LAYOUT}")
    if not bool((maps >= 0).all() & maps.isfinite().all()):
        raise UserError("a map holds NaN, infinity or a negative number", where, f"give {LAYOUT}")
    return maps


class MappedImages(Dataset[Batch]):
    """A training set whose batches also hold the maps of their images.

    Args:
        images: The training set; it shows its images whole, as maps cannot follow crops that are
            drawn where files are read.
        maps: (N, h, w) maps of its images, in its order.
        key: Config key of the maps, for the message.

    Raises:
        UserError: If their number is another than that of the images.
    """

    def __init__(self, images: ImageSet, maps: Tensor, key: str) -> None:
        if len(maps) != len(images):
            raise UserError(
                f"{len(maps)} maps for {len(images)} training images",
                key,
                "give one map per training image; data.limit, data.train_fraction and select=val "
                "leave images out, and their maps have to be left out, too",
            )
        self.images, self.maps = images, maps

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, draw: Draw) -> Batch:
        batch = self.images[draw]
        if batch.ids.device != self.maps.device:
            self.maps = self.maps.to(batch.ids.device)
        return batch._replace(maps=self.maps.index_select(0, batch.ids))


def follow(maps: Tensor, size: Any, state: Tensor, data: DataConfig) -> Tensor:
    """Crop and mirror maps as their images are.

    Args:
        maps: (B, h, w) maps of whole images.
        size: Height and width of the images in pixels.
        state: State of the generator before it drew crops and mirrors of the images.
        data: Reads ``padding`` and ``flip``.

    Returns:
        (B, height, width) maps; 0 in the padding.
    """
    shown = maps[:, None]
    if shown.shape[2:] != tuple(size):
        shown = F.interpolate(shown, tuple(size), mode="bilinear")
    again = Generator()
    again.set_state(state)
    moves = draw_crop_flip(len(maps), data.padding, data.flip, again)
    return crop_flip(shown, *moves, data.padding)[:, 0]
