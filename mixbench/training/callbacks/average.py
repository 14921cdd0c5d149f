"""Averaged weights: kept beside those that are trained, and what is tested in the end."""

from itertools import chain
from typing import Any

import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn

from mixbench.nn.schedules import warm_decay


class EMA(WeightAveraging):
    """Exponential moving average of weights and of normalisation statistics.

    Args:
        decay: Share of the old average that an update keeps, after warm-up.
    """

    def __init__(self, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self._parts: tuple[_Parts, _Parts] | None = None

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Make the copy; its counter stays on the host, where reading it waits for nothing."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit" and self._average_model is not None:
            self._parts = None
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
            method: The method after the step. Another part or value in place of one that it had is
                averaged from then on.

        Raises:
            RuntimeError: It has more or fewer weights and buffers than its average.
        """
        assert self._average_model is not None
        first = not self._average_model.n_averaged
        if self._parts is None:
            self._parts = _Parts(self.averaged), _Parts(method)
        held, given = (parts.values() for parts in self._parts)
        if len(held) != len(given):
            raise RuntimeError(
                f"The method has {len(given)} weights and buffers, but {len(held)} are averaged. "
                "Make all of them before training starts, or train with optim.ema=null."
            )
        groups: dict[torch.dtype, list[tuple[Tensor, Tensor]]] = {}
        for averaged, current in zip(held, given, strict=True):
            groups.setdefault(averaged.dtype, []).append((averaged, current))
        for kind, pairs in groups.items():
            averaged, current = map(list, zip(*pairs, strict=True))
            if first or not kind.is_floating_point:
                torch._foreach_copy_(averaged, current)  # pyright: ignore[reportPrivateImportUsage]
            else:
                weight = 1 - warm_decay(self.decay, self._latest_update_step)
                torch._foreach_lerp_(averaged, current, weight)  # pyright: ignore[reportPrivateImportUsage]
        self._average_model.n_averaged += 1


class _Parts:
    """The parts of a module, found again when one of them has other children.

    To find them takes longer than to average; to compare the children does not.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._find()

    def _find(self) -> None:
        self._all = list(self._module.modules())
        self._children = self._children_now()

    def _children_now(self) -> list[nn.Module | None]:
        return list(chain.from_iterable([part._modules.values() for part in self._all]))

    def values(self) -> list[Tensor]:
        """Weights and buffers that the module has now, each of them once."""
        if self._children_now() != self._children:
            self._find()
        tables = [table for part in self._all for table in (part._parameters, part._buffers)]
        found = [value for table in tables for value in table.values() if value is not None]
        return list(dict.fromkeys(found))
