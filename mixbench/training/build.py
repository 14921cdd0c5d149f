"""From a configuration to its parts: identity, method, network, loaders, device."""

import dataclasses
import time

import torch
from lightning.pytorch import seed_everything
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mixbench.backbones.build import build_net
from mixbench.config.compose import method_defaults, settings_of, to_plain
from mixbench.config.names import DATA, METHODS
from mixbench.config.schema import DataInfo, RunConfig, keys_not_in_identity
from mixbench.data.augment.images import operations
from mixbench.data.images import Splits
from mixbench.data.loaders import MixData
from mixbench.data.maps import read_test_maps
from mixbench.data.sampling import INIT, mix_seed
from mixbench.data.source import DataSource
from mixbench.errors import UserError
from mixbench.evaluation.patches import Looking
from mixbench.evaluation.suites import check_attacks, check_classes
from mixbench.methods.base import Method
from mixbench.records.identity import Identity, InputFile, identify, is_checkpoint
from mixbench.records.weights import input_file, load_weights
from mixbench.training.requirements import check_pair


def identify_run(
    config: RunConfig,
    inputs: dict[str, InputFile] | None = None,
    source: DataSource | None = None,
) -> Identity:
    """Id and hashes of a run.

    Args:
        config: A composed configuration.
        inputs: The files that it starts from, by key; looked up where they lie now if None.
        source: Its data, whose files are then read once for all that asks for their hash.

    Returns:
        What :func:`mixbench.records.identity.identify` makes of it and of its data.

    Raises:
        UserError: If the method cannot work with such data, before any of it is looked for.
    """
    check_task(config)
    data = DATA.get(config.data.kind)(config.data) if source is None else source
    defaults = to_plain(RunConfig(method=method_defaults(config)))
    return identify(
        to_plain(config),
        defaults,
        keys_not_in_identity(),
        data.full_name,
        data.identity(),
        input_files(config) if inputs is None else inputs,
    )


def input_files(config: RunConfig) -> dict[str, InputFile]:
    """Files of weights and maps that a run starts from or uses.

    A method's key that is not declared in ``files`` names one all the same where it names the
    checkpoint of a run.

    Args:
        config: A composed configuration.

    Returns:
        The files by dotted key.

    Raises:
        UserError: If there is no such file or finished run.
    """
    found: dict[str, InputFile] = {}
    if config.net.weights is not None:
        found["net.weights"] = input_file(config.net.weights)
    own = config.method
    nested = {name: value for name, value in own.items() if isinstance(value, dict)}
    parts = {own["name"]: ("method", own)}
    parts |= {name: (f"method.{name}", value) for name, value in nested.items()}
    for name, (prefix, keys) in parts.items():
        declared = METHODS.get(name).files
        for key, value in keys.items():
            checkpoint = isinstance(value, str) and is_checkpoint(value)
            if value is not None and (key in declared or checkpoint):
                found[f"{prefix}.{key}"] = input_file(value, f"{prefix}.{key}")
    return found


def check_task(config: RunConfig) -> None:
    """Refuse data that the method cannot work with, before any of it is looked for.

    Args:
        config: A composed configuration.

    Raises:
        UserError: With the methods that can.
    """
    cls, kind = METHODS.get(config.method["name"]), DATA.get(config.data.kind)
    _check_task(config, cls, kind.task, f"data={config.data.kind}")


def _check_task(config: RunConfig, cls: type[Method], kind: str, data: str) -> None:
    """Refuse a method that does not learn what is asked for from such data."""
    name, ssl = config.method["name"], config.task == "ssl"
    if (without := "ssl" in cls.tasks) != ssl:
        able = [known for known in METHODS.table if ("ssl" in METHODS.get(known).tasks) == ssl]
        raise UserError(
            f"method {name} trains with{'out' if without else ''} labels",
            f"task={config.task}",
            f"methods that can: {', '.join(able)}",
        )
    if ssl and kind != "multiclass":
        raise UserError(
            "task=ssl judges features by a classification, one label for each image",
            f"{data}, which is {kind}",
            "use other data",
        )
    if not ssl and kind not in cls.tasks:
        able = [known for known in METHODS.table if kind in METHODS.get(known).tasks]
        raise UserError(
            f"method {name} needs {' or '.join(sorted(cls.tasks))} data",
            f"{data}, which is {kind}",
            f"methods that can: {', '.join(able)}",
        )


def check_choice(config: RunConfig) -> None:
    """Refuse what cannot be carried out, before any data is read.

    Args:
        config: A composed configuration.

    Raises:
        UserError: If the method cannot work with the network, with those that it can, an
            augmentation is not at hand, or an attack is unknown.
    """
    operations(config.data)
    check_attacks(config.eval.attacks)
    name = config.method["name"]
    check_pair(name, settings_of(config), config.net.name)


def incompatibility(config: RunConfig) -> str:
    """Why a method cannot be trained with its network and data; empty if it can.

    Args:
        config: A composed configuration.

    Returns:
        The reason in one line.
    """
    try:
        check_task(config)
        check_choice(config)
    except UserError as error:
        return f"{error.what} ({error.where})"
    return ""


