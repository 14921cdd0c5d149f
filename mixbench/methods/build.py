"""Methods for use outside of a run: in a notebook, a script, a test."""

from typing import Any

from torch import nn

from mixbench.backbones import NETS
from mixbench.methods import METHODS
from mixbench.methods.base import Method
from mixbench.schema import DataInfo, NetConfig, RunConfig


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
        UserError: If a name is unknown.
        TypeError: If a setting is no key of the method.
        ValueError: If a setting is out of range.

    Example:
        >>> method = build_method("cutmix", alpha=0.5)
        >>> method.config.alpha
        0.5
    """
    cls = METHODS.get(name) if isinstance(name, str) else name
    info = info or DataInfo(num_classes=10, height=32, width=32)
    if isinstance(net, str):
        net = NETS.get(net)(NetConfig(name=net), info)
    assert isinstance(net, nn.Module)
    return cls(net, info, cls.Config(**settings), run, total_steps)
