"""Logits and labels of a whole split, gathered over processes by torchmetrics."""

from collections.abc import Callable

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

NO_ID = -1


class StoredLogits(Metric):
    """Keeps what every score needs, so that all are computed from the same numbers.

    A sample that several processes saw counts once: rows are told apart by their id. Rows without
    an id count each, behind those that have one.
    """

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        for name in ("logits", "labels", "ids"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, logits: Tensor, labels: Tensor, ids: Tensor | None = None) -> None:
        """Add a batch: logits (B, K), labels (B,) or (B, K), and ids (B,) from 0 on, if any."""
        if ids is None:
            ids = labels.new_full(labels.shape[:1], NO_ID, dtype=torch.int64)
        for name, value in (("logits", logits.float()), ("labels", labels), ("ids", ids)):
            getattr(self, name).append(value.detach())

    def compute(self) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (N, K), labels and ids (N,), one row per sample, in the order of the ids."""
        logits, labels, ids = (
            dim_zero_cat(getattr(self, name)) for name in ("logits", "labels", "ids")
        )
        none = ids == NO_ID
        last = torch.cat([ids, ids.new_full((1,), NO_ID)]).max()
        ids = torch.where(none, last + none.cumsum(0), ids)
        unique, place = torch.unique(ids, return_inverse=True)
        first = torch.full_like(unique, len(ids)).scatter_reduce_(
            0, place, torch.arange(len(ids), device=ids.device), "amin"
        )
        return logits[first], labels[first], unique


class Score(StoredLogits):
    """A score of all predictions as a torchmetrics metric, for a training loop of one's own.

    Neither the size of the batches, nor the number of processes, nor a sampler that repeats
    samples to fill its last batch changes the value, as long as ids tell samples apart. Without
    ids every row counts, which is right for one process and a loader that repeats nothing.

    Args:
        function: Maps (N, K) logits and their labels to a scalar, such as
            :func:`mixbench.metrics.ece`.

    Example:
        >>> from mixbench.metrics import topk
        >>> score = Score(topk)
        >>> for ids in ([0, 1], [2, 0]):  # image 0 comes twice
        ...     logits = torch.eye(3)[ids]
        ...     score.update(logits, torch.tensor([0, 1, 1])[ids], torch.tensor(ids))
        >>> score.compute()
        tensor(66.6667, dtype=torch.float64)
        >>> score.reset()
        >>> score.update(torch.eye(3), torch.tensor([0, 1, 1]))
        >>> score.compute()
        tensor(66.6667, dtype=torch.float64)
    """

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def compute(self) -> Tensor:  # type: ignore[override]
        """The score of all distinct samples."""
        logits, labels, _ = super().compute()
        return self.function(logits, labels)
