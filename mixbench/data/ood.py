"""Images from outside of the training distribution, of any files, as a network gets to see them.

A set is named, or its files are: a folder or archive with images at any depth (DTD, Places365,
LSUN, iSUN), a ``.mat`` file with ``X`` (H, W, 3, N) uint8 as SVHN has it, an ``.npy`` file of
(N, H, W[, C]) uint8, or an ``.npz`` pack with ``images``, or ``jpeg`` and ``offsets``. Labels are
not read. Behind the name, ``:resize`` or ``:crop`` says how images come to the network's size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from mixbench.data.datasets.pack import encoded_part
from mixbench.data.files.archive import open_files
from mixbench.data.files.arrays import Arrays, UnreadableArraysError, check_size, read_array
from mixbench.data.files.decode import decode, is_image, size_of
from mixbench.data.files.location import data_folder
from mixbench.data.images import Batch, ImageSet
from mixbench.data.sampling import BatchIndex
from mixbench.data.source import existing_path
from mixbench.errors import UnreadableImageError, UserError

KEY = "eval.ood"
RESIZE, CROP = "resize", "crop"
WAYS = {
    "": "as they are",
    RESIZE: "shorter side resized, centre cut out (Pillow, bilinear)",
    CROP: "centre cut out",
}
LAYOUT = (
    "a folder or archive of images, a .mat with X (H, W, 3, N), a .npy of (N, H, W[, C]) uint8 or "
    "a .npz with images, or with jpeg and offsets"
)
_HEADS = 16  # files whose sizes tell whether a set has the network's size
_ARRAYS = (".npz", ".npy", ".mat")


@dataclass(frozen=True)
class NamedSet:
    """A published set.

    Attributes:
        places: Files or folders that hold it, below the folder of all data sets, the likeliest
            first.
        way: How its images come to the network's size; empty where they may have it.
    """

    places: tuple[str, ...]
    way: str = ""


# Of LSUN and Tiny-ImageNet in two sizes and iSUN, the folders that Liang et al., ICLR 2018,
# arXiv:1706.02690 distribute.
NAMED_SETS = {
    "svhn": NamedSet(("test_32x32.mat", "svhn/test_32x32.mat")),
    "textures": NamedSet(("dtd/images", "dtd-r1.0.1.tar.gz", "textures")),
    "places365": NamedSet(("places365", "val_256", "val_256.tar", "places365_standard/val")),
    "lsun_crop": NamedSet(("LSUN", "LSUN.tar.gz"), CROP),
    "lsun_resize": NamedSet(("LSUN_resize", "LSUN_resize.tar.gz"), RESIZE),
    "isun": NamedSet(("iSUN", "iSUN.tar.gz")),
    "tinyimagenet_crop": NamedSet(("Imagenet", "Imagenet.tar.gz"), CROP),
    "tinyimagenet_resize": NamedSet(("Imagenet_resize", "Imagenet_resize.tar.gz"), RESIZE),
}


class OodImages(ImageSet):
    """Images of a set in the network's size, read whenever a batch asks for them.

    Args:
        name: Of the set, with the way where images are changed.
        load: Returns image i, (H, W, 3) uint8.
        titles: What messages call each image.
        size: Height and width in pixels.
        way: A key of :data:`WAYS`.
        source: The file or folder.
        unused: Number of other files there.
    """

    def __init__(
        self,
        name: str,
        load: Callable[[int], np.ndarray],
        titles: Sequence[str],
        size: tuple[int, int],
        way: str,
        source: Path,
        unused: int = 0,
    ) -> None:
        super().__init__(torch.zeros(len(titles), dtype=torch.int64))
        self.name, self.way, self.source, self.unused = name, way, source, unused
        self._load, self._titles, self._size = load, titles, size

    @property
    def shape(self) -> tuple[int, int, int]:
        """Those of the network's images."""
        return (3, *self._size)

    def __getitem__(self, draw: BatchIndex) -> Batch:
        rows = draw.indices.cpu()
        images = [self._image(row) for row in rows.tolist()]
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
        return Batch(pixels, self.labels[rows], rows)

    def subset(self, rows: Tensor) -> "OodImages":
        """The images at ``rows`` (M,), in that order."""
        places: list[int] = rows.tolist()
        titles = [self._titles[place] for place in places]
        load = self._load
        facts = (self._size, self.way, self.source, self.unused)
        return OodImages(self.name, lambda row: load(places[row]), titles, *facts)

    def _image(self, row: int) -> np.ndarray:
        try:
            return fitted_pixels(self._load(row), self._size, self.way)
        except (OSError, ValueError) as error:
            raise UnreadableImageError(
                f"image {row} cannot be used: {self._titles[row]} ({error})",
                f"{KEY}={self.source}",
                "repair or remove it",
            ) from error


