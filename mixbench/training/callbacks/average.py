"""Averaged weights: kept beside those that are trained, and what is tested in the end."""

from typing import Any

import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor

from mixbench.nn.schedules import warm_decay


class EMA(WeightAveraging):
    """Exponential moving average of weights and of normalisation statistics.

    Args:
        decay: Share of the old average that an update keeps, after warm-up.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(multi_avg_fn=self._average)
        self.decay = decay

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Make the copy; its counter stays on the host, where reading it waits for nothing."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit" and self._average_model is not None:
            self._average_model.n_averaged = self._average_model.n_averaged.cpu()

    @torch.no_grad()
    def _average(self, averaged: Any, current: Any, count: Tensor | int) -> None:
        del count  # on the device by now; the same number is known here
        if averaged[0].is_floating_point():
            weight = 1 - warm_decay(self.decay, self._latest_update_step)
            torch._foreach_lerp_(averaged, current, weight)  # pyright: ignore[reportPrivateImportUsage]
        else:
            torch._foreach_copy_(averaged, current)  # pyright: ignore[reportPrivateImportUsage]
