"""From image files to equal-sized RGB pixels, by one rule.

Pillow alone decodes: torchvision's decoder gives the same pixels in 3/4 of the time, which the way
back to an image that can be cut and resized uses up again (1.19 against 1.09 ms for a crop of 224
pixels from a photograph of 500x375, one core).
"""

import io
import math
import os
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from mixbench.config.schema import DataConfig
from mixbench.errors import UserError

# Of damaged tags, which do no harm, and of large images, which _check_pixels refuses. Filters are
# shared by the threads that decode, so that this cannot be said around one image.
warnings.filterwarnings("ignore", module=r"PIL\.")

SHOWN_FILES = 5  # unreadable files named in a message
ORIENTATION_TAG = 0x0112  # EXIF tag of the orientation; above 4 width and height change places
# Pillow knows these by their first bytes, and needs another program or plug-in to decode them.
SKIPPED_FORMATS = ("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF")
COMMON_FORMATS = ("JPEG", "PNG")  # looked for first, which halves the time of opening a file
THREADS = 4
LARGEST_BLOCK = 16  # images that a thread takes at a time: to hand over a small one costs a tenth
SAMPLED_IMAGES = 64  # images of a set that is not decoded as a whole
# Places of multi-scale crops in quarters of the room that they have, across and down.
FIXED_POSITIONS = (
    *((across, down) for down in (0, 2, 4) for across in (0, 2, 4)),
    *((across, down) for down in (1, 3) for across in (1, 3)),
)
SCALES_APART = 2  # places in the list of scales between width and height of a crop, at most
Result = TypeVar("Result")
DARK_VALUE = 25  # a 16-bit image that becomes no brighter than this uses under a tenth of its range


@cache
def formats() -> tuple[str, ...]:
    """Formats that Pillow decodes on this machine, without the help of another program."""
    Image.init()
    rest = [name for name in Image.ID if name not in (*SKIPPED_FORMATS, *COMMON_FORMATS)]
    return (*COMMON_FORMATS, *rest)


@cache
def image_suffixes() -> frozenset[str]:
    """Endings of the names of images that can be decoded here, in small letters with the dot."""
    known = Image.registered_extensions()
    return frozenset(suffix for suffix, name in known.items() if name in formats())


def is_image(name: str) -> bool:
    """Tell by the ending of its name whether a file is an image.

    Args:
        name: Its name or path.

    Returns:
        True where Pillow decodes such files on this machine.
    """
    return os.path.splitext(name)[1].lower() in image_suffixes()


def decode(
    raw: bytes | np.ndarray, size: int | None = None, resize: int | None = None, fit: str = "crop"
) -> np.ndarray:
    """Decode an image of any mode: the first frame, turned as its EXIF says, as 8-bit RGB.

    Values of 16 bits are divided by 257, those of 12-bit TIFF by 4095/255; whole numbers of 32 bits
    count as 16-bit and have to fit, and fractions lie in [0, 1]. Transparency is dropped.

    Args:
        raw: Content of an image file; or pixels that were decoded before, (H, W, 3) uint8.
        size: Side in pixels of the centre that is cut out.
        resize: Length in pixels that the shorter side is brought to before; ``size`` if None.
        fit: ``crop``, or ``squeeze``: the whole image is brought to ``size``, whatever its ratio of
            sides, and ``resize`` is not read.

    Returns:
        (H, W, 3) uint8.

    Raises:
        OSError: If the content is not a readable image, its values are out of range, or it is
            larger than Pillow thinks safe.
    """
    with _only_oserror():
        return np.asarray(_fitted(_opened(raw)[0], size, resize, fit))


def decode_resized(raw: bytes, side: int) -> np.ndarray:
    """Decode an image and bring its shorter side to some length, as :func:`decode` does.

    Args:
        raw: Content of an image file.
        side: That length in pixels.

    Returns:
        (H, W, 3) uint8.

    Raises:
        OSError: As :func:`decode`.
    """
    with _only_oserror():
        return np.asarray(_resized(_opened(raw)[0], side))


