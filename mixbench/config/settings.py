"""Fields of settings: type, default, range, meaning and origin of a key in one place.

``alpha: float = setting(1.0, "Beta(alpha, alpha) of the kept share", above=0, official=1.0)``
"""

import copy
import math
from collections.abc import Collection, Container, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from typing import Any, ClassVar


@dataclass(frozen=True)
class Above:
    """All numbers above a bound and no null, as values of ``only_when``."""

    bound: float

    def __contains__(self, value: Any) -> bool:
        return value is not None and value > self.bound


@dataclass(frozen=True)
class Below:
    """All numbers below a bound and no null, as values of ``only_when``."""

    bound: float

    def __contains__(self, value: Any) -> bool:
        return value is not None and value < self.bound


@dataclass(frozen=True)
class OtherThan:
    """All values but one, as values of ``only_when``."""

    value: Any

    def __contains__(self, value: Any) -> bool:
        return value != self.value


@dataclass(frozen=True)
class SettingInfo:
    """Facts of a field beside its type and default; each has its meaning in :func:`setting`."""

    meaning: str = ""
    above: float | None = None
    at_least: float | None = None
    below: float | None = None
    at_most: float | None = None
    also: float | str | None = None
    options: tuple[Any, ...] = ()
    ends: bool = False
    official: Any = None
    only_when: Mapping[str, Container[Any]] | None = None
    identity: bool = True

    @property
    def allowed(self) -> str:
        """Values allowed, such as ``> 0``, ``in [0, 1]`` or ``a, b or c``; empty if any is."""
        if self.options:
            *first, last = map(str, self.options)
            return f"{', '.join(first)} or {last}" if first else last
        low, high = _first(self.above, self.at_least), _first(self.below, self.at_most)
        if low is not None and high is not None:
            ends = "[" if self.above is None else "(", "]" if self.below is None else ")"
            text = f"in {ends[0]}{low}, {high}{ends[1]}"
        elif low is not None:
            text = f"{'>=' if self.above is None else '>'} {low}"
        else:
            text = "" if high is None else f"{'<=' if self.below is None else '<'} {high}"
        return text if self.also is None else f"{text} or {self.also}"

    def check(self, key: str, value: Any) -> None:
        """Require an allowed value.

        Args:
            key: Config key for the message.
            value: Its value, or one item of a list.

        Raises:
            ValueError: If the value is not allowed.
        """
        if self.options:
            if value not in self.options:
                words = ", ".join(map(str, self.options))
                raise ValueError(f"{key} must be one of {words}, got {value!r}")
            return
        if not self.allowed or (self.also is not None and value == self.also):
            return
        fits = (
            not isinstance(value, str)
            and math.isfinite(value)
            and (self.above is None or value > self.above)
            and (self.at_least is None or value >= self.at_least)
            and (self.below is None or value < self.below)
            and (self.at_most is None or value <= self.at_most)
        )
        if not fits:
            text = self.allowed.replace(" or ", " or be ")
            finite = "" if isinstance(self.also, str) else " and finite"
            text = f"lie {text}" if text.startswith("in ") else f"be {text}{finite}"
            raise ValueError(f"{key} must {text}, got {value}")


def setting(
    default: Any,
    meaning: str,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
    within: tuple[float, float] | None = None,
    also: float | str | None = None,
    one_of: Collection[Any] = (),
    ends: bool = False,
    official: Any = None,
    only_when: Mapping[str, Container[Any]] | None = None,
    identity: bool = True,
) -> Any:
    """A dataclass field of a :class:`Settings` class.

    Args:
        default: Its default; each object gets its own copy of a list or dict.
        meaning: Meaning and unit, as ``mixbench info`` prints it.
        above: The value is larger than this. All limits hold for each item of a list, and not for
            a null that the annotation allows.
        at_least: Smallest value.
        below: The value is smaller than this.
        at_most: Largest value.
        within: Smallest and largest value, in short.
        also: One number outside of these limits, or a word, that is allowed, too.
        one_of: Values allowed.
        ends: The value is a list of two, the smallest and the largest of what is drawn.
        official: Value of the authors, or a text that tells it.
        only_when: Other keys, and the values of each for which this one has an effect. They are
            whole keys of the configuration: ``method.prob`` of the same method, or ``task``.
        identity: False for a key that says how or where a run is carried out, not what is computed.

    Returns:
        The field.
    """
    at_least, at_most = (at_least, at_most) if within is None else within
    limits = {"above": above, "at_least": at_least, "below": below, "at_most": at_most}
    told = {"official": official, "only_when": only_when, "identity": identity}
    info = SettingInfo(meaning, also=also, options=tuple(one_of), ends=ends, **limits, **told)
    metadata = {"setting": info}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: copy.deepcopy(default), metadata=metadata)
    return field(default=default, metadata=metadata)


class Settings:
    """Base of the dataclasses of settings, which checks each field when an object is made.

    A class that also checks how its fields fit together extends ``__post_init__``.
    """

    prefix = ""  # of the keys in messages, such as `data.`
    # What the fields need, as `only_when` of each, but for the deciders and `unconditional` ones.
    only_when: ClassVar[Mapping[str, Container[Any]]] = {}
    unconditional: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        for item in fields(self):  # type: ignore[arg-type]  # each subclass is a dataclass
            value, info = getattr(self, item.name), info_of(item)
            if value is None and "None" in str(item.type):
                continue
            several: Any = value if isinstance(value, list | tuple) else (value,)
            if info.ends and not (len(several) == 2 and several[0] <= several[1]):
                what = "must be [smallest, largest]"
                raise ValueError(f"{self.prefix}{item.name} {what}, got {list(several)}")
            for each in several:
                info.check(f"{self.prefix}{item.name}", each)


def info_of(item: Field[Any]) -> SettingInfo:
    """Facts of a field; none of a field that was not made by :func:`setting`."""
    return item.metadata.get("setting", SettingInfo())


def default_of(item: Field[Any]) -> Any:
    """Default of a field."""
    return item.default if item.default_factory is MISSING else item.default_factory()


def type_of(item: Field[Any]) -> str:
    """Type of a field as its source spells it."""
    return item.type.__name__ if type(item.type) is type else str(item.type)


def walk(cls: Any, prefix: str = "") -> Iterator[tuple[str, Field[Any]]]:
    """Dotted keys of a settings class with their fields, those of nested classes in their place.

    Args:
        cls: The class.
        prefix: Path of the class in the configuration, with a dot behind it.

    Yields:
        Key and field.
    """
    for item in fields(cls):
        if is_dataclass(item.default_factory):
            yield from walk(item.default_factory, f"{prefix}{item.name}.")
        else:
            yield f"{prefix}{item.name}", item


def conditions_of(cls: Any, prefix: str = "") -> list[tuple[str, str, Container[Any]]]:
    """Keys of a settings class that another key can switch off.

    Args:
        cls: The class.
        prefix: As for :func:`walk`.

    Returns:
        The key, the key that decides, and the values of that for which the first has an effect.
    """
    found = []
    for item in fields(cls):
        if is_dataclass(item.default_factory):
            found += conditions_of(item.default_factory, f"{prefix}{item.name}.")
            continue
        free = item.name in cls.unconditional or f"{cls.prefix}{item.name}" in cls.only_when
        known = ({} if free else dict(cls.only_when)) | dict(info_of(item).only_when or {})
        found += [(f"{prefix}{item.name}", decider, values) for decider, values in known.items()]
    return found


def _first(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)