def build(
    config: RunConfig, splits: Splits, rank: int = 0, world: int = 1
) -> tuple[Method, MixData]:
    """The method around its network, and the loaders.

    Args:
        config: A composed configuration.
        splits: Its data.
        rank: This process among ``world``.
        world: Number of processes that train together.

    Returns:
        Both, with the same weights for equal seeds on any device.

    Raises:
        UserError: If the method cannot work with this network or task, or ``net.weights`` do not
            fit the network.
    """
    cls = METHODS.get(config.method["name"])
    settings = settings_of(config)
    seed_everything(mix_seed(INIT, config.seed) % 2**32, verbose=False)
    net = build_net(config.net, splits.info)
    if config.net.weights is not None:
        load_weights(net, config.net.weights)
    check_pair(
        config.method["name"], settings, config.net.name, getattr(net, "provides", frozenset())
    )
    _check_task(config, cls, splits.info.task, f"data {splits.info.name}")
    config = with_safe_layout(config, net)
    method = cls(net, splits.info, settings, config, rank=rank)
    data = MixData(splits, config, method.wrap_dataset, rank, world)
    method.total_steps = config.epochs * data.steps_per_epoch
    if config.trainer.channels_last:
        method = method.to(memory_format=torch.channels_last)
    return method, data


def with_safe_layout(config: RunConfig, net: nn.Module) -> RunConfig:
    """Do without ``trainer.channels_last`` where a gradient would be written out of bounds.

    On the CPU, oneDNN's weight gradient of a 1x1 convolution with a stride and 8 input channels
    corrupts memory in that layout for images of 64 pixels and more (torch 2.15 with AVX-512: a
    segmentation fault or worse); 4, 12 and 16 channels are fine.

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


def training_device(config: RunConfig) -> torch.device:
    """Where a run computes; never the CPU when a GPU was asked for.

    Args:
        config: Reads ``trainer.accelerator``.

    Returns:
        CPU or the current GPU.

    Raises:
        UserError: If a GPU is asked for and there is none.
    """
    wanted = config.trainer.accelerator
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError(
            "no GPU is present", "trainer.accelerator=gpu", "use trainer.accelerator=cpu"
        )
    present = torch.cuda.device_count()
    if config.devices > present:
        raise UserError(
            f"devices={config.devices} asked for and {present} present",
            "devices",
            f"use devices={present}, or trainer.accelerator=cpu",
        )
    return torch.device("cuda")


def estimate_seconds(config: RunConfig, info: DataInfo) -> float:
    """Time that a run will take, from a few training steps of its network.

    Args:
        config: A composed configuration.
        info: Facts of its data.

    Returns:
        Seconds of training, without start-up and evaluation.
    """
    cls = METHODS.get(config.method["name"])
    device = training_device(config)
    net = build_net(config.net, info).to(device)
    x = torch.randn(config.batch_size, info.channels, info.height, info.width, device=device)
    y = torch.zeros(config.batch_size, dtype=torch.long, device=device)
    if with_safe_layout(config, net).trainer.channels_last:
        net, x = (
            net.to(memory_format=torch.channels_last),
            x.contiguous(memory_format=torch.channels_last),
        )
    best = float("inf")
    for _ in range(3):
        started = time.perf_counter()
        nn.functional.cross_entropy(net(x), y).backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    steps = config.epochs * max(1, info.train_size // config.batch_size)
    settings = settings_of(config)
    return getattr(settings, "cost", cls.cost) * best * steps


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


def check_fit(config: RunConfig, splits: Splits) -> None:
    """Refuse data and batches that no method can train on.

    Args:
        config: A composed configuration.
        splits: Its data.

    Raises:
        UserError: If there is one class only, a process would get single images, an attack needs
            more classes, or ``eval.saliency`` or ``eval.gaze`` does not fit the test images.
    """
    info = splits.info
    if info.task == "multiclass" and "adversarial" in config.eval.suites:
        check_classes(config.eval.attacks, info)
    if "salience" in config.eval.suites and config.eval.saliency is not None:
        Looking(config.eval.saliency, None, info)
    if "gaze" in config.eval.suites and config.eval.gaze is not None:
        read_test_maps(config.eval.gaze, splits)
    labels = splits.train.labels
    classes = labels.unique() if labels.ndim == 1 else (labels == 1).any(dim=0).nonzero()
    present = len(classes)
    if info.num_classes < 2 or present < 2:
        raise UserError(
            f"{info.name} has {present} class with training images",
            "data",
            "training needs at least two",
        )
    micro_batch = min(config.batch_size, info.train_size) // (
        config.optim.accumulate * config.world
    )
    if micro_batch < 2:
        raise UserError(
            f"batches of {micro_batch} image: batch normalisation needs at least 2",
            "batch_size",
            "use a larger batch_size, more images, or fewer optim.accumulate and devices",
        )