def shown_part(
    width: int,
    height: int,
    size: int | None = None,
    resize: int | None = None,
    fit: str = "crop",
) -> tuple[float, float, float, float]:
    """The part of a file that :func:`decode` shows.

    Args:
        width: Of the file in pixels.
        height: Of the file in pixels.
        size: As for :func:`decode`.
        resize: As for :func:`decode`.
        fit: As for :func:`decode`.

    Returns:
        Top, left, bottom and right in pixels of the file, ends exclusive.
    """
    if size is None or fit == "squeeze":
        return 0.0, 0.0, float(height), float(width)
    if resize is None:
        side = min(width, height)
        top, left = (height - side) / 2, (width - side) / 2
        return top, left, top + side, left + side
    wide, tall = _resized_sides(width, height, resize)
    left, top = ((side - size) // 2 for side in (wide, tall))
    down, across = height / tall, width / wide
    return top * down, left * across, (top + size) * down, (left + size) * across


def _resized_sides(width: int, height: int, resize: int) -> tuple[int, int]:
    scale = resize / min(width, height)
    return max(resize, round(width * scale)), max(resize, round(height * scale))


def _fitted(
    image: Image.Image, size: int | None, resize: int | None, fit: str = "crop"
) -> Image.Image:
    if size is not None and fit == "squeeze":
        image = _squeezed(image, size)
    elif size is not None and resize is not None:
        image = _resized(image, resize)
        left, top = ((side - size) // 2 for side in image.size)
        image = image.crop((left, top, left + size, top + size))
    elif size is not None and image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
    return image


def _resized(image: Image.Image, side: int) -> Image.Image:
    sides = _resized_sides(*image.size, side)
    _check_pixels(*sides)  # a long strip can grow to any size
    return image.resize(sides, Image.Resampling.BILINEAR)


def _squeezed(image: Image.Image, size: int) -> Image.Image:
    if image.size == (size, size):
        return image
    return image.resize((size, size), Image.Resampling.BILINEAR)


def grey_values(raw: bytes) -> np.ndarray:
    """Values of a grey picture as they are in its file; other pictures are made grey.

    Args:
        raw: Content of an image file.

    Returns:
        (H, W) float32.

    Raises:
        OSError: If the content is not a readable image.
    """
    with _only_oserror():
        image = Image.open(io.BytesIO(raw), formats=formats())
        _check_pixels(*image.size)
        return np.array(image if image.mode[0] in "IF" else image.convert("L"), dtype=np.float32)


def size_of(raw: bytes) -> tuple[int, int]:
    """Width and height of an image in pixels, as its EXIF turns it; read from its head alone.

    Args:
        raw: Content of an image file.

    Returns:
        Width and height.

    Raises:
        OSError: If the content is not an image.
    """
    with _only_oserror():
        image = Image.open(io.BytesIO(raw), formats=formats())
        turned = image.getexif().get(ORIENTATION_TAG, 1) > 4
    width, height = image.size
    return (height, width) if turned else (width, height)


def peculiarities(raw: bytes) -> list[str]:
    """What an image file has that its 8-bit RGB pixels lack, read from its head.

    Args:
        raw: Content of an image file.

    Returns:
        Nouns in the singular, the format of the file first.

    Raises:
        OSError: If the content is not an image.
    """
    with _only_oserror():
        image = Image.open(io.BytesIO(raw), formats=formats())
        packing, mode = _packing(image), image.mode
        found = [f"{image.format} file"]
        if ";16" in packing or ";12" in packing or mode[0] in "IF":
            found.append("image of more than 8 bits a value, which is brought to 8")
        if mode in ("1", "L", "LA", "I", "F") or mode.startswith("I;"):
            found.append("grey image, whose value serves for all three colours")
        if mode == "CMYK":
            found.append("CMYK image, which is brought to RGB")
        if mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info:
            found.append("image with transparency, which is dropped")
        if getattr(image, "is_animated", False):
            found.append("file of several frames, of which the first counts")
        if image.getexif().get(ORIENTATION_TAG, 1) != 1:
            found.append("image that is turned as its EXIF says")
    return found


def decode_crop(
    raw: bytes | np.ndarray, size: int, area: float, seed: int
) -> tuple[np.ndarray, tuple[float, float, float, float]]:
    """Decode an image and cut a random part of it, at a random aspect ratio.

    The crop of Szegedy et al., CVPR 2015, arXiv:1409.4842, as torchvision's RandomResizedCrop
    draws it: up to ten times a share of the area and a ratio in [3/4, 4/3], until the part fits.

    Args:
        raw: As for :func:`decode`.
        size: Side in pixels of the result.
        area: Smallest share of the area, in (0, 1]; the largest is 1.
        seed: Decides the part, on every machine alike.

    Returns:
        (size, size, 3) uint8, and top, left, bottom and right of the part as shares of the image's
        height and width.

    Raises:
        OSError: As :func:`decode`.
    """
    with _only_oserror():
        if isinstance(raw, np.ndarray):
            width, height = raw.shape[1::-1]
            left, top, right, bottom = crop_box((width, height), area, random.Random(seed))
            part = Image.fromarray(raw[top:bottom, left:right])
        else:
            image = _opened(raw)[0]
            width, height = image.size
            left, top, right, bottom = box = crop_box(image.size, area, random.Random(seed))
            # Cut first: resizing with a box would let pixels from outside of it in at the border.
            part = image.crop(box)
        pixels = np.asarray(part.resize((size, size), Image.Resampling.BILINEAR))
    return pixels, (top / height, left / width, bottom / height, right / width)


def decode_multi_scale(
    raw: bytes | np.ndarray, size: int, resize: int | None, scales: Sequence[float], seed: int
) -> tuple[np.ndarray, tuple[float, float, float, float]]:
    """Decode an image, squeeze it to a square, and cut a part of it at one of a few scales.

    The crop of Wang et al., ECCV 2016, arXiv:1608.00859, with all of its fixed positions, as papers
    on several labels per image train with it.

    Args:
        raw: Content of an image file.
        size: Side in pixels of the result.
        resize: Side in pixels of the square; ``size`` if None.
        scales: Shares of that side which a crop may have, in order.
        seed: Decides the part, on every machine alike.

    Returns:
        (size, size, 3) uint8, and top, left, bottom and right of the part as shares of the image's
        height and width.

    Raises:
        OSError: As :func:`decode`.
    """
    side = size if resize is None else resize
    with _only_oserror():
        image = _squeezed(_opened(raw)[0], side)
        box = multi_scale_box(side, scales, random.Random(seed))
        pixels = np.asarray(_squeezed(image.crop(box), size))
    left, top, right, bottom = (end / side for end in box)
    return pixels, (top, left, bottom, right)


def multi_scale_box(
    side: int, scales: Sequence[float], generator: random.Random
) -> tuple[int, int, int, int]:
    """Draw the part of a square image that a multi-scale crop shows.

    Width and height are those of two scales at most two places apart in their list, each such pair
    as likely. The part stands in one of 13 positions: three by three from border to border, and the
    four between those and the centre.

    Args:
        side: Side in pixels.
        scales: Shares of the side, in order.
        generator: Random source.

    Returns:
        Left, top, right and bottom in pixels, ends exclusive.
    """
    sides = [max(1, int(side * scale)) for scale in scales]
    near = [
        (width, height)
        for place, width in enumerate(sides)
        for other, height in enumerate(sides)
        if abs(place - other) <= SCALES_APART
    ]
    width, height = near[generator.randrange(len(near))]
    across, down = FIXED_POSITIONS[generator.randrange(len(FIXED_POSITIONS))]
    # Whole quarters of the room, so that the last position may end a few pixels from the border.
    left, top = across * ((side - width) // 4), down * ((side - height) // 4)
    return left, top, left + width, top + height


def crop_box(
    size: tuple[int, int], area: float, generator: random.Random
) -> tuple[int, int, int, int]:
    """Draw the part of an image that a random resized crop shows.

    Args:
        size: Width and height in pixels.
        area: Smallest share of the area.
        generator: Random source.

    Returns:
        Left, top, right and bottom in pixels, ends exclusive.
    """
    width, height = size
    low, high = math.log(3 / 4), math.log(4 / 3)
    for _ in range(10):
        target = width * height * generator.uniform(area, 1)
        ratio = math.exp(generator.uniform(low, high))
        w, h = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = generator.randint(0, width - w), generator.randint(0, height - h)
            return left, top, left + w, top + h
    w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


@contextmanager
def _only_oserror() -> Iterator[None]:
    """Around Pillow at work on foreign bytes, whose plug-ins raise whatever those lead them to."""
    try:
        yield
    except UnidentifiedImageError as error:
        raise OSError("the file is not an image") from error
    except OSError:
        raise
    except Exception as error:
        raise OSError(str(error) or type(error).__name__) from error


def _opened(raw: bytes | np.ndarray) -> tuple[Image.Image, int | None]:
    """An upright image as RGB, and its highest value if its file has more than 8 bits a value."""
    if isinstance(raw, np.ndarray):
        return Image.fromarray(raw), None
    image: Image.Image = Image.open(io.BytesIO(raw), formats=formats())
    _check_pixels(*image.size)
    packing = _packing(image)
    deep = ";16" in packing or ";12" in packing or image.mode[0] in "IF"
    ImageOps.exif_transpose(image, in_place=True)  # else it copies what it need not turn
    if image.mode[0] in "IF":
        image = Image.fromarray(_scaled(np.asarray(image), image.mode, packing))
    if image.mode != "RGB":  # of an RGB image it makes a copy, too
        image = image.convert("RGB")
    return image, int(np.asarray(image).max()) if deep else None


def _packing(image: Image.Image) -> str:
    """Layout of an image's values in its file, in Pillow's words."""
    tiles = getattr(image, "tile", None) or [None]
    options = getattr(tiles[0], "args", None)
    first = options[0] if isinstance(options, tuple) and options else options
    return first if isinstance(first, str) else ""


def _scaled(values: np.ndarray, mode: str, packing: str) -> np.ndarray:
    """Grey values of more than 8 bits as bytes."""
    top = 1.0 if mode == "F" else 4095.0 if ";12" in packing else 65535.0
    low, high = values.min(), values.max()
    if not 0 <= low <= high <= top:  # NaN as well
        raise OSError(f"its values run from {low:g} to {high:g}, expected 0 to {top:g}")
    return (values * (255 / top)).round().astype(np.uint8)


def _check_pixels(width: int, height: int) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    if not width * height:
        raise OSError("the image has no pixels")
    if limit is not None and width * height > limit:
        raise OSError(f"{width}x{height} pixels could be a decompression bomb: at most {limit}")


def in_threads(work: Callable[[int], Result], rows: Sequence[int]) -> Iterator[Result]:
    """Work on many images in a few threads, as Pillow decodes outside the interpreter lock.

    Args:
        work: Called with each row, in any order.
        rows: The rows.

    Yields:
        The results in the order of the rows.
    """
    size = max(1, min(LARGEST_BLOCK, len(rows) // (4 * THREADS)))  # few rows keep all threads busy
    blocks = [rows[start : start + size] for start in range(0, len(rows), size)]
    with ThreadPoolExecutor(THREADS) as pool:
        for results in pool.map(lambda block: [work(row) for row in block], blocks):
            yield from results


class DecodedFiles(NamedTuple):
    """A set of decoded images.

    ``images`` (M, 3, H, W) uint8 are those that could be read, ``rows`` (M,) their places among all
    of them; ``bad`` are names and reasons of the others by their places; ``dim`` is a sentence on
    16-bit images that are almost black, empty where none is; ``extents`` (M, 4) float32 are as
    :meth:`mixbench.data.images.ImageSet.shown` returns them.
    """

    images: Tensor
    rows: Tensor
    bad: dict[int, str]
    dim: str
    extents: Tensor


def decode_all(
    items: Sequence[str], load: Callable[[int], bytes], config: DataConfig
) -> DecodedFiles:
    """Decode a whole set into one tensor.

    Args:
        items: Name of each image, for messages.
        load: Returns the file content of image i.
        config: Reads ``size``, ``resize``, ``fit`` and ``on_corrupt``.

    Returns:
        The images.

    Raises:
        UserError: If images are unreadable and ``on_corrupt`` is ``error``, if none is readable,
            or if sizes differ and no ``size`` is given.
    """

    def attempt(row: int) -> tuple[np.ndarray, int | None, tuple[float, ...]] | str:
        try:
            raw = load(row)
            with _only_oserror():
                image, peak = _opened(raw)
                how = (config.size, config.resize, config.fit)
                extent = shown_part(*image.size, *how)
                return np.asarray(_fitted(image, *how)), peak, extent
        except OSError as error:
            return _reason(items[row], error)

    results = list(in_threads(attempt, range(len(items))))
    bad = {row: result for row, result in enumerate(results) if isinstance(result, str)}
    good = [row for row in range(len(results)) if row not in bad]
    if bad and (config.on_corrupt == "error" or not good):
        raise unreadable_error(list(bad.values()), len(items))
    decoded = [result for result in results if not isinstance(result, str)]
    pixels = [image for image, _, _ in decoded]
    sizes = {array.shape for array in pixels}
    if len(sizes) > 1:
        low, high = min(sizes), max(sizes)
        raise UserError(
            f"images have {len(sizes)} sizes, from {low[1]}x{low[0]} to {high[1]}x{high[0]}",
            "data",
            "bring them to one size with data.size=PIXELS",
        )
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()
    dim = _dim([peak for _, peak, _ in decoded])
    extents = torch.tensor([extent for _, _, extent in decoded])
    return DecodedFiles(images, torch.tensor(good), bad, dim, extents)


def dark_sample_notice(count: int, load: Callable[[int], bytes]) -> str:
    """As ``dim`` of :class:`DecodedFiles`, from a few images of a set that stays files.

    Args:
        count: Number of images.
        load: Returns the file content of image i.

    Returns:
        A sentence, empty where nothing is to be said.
    """
    peaks = []
    for row in sorted({row * count // SAMPLED_IMAGES for row in range(SAMPLED_IMAGES)}):
        with suppress(OSError), _only_oserror():
            peaks.append(_opened(load(row))[1])
    return _dim(peaks)


def _dim(peaks: Sequence[int | None]) -> str:
    """A notice on images whose files have more than 8 bits a value."""
    deep = [peak for peak in peaks if peak is not None]
    brightest = max(deep, default=255)
    if brightest > DARK_VALUE:
        return ""
    return (
        f"{len(deep)} images with more than 8 bits a value are almost black: the brightest uses "
        f"{100 * brightest / 255:.1f} % of the range; stretch them if they hold fewer bits than "
        "their files"
    )


def find_unreadable(items: Sequence[str], load: Callable[[int], bytes]) -> dict[int, str]:
    """Try to decode every image of a set.

    Args:
        items: Name of each image.
        load: Returns the file content of image i.

    Returns:
        Why not, with the name, by the row of each image that cannot be decoded.
    """

    def attempt(row: int) -> str | None:
        try:
            decode(load(row))
        except OSError as error:
            return _reason(items[row], error)
        return None

    reasons = in_threads(attempt, range(len(items)))
    return {row: reason for row, reason in enumerate(reasons) if reason is not None}


def unreadable_error(bad: Sequence[str], count: int) -> UserError:
    """The error for images that cannot be read.

    Args:
        bad: Name and reason of each.
        count: Number of images that were tried.

    Returns:
        One that names the first few.
    """
    return UserError(
        f"{len(bad)} of {count} images cannot be read: {_first_few(bad)}",
        "data",
        "repair them, or leave them out with data.on_corrupt=skip; mixbench data check lists all",
    )


def left_out_notice(train: Sequence[str], test: Sequence[str]) -> str:
    """Notices on images that cannot be read and are left out.

    Args:
        train: Name and reason of each training image.
        test: The same of the test images.

    Returns:
        A sentence that names the first few.
    """
    return (
        f"images that cannot be read are left out, {len(train)} for training and {len(test)} for "
        f"the test: {_first_few([*test, *train])}"
    )


def _first_few(bad: Sequence[str]) -> str:
    return "; ".join(bad[:SHOWN_FILES]) + (" ..." if len(bad) > SHOWN_FILES else "")


def _reason(name: str, error: Exception) -> str:
    return f"{name} ({(str(error).splitlines() or [''])[0][:80]})"
