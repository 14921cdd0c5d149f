"""Pictures of mixed images, small enough to stand inside a page."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from mixbench.errors import UserError
from mixbench.files import read_bytes
from mixbench.leaderboard.wandb_table import SAMPLES, SEPARATED

MAX_PICTURE_BYTES = 16 << 20
MAX_PIXELS = 40_000_000
COLOURS = 64
# JPEGs to try until one is small enough: share of the picture's sides, and quality.
STEPS = ((1.0, 82), (1.0, 70), (0.8, 70), (0.65, 65), (0.5, 60), (0.35, 50))


@dataclass(frozen=True)
class EmbeddedPicture:
    """A picture inside a page.

    Attributes:
        uri: The picture itself as an address.
        width: In pixels, as the run has left it.
        height: The same.
    """

    uri: str
    width: int
    height: int


def embed_samples(folder: Path, limit: int) -> EmbeddedPicture:
    """The mixed images of a run; where its test has made images, those.

    Args:
        folder: Folder of the run.
        limit: Bytes that the picture should have at most; the smallest one may have more.

    Returns:
        The picture.

    Raises:
        UserError: If there is none, or it cannot be read.
    """
    path = folder / SEPARATED
    path = path if path.is_file() else folder / SAMPLES
    try:
        image = _open(read_bytes(path, MAX_PICTURE_BYTES))
    except FileNotFoundError as error:
        raise UserError("the run has no picture of mixed images", str(path)) from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError("the picture of mixed images cannot be read", str(path)) from error
    kind, content = "png", _png(image)
    for scale, quality in STEPS:
        if len(content) <= limit:
            break
        kind, content = "jpeg", _jpeg(image, scale, quality)
    text = base64.b64encode(content).decode()
    return EmbeddedPicture(f"data:image/{kind};base64,{text}", *image.size)


def _open(raw: bytes) -> Image.Image:
    with Image.open(io.BytesIO(raw), formats=("PNG",)) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError("too many pixels")
        return image.convert("RGB")


def _png(image: Image.Image) -> bytes:
    """A PNG of few colours, in which letters stay sharp."""
    file = io.BytesIO()
    image.quantize(COLOURS).save(file, "PNG")
    return file.getvalue()


def _jpeg(image: Image.Image, scale: float, quality: int) -> bytes:
    file = io.BytesIO()
    width, height = (max(1, round(scale * side)) for side in image.size)
    small = image if scale == 1 else image.resize((width, height), Image.Resampling.LANCZOS)
    small.save(file, "JPEG", quality=quality)
    return file.getvalue()
