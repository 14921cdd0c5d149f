"""``predictions.npz``: the outputs that every score of a run can be computed from, without a GPU.

Tables of finished runs read the file without torch, which is imported where tensors are asked for.
"""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mixbench.data.files.arrays import read_arrays
from mixbench.errors import UserError
from mixbench.files import write_bytes

if TYPE_CHECKING:
    from torch import Tensor

PREDICTIONS = "predictions.npz"
FULL_PRECISION_CLASSES = 200  # beyond this many, logits are stored as float16
_PARTS = ("logits", "labels", "ids")
_HOLDOUT = "holdout_"  # begins the names of the hold-out's arrays


class Predictions(NamedTuple):
    """Outputs of a finished network.

    Attributes:
        logits: (N, K) logits of the test set.
        labels: (N,) class indices, or (N, K) with several labels per image.
        ids: (N,) int64 rows of the data set, ascending.
        holdout: The same three of the hold-out of the training set, where the run had one.
        class_names: Names of the K classes; none where they have none.
    """

    logits: "Tensor"
    labels: "Tensor"
    ids: "Tensor"
    holdout: "tuple[Tensor, Tensor, Tensor] | None" = None
    class_names: tuple[str, ...] = ()


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Write the file; logits of more than 200 classes become float16.

    Args:
        path: The file.
        predictions: What to write.
    """
    arrays = _arrays("", *predictions[:3])
    if predictions.holdout is not None:
        arrays |= _arrays(_HOLDOUT, *predictions.holdout)
    if predictions.class_names:
        arrays["class_names"] = np.array(predictions.class_names)
    write_bytes(path, lambda file: np.savez_compressed(file, **arrays))  # type: ignore[arg-type]


def read_outputs(path: Path) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Read the file without torch.

    Args:
        path: The file.

    Returns:
        The arrays ``logits`` (N, K) in float32, ``labels`` and ``ids``, those of the hold-out with
        ``holdout_`` in front where there was one; and the names of the classes.

    Raises:
        UserError: If the file is missing, damaged or of another kind.
    """
    try:
        arrays = read_arrays(path)
        names = tuple(map(str, arrays.pop("class_names", np.array([])).ravel().tolist()))
        found: dict[str, np.ndarray] = {}
        for start in ("", *([_HOLDOUT] if f"{_HOLDOUT}logits" in arrays else [])):
            part = [arrays[f"{start}{name}"] for name in _PARTS]
            _check_outputs(*part)
            found |= {f"{start}{name}": each for name, each in zip(_PARTS, part, strict=True)}
            found[f"{start}logits"] = part[0].astype(np.float32)
    except FileNotFoundError as error:
        todo = "evaluate the run first: mixbench eval RUN"
        raise UserError("the run has no stored predictions", str(path), todo) from error
    except KeyError as error:
        what = f"the predictions cannot be read: there is no array {error}"
        raise UserError(what, str(path), "evaluate the run again") from error
    except (ValueError, TypeError) as error:
        what = f"the predictions cannot be read: {error}"
        raise UserError(what, str(path), "evaluate the run again") from error
    return found, names


def read_predictions(path: Path) -> Predictions:
    """Read the file as tensors.

    Args:
        path: The file.

    Returns:
        The predictions, logits in float32.

    Raises:
        UserError: As :func:`read_outputs`.
    """
    import torch

    arrays, names = read_outputs(path)
    try:
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    except (ValueError, TypeError) as error:  # a type of numbers that torch does not have
        what = f"the predictions cannot be read: {error}"
        raise UserError(what, str(path), "evaluate the run again") from error
    logits, labels, ids, *more = tensors.values()
    holdout = (more[0], more[1], more[2]) if more else None
    return Predictions(logits, labels, ids, holdout, names)


def _arrays(start: str, logits: "Tensor", labels: "Tensor", ids: "Tensor") -> dict[str, np.ndarray]:
    whole = logits.shape[1] <= FULL_PRECISION_CLASSES
    stored = logits.cpu().float() if whole else logits.cpu().half()
    parts = (stored, labels.cpu(), ids.cpu())
    return {f"{start}{name}": part.numpy() for name, part in zip(_PARTS, parts, strict=True)}


def _check_outputs(logits: np.ndarray, labels: np.ndarray, ids: np.ndarray) -> None:
    """Refuse outputs that do not belong together, as the file may be anybody's."""
    whole = ids.dtype.kind in "iu" and labels.dtype.kind in ("iu" if labels.ndim == 1 else "iubf")
    shapes = labels.shape in (logits.shape[:1], logits.shape) and ids.shape == logits.shape[:1]
    if logits.ndim != 2 or logits.dtype.kind != "f" or not whole or not shapes or not logits.size:
        raise ValueError(
            f"the arrays do not belong together: logits {logits.dtype} {logits.shape}, labels "
            f"{labels.dtype} {labels.shape}, ids {ids.dtype} {ids.shape}"
        )
    if labels.ndim == 1 and not 0 <= labels.min() <= labels.max() < logits.shape[1]:
        raise ValueError(f"a label is none of the {logits.shape[1]} classes")
