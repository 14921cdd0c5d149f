"""Methods for use outside of a run: in a notebook, a script, a test."""

import inspect
from typing import Any

from torch import nn

from mixbench.backbones.build import build_net
from mixbench.config.names import METHODS
from mixbench.config.schema import DataInfo, NetConfig, RunConfig
from mixbench.errors import UserError, near_match
from mixbench.methods.base import Method


def build_method(
    name: str | type[Method],
    net: str | nn.Module = "preactresnet18",
    info: DataInfo | None = None,
    *,
    run: RunConfig | None = None,
    total_steps: int = 1,
    **settings: Any,
) -> Method:
    """Build a method around a network.

    Args:
        name: Registered name, ``module:Class``, or the class itself.
        net: A network, or a registered name for one of default settings.
        info: Facts of the data; 10 classes of 32x32 RGB images if None.
        run: Optimiser, augmentation and seed; their defaults if None.
        total_steps: Optimiser steps of the whole run.
        **settings: The method's own keys, such as ``alpha=0.5``.

    Returns:
        A LightningModule that is ready for ``Trainer.fit``, or for its hooks to be called.

    Raises:
        UserError: If a name, or a key of the method, is unknown.
        TypeError: If the network is neither a name nor a module.
        ValueError: If a setting is out of range.

    Example:
        >>> method = build_method("cutmix", alpha=0.5)
        >>> method.config.alpha
        0.5
    """
    cls = METHODS.get(name) if isinstance(name, str) else name
    info = info or DataInfo(num_classes=10, height=32, width=32)
    if isinstance(net, str):
        net = build_net(NetConfig(name=net), info)
    if not isinstance(net, nn.Module):
        raise TypeError(f"net must be an nn.Module or a name, got {type(net).__name__}")
    known = [item.name for item in inspect.signature(cls.Config).parameters.values()]
    for key in settings:
        if key not in known:
            shown = name if isinstance(name, str) else cls.__name__
            hint = near_match(key, known)
            raise UserError(
                f"unknown key {key} of method {shown}" + (f"; {hint}" if hint else ""),
                "build_method",
                f"its keys: {', '.join(known) or 'none'}",
            )
    return cls(net, info, cls.Config(**settings), run, total_steps)
