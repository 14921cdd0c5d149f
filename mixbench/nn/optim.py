"""Optimisers and learning-rate schedules by name."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.sgd import sgd

from mixbench.config.schema import OptimConfig
from mixbench.errors import UserError

BLOCK = 1 << 17  # values of each tensor: with gradient, momentum and a sum 2 MB in all


def decay_groups(module: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """Trainable parameters with and without weight decay.

    Args:
        module: A network.
        config: Reads ``decay_all``.

    Returns:
        One group of weights, and one of biases, normalisation parameters and what the network
        lists in ``no_decay``, without decay; everything in one group under ``decay_all``. Empty
        groups are left out.
    """
    exempt = getattr(module, "no_decay", frozenset())
    decayed, others = [], []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            plain = parameter.ndim > 1 and name.rpartition(".")[2] not in exempt
            (decayed if config.decay_all or plain else others).append(parameter)
    groups = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def slower_backbone(
    groups: list[dict[str, Any]], net: nn.Module, config: OptimConfig, lr: float
) -> list[dict[str, Any]]:
    """Parameter groups with a lower learning rate for all but the classifier of a network.

    Args:
        groups: Groups of the network's parameters.
        net: The network, with its classifier in ``head``.
        config: Reads ``backbone_lr`` and ``min_lr``.
        lr: The recipe's peak learning rate.

    Returns:
        The groups divided, those of the classifier in front and at the recipe's rate.

    Raises:
        UserError: If the network has no ``head``.
    """
    head = getattr(net, "head", None)
    if not isinstance(head, nn.Module):
        raise UserError(
            f"{type(net).__name__} has no head, and so no backbone beside it",
            f"optim.backbone_lr={config.backbone_lr:g}",
            "remove it, or call the classifier of the network head",
        )
    own = {id(parameter) for parameter in head.parameters()}
    rate = {"lr": lr * config.backbone_lr, "min_lr": config.min_lr * config.backbone_lr}
    found = []
    for of_head in (True, False):
        for group in groups:
            members = [p for p in group["params"] if (id(p) in own) == of_head]
            found.append(group | {"params": members} | ({} if of_head else rate))
    return [group for group in found if group["params"]]


def build_optimizer(
    groups: list[dict[str, Any]], config: OptimConfig, lr: float
) -> torch.optim.Optimizer:
    """The optimiser of a recipe over a method's parameter groups.

    Args:
        groups: Groups that may carry their own ``lr``, ``weight_decay`` and ``momentum``; what is
            absent comes from the recipe. ``min_lr`` is read by the schedule.
        config: The recipe's optimiser.
        lr: The recipe's peak learning rate.

    Returns:
        SGD or AdamW; both update many parameters of a group at once, the same bits as one by one.
        PyTorch's fused kernels are left alone: on a CPU they take the memory of a gradient for laid
        out as its weight, whatever it is, and Lightning refuses to clip for them under bf16.
    """
    decay, together = config.weight_decay, {"lr": lr, "foreach": True}
    if config.name == "adamw":
        groups = [
            {**{k: v for k, v in group.items() if k != "momentum"}}
            | {"betas": (group.get("momentum", config.momentum), 0.999)}
            for group in groups
        ]
        return torch.optim.AdamW(groups, weight_decay=decay, **together)
    momentum = config.momentum
    nesterov = config.nesterov and momentum > 0
    kind = {"momentum": momentum, "nesterov": nesterov, "weight_decay": decay}
    return BlockSGD(groups, **kind, **together)


class BlockSGD(torch.optim.SGD):
    """SGD whose step on a CPU takes the weights in blocks that stay in a core's cache.

    An update is five operations, each of which would move all weights through memory. The bits,
    the state and the settings are those of :class:`torch.optim.SGD`.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Update all parameters that have a gradient.

        Args:
            closure: Computes the loss and the gradients, if given.

        Returns:
            What ``closure`` returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            names = [
                "weight_decay",
                "momentum",
                "lr",
                "dampening",
                "nesterov",
                "maximize",
                "foreach",
            ]
            settings = {name: group[name] for name in names}
            known, new = [], []
            for parameter in group["params"]:
                if parameter.grad is not None:
                    momentum = self.state.get(parameter, {}).get("momentum_buffer")
                    row = (parameter, parameter.grad, momentum)
                    (new if momentum is None else known).append(row)
            for block in _blocks(known):
                sgd(*map(list, zip(*block, strict=True)), **settings)  # type: ignore[call-arg]
            if new:
                parameters, gradients, momenta = map(list, zip(*new, strict=True))
                sgd(parameters, gradients, momenta, **settings)
                for parameter, momentum in zip(parameters, momenta, strict=True):
                    if momentum is not None:  # there is one
                        self.state[parameter]["momentum_buffer"] = momentum
        return loss


