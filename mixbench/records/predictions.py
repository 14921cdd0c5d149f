"""``predictions.npz``: what every score of a run can be computed from again, without a GPU."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mixbench.data.files.arrays import load_arrays
from mixbench.errors import UserError
from mixbench.files import write_bytes
from mixbench.metrics.classification import scores
from mixbench.metrics.multilabel import multilabel_scores
from mixbench.records.outputs import check_outputs

PREDICTIONS = "predictions.npz"
FULL_PRECISION_CLASSES = 200  # beyond this many, logits are stored as float16
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

    logits: Tensor
    labels: Tensor
    ids: Tensor
    holdout: tuple[Tensor, Tensor, Tensor] | None = None
    class_names: tuple[str, ...] = ()

    def scores(self) -> dict[str, float]:
        """All scores that need nothing else, by the names of a leaderboard row."""
        if self.labels.ndim == 2:
            return multilabel_scores(self.logits, self.labels)
        return scores(self.logits, self.labels, self.holdout[:2] if self.holdout else None)


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


def read_predictions(path: Path) -> Predictions:
    """Read the file.

    Args:
        path: The file.

    Returns:
        The predictions, logits in float32.

    Raises:
        UserError: If the file is missing, damaged or of another kind.
    """
    try:
        arrays = load_arrays(path)
        names = tuple(map(str, arrays.pop("class_names", np.array([])).tolist()))
        parts: list[tuple[Tensor, Tensor, Tensor]] = []
        for start in ("", *([_HOLDOUT] if f"{_HOLDOUT}logits" in arrays else [])):
            found = [arrays[f"{start}{name}"] for name in ("logits", "labels", "ids")]
            check_outputs(*found)
            logits, labels, ids = map(torch.from_numpy, found)
            parts.append((logits.float(), labels, ids))
    except FileNotFoundError as error:
        raise UserError("no predictions of a run", str(path), "evaluate the run first") from error
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"unreadable predictions: {error}", str(path), "evaluate the run again"
        ) from error
    logits, labels, ids = parts[0]
    return Predictions(logits, labels, ids, parts[1] if len(parts) > 1 else None, names)


def _arrays(start: str, logits: Tensor, labels: Tensor, ids: Tensor) -> dict[str, np.ndarray]:
    whole = logits.shape[1] <= FULL_PRECISION_CLASSES
    stored = logits.cpu().float() if whole else logits.cpu().half()
    return {
        f"{start}logits": stored.numpy(),
        f"{start}labels": labels.cpu().numpy(),
        f"{start}ids": ids.cpu().numpy(),
    }
