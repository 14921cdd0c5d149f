"""From image files to equal-sized RGB pixels, by one rule."""

import io
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


def decode(raw: bytes, size: int | None = None) -> np.ndarray:
    """Decode an image of any mode: the first frame, turned as its EXIF says, as 8-bit RGB.

    Args:
        raw: Content of an image file.
        size: Side in pixels; the shorter side is resized to it and the centre kept.

    Returns:
        (H, W, 3) uint8.

    Raises:
        OSError: If the content is not a readable image, or larger than Pillow thinks safe.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            image = Image.open(io.BytesIO(raw))
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I;16") or image.mode == "I":
                wide = np.asarray(image, dtype=np.float64)
                image = Image.fromarray((wide / 257).round().clip(0, 255).astype(np.uint8))
            image = image.convert("RGB")
        except (SyntaxError, ValueError, Image.DecompressionBombWarning) as error:
            raise OSError(str(error)) from error
        except Image.DecompressionBombError as error:
            raise OSError(str(error)) from error
        except UnidentifiedImageError as error:
            raise OSError("not an image") from error
    if size is not None and image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
    return np.asarray(image)


def decode_all(
    items: Sequence[str], load: Callable[[int], bytes], config: DataConfig
) -> tuple[Tensor, Tensor]:
    """Decode a whole set into one tensor.

    Args:
        items: Name of each image, for messages.
        load: Returns the file content of image i.
        config: Reads ``size`` and ``on_corrupt``.

    Returns:
        Images (M, 3, H, W) uint8, and the (M,) rows that could be read.

    Raises:
        UserError: If images are unreadable and ``on_corrupt`` is ``error``, if none is readable,
            or if sizes differ and no ``size`` is given.
    """

    def attempt(row: int) -> np.ndarray | str:
        try:
            return decode(load(row), config.size)
        except OSError as error:
            return f"{items[row]} ({str(error).splitlines()[0][:80]})"

    with ThreadPoolExecutor(4) as pool:  # Pillow decodes outside the interpreter lock
        results = list(pool.map(attempt, range(len(items)), chunksize=256))
    bad = [result for result in results if isinstance(result, str)]
    good = [row for row, result in enumerate(results) if not isinstance(result, str)]
    if bad and (config.on_corrupt == "error" or not good):
        named = "; ".join(bad[:SHOWN]) + (" ..." if len(bad) > SHOWN else "")
        raise UserError(
            f"{len(bad)} of {len(items)} images cannot be read: {named}",
            "data",
            "repair them, or leave them out with data.on_corrupt=skip",
        )
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
