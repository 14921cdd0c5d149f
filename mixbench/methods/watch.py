"""What becomes of the loss between two looks at it, kept on the device."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

NEVER = torch.iinfo(torch.int64).max


class LossWatch:
    """Sum of the losses of an epoch, and the first batch whose loss was not finite.

    Adding waits for nothing; asking for a result makes the device catch up.
    """

    def __init__(self) -> None:
        self._sum, self._count = torch.zeros(()), 0
        self._bad = torch.full((), NEVER)

    def add(self, loss: Tensor, position: int) -> None:
        """Take in the loss of a batch.

        Args:
            loss: Scalar.
            position: Batches of the whole run before this one.
        """
        loss = loss.detach()
        self._sum = self._sum.to(loss.device, non_blocking=True) + loss
        self._count += 1
        bad = self._bad.to(loss.device, non_blocking=True)
        self._bad = torch.where(loss.isfinite(), bad, bad.clamp(max=position))

    def mean(self) -> Tensor:
        """Mean loss since :meth:`restart`."""
        return self._sum / max(1, self._count)

    def restart(self) -> None:
        """Begin a new epoch; a loss that was not finite stays known."""
        self._sum, self._count = torch.zeros(()), 0

    def first_bad(self) -> int | None:
        """Position of the first batch whose loss was not finite."""
        position = int(self._bad)
        return None if position == NEVER else position

    def state(self, gather: Callable[[Tensor], Tensor]) -> dict[str, Any]:
        """Plain state for a checkpoint, with the sum of each process.

        Args:
            gather: Stacks a tensor over the processes.
        """
        return {"sums": gather(self._sum).reshape(-1).cpu(), "count": self._count}

    def load(self, state: dict[str, Any], rank: int) -> None:
        """Go on from :meth:`state`; with another number of processes, from the mean of the sums."""
        sums = state["sums"]
        self._sum = sums[rank] if rank < len(sums) else sums.mean()
        self._count = state["count"]
