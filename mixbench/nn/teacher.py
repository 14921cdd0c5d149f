"""Networks that are not trained themselves: one that follows another, and frozen ones."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def second_head(head: nn.Module) -> nn.Module:
    """Another head of the same kind, with weights of its own.

    Args:
        head: Head of a network.

    Returns:
        A copy whose parts are initialised anew.
    """
    other = copy.deepcopy(head)
    for part in other.modules():
        if callable(reset := getattr(part, "reset_parameters", None)):
            reset()
    return other


class Teacher(nn.Module):
    """A copy of a network and of a second head, whose weights follow those of the trained ones.

    Only parameters follow. Statistics of normalisation layers come from the teacher's own passes.

    Args:
        net: The trained network.
        mix_head: Its head for mixed images.
    """

    def __init__(self, net: nn.Module, mix_head: nn.Module) -> None:
        super().__init__()
        self.net: Any = copy.deepcopy(net)
        self.mix_head = copy.deepcopy(mix_head)
        self.requires_grad_(False)

    @torch.no_grad()
    def features(self, x: Tensor, layer: int) -> Tensor:
        """Feature map of a layer, which a mixer sees.

        Args:
            x: (B, C, H, W) normalised images.
            layer: Its number, from 1 on.

        Returns:
            (B, C, h, w) features; tokens of patches lie on their grid.
        """
        h = self.net.forward_stages(x, stop=layer)
        if h.ndim == 3:
            h = self.net.tokens(h).transpose(1, 2).unflatten(2, self.net.grid(x))
        return h

    @torch.no_grad()
    def update(self, net: nn.Module, mix_head: nn.Module, decay: float) -> None:
        """Move towards the trained network.

        Args:
            net: The trained network.
            mix_head: Its head for mixed images.
            decay: Share of the old weights that is kept.
        """
        own: list[Tensor] = list(self.parameters())
        trained: list[Tensor] = [*net.parameters(), *mix_head.parameters()]
        torch._foreach_lerp_(own, trained, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]


def freeze(module: nn.Module) -> None:
    """Keep a module bit by bit as it is, whatever passes through it.

    Its normalisation layers still use the statistics of the batch while it is in training mode, but
    do not write them down; in eval mode they use those that they have.

    Args:
        module: The module; no part of it needs a gradient afterwards.
    """
    module.requires_grad_(False)
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.track_running_stats = False


class UnregisteredModule(nn.Module):
    """A network that is used and moves along, but is no part of what is trained or saved.

    Its owner has no parameters of it: none to decay, average, reduce between processes or write to
    every checkpoint. It stays in eval mode.

    Args:
        module: The network; no part of it needs a gradient afterwards.
    """

    module: Any

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        module.eval().requires_grad_(False)
        self.__dict__["module"] = module  # past registration

    def _apply(self, fn: Any, recurse: bool = True) -> "UnregisteredModule":
        self.module._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Outputs of the network, without gradients."""
        with torch.no_grad():
            return self.module(*args, **kwargs)


@contextmanager
def frozen_eval(net: nn.Module) -> Iterator[None]:
    """Use a network without a trace: in eval mode and without gradients.

    Args:
        net: The network; each of its modules has its own mode back afterwards.

    Yields:
        Nothing.
    """
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode
