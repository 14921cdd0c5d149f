"""Logits and labels of a whole split, gathered over processes by torchmetrics."""

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class StoredLogits(Metric):
    """Keeps what every score needs, so that all are computed from the same numbers.

    A sample that several processes saw counts once: rows are told apart by their id.
    """

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        for name in ("logits", "labels", "ids"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, logits: Tensor, labels: Tensor, ids: Tensor) -> None:
        """Add a batch: logits (B, K), labels (B,) or (B, K), ids (B,)."""
        for name, value in (("logits", logits.float()), ("labels", labels), ("ids", ids)):
            getattr(self, name).append(value.detach())

    def compute(self) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (N, K), labels and ids (N,), one row per sample, in the order of the ids."""
        logits, labels, ids = (
            dim_zero_cat(getattr(self, name)) for name in ("logits", "labels", "ids")
        )
        unique, place = torch.unique(ids, return_inverse=True)
        first = torch.full_like(unique, len(ids)).scatter_reduce_(
            0, place, torch.arange(len(ids), device=ids.device), "amin"
        )
        return logits[first], labels[first], unique
