"""Compiled parts of training, with the plain ones to fall back on.

A stage of a network is a whole function without randomness, so that a method which cuts the network
anywhere still meets compiled code, and a random layer costs no recompilation. So is what makes
network input of stored pixels: its decisions are drawn before it is called, and come as tensors.
"""

import logging
from typing import Any

import torch
from torch import nn

from mixbench.data.augment.batches import to_device_of
from mixbench.methods.base import Method
from mixbench.methods.image_mix import ImageMix

log = logging.getLogger("mixbench")
# Optimiser steps from which on auto compiles the input on a device: to compile takes seconds, and
# spares some ten microseconds for each of a dozen short kernels of a step.
LONG_RUN = 20_000
GRAPHS = 64  # stages share one code object and with it one limit, 8 by default


def compile_stages(net: nn.Module, x: torch.Tensor, autocast: Any) -> bool:
    """Compile every stage of a network in place, if that works here.

    Args:
        net: A network with ``stages``, on the device where it will be trained.
        x: (B, C, H, W) a batch of the shape of training.
        autocast: Context of the training precision.

    Returns:
        True if the stages are compiled; False, after one warning, if they stay as they were.
    """
    stages = getattr(net, "stages", None)
    if stages is None:
        log.warning("%s has no stages to compile; it runs as it is", type(net).__name__)
        return False
    torch._dynamo.config.recompile_limit = max(GRAPHS, torch._dynamo.config.recompile_limit)
    state = {name: value.clone() for name, value in net.named_buffers()}
    training = net.training
    net.train()
    for stage in stages:
        stage.compile(fullgraph=True)  # a part that is left out would be no compiled stage
    if not any(p.requires_grad for p in net.parameters()):  # frozen, with a gradient for its input
        x = x.detach().requires_grad_()
    try:
        with autocast:
            net(x).float().sum().backward()
    except Exception as error:
        for stage in stages:
            stage._compiled_call_impl = None
        _warn("the network runs", error)
        return False
    finally:
        net.train(training)
        net.zero_grad(set_to_none=True)
        with torch.no_grad():
            for name, value in net.named_buffers():
                value.copy_(state[name])
    return True


def wants_compiled_input(method: Method, device: torch.device) -> bool:
    """Whether a run compiles what makes its network input.

    Args:
        method: The method of the run; reads ``trainer.compile_input``.
        device: Where it trains.

    Returns:
        What the key says; by ``auto`` True for long runs on a device.
    """
    word = method.run.trainer.compile_input
    made_elsewhere = not (method.task.labelled and method.augments)  # as views, observations
    if made_elsewhere or word == "never":
        return False
    return word == "always" or (device.type != "cpu" and method.total_steps >= LONG_RUN)


def compile_input(method: Method, rows: int, autocast: Any, augmented: bool = False) -> bool:
    """Compile crop, mirror, normalisation and, where it can be, mixing in place, if that works.

    Args:
        method: The method, on the device where it is trained.
        rows: Images of a batch.
        autocast: Context of the training precision.
        augmented: Batches come cropped and mirrored: only what follows is compiled.

    Returns:
        True if they are compiled; False, after one warning, if they stay as they were.
    """
    info, device = method.info, method.device
    shape = (rows, info.channels, info.height, info.width)
    offsets = torch.zeros(rows, 2, dtype=torch.long, device=device)
    given = torch.zeros(shape, dtype=torch.uint8, device=device), offsets, offsets[:, 0] > 0
    given = given[:1] if augmented else given
    targets = torch.zeros(rows, info.num_classes, device=device)
    try:
        method.augmented = torch.compile(method.augmented, fullgraph=True)
        with autocast:
            method.augmented(*given)
            if isinstance(method, ImageMix) and method.mixes_whole:
                decided = method.decide(rows, shape[2:])
                if decided is not None:
                    whole = torch.compile(method.augmented_mix, fullgraph=True)
                    moved = to_device_of(targets, *decided.values())
                    whole(*given, targets=targets, **dict(zip(decided, moved, strict=True)))
                    method.compiled_mix = whole
    except Exception as error:
        vars(method).pop("augmented", None)  # the method's own is found again
        _warn("augmentation runs", error)
        return False
    return True


def _warn(what: str, error: Exception) -> None:
    reason = str(error).strip().splitlines()
    told = reason[0] if reason else ""
    log.warning("torch.compile failed, %s as it is: %s: %s", what, type(error).__name__, told)