def _blocks(rows: Sequence[tuple[Tensor, ...]]) -> Iterator[list[tuple[Tensor, ...]]]:
    """Tensors of equal shape by tuples, large ones cut, in blocks of about ``BLOCK`` values each.

    What lies on another device than a CPU is one block.
    """
    block, values = [], 0
    for row in rows:
        size, on_cpu = row[0].numel(), row[0].device.type == "cpu"
        step = max(1, BLOCK * len(row[0]) // size) if on_cpu and size > BLOCK else None
        for piece in [row] if step is None else zip(*(t.split(step) for t in row), strict=True):
            count = piece[0].numel() if on_cpu else 0
            if block and values + count > BLOCK:
                yield block
                block, values = [], 0
            block.append(piece)
            values += count
    if block:
        yield block


def apply_settings(
    state: dict[str, Any], clock: dict[str, Any], configured: dict[str, Any]
) -> None:
    """Give a saved optimiser and schedule the settings that are configured now.

    Beside momenta and the number of steps, their states hold the settings of the run that saved
    them, which would win over those of a run that goes on otherwise.

    Args:
        state: State dict of the optimiser; it is changed.
        clock: State dict of its schedule; it is changed.
        configured: Optimiser and schedule as a method configures them, with the same groups.
    """
    fresh, scheduler = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    clock["base_lrs"] = list(scheduler.base_lrs)
    factors = [factor(clock["last_epoch"]) for factor in scheduler.lr_lambdas]
    clock["_last_lr"] = [
        base * factor for base, factor in zip(scheduler.base_lrs, factors, strict=True)
    ]
    for saved, group, lr in zip(
        state["param_groups"], fresh.param_groups, clock["_last_lr"], strict=True
    ):
        saved |= {key: value for key, value in group.items() if key != "params"} | {"lr": lr}


def schedule(
    config: OptimConfig, lr: float, min_lr: float, total_steps: int, epochs: int
) -> Callable[[int], float]:
    """Factor on the peak learning rate at every optimiser step.

    Args:
        config: Reads ``schedule``, ``milestones``, ``gamma`` and ``warmup_epochs``.
        lr: Peak learning rate of the group.
        min_lr: Learning rate at which cosine and onecycle end.
        total_steps: Optimiser steps of the whole run.
        epochs: Epochs of the whole run.

    Returns:
        A function of the steps done so far.
    """
    warmup = round(total_steps * config.warmup_epochs / epochs)
    if config.schedule == "onecycle" and config.warmup_epochs == 0:
        warmup = round(0.3 * total_steps)
    drops = [round(total_steps * share) for share in config.milestones]
    floor = min_lr / lr

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        if config.schedule == "constant":
            return 1.0
        if config.schedule == "step":
            return config.gamma ** sum(step >= drop for drop in drops)
        done = min(1.0, (step - warmup) / max(1, total_steps - warmup))
        return floor + (1 - floor) * (1 + math.cos(math.pi * done)) / 2

    return factor
