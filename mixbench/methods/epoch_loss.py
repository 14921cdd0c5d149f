"""The loss of an epoch, summed up on the device."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

NEVER = torch.iinfo(torch.int64).max


class EpochLoss:
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

    def state(self, world: int) -> dict[str, Any]:
        """Plain state for a checkpoint, with the sum of each of ``world`` processes."""
        sums = [self._sum]
        if world > 1:
            sums = [torch.zeros_like(self._sum) for _ in range(world)]
            dist.all_gather(sums, self._sum)
        return {"sums": torch.stack(sums).cpu(), "count": self._count}

    def load(self, state: dict[str, Any], rank: int) -> None:
        """Go on from :meth:`state`; with another number of processes, from the mean of the sums."""
        sums = state["sums"]
        self._sum = sums[rank] if rank < len(sums) else sums.mean()
        self._count = state["count"]
