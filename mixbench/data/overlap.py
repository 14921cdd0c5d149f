"""Images that stand in both parts of a data set, found by the hashes of files or of pixels."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from mixbench.data.files.decode import in_threads, size_of
from mixbench.data.files.encoded import Part
from mixbench.data.images import ResidentImages

NOT_COMPARED = (
    "test and training images are not compared, as they stay files; mixbench data check finds "
    "those that are equal"
)


def file_hashes(part: Part) -> tuple[list[bytes], list[tuple[int, int] | None]]:
    """Hashes and sizes of image files.

    Args:
        part: The files.

    Returns:
        SHA-256 of each file, empty where it is no image, and its width and height, else None.
    """

    def attempt(row: int) -> tuple[bytes, tuple[int, int] | None]:
        try:
            raw = part.load(row)
            return hashlib.sha256(raw).digest(), size_of(raw)
        except OSError:
            return b"", None

    looks = list(in_threads(attempt, range(len(part.names))))
    return [digest for digest, _ in looks], [size for _, size in looks]


def pixel_hashes(images: ResidentImages) -> list[bytes]:
    """Hashes of images that are stored as pixels.

    Args:
        images: The images.

    Returns:
        SHA-256 of each.
    """
    return [hashlib.sha256(image).digest() for image in images.images.contiguous().numpy()]


def with_hashes(part: Part) -> tuple[Part, list[bytes]]:
    """The same files, which note their hashes when they are read.

    Args:
        part: The files.

    Returns:
        The files, and a list that holds the SHA-256 of each when it was read.
    """
    hashes = [b""] * len(part.names)

    def load(row: int) -> bytes:
        raw = part.load(row)
        hashes[row] = hashlib.sha256(raw).digest()
        return raw

    return replace(part, load=load), hashes


def shared_rows(train: Sequence[bytes], test: Sequence[bytes]) -> list[int]:
    """Test images that are also training images.

    Args:
        train: Hashes of the training images; empty ones are equal to none.
        test: The same of the test images.

    Returns:
        Rows of the test images.
    """
    known = {*train} - {b""}
    return [row for row, digest in enumerate(test) if digest in known]


def shared_line(shared: int, images: int) -> str:
    """One line on how many test images are also training images.

    Args:
        shared: That many.
        images: Test images.

    Returns:
        The line.
    """
    return f"{shared:,} of {images:,} test images are also training images"


def shared_notices(shared: int | None, images: int) -> list[str]:
    """Notices of a run on test images that are also training images.

    Args:
        shared: That many; None where they were not compared.
        images: Test images.

    Returns:
        A sentence, or none.
    """
    if shared is None:
        return [NOT_COMPARED]
    return [shared_line(shared, images)] if shared else []
