"""From image files to equal-sized RGB pixels, by one rule.

Pillow alone decodes: torchvision's decoder gives the same pixels in 3/4 of the time, which the way
back to an image that can be cut and resized uses up again (1.19 against 1.09 ms for a crop of 224
pixels from a photograph of 500x375, one core).
"""

import io
import math
import random
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from mixbench.errors import UserError
from mixbench.schema import DataConfig

SHOWN = 5  # unreadable files named in a message
TURNED = 0x0112  # EXIF tag of the orientation; above 4 width and height change places


def decode(raw: bytes, size: int | None = None, resize: int | None = None) -> np.ndarray:
    """Decode an image of any mode: the first frame, turned as its EXIF says, as 8-bit RGB.

    Args:
        raw: Content of an image file.
        size: Side in pixels of the centre that is cut out.
        resize: Length in pixels that the shorter side is brought to before; ``size`` if None.

    Returns:
        (H, W, 3) uint8.

    Raises:
        OSError: If the content is not a readable image, or larger than Pillow thinks safe.
    """
    image = _opened(raw)
    if size is not None and resize is not None:
        scale = resize / min(image.size)
        longer = [max(resize, round(side * scale)) for side in image.size]
        image = image.resize((longer[0], longer[1]), Image.Resampling.BILINEAR)
        left, top = ((side - size) // 2 for side in image.size)
        image = image.crop((left, top, left + size, top + size))
    elif size is not None and image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
    return np.asarray(image)


def size_of(raw: bytes) -> tuple[int, int]:
    """Width and height of an image in pixels, as its EXIF turns it; read from its head alone.

    Args:
        raw: Content of an image file.

    Returns:
        Width and height.

    Raises:
        OSError: If the content is not an image.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            image = Image.open(io.BytesIO(raw))
            turned = image.getexif().get(TURNED, 1) > 4
        except (SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise OSError(str(error)) from error
    width, height = image.size
    return (height, width) if turned else (width, height)


def decode_crop(
    raw: bytes, size: int, area: float, seed: int
) -> tuple[np.ndarray, tuple[float, float, float, float]]:
    """Decode an image and cut a random part of it, at a random aspect ratio.

    The crop of Szegedy et al., CVPR 2015, arXiv:1409.4842, as torchvision's RandomResizedCrop
    draws it: up to ten times a share of the area and a ratio in [3/4, 4/3], until the part fits.

    Args:
        raw: Content of an image file.
        size: Side in pixels of the result.
        area: Smallest share of the area, in (0, 1]; the largest is 1.
        seed: Decides the part, on every machine alike.

    Returns:
        (size, size, 3) uint8, and top, left, bottom and right of the part as shares of the image's
        height and width.

    Raises:
        OSError: As :func:`decode`.
    """
    image = _opened(raw)
    width, height = image.size
    box = crop_box(image.size, area, random.Random(seed))
    # Cut first: resizing with a box would let pixels from outside of it in at the border.
    pixels = np.asarray(image.crop(box).resize((size, size), Image.Resampling.BILINEAR))
    left, top, right, bottom = box
    return pixels, (top / height, left / width, bottom / height, right / width)


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


def _opened(raw: bytes) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            image: Image.Image = Image.open(io.BytesIO(raw))
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I;16") or image.mode == "I":
                wide = np.asarray(image, dtype=np.float64)
                image = Image.fromarray((wide / 257).round().clip(0, 255).astype(np.uint8))
            return image.convert("RGB")
        except (SyntaxError, ValueError, Image.DecompressionBombWarning) as error:
            raise OSError(str(error)) from error
        except Image.DecompressionBombError as error:
            raise OSError(str(error)) from error
        except UnidentifiedImageError as error:
            raise OSError("not an image") from error


def decode_all(
    items: Sequence[str], load: Callable[[int], bytes], config: DataConfig
) -> tuple[Tensor, Tensor]:
    """Decode a whole set into one tensor.

    Args:
        items: Name of each image, for messages.
        load: Returns the file content of image i.
        config: Reads ``size``, ``resize`` and ``on_corrupt``.

    Returns:
        Images (M, 3, H, W) uint8, and the (M,) rows that could be read.

    Raises:
        UserError: If images are unreadable and ``on_corrupt`` is ``error``, if none is readable,
            or if sizes differ and no ``size`` is given.
    """

    def attempt(row: int) -> np.ndarray | str:
        try:
            return decode(load(row), config.size, config.resize)
        except OSError as error:
            return _reason(items[row], error)

    with ThreadPoolExecutor(4) as pool:  # Pillow decodes outside the interpreter lock
        results = list(pool.map(attempt, range(len(items)), chunksize=256))
    bad = [result for result in results if isinstance(result, str)]
    good = [row for row, result in enumerate(results) if not isinstance(result, str)]
    if bad and (config.on_corrupt == "error" or not good):
        raise corrupt(bad, len(items))
    pixels = [result for result in results if not isinstance(result, str)]
    sizes = {array.shape for array in pixels}
    if len(sizes) > 1:
        low, high = min(sizes), max(sizes)
        raise UserError(
            f"images have {len(sizes)} sizes, from {low[1]}x{low[0]} to {high[1]}x{high[0]}",
            "data",
            "resize them with data.size=PIXELS",
        )
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()
    return images, torch.tensor(good)


def unreadable(items: Sequence[str], load: Callable[[int], bytes]) -> dict[int, str]:
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

    with ThreadPoolExecutor(4) as pool:
        reasons = pool.map(attempt, range(len(items)), chunksize=256)
        return {row: reason for row, reason in enumerate(reasons) if reason is not None}


def corrupt(bad: Sequence[str], count: int) -> UserError:
    """The error for images that cannot be read.

    Args:
        bad: Name and reason of each.
        count: Number of images that were tried.

    Returns:
        One that names the first few.
    """
    named = "; ".join(bad[:SHOWN]) + (" ..." if len(bad) > SHOWN else "")
    return UserError(
        f"{len(bad)} of {count} images cannot be read: {named}",
        "data",
        "repair them, or leave them out with data.on_corrupt=skip; mixbench data check lists all",
    )


def _reason(name: str, error: Exception) -> str:
    return f"{name} ({(str(error).splitlines() or [''])[0][:80]})"
