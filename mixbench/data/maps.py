"""Maps on disk that belong to images: where people looked, or what another program found."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from mixbench.data.augment.batches import Augmentation, crop_flip
from mixbench.data.files.arrays import Arrays, is_single, read_array
from mixbench.data.files.decode import grey_values, is_image
from mixbench.data.files.tree import MAX_IMAGE_BYTES, is_hidden
from mixbench.data.images import Batch, ImageSet, Splits
from mixbench.data.sampling import BatchIndex
from mixbench.errors import UserError
from mixbench.files import read_bytes

MAPS_LAYOUT = "a .npy file, or an .npz file with `maps`: (N, h, w) numbers >= 0, one map per image"


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
        if is_single(path):
            content = read_array(path)
        else:
            with Arrays(path) as archive:
                content = archive["maps"]
        maps = torch.from_numpy(content.astype(np.float32))
    except FileNotFoundError as error:
        raise UserError(
            f"the file {path.name} does not exist", where, f"give {MAPS_LAYOUT}"
        ) from error
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{path.name} is not a file of maps: {error}", where, f"give {MAPS_LAYOUT}"
        ) from error
    if maps.ndim != 3 or not maps.numel():
        raise UserError(f"maps are {tuple(maps.shape)}", where, f"give {MAPS_LAYOUT}")
    if not bool((maps >= 0).all() & maps.isfinite().all()):
        raise UserError(
            "a map holds NaN, infinity or a negative number", where, f"give {MAPS_LAYOUT}"
        )
    return maps


def read_label_maps(path: Path, key: str) -> Tensor | tuple[Tensor, Tensor]:
    """Read a file of maps, or of the best scores that a teacher gave each cell of the images.

    Args:
        path: As for :func:`read_maps`, or an ``.npz`` file of ``score`` and ``class`` (N, K, h, w).
        key: Config key for the message.

    Returns:
        Maps as of :func:`read_maps`, or the scores and their classes.

    Raises:
        UserError: As :func:`read_maps`.
    """
    try:
        with Arrays(path) as archive:
            if "score" not in archive:
                return read_maps(path, key)
            score, classes = (torch.from_numpy(archive[name]) for name in ("score", "class"))
    except (OSError, ValueError, TypeError):  # which read_maps tells
        return read_maps(path, key)
    if score.ndim != 4 or score.shape != classes.shape or classes.is_floating_point():
        raise UserError(
            f"score is {tuple(score.shape)} and class {tuple(classes.shape)} {classes.dtype}",
            f"{key}={path}",
            "give both as (N, K, h, w), the classes as whole numbers",
        )
    if not bool((score >= 0).all() & score.isfinite().all()):
        what = "a score is NaN, infinite or negative"
        raise UserError(what, f"{key}={path}", "give scores >= 0")
    return score, classes


def check_count(maps: Tensor, images: int, part: str, key: str) -> None:
    """Refuse maps that are more or less than their images.

    Args:
        maps: (N, h, w) maps.
        images: Number of images.
        part: ``training`` or ``test``.
        key: Config key of the maps, for the message.

    Raises:
        UserError: With the keys that leave images out.
    """
    if len(maps) != images:
        what = f"there are {len(maps)} maps for {images} {part} images"
        keys = "data.limit and data.judgements"
        if part == "training":
            keys = "data.limit, data.train_fraction and select=val"
        raise UserError(
            what,
            key,
            f"give one map per {part} image, in their order; {keys} can leave images out, and "
            "their maps have to be left out, too",
        )


def read_test_maps(given: str, splits: Splits) -> Tensor:
    """Maps of the test images, as they are tested.

    Args:
        given: Value of ``eval.gaze``: a file for :func:`read_maps`, or a folder of one ``.npy``
            file or picture per image. Such a file has the name of the image's, with as many of its
            folders as tell all names apart, or the image's place in the test set where images are
            no files: ``7.npy``, ``007.png``.
        splits: The data.

    Returns:
        (N, h, w) float32; those of a folder in the size of the images.

    Raises:
        UserError: As :func:`read_maps`, if their number is another than that of the images, or a
            folder lacks one.
    """
    path = Path(given)
    if not path.is_dir():
        maps = read_maps(path, "eval.gaze")
        check_count(maps, len(splits.test), "test", f"eval.gaze={given}")
        return maps
    names = splits.test_names()
    found: dict[tuple[str, ...], Path] = {}
    for file in (file for file in path.rglob("*") if _is_map(file, path)):
        name = _stem(file.relative_to(path))
        name = (name[-1].lstrip("0") or "0",) if names is None else name
        if name in found:
            what = f"one image has two maps: {found[name]} and {file}"
            raise UserError(what, f"eval.gaze={given}", "remove one of them")
        found[name] = file
    if names is None:
        wanted = [(str(row),) for row in range(len(splits.test))]
    else:
        wanted = _told_apart([_stem(Path(name)) for name in names])
    size = (splits.info.height, splits.info.width)
    maps = torch.empty(len(wanted), *size)
    for row, name in enumerate(wanted):
        if name not in found:
            raise UserError(
                f"test image {row} has no map",
                f"eval.gaze={given}",
                f"put it there as {'/'.join(name)}.npy or .png",
            )
        maps[row] = _one_map(found[name], f"eval.gaze={found[name]}", size)
    return maps


def _stem(path: Path) -> tuple[str, ...]:
    return path.with_suffix("").parts


def _is_map(path: Path, root: Path) -> bool:
    if is_hidden(path.relative_to(root).as_posix()):
        return False
    return path.suffix.lower() == ".npy" or is_image(path.name)


def _told_apart(names: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """The last parts of names, as many as tell them apart."""
    for count in range(1, max(map(len, names))):
        ends = [name[-count:] for name in names]
        if len(set(ends)) == len(ends):
            return ends
    return names


def _one_map(path: Path, where: str, size: tuple[int, int]) -> Tensor:
    if path.suffix.lower() == ".npy":
        try:
            content = read_array(path).astype(np.float32)
        except (OSError, ValueError, TypeError) as error:
            raise UserError(
                f"{path.name} is not a map: {error}", where, "give an array (h, w)"
            ) from error
    else:
        try:
            content = grey_values(read_bytes(path, MAX_IMAGE_BYTES))
        except OSError as error:
            raise UserError(
                f"{path.name} is not a picture", where, "give a grey picture"
            ) from error
    shown = torch.from_numpy(content)
    if (
        shown.ndim != 2
        or not shown.numel()
        or not bool((shown >= 0).all() & shown.isfinite().all())
    ):
        what = f"the map is {tuple(shown.shape)}, or holds NaN or a negative number"
        raise UserError(what, where, "give (h, w) numbers >= 0")
    return interpolate_maps(shown[None], size)[0]


def interpolate_maps(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bring maps to another size.

    Args:
        maps: (B, h, w) maps.
        size: Height H and width W wanted.

    Returns:
        (B, H, W) float32.
    """
    if maps.shape[1:] == size:
        return maps.float()
    return F.interpolate(maps[:, None].float(), size, mode="bilinear", antialias=True)[:, 0]


