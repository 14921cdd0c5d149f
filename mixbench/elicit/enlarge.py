"""Small images as they are shown."""

import io

from PIL import Image

SHOWN_SIDE = 256  # pixels that the longer side of a small image is brought to, or near
MOST_FACTOR = 10


def enlargement(height: int, width: int) -> int:
    """Whole factor by which images are enlarged.

    Args:
        height: Of an image in pixels.
        width: Of an image in pixels.

    Returns:
        Such that the longer side comes near 256 pixels: 8 for one of 32.
    """
    side = max(height, width)
    return 1 if side >= SHOWN_SIDE else max(1, min(MOST_FACTOR, round(SHOWN_SIDE / side)))


def enlarged(png: bytes, upscaling: str) -> bytes:
    """An image as it is shown.

    Args:
        png: A PNG file.
        upscaling: ``nearest`` or ``lanczos``.

    Returns:
        A PNG file of the larger image.
    """
    with Image.open(io.BytesIO(png)) as image:
        factor = enlargement(image.height, image.width)
        how = Image.Resampling.NEAREST if upscaling == "nearest" else Image.Resampling.LANCZOS
        large = image.resize((image.width * factor, image.height * factor), how)
    file = io.BytesIO()
    large.save(file, "png", compress_level=1)
    return file.getvalue()
