"""Members of a choice: their settings, what they may bring along, and what they share."""

import math
from dataclasses import InitVar, dataclass, fields
from typing import Any

from mixbench.config.names import METHODS
from mixbench.config.schema import DataConfig
from mixbench.config.settings import setting
from mixbench.errors import UserError, near_match
from mixbench.methods.base import MIXES_LABELS, Method
from mixbench.methods.evaluation import normalizes_by_channel


@dataclass
class ChoiceConfig(Method.Config):
    """Settings of a choice."""

    members: list[str] = setting(["mixup", "cutmix"], "methods to draw from")
    probs: list[float] | None = setting(None, "shares of the members; null: equal")
    settings: InitVar[dict[str, Any] | None] = None  # of each member, by its name

    def __post_init__(self, settings: dict[str, Any] | None) -> None:
        super().__post_init__()
        check_shares(self.members, self.probs)
        self.of = member_configs(self.members, settings or {})
        probs = self.probs or [1.0] * len(self.members)
        self.shares = [prob / sum(probs) for prob in probs]

    def check_run(self, name: str, data: DataConfig) -> None:
        """Refuse members that lack a file."""
        del name
        for member, config in self.of.items():
            try:
                config.check_run(member, data)
            except UserError as error:
                where, todo = (
                    text.replace("method.", f"method.{member}.", 1)
                    for text in (error.where, error.todo)
                )
                raise UserError(error.what, where, todo) from error

    @property
    def cost(self) -> float:
        """Mean step time relative to plain training."""
        pairs = zip(self.shares, self.members, strict=True)
        return sum(share * METHODS.get(name).cost for share, name in pairs)

    @property
    def requires(self) -> frozenset[str]:
        """Abilities of the network that any member needs."""
        return frozenset().union(*(config.requires for config in self.of.values()))

    @property
    def fidelity(self) -> str:
        """Not from a paper."""
        return "variant"


def check_shares(members: list[str], probs: list[float] | None) -> None:
    """Refuse members that cannot be drawn."""
    if not members or len(set(members)) < len(members):
        raise ValueError(f"method.members must name methods, each once, got {list(members)}")
    fits = probs is None or (len(probs) == len(members) and min(probs) >= 0 < sum(probs) < math.inf)
    if not fits:
        raise ValueError(
            f"method.probs must give each of {len(members)} members a share >= 0, not all of them "
            f"0, got {list(probs or ())}"
        )


def member_configs(members: list[str], settings: dict[str, Any]) -> dict[str, Any]:
    """The ``Config`` of each member with its own keys; the defaults of what is not given."""
    for name in settings.keys() - set(members):
        raise ValueError(f"method.settings holds {name!r}, which is not among method.members")
    found = {}
    for name in members:
        where, given = f"method.members={list(members)}", settings.get(name, {})
        if METHODS.names_code(name):
            todo = "name a method that is registered, by an entry point or mixbench.register"
            raise UserError(f"{name!r} is not a registered name", where, todo)
        cls = METHODS.get(name)
        known = [item.name for item in fields(cls.Config)]
        if "members" in known or not cls.tasks & MIXES_LABELS:
            raise UserError(f"{name} cannot be a member of method=choice", where, "leave it out")
        for key in given.keys() - set(known):
            hint = near_match(key, known) or f"its keys: {', '.join(known)}"
            raise ValueError(f"unknown key method.{name}.{key}; {hint}")
        try:
            found[name] = cls.Config(**given)
        except ValueError as error:
            raise ValueError(str(error).replace("method.", f"method.{name}.")) from error
        if name in settings:  # not yet where a configuration is put together
            refuse_alone(name, found[name], members)
        if found[name].own_dataset:
            raise UserError(*wrong_dataset(name, members))
    return found


def refuse_alone(name: str, config: Any, members: list[str]) -> None:
    """Refuse a member whose settings do not allow others beside it."""
    if config.alone:
        todo = f"set its keys method.{name}.<key> otherwise, or leave it out"
        raise UserError(f"{name} {config.alone}", f"method.members={list(members)}", todo)


def wrong_dataset(name: str, members: list[str]) -> tuple[str, str, str]:
    """Message about a member that does not train on the images of the others."""
    what, where = (
        f"{name} needs another training set than the other members",
        f"method.members={members}",
    )
    return what, where, f"change its keys method.{name}.<key>, or leave it out"


def check_built(built: dict[str, Method]) -> list[str]:
    """Refuse members that want the whole step for themselves; names those with a product."""
    where = f"method.members={list(built)}"
    for name, member in built.items():
        refuse_alone(name, member.config, list(built))
        if not normalizes_by_channel(member):
            raise UserError(f"{name} normalises images in its own way", where, f"leave {name} out")
        if type(member).training_step is not Method.training_step:
            raise UserError(f"{name} has training steps of its own", where, f"leave {name} out")
    products = [
        name
        for name, m in built.items()
        if type(m).forward is not Method.forward or m.tested is not m.net
    ]
    if len(products) > 1:
        what = f"{' and '.join(products)} each test a network of their own"
        raise UserError(what, where, "keep one of them")
    return products


def adopt(member: Method, owner: Method) -> None:
    """Let a member use network, statistics, generators and clock of its owner.

    They are set past registration, or the network would be saved once for each member.
    """
    for name in ("net", "mean", "std"):
        member._modules.pop(name, None)
        member._buffers.pop(name, None)
    names = ("net", "mean", "std", "generator", "shared_generator", "step", "total_steps")
    vars(member).update({name: getattr(owner, name) for name in names})