class MappedImages(Dataset[Batch]):
    """A set of images whose batches also hold the maps of their images.

    Where images show random parts of their files, maps show the same parts, in the size of the
    images; so do they in worker processes.

    Args:
        images: The set.
        maps: (N, h, w) maps of its images, whole, in its order.
    """

    def __init__(self, images: ImageSet, maps: Tensor) -> None:
        self.images, self.maps = images, maps

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, draw: BatchIndex) -> Batch:
        batch = self.images[draw]
        if batch.ids.device != self.maps.device:
            self.maps = self.maps.to(batch.ids.device)
        maps = self.maps.index_select(0, batch.ids)
        if batch.crops is not None:
            height, width = batch.images.shape[2:]
            maps = crop_maps(maps, batch.crops, (height, width))
        return batch._replace(maps=maps)


def crop_maps(maps: Tensor, crops: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut parts out of maps and bring them to one size, as random resized crops do with images.

    Args:
        maps: (B, h, w) maps.
        crops: (B, 4) top, left, bottom and right as shares of height and width, in [0, 1].
        size: Height H and width W of the parts.

    Returns:
        (B, H, W) float32. Where the map is finer than that, cells are means over what they cover.
    """
    # As many samples of a cell as cells of the map can lie in it.
    fine = max(1, *(math.ceil(n / m) for n, m in zip(maps.shape[1:], size, strict=True)))
    top, left, bottom, right = (side[:, None] for side in crops.unbind(1))
    rows, cols = ((torch.arange(n * fine, device=maps.device) + 0.5) / (n * fine) for n in size)
    down, across = 2 * (top + (bottom - top) * rows) - 1, 2 * (left + (right - left) * cols) - 1
    shape = (len(maps), len(rows), len(cols))
    grid = torch.stack([across[:, None].expand(shape), down[:, :, None].expand(shape)], dim=3)
    form = {"mode": "bilinear", "padding_mode": "border", "align_corners": False}
    return F.avg_pool2d(F.grid_sample(maps[:, None].float(), grid, **form), fine)[:, 0]


def move_maps(maps: Tensor, size: Any, drawn: Augmentation, padding: int) -> Tensor:
    """Crop and mirror maps as their images are.

    Args:
        maps: (B, h, w) maps of whole images.
        size: Height and width of the images in pixels.
        drawn: What was drawn for the images.
        padding: Pixels of padding on each side of an image.

    Returns:
        (B, height, width) maps; 0 in the padding.
    """
    shown = maps[:, None]
    if shown.shape[2:] != tuple(size):
        shown = F.interpolate(shown, tuple(size), mode="bilinear")
    return crop_flip(shown, drawn.offsets, drawn.flips, padding)[:, 0]
