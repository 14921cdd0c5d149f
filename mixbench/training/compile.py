"""Compiled training of a network, stage by stage, with the plain one to fall back on.

A stage is a whole function without randomness, so that a method which cuts the network anywhere
still meets compiled code, and a random layer costs no recompilation.
"""

import logging
from typing import Any

import torch
from torch import nn

log = logging.getLogger("mixbench")
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
        reason = str(error).strip().splitlines()
        log.warning(
            "torch.compile failed, the network runs as it is: %s: %s",
            type(error).__name__,
            reason[0] if reason else "",
        )
        return False
    finally:
        net.train(training)
        net.zero_grad(set_to_none=True)
        with torch.no_grad():
            for name, value in net.named_buffers():
                value.copy_(state[name])
    return True