def fitted_pixels(pixels: np.ndarray, size: tuple[int, int], way: str) -> np.ndarray:
    """An image in the network's size.

    Args:
        pixels: (H, W, 3) uint8.
        size: Height and width wanted.
        way: A key of :data:`WAYS`.

    Returns:
        (height, width, 3) uint8.

    Raises:
        ValueError: If it is too small to be cut out of, or not of that size where nothing is said.
    """
    (height, width), (tall, wide) = pixels.shape[:2], size
    if (height, width) == size:
        return pixels
    if way == RESIZE:
        image = ImageOps.fit(Image.fromarray(pixels), (wide, tall), Image.Resampling.BILINEAR)
        return np.asarray(image)
    if way == CROP and height >= tall and width >= wide:
        top, left = (height - tall) // 2, (width - wide) // 2
        return pixels[top : top + tall, left : left + wide]
    why = "too small to be cropped" if way == CROP else "of another size than the first images"
    raise ValueError(f"{width}x{height} pixels, {why}; write PATH:{RESIZE} for {wide}x{tall}")


def ood_name(word: str) -> str:
    """Name of a set before its files are looked at.

    Args:
        word: A value of ``eval.ood``.

    Returns:
        A name of :data:`NAMED_SETS`, or the path's last part in letters, digits and ``_``, with the
        way where the word says one.
    """
    place, way = _divided(word)
    if place in NAMED_SETS:
        return _with_way(place, way)
    stem = Path(place).name
    for ending in (".npz", ".npy", ".mat", ".zip", ".tar", ".tgz", ".gz", ".xz", ".bz2", ".tar"):
        stem = stem.removesuffix(ending)
    plain = "".join(letter if letter.isalnum() else "_" for letter in stem.lower())
    return _with_way(plain.strip("_") or "images", way)


def full_word(word: str) -> str:
    """A value of ``eval.ood`` that means the same from any working directory.

    Args:
        word: A value of ``eval.ood``.

    Returns:
        The word of a named set as it is; else the absolute path, with the way behind it.
    """
    place, way = _divided(word)
    if place in NAMED_SETS:
        return word
    return f"{Path(place).resolve()}:{way}" if way else str(Path(place).resolve())


def find_ood(word: str) -> Path:
    """The files of a set.

    Args:
        word: A value of ``eval.ood``.

    Returns:
        File or folder.

    Raises:
        UserError: If there are none; of a named set with what to put where.
    """
    place, way = _divided(word)
    known = NAMED_SETS.get(place)
    if known is None:
        return existing_path(place, KEY)
    if known.way and way not in ("", known.way):
        raise UserError(f"{place} must not be {way}d", f"{KEY}={word}", f"write {place}")
    folder = data_folder()
    found = next((folder / name for name in known.places if (folder / name).exists()), None)
    if found is not None:
        return found
    names = " or ".join(known.places)
    raise UserError(
        f"the images of {place} are not there",
        f"{KEY}={word}",
        f"put {names} into {folder}, or give their path in place of the name",
    )


