"""Checks of the outputs that a run has stored, without torch; the files may be anybody's."""

import numpy as np


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
