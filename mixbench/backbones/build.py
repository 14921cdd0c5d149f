"""A network by its name, also one that is somebody else's code."""

import inspect
from typing import Any

import torch
from torch import nn

from mixbench.backbones.base import with_max_pool
from mixbench.config.names import NETS
from mixbench.config.schema import DataInfo, NetConfig
from mixbench.errors import UserError

_REMEDY = "give a function or class of (NetConfig, DataInfo) that returns an nn.Module"


def build_net(config: NetConfig, info: DataInfo) -> Any:
    """Build a network.

    Args:
        config: Its name and settings.
        info: Facts of the data.

    Returns:
        An ``nn.Module``.

    Raises:
        UserError: If the name is unknown, or is ``module:attribute`` of something that builds no
            network from these two, or the network cannot be pooled as ``config.pool`` says.
    """
    net = _built(config, info)
    return with_max_pool(net) if config.pool == "max" else net


def _built(config: NetConfig, info: DataInfo) -> Any:
    builder = NETS.get(config.name)
    if not NETS.names_code(config.name):
        return builder(config, info)
    where = f"net={config.name}"
    try:
        inspect.signature(builder).bind(config, info)
    except (TypeError, ValueError) as error:
        raise UserError(f"{config.name} cannot build a network: {error}", where, _REMEDY) from error
    with NETS.guarded(config.name, "cannot be built", _REMEDY):
        net = builder(config, info)
    if not isinstance(net, nn.Module):
        what = f"{config.name} returned {type(net).__name__}, which is not an nn.Module"
        raise UserError(what, where, _REMEDY)
    return net


def check_logits(net: nn.Module, config: NetConfig, info: DataInfo) -> None:
    """Refuse a network of somebody else's code that turns two images into anything but logits.

    No random number is drawn from torch's global source, and the network stays in its mode.

    Args:
        net: The network, on the CPU.
        config: Its name and settings; networks of mixbench are not tried.
        info: Facts of the data.

    Raises:
        UserError: If it fails on images (2, C, H, W), or returns no tensor (2, K).
    """
    if not NETS.names_code(config.name):
        return
    shape, wanted = (2, info.channels, info.height, info.width), (2, info.num_classes)
    where = f"net={config.name}"
    todo = f"take normalised images {shape} and return logits {wanted}"
    training = net.training
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            found = net.eval()(torch.zeros(shape))
    except Exception as error:  # of somebody else's code
        what = f"{config.name} fails on images {shape}: {type(error).__name__}: {error}"
        raise UserError(what.splitlines()[0], where, todo) from error
    finally:
        net.train(training)
    if not isinstance(found, torch.Tensor):
        raise UserError(
            f"{config.name} returns {type(found).__name__} instead of a tensor", where, todo
        )
    if tuple(found.shape) != wanted:
        what = f"{config.name} returns {tuple(found.shape)} for images {shape}"
        raise UserError(what, where, todo)
