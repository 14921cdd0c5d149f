"""Averaged weights: kept beside those that are trained, and what is tested in the end."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn

from mixbench.nn.schedules import warm_decay

_Tables = list[Mapping[str, Tensor | None]]


class EMA(WeightAveraging):
    """Exponential moving average of weights and of normalisation statistics.

    Args:
        decay: Share of the old average that an update keeps, after warm-up.
    """

    def __init__(self, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self._tables: tuple[_Tables, _Tables] | None = None

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Make the copy; its counter stays on the host, where reading it waits for nothing."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit" and self._average_model is not None:
            self._tables = None
            self._average_model.n_averaged = self._average_model.n_averaged.cpu()

    @property
    def averaged(self) -> nn.Module:
        """The copy of the method that holds the averages."""
        assert self._average_model is not None
        return self._average_model.module

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Let the averages follow each step."""
        if trainer.global_step > self._latest_update_step:
            self.follow(pl_module)
            self._latest_update_step = trainer.global_step

    @torch.no_grad()
    def follow(self, method: nn.Module) -> None:
        """Let the averages follow a step; PyTorch's own way copies its counter to the device.

        Args:
            method: The method after the step.
        """
        assert self._average_model is not None
        first = not self._average_model.n_averaged
        if self._tables is None:
            self._tables = _tables(self.averaged), _tables(method)
        groups: dict[torch.dtype, list[tuple[Tensor, Tensor]]] = {}
        for averaged, current in zip(*map(_values, self._tables), strict=True):
            groups.setdefault(averaged.dtype, []).append((averaged, current))
        for kind, pairs in groups.items():
            averaged, current = map(list, zip(*pairs, strict=True))
            if first or not kind.is_floating_point:
                torch._foreach_copy_(averaged, current)  # pyright: ignore[reportPrivateImportUsage]
            else:
                weight = 1 - warm_decay(self.decay, self._latest_update_step)
                torch._foreach_lerp_(averaged, current, weight)  # pyright: ignore[reportPrivateImportUsage]
        self._average_model.n_averaged += 1


def _tables(module: nn.Module) -> _Tables:
    """Where the parts of a module keep values; to find the parts takes longer than to average."""
    parts = list(module.modules())
    return [table for part in parts for table in (part._parameters, part._buffers)]


def _values(tables: _Tables) -> Iterable[Tensor]:
    """Weights and buffers, each of them once."""
    return dict.fromkeys(value for table in tables for value in table.values() if value is not None)
