"""Which method can train which network, from what both declare; no data is read."""

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, get_type_hints

from mixbench.config.names import METHODS, NETS
from mixbench.errors import UserError


@dataclass
class Pairs:
    """What a method needs with its default settings, and where it finds it.

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
    """What a network provides, read from the class that its function says it returns.

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
    missing = frozenset() if have is None else settings.requires - have
    if missing:
        declared = {name: _declared(name) for name in NETS.names()}
        fitting = [n for n, have in declared.items() if have and settings.requires <= have]
        raise UserError(
            f"method {method} needs {', '.join(sorted(missing))}",
            f"net={net}",
            f"networks here that have what it needs: {', '.join(fitting) or 'none'}",
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
        missing = {n: None if p is None else sorted(needs - p) for n, p in have.items()}
        rows.append(Pairs(name, sorted(cls.tasks), missing))
    return rows


def _declared(net: str) -> frozenset[str] | None:
    """What a network says it provides; nothing for a plug-in that cannot be imported."""
    with contextlib.suppress(UserError):
        return provided(net)
    return None