def read_ood(word: str, size: tuple[int, int]) -> OodImages:
    """The images of a set.

    Args:
        word: A value of ``eval.ood``.
        size: Height and width of the network's images.

    Returns:
        The set; images are read later.

    Raises:
        UserError: If there are no files, they cannot be read, or hold no images.
    """
    path, (place, way) = find_ood(word), _divided(word)
    known = NAMED_SETS.get(place)
    way = way or (known.way if known else "")
    try:
        opened = _opened(path)
    except UnreadableArraysError as error:
        raise _unreadable(path, error) from error
    titles = opened.titles
    if not titles:
        raise UserError("no image is found there", f"{KEY}={path}", f"give {LAYOUT}")
    name = ood_name(place)
    if not way:
        heads = sorted({number * len(titles) // _HEADS for number in range(_HEADS)})
        same = all(opened.size(row) == (size[1], size[0]) for row in heads)
        way = "" if same else RESIZE
    name = _with_way(name, way)
    return OodImages(name, opened.load, titles, size, way, path, opened.unused)


def _divided(word: str) -> tuple[str, str]:
    """A name or path, and the way behind it."""
    place, colon, way = word.rpartition(":")
    return (place, way) if colon and way in (RESIZE, CROP) else (word, "")


def _with_way(name: str, way: str) -> str:
    return f"{name}_{way}" if way and not name.endswith(f"_{way}") else name


class _Opened(NamedTuple):
    """Images that can be read: pixels and width and height of image i, and names for messages."""

    load: Callable[[int], np.ndarray]
    size: Callable[[int], tuple[int, int]]
    titles: Sequence[str]
    unused: int = 0  # other files


def _opened(path: Path) -> _Opened:
    suffix = path.suffix.lower()
    if path.is_dir() or suffix not in _ARRAYS:
        files = open_files(path)
        names = [name for name in files.names if is_image(name)]
        unused = len(files.names) - len(names) + files.hidden
        return _of_files(lambda row: files.image(names[row]), names, path, unused)
    if suffix == ".npz":
        with Arrays(path) as archive:
            if "jpeg" in archive and "offsets" in archive:
                part = encoded_part(archive["jpeg"], archive["offsets"], path)
                return _of_files(part.load, part.names, path)
            name = next((key for key in ("images", "test_images", "x_test") if key in archive), "")
            if not name:
                known = ", ".join(archive.names[:20]) or "no array"
                raise UserError(
                    f"the file holds no images; found {known}", f"{KEY}={path}", f"give {LAYOUT}"
                )
            pixels = archive[name]
    else:
        pixels = read_array(path) if suffix == ".npy" else _matlab(path)
    return _of_pixels(pixels, path)


def _of_files(
    load: Callable[[int], bytes], names: Sequence[str], path: Path, unused: int = 0
) -> _Opened:
    def size(row: int) -> tuple[int, int]:
        try:
            return size_of(load(row))
        except OSError as error:
            what = f"{names[row]} cannot be read: {error}"
            raise UserError(what, f"{KEY}={path}", "repair or remove it") from error

    return _Opened(lambda row: decode(load(row)), size, names, unused)


def _of_pixels(pixels: np.ndarray, path: Path) -> _Opened:
    deep = pixels.ndim == 4 and pixels.shape[3] in (1, 3)
    if pixels.dtype != np.uint8 or not (deep or pixels.ndim == 3) or 0 in pixels.shape[1:]:
        what = f"images must be uint8 (N, H, W[, C]), got {pixels.dtype} {pixels.shape}"
        raise UserError(what, f"{KEY}={path}", f"give {LAYOUT}")
    pixels = pixels if pixels.ndim == 4 else pixels[..., None]
    height, width = pixels.shape[1:3]

    def load(row: int) -> np.ndarray:
        return np.ascontiguousarray(np.broadcast_to(pixels[row], (height, width, 3)))

    titles = [f"image {row} of {path.name}" for row in range(len(pixels))]
    return _Opened(load, lambda row: (width, height), titles)


def _matlab(path: Path) -> np.ndarray:
    """``X`` of a MATLAB file as (N, H, W, C), if its head says that it is an array of bytes."""
    from scipy import io

    try:
        content: Any = {name: (shape, kind) for name, shape, kind in io.whosmat(path)}
        shape, kind = content.get("X", ((), ""))
        if kind != "uint8" or len(shape) != 4 or shape[2] not in (1, 3):
            found = ", ".join(f"{name} {kind} {shape}" for name, (shape, kind) in content.items())
            raise UserError(
                f"no X of uint8 (H, W, 3, N); found {found[:200] or 'nothing'}",
                f"{KEY}={path}",
                f"give {LAYOUT}",
            )
        unpacked = int(np.prod(shape, dtype=object))
        check_size(unpacked, path.stat().st_size)
        return np.moveaxis(io.loadmat(path, variable_names=["X"])["X"], 3, 0)
    except (UserError, UnreadableArraysError):
        raise
    except NotImplementedError as error:  # version 7.3 is HDF5
        raise _unreadable(path, ValueError("save it with -v7")) from error
    except Exception as error:  # what its reader raises on foreign bytes is not said anywhere
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: BaseException) -> UserError:
    why = (str(error).splitlines() or [type(error).__name__])[0][:200]
    return UserError(f"{path.name} cannot be read: {why}", f"{KEY}={path}", f"give {LAYOUT}")
