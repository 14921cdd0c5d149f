"""Requirements of a run: methods against tasks and networks, data against methods."""

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, get_type_hints

from mixbench.backbones.base import StagedNet
from mixbench.config.names import METHODS, NETS, TASKS
from mixbench.config.schema import NetConfig, RunConfig
from mixbench.data.images import Splits
from mixbench.errors import UserError, counted
from mixbench.evaluation.suite import Suite
from mixbench.methods.base import Method
from mixbench.tasks.base import Task, check_data, find_task

LOGITS = "logits"  # of classes, which all networks give but those that make images:
GENERATES = "latent"


@dataclass
class Pairs:
    """Tasks and networks that a method works with in its default settings.

    Attributes:
        method: Name of the method.
        tasks: Tasks that it can be trained on.
        missing: For each network, what it lacks; empty where the two work together, None where the
            network does not say what it provides.
    """

    method: str
    tasks: list[str]
    missing: dict[str, list[str] | None]


def provided(net: str) -> frozenset[str] | None:
    """Features that a network provides, read from the class that its function says it returns.

    Args:
        net: Registered name, or ``module:function``.

    Returns:
        Its ``provides``, or None where it does not say. A function that stands for many networks
        has a ``provides(net)`` of its own.

    Raises:
        UserError: If the name is unknown.
    """
    builder = NETS.get(net)
    if isinstance(builder, type):
        return getattr(builder, "provides", None)
    if hasattr(builder, "provides"):
        return builder.provides(net)
    try:
        returned = get_type_hints(builder).get("return")
    except (NameError, TypeError):  # annotations of a plug-in that cannot be read
        return None
    return getattr(returned, "provides", None)


def check_pair(method: str, settings: Any, net: str, have: frozenset[str] | None = None) -> None:
    """Refuse a network that lacks what a method needs.

    Args:
        method: Name of the method.
        settings: Its settings, an instance of its ``Config``.
        net: Name of the network.
        have: What the network provides; what it declares if None, and if it declares nothing, it
            is let through.

    Raises:
        UserError: With what is missing, and the networks that have it.
    """
    have = provided(net) if have is None else have
    missing = frozenset() if have is None else lacking(settings.requires, have)
    if missing:
        declared = {name: _declared(name) for name in NETS.names()}
        fitting = [n for n, p in declared.items() if p and not lacking(settings.requires, p)]
        todo = f"networks here that have what it needs: {', '.join(fitting) or 'none'}"
        if NETS.names_code(net) and missing <= StagedNet.provides:
            todo += "; one of your own has it if it derives from mixbench.backbones.base.StagedNet"
        raise UserError(f"method {method} needs {', '.join(sorted(missing))}", f"net={net}", todo)


def lacking(needs: frozenset[str], have: frozenset[str]) -> frozenset[str]:
    """Features that a method needs and a network lacks; a generator gives no logits of classes."""
    return frozenset({LOGITS}) if GENERATES in have - needs else needs - have


def check_pool(net: NetConfig) -> None:
    """Refuse pooling that a network is known not to have; others are asked once they are built.

    Args:
        net: Reads ``name`` and ``pool``.

    Raises:
        UserError: With the networks that have it.
    """
    have = provided(net.name)
    if net.pool == "avg" or have is None or "maps" in have:
        return
    fitting = [name for name in NETS.names() if "maps" in (_declared(name) or ())]
    raise UserError(
        f"the last layer of {net.name} is not a feature map whose maximum the classifier could "
        "read",
        f"net.pool={net.pool}",
        f"use net.pool=avg, or one of: {', '.join(fitting)}",
    )


def check_task(
    config: RunConfig, method: type[Method], settings: Any, kind: str, data: str
) -> Task:
    """The task of a run, if its method can learn it from such data.

    Args:
        config: A composed configuration.
        method: Class of its method.
        settings: The method's settings, an instance of its ``Config``.
        kind: Labels of its data.
        data: The data in words, for messages.

    Returns:
        The task.

    Raises:
        UserError: With the methods that can.
    """
    name, task = config.method["name"], find_task(config.task, kind)
    tasks = method.tasks_with(settings)
    own = (
        f"other settings of {name} do, see mixbench info {name}; "
        if task.name in (method.tasks - tasks)
        else ""
    )
    labelled = [_task(name).labelled for name in tasks]
    if task.labelled not in labelled:
        raise UserError(
            f"method {name} trains with{'out' if task.labelled else ''} labels",
            f"task={config.task}",
            f"methods that can: {_able(task.labelled)}",
        )
    check_data(task, kind, data)
    if task.name not in tasks:
        raise UserError(
            f"method {name} needs {' or '.join(sorted(tasks))} data",
            f"{data}, which is {kind}",
            f"{own}methods that can: {_able(task.name)}",
        )
    return task


def _task(name: str) -> Task:
    return TASKS.get(name)()


def _able(wanted: str | bool) -> str:
    """Methods that can learn a task of this name, or any task with or without labels."""
    known = {name: [_task(task) for task in _tasks(METHODS.get(name))] for name in METHODS.table}
    return ", ".join(
        name
        for name, tasks in known.items()
        if any(wanted in (task.name, task.labelled) for task in tasks)
    )


def pairs(methods: Iterable[str], nets: Iterable[str]) -> list[Pairs]:
    """The methods against the networks.

    Args:
        methods: Names of methods.
        nets: Names of networks.

    Returns:
        One row per method.
    """
    have = {net: _declared(net) for net in nets}
    rows = []
    for name in methods:
        cls = METHODS.get(name)
        needs = cls.Config().requires
        missing = {n: None if p is None else sorted(lacking(needs, p)) for n, p in have.items()}
        rows.append(Pairs(name, sorted(_tasks(cls)), missing))
    return rows


def _tasks(method: type[Method]) -> frozenset[str]:
    """Tasks that a method can learn in its default settings."""
    return method.tasks_with(method.Config())


def _declared(net: str) -> frozenset[str] | None:
    """Features that a network declares; None for a plug-in that cannot be imported."""
    with contextlib.suppress(UserError):
        return provided(net)
    return None


def check_splits(config: RunConfig, task: Task, suites: Iterable[Suite], splits: Splits) -> None:
    """Refuse data and batches that no method can train on.

    Args:
        config: A composed configuration.
        task: What is learned.
        suites: Judges of the trained network.
        splits: The data.

    Raises:
        UserError: If the labels are of another kind than the data set said, there is one class
            only, a process would get single images, or the settings of a suite do not fit the
            data.
    """
    info = splits.info
    check_data(task, info.task, f"data {info.name}")
    for suite in suites:
        if not suite.refusal(info):
            suite.check_data(splits)
    labels = splits.train.labels
    classes = labels.unique() if labels.ndim == 1 else (labels == 1).any(dim=0).nonzero()
    present = len(classes)
    if task.classifies and (info.num_classes < 2 or present < 2):
        raise UserError(
            f"{info.name} has training images of {counted(present, 'class')} only",
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
