"""Inference: the outputs of a method for the batches of a loader.

Test, hold-out, the test score of each epoch, and judging a finished run again all come through
:meth:`mixbench.methods.base.Method.validation_step` into :class:`Outputs`; a loop of Lightning adds
its batches itself, all others are :func:`infer`.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from mixbench.data.images import Batch
from mixbench.metrics import StoredLogits


class Outputs:
    """Logits, labels and ids of an evaluation, and logits of other heads.

    Args:
        device: Where they are kept.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = device
        self.main = StoredLogits().to(device)
        self.heads: dict[str, StoredLogits] = {}

    def add(self, found: dict[str, Any]) -> None:
        """Keep what a validation step returned for a batch."""
        labels, ids = found["y"], found["ids"]
        self.main.update(found["logits"], labels, ids)
        for name, logits in found["extra"].items():
            if name not in self.heads:
                self.heads[name] = StoredLogits().to(self.device)
            self.heads[name].update(logits, labels, ids)

    def compute(self) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (N, K), labels and ids (N,) of all processes, in the order of the ids."""
        logits, labels, ids = self.main.compute()
        # Of a single image, torchmetrics makes scalars of what holds one number.
        return logits, torch.atleast_1d(labels), torch.atleast_1d(ids)

    def extra(self) -> dict[str, Tensor]:
        """Logits (N, K) of other heads by name, in the same order."""
        return {name: stored.compute()[0] for name, stored in self.heads.items()}


def on_device(method: Any, batches: Iterable[Batch]) -> Iterator[Batch]:
    """Batches where a method computes.

    Args:
        method: The method.
        batches: The batches, wherever they are.

    Yields:
        The same batches on its device.
    """
    for batch in batches:
        yield method.transfer_batch_to_device(batch, method.device, 0)


@torch.no_grad()
def infer(
    method: Any,
    batches: Iterable[Batch],
    step: Callable[[Batch, int], Any] | None = None,
) -> Outputs:
    """Run a method over the batches of a loader.

    Args:
        method: The method in eval mode.
        batches: The batches, wherever they are.
        step: Computes in place of ``method.validation_step``, and returns what that returns.

    Returns:
        The outputs, on the method's device.
    """
    outputs = Outputs(method.device)
    compute = method.validation_step if step is None else step
    for number, batch in enumerate(on_device(method, batches)):
        outputs.add(compute(batch, number))
    return outputs
