"""The update of an optimiser in two parts: without, and with, numbers that change by the step.

A graph of a device holds every number of the host fast. Momenta need only such as a run keeps; the
learning rate and AdamW's corrections for its start are others at every step. Both parts together
are the operations of PyTorch's optimisers, in their order for each weight: the same bits.

To have the changing numbers in tensors would not give these. SGD rounds a weight and its step once;
a product with a tensor is rounded by itself, and ``addcmul``, which does not, takes a kernel for
each weight in place of one for all. AdamW's last operation multiplies and divides in another order
on a CPU than on a GPU, so that no operations with a tensor would be equal to it on both. And it
takes a launch to bring a number to the device, as it does to scale all weights of a group by it.
"""

# pyright: reportPrivateImportUsage=false
# PyTorch's own optimisers are made of torch._foreach_*, which it does not export.

from abc import ABC, abstractmethod
from collections.abc import Hashable
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer

# Settings of a group that both parts take for granted, those of build_optimizer.
ASSUMED = {
    "foreach": True,
    "fused": None,
    "maximize": False,
    "differentiable": False,
    "dampening": 0,
    "amsgrad": False,
    "capturable": False,
    "decoupled_weight_decay": True,
}


class GroupUpdate(ABC):
    """Update of a parameter group, by the gradients that its weights have when it is made.

    Args:
        group: The group.
        weights: Those of its parameters that have a gradient.
        states: Their states, of a step that was taken before.
    """

    def __init__(
        self, group: dict[str, Any], weights: list[Tensor], states: list[dict[str, Tensor]]
    ) -> None:
        self.group, self.weights, self.states = group, weights, states
        self.gradients = [cast(Tensor, weight.grad) for weight in weights]
        self.directions: list[Tensor] = []  # what the first part leaves for the second

    @staticmethod
    @abstractmethod
    def frozen(group: dict[str, Any]) -> tuple[Hashable, ...]:
        """Settings of a group that the first part reads, which a graph of it holds fast."""

    @abstractmethod
    def follow(self) -> None:
        """The first part."""

    @abstractmethod
    def move(self) -> None:
        """The second part."""

    def _of_states(self, key: str) -> list[Tensor]:
        return [state[key] for state in self.states]


class SGDUpdate(GroupUpdate):
    """That of SGD: all but the learning rate comes first."""

    @staticmethod
    def frozen(group: dict[str, Any]) -> tuple[Hashable, ...]:
        """Weight decay, momentum, and whether it is Nesterov's."""
        return group["weight_decay"], group["momentum"], group["nesterov"]

    def follow(self) -> None:
        """Let the momenta follow."""
        decay, momentum = self.group["weight_decay"], self.group["momentum"]
        found = self.gradients
        if decay:
            found = list(torch._foreach_add(found, self.weights, alpha=decay))
        if momentum:
            momenta = self._of_states("momentum_buffer")
            torch._foreach_mul_(momenta, momentum)
            torch._foreach_add_(momenta, found, alpha=1)
            if self.group["nesterov"]:
                torch._foreach_add_(found, momenta, alpha=momentum)
            else:
                found = momenta
        self.directions = found

    def move(self) -> None:
        """Take the step."""
        torch._foreach_add_(self.weights, self.directions, alpha=-self.group["lr"])


class AdamWUpdate(GroupUpdate):
    """That of AdamW: both momenta, and the root of the second, come first."""

    @staticmethod
    def frozen(group: dict[str, Any]) -> tuple[Hashable, ...]:
        """Both betas."""
        return tuple(group["betas"])

    def follow(self) -> None:
        """Let the momenta follow."""
        first, second = self.group["betas"]
        squares = self._of_states("exp_avg_sq")
        torch._foreach_lerp_(self._of_states("exp_avg"), self.gradients, 1 - first)
        torch._foreach_mul_(squares, second)
        torch._foreach_addcmul_(squares, self.gradients, self.gradients, 1 - second)
        self.directions = list(torch._foreach_sqrt(squares))

    def move(self) -> None:
        """Count the step, whose number lies on the host, and take it."""
        (first, second), lr, decay = (self.group[key] for key in ("betas", "lr", "weight_decay"))
        counts = self._of_states("step")
        torch._foreach_add_(counts, torch.tensor(1.0, device="cpu"), alpha=1.0)
        done = torch.stack(counts).tolist()
        if decay:
            torch._foreach_mul_(self.weights, 1 - lr * decay)
        torch._foreach_div_(self.directions, [(1 - second**count) ** 0.5 for count in done])
        torch._foreach_add_(self.directions, self.group["eps"])
        sizes = [-(lr / (1 - first**count)) for count in done]
        torch._foreach_addcdiv_(self.weights, self._of_states("exp_avg"), self.directions, sizes)


KINDS: dict[type[Optimizer], type[GroupUpdate]] = {SGD: SGDUpdate, AdamW: AdamWUpdate}


class Update:
    """Update of all weights that have a gradient when it is made.

    Args:
        optimizer: One that :func:`is_divisible`; it has taken a step with these gradients before,
            so that it has momenta.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        kind = KINDS[type(optimizer)]
        self._groups: list[GroupUpdate] = []
        for group in optimizer.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            states = [optimizer.state.get(weight, {}) for weight in weights]
            self._groups += [kind(group, weights, states)] if weights else []

    @torch.no_grad()
    def follow_gradients(self) -> None:
        """The first part: let the momenta follow."""
        for group in self._groups:
            group.follow()

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """The second part, called in place of ``optimizer.step()``: move the weights.

        Args:
            closure: None; Lightning gives it to every optimiser.
        """
        del closure
        for group in self._groups:
            group.move()


def is_divisible(optimizer: Optimizer) -> bool:
    """Whether the update of an optimiser is known in two parts.

    Args:
        optimizer: The optimiser.

    Returns:
        True for SGD and AdamW with the settings of :data:`ASSUMED`.
    """
    assumed = [
        group.get(key, value) == value
        for group in optimizer.param_groups
        for key, value in ASSUMED.items()
    ]
    return type(optimizer) in KINDS and all(assumed)


def frozen_settings(optimizer: Optimizer) -> tuple[Hashable, ...]:
    """What a graph of the first part of an update holds fast.

    Args:
        optimizer: One that :func:`is_divisible`.

    Returns:
        Settings of each group that the first part reads.
    """
    kind = KINDS[type(optimizer)]
    return tuple(kind.frozen(group) for group in optimizer.param_groups)
