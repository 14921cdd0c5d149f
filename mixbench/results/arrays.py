"""Arrays that a run has stored, without torch; the files may be anybody's."""

import zipfile
from pathlib import Path

import numpy as np

from mixbench.results.files import open_regular

MAX_BYTES = 16 << 30  # of all arrays of a file, unpacked


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an ``.npz`` file.

    Args:
        path: The file.

    Returns:
        Arrays by name.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it cannot be read, is damaged, or would unpack to more than
            :data:`MAX_BYTES`.
    """
    try:
        with open_regular(path) as file:
            with zipfile.ZipFile(file) as archive:
                size = sum(member.file_size for member in archive.infolist())
            if size > MAX_BYTES:
                raise ValueError(f"it would unpack to {size:,} bytes")
            file.seek(0)
            with np.load(file, allow_pickle=False) as stored:
                return {name: stored[name] for name in stored.files}
    except FileNotFoundError:
        raise
    except Exception as error:  # zip, zlib and numpy each raise errors of their own
        text = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ValueError(text.splitlines()[0]) from error


def check_outputs(logits: np.ndarray, labels: np.ndarray, ids: np.ndarray) -> None:
    """Refuse outputs of a network that do not belong together.

    Args:
        logits: (N, K) real numbers.
        labels: (N,) whole class indices, or (N, K) numbers with several labels per image.
        ids: (N,) rows of the data set.

    Raises:
        ValueError: If they are of other types or shapes, or a label is no class.
    """
    whole = ids.dtype.kind in "iu" and labels.dtype.kind in ("iu" if labels.ndim == 1 else "iubf")
    shapes = labels.shape in (logits.shape[:1], logits.shape) and ids.shape == logits.shape[:1]
    if logits.ndim != 2 or logits.dtype.kind != "f" or not whole or not shapes or not logits.size:
        raise ValueError(
            f"predictions do not belong together: logits {logits.dtype} {logits.shape}, labels "
            f"{labels.dtype} {labels.shape}, ids {ids.dtype} {ids.shape}"
        )
    if labels.ndim == 1 and not 0 <= labels.min() <= labels.max() < logits.shape[1]:
        raise ValueError(f"labels that are none of the {logits.shape[1]} classes")
