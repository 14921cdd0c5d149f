"""The method around its network and the loaders of a job, and what they cost."""

import dataclasses
import time

import torch
from lightning.pytorch import seed_everything
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mixbench.backbones.adapters import pretrained_file
from mixbench.backbones.build import build_net, check_logits
from mixbench.config.names import METHODS
from mixbench.config.schema import DataInfo, RunConfig
from mixbench.data.images import Splits
from mixbench.data.loaders import MixData
from mixbench.data.sampling import INIT, mix_seed
from mixbench.methods.base import Method
from mixbench.methods.distillation import Distillation
from mixbench.records.weights import load_weights
from mixbench.training.job import Job, training_device
from mixbench.training.requirements import check_pair


def build(job: Job, splits: Splits, rank: int = 0, world: int = 1) -> tuple[Method, MixData]:
    """The method around its network, and the loaders.

    Args:
        job: What is asked for.
        splits: Its data.
        rank: This process among ``world``.
        world: Number of processes that train together.

    Returns:
        Both, with the same weights for equal seeds on any device.

    Raises:
        UserError: If the network turns out to lack what the method needs, or ``net.weights`` do
            not fit it.
    """
    config = job.config
    seed_everything(mix_seed(INIT, config.seed) % 2**32, verbose=False)
    net = build_net(config.net, splits.info)
    if job.task.classifies:
        check_logits(net, config.net, splits.info)
    if config.net.weights is not None:
        load_weights(net, config.net.weights)
    elif config.net.pretrained:
        load_weights(net, str(pretrained_file(config.net.name)))
    # The function of a plug-in may not say beforehand what its network provides.
    check_pair(job.name, job.settings, config.net.name, getattr(net, "provides", frozenset()))
    config = with_safe_layout(config, net)
    with METHODS.guarded(job.name, "cannot be built"):
        method = job.method(net, splits.info, job.settings, config, rank=rank)
        method.use_data(splits)
    if config.distill is not None:
        method.distillation = Distillation(method, config)
    data = MixData(splits, config, method.wrap_dataset, rank, world, method.takes_augmented)
    method.total_steps = config.epochs * data.steps_per_epoch
    if config.trainer.channels_last:
        method = method.to(memory_format=torch.channels_last)
    return method, data


def with_safe_layout(config: RunConfig, net: nn.Module) -> RunConfig:
    """Turn ``trainer.channels_last`` off where a gradient would be written out of bounds.

    On the CPU, oneDNN's weight gradient of a 1x1 convolution with a stride and 8 input channels
    corrupts memory in that layout for images of 64 pixels and more (torch 2.15 with AVX-512: a
    segmentation fault or worse); 4, 12 and 16 channels are fine. A small network of four stages
    with such a convolution also broke on batches of seven images of 16 pixels.

    Args:
        config: A composed configuration.
        net: Its network.

    Returns:
        The configuration, with the plain layout where such a convolution is in the network.
    """
    risky = any(
        isinstance(module, nn.Conv2d)
        and module.kernel_size == (1, 1)
        and module.stride != (1, 1)
        and module.in_channels == 8
        for module in net.modules()
    )
    if not risky or training_device(config).type != "cpu":
        return config
    return dataclasses.replace(
        config, trainer=dataclasses.replace(config.trainer, channels_last=False)
    )


def estimate_seconds(job: Job, info: DataInfo) -> float:
    """Time that a run will take, from a few training steps of its network.

    Args:
        job: What is asked for.
        info: Facts of its data.

    Returns:
        Seconds of training, without start-up and evaluation.
    """
    config, device = job.config, job.device
    net = build_net(config.net, info).to(device)
    shape = (info.channels, info.height, info.width)
    if not job.task.classifies:
        shape = (config.net.latent,)
    x = torch.randn(config.batch_size, *shape, device=device)
    y = torch.zeros(config.batch_size, dtype=torch.long, device=device)
    if with_safe_layout(config, net).trainer.channels_last:
        net, x = (
            net.to(memory_format=torch.channels_last),
            x.contiguous(memory_format=torch.channels_last),
        )
    best = float("inf")
    for _ in range(3):
        started = time.perf_counter()
        out = net(x)
        loss = nn.functional.cross_entropy(out, y) if job.task.classifies else out.mean()
        loss.backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    steps = config.epochs * max(1, info.train_size // config.batch_size)
    return job.method.step_cost(job.settings) * best * steps


def multiply_adds(method: Method) -> int:
    """Multiply-adds of one forward pass of one image."""
    info = method.info
    counter = FlopCounterMode(display=False)
    training = method.training
    method.eval()
    with torch.no_grad(), counter:
        method(torch.zeros(1, info.channels, info.height, info.width, device=method.mean.device))
    method.train(training)
    return counter.get_total_flops() // 2
