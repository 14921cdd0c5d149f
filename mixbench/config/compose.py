"""From a few words to a complete, checked :class:`RunConfig`.

The grammar is Hydra's: ``group=name`` picks ``experiments/<group>/<name>.yaml`` and ``a.b=c`` sets
a key. Later layers win: schema, data, net, method, recipe, command line.
"""

import copy
import dataclasses
import functools
import pickle
import warnings
from collections.abc import Collection, Container, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mixbench.config import yaml_files
from mixbench.config.names import CHOSEN_TASKS, METHODS, SUITES
from mixbench.config.overrides import (
    COMMAND_LINE,
    DEFAULT,
    NAMES,
    code_names,
    file_layers,
    flatten,
    refuse_code,
    refuse_place,
    saved_layer,
    split_overrides,
)
from mixbench.config.schema import RunConfig, conditions
from mixbench.config.settings import conditions_of, info_of, type_of
from mixbench.errors import UserError, near_match


@dataclass
class Composed:
    """A configuration with the origin of each of its values."""

    config: RunConfig
    origins: dict[str, str]
    notes: list[str] = field(default_factory=list)  # warnings; errors under --strict
    texts: dict[str, str] = field(default_factory=dict)  # values as they stand on the command line


def compose(
    overrides: str | Sequence[str] = "", *, strict: bool = False, base: Path | None = None
) -> RunConfig:
    """Build a complete configuration, the method's own keys included.

    Args:
        overrides: Words such as ``method=cutmix data=digits method.alpha=0.5 seed=1``, as one
            string or a list.
        strict: Refuse keys that have no effect instead of warning.
        base: A resolved configuration, as a run leaves it in ``config.yaml``, to start from.

    Returns:
        The checked configuration.

    Raises:
        UserError: On an unknown name or key, a wrong type, or a value out of range.
    """
    composed = resolve_method(compose_text(overrides, strict=strict, base=base), strict=strict)
    for note in composed.notes:
        warnings.warn(note, stacklevel=2)
    return composed.config


def compose_again(path: Path, overrides: str | Sequence[str] = "") -> tuple[RunConfig, RunConfig]:
    """The configuration that a run was carried out with, and what overrides make of it.

    Code that the file names is trusted in both where an override names it, too.

    Args:
        path: The run's ``config.yaml``.
        overrides: As for :func:`compose`.

    Returns:
        Both configurations, which may be equal.

    Raises:
        UserError: As :func:`compose`.
    """
    given = split_overrides(overrides)
    trusted = list(code_names(given).values())
    # Suites that are replaced are not imported.
    trusted += [f"{key}={text}" for key, text in given if key == "eval.suites"]
    return compose(trusted, base=path), compose(overrides, base=path)


def compose_text(
    overrides: str | Sequence[str] = "", *, strict: bool = False, base: Path | None = None
) -> Composed:
    """Build a configuration as far as possible without importing the method.

    Args:
        overrides: As for :func:`compose`.
        strict: Refuse keys that have no effect.
        base: A resolved configuration, as a run leaves it, in place of the experiment files.

    Returns:
        Configuration in which ``method`` holds the name and the keys given, unchecked.

    Raises:
        UserError: On an unknown name or key outside ``method``, a wrong type or range.
    """
    picks: dict[str, str] = {}
    given: dict[str, Any] = {}
    texts: dict[str, str] = {}
    surprises: dict[str, list[str]] = {}
    for key, text in split_overrides(overrides):
        if key in yaml_files.GROUPS:
            picks[key] = text
            continue
        if key in NAMES.values():
            group = key.split(".")[0]
            raise UserError(f"{key} is chosen by name", COMMAND_LINE, f"write {group}=NAME")
        given.pop(key, None)  # the last of equal keys counts, in its place
        words = key in _schema_keys() and _takes_words(_defaults(RunConfig), key)
        given[key], surprises[key] = yaml_files.parse(text, f"{COMMAND_LINE}, {key}", words=words)
        texts[key] = text
    # What a key of a method takes is known once that is imported.
    notes = [note for key in given if not key.startswith("method.") for note in surprises[key]]
    layers = list(file_layers(picks, notes)) if base is None else [saved_layer(base, picks)]
    trusted = code_names([*picks.items(), *given.items()])
    for origin, items in layers:
        refuse_code([item for item in items if item[0] not in given], origin, trusted)
        if base is None:
            refuse_place(items, origin)
    layers.append((COMMAND_LINE, list(given.items())))

    tree, known = _tree(RunConfig), _schema_keys()
    origins = dict.fromkeys(known, DEFAULT)
    for origin, items in layers:
        for key, value in items:
            _set(tree, key, value, origin, known, texts)
            origins[key] = origin
    if base is None:
        origins |= {NAMES[group]: COMMAND_LINE for group in picks}
    tree.auto = [key for key in tree.auto if origins.get(key) != COMMAND_LINE]
    config = _to_object(tree, origins)
    composed = Composed(config, origins, notes, texts)
    composed.notes += _idle(conditions(), config, given)
    if base is None:  # a finished run is judged by the suites that its keys ask for
        composed.notes += _unread(config, given)
    if strict and composed.notes:
        raise UserError(
            composed.notes[0], "--strict", "correct or remove the key, or leave out --strict"
        )
    return composed


def resolve_method(composed: Composed, *, strict: bool = False) -> Composed:
    """Import the method and check its own keys.

    Args:
        composed: Result of :func:`compose_text`.
        strict: Refuse keys that have no effect.

    Returns:
        The same with every key of the method filled in.

    Raises:
        UserError: On an unknown key of the method, a wrong type, or a value out of range.
    """
    name = composed.config.method["name"]
    settings, nested = _own_and_nested(composed)
    origins = {k: v for k, v in composed.origins.items() if not k.startswith("method.")}
    origins["method.name"] = composed.origins.get("method.name", DEFAULT)
    found = Composed(composed.config, origins, list(composed.notes), composed.texts)
    own = _own(name, "method", settings, composed.origins, found)
    known = _own_conditions(name, "method")
    for member in own.get("members", ()):
        prefix = f"method.{member}"
        own[member] = _own(member, prefix, nested.pop(member, {}), composed.origins, found)
        known += _own_conditions(member, prefix)
    for member, keys in nested.items():
        given = [f"method.{member}.{key}" for key in keys]
        found.notes += [  # a file may hold keys of members that were left out
            f"{key} has no effect, as {member} is not among method.members"
            for key in given
            if composed.origins.get(key) == COMMAND_LINE
        ]
    found.config = dataclasses.replace(composed.config, method={"name": name, **own})
    tasks = METHODS.get(name).tasks
    if origins.get("task", DEFAULT) == DEFAULT and tasks and tasks <= set(CHOSEN_TASKS):
        found.config = dataclasses.replace(found.config, task=min(tasks))
        origins["task"] = f"method {name}"
        known += conditions()  # which were looked at beside another task
    given = [key for key, origin in found.origins.items() if origin == COMMAND_LINE]
    found.notes += [n for n in _idle(known, found.config, given) if n not in found.notes]
    if strict and found.notes:
        raise UserError(
            found.notes[0], "--strict", "correct or remove the key, or leave out --strict"
        )
    return found


def check_method_keys(composed: Composed) -> None:
    """Refuse mistyped keys of the method that stand on the command line; values are not checked.

    A grid is checked so before its first run. The method is imported only if one of its keys is
    set.

    Args:
        composed: Result of :func:`compose_text`.

    Raises:
        UserError: On a key that no method has.
    """
    given = [key for key, origin in composed.origins.items() if origin == COMMAND_LINE]
    if any(key.startswith("method.") and key != NAMES["method"] for key in given):
        settings, _ = _own_and_nested(composed)
        _refuse_mistyped(composed.config.method["name"], settings, "method", composed.origins)


def _own_and_nested(composed: Composed) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """A method's own keys, and those of its members by member if it has any."""
    settings = dict(composed.config.method)
    nested: dict[str, dict[str, Any]] = {}
    if "members" in _keys(settings.pop("name")):
        nested = {key: value for key, value in settings.items() if isinstance(value, dict)}
    for member, keys in nested.items():
        _refuse_mistyped(member, keys, f"method.{member}", composed.origins)
    return {key: value for key, value in settings.items() if key not in nested}, nested


def _own(
    name: str, prefix: str, settings: dict[str, Any], given: dict[str, str], found: Composed
) -> dict[str, Any]:
    """All keys of a method, checked; origins and notes are added to what was found."""
    foreign = _refuse_mistyped(name, settings, prefix, given)
    found.notes += [f"{prefix}.{key} has no effect for method {name}" for key in foreign]
    tree = _tree(METHODS.get(name).Config)
    origins = {f"{prefix}.{key}": DEFAULT for key in _keys(name)}
    for key, value in settings.items():
        if key not in foreign:
            origins[f"{prefix}.{key}"] = origin = given.get(f"{prefix}.{key}", COMMAND_LINE)
            _assign(tree, key, value, f"{prefix}.{key}", origin, found.texts)
    found.origins |= origins
    for path in (prefix, *origins):
        if path in found.texts:  # as a prefix a mapping of a member's keys
            words = path in origins and _takes_words(tree, path.removeprefix(f"{prefix}."))
            text, where = found.texts[path], f"{COMMAND_LINE}, {path}"
            found.notes += yaml_files.parse(text, where, words=words)[1]
    return dataclasses.asdict(_to_object(tree, origins, f"{prefix}."))


def _own_conditions(name: str, prefix: str) -> list[tuple[str, str, Container[Any]]]:
    """Keys of a method that another key switches off, as they stand under a prefix."""
    own, found = {f"method.{key}": f"{prefix}.{key}" for key in _keys(name)}, []
    for key, decider, values in conditions_of(METHODS.get(name).Config):
        if decider not in own and decider not in _schema_keys():
            what = f"only_when of method.{key} names {decider}, which is no key"
            todo = "name method.<key> of the same method or a key that run --show prints"
            raise UserError(what, f"the Config of method {name}", todo)
        found.append((f"{prefix}.{key}", own.get(decider, decider), values))
    return found


def _refuse_mistyped(
    name: str, settings: dict[str, Any], prefix: str, given: dict[str, str]
) -> list[str]:
    """Refuse keys that no method has; returns those of other methods, without effect here."""
    known = _keys(name)
    unknown = [key for key in settings if key not in known]
    # Each built-in method is imported, which only a key that is unknown here is worth.
    others = {word for other in METHODS.table for word in _keys(other)} if unknown else set()
    for key in unknown:
        path, hint, todo = (
            f"{prefix}.{key}",
            near_match(key, known),
            f"its keys: {', '.join(known)}",
        )
        if isinstance(settings[key], dict):
            path, hint = f"{path}.{next(iter(settings[key]), '')}".rstrip("."), ""
            todo = "method keys are flat: method.<key>; only a choice has method.<member>.<key>"
        elif key in others:
            continue
        what = f"unknown key {path} of method {name}" + (f"; {hint}" if hint else "")
        raise UserError(what, given.get(path, COMMAND_LINE), todo)
    return unknown


def _keys(name: str) -> list[str]:
    return [item.name for item in dataclasses.fields(METHODS.get(name).Config)]


def settings_of(config: RunConfig) -> Any:
    """The method's settings as the typed object that it works with.

    Args:
        config: A composed configuration.

    Returns:
        An instance of the ``Config`` of the method's class.
    """
    return METHODS.get(config.method["name"]).Config(**method_settings(config))


def method_settings(config: RunConfig) -> dict[str, Any]:
    """The method's own keys without its name.

    Args:
        config: A composed configuration.

    Returns:
        Keyword arguments of the method's ``Config``.
    """
    own = {key: value for key, value in config.method.items() if key != "name"}
    members = {name: own.pop(name) for name in _members(config)}
    return own | ({"settings": members} if members else {})


def method_defaults(config: RunConfig) -> dict[str, Any]:
    """Defaults of the method's own keys, and of those of its members.

    Args:
        config: A composed configuration.

    Returns:
        The keys as they stand in ``config.method``, without the name.
    """
    own = dataclasses.asdict(METHODS.get(config.method["name"]).Config())
    return own | {n: dataclasses.asdict(METHODS.get(n).Config()) for n in _members(config)}


def _members(config: RunConfig) -> list[str]:
    """Members of a choice, by what is nested."""
    return [key for key, value in config.method.items() if isinstance(value, dict)]


def to_plain(config: RunConfig) -> dict[str, Any]:
    """A configuration as plain dicts, lists and scalars.

    Args:
        config: A composed configuration.

    Returns:
        Nested dict, fit for YAML, JSON and checkpoints.
    """
    return dataclasses.asdict(config)


def render(composed: Composed) -> str:
    """A configuration as YAML lines, each value with the place it came from.

    Args:
        composed: A configuration with origins.

    Returns:
        Text of several lines.
    """
    plain = to_plain(composed.config)
    lines = [f"{key}: {_show(value)}" for key, value in flatten(plain)]
    width = min(max(map(len, lines)), 60)
    keys = [key for key, _ in flatten(plain)]
    sources = [composed.origins.get(key, DEFAULT) for key in keys]
    return "\n".join(
        f"{line:<{width}}  # {source}" for line, source in zip(lines, sources, strict=True)
    )


def _tree(settings: type) -> DictConfig:
    """A class of settings at its defaults, to set values in."""
    if settings is RunConfig:  # which has so many keys that a copy of it would take a third of all
        return pickle.loads(_pickled_defaults())
    return copy.deepcopy(_defaults(settings))


@functools.cache
def _defaults(settings: type) -> DictConfig:
    """The same to copy: it takes five times as long to make as a copy of it."""
    return OmegaConf.structured(settings)


@functools.cache
def _pickled_defaults() -> bytes:
    return pickle.dumps(_defaults(RunConfig))


@functools.cache
def _schema_keys() -> tuple[str, ...]:
    return tuple(key for key, _ in flatten(OmegaConf.to_container(_defaults(RunConfig))))


def _show(value: Any) -> str:
    text = OmegaConf.to_yaml(OmegaConf.create({"v": value}))[2:].strip()
    return text if "\n" not in text else str(value)


def _set(
    tree: Any, key: str, value: Any, origin: str, known: Collection[str], texts: dict[str, str]
) -> None:
    head, _, rest = key.partition(".")
    if head == "method":
        member, _, own = rest.partition(".")
        if not member or "." in own:
            todo = "write method.<key>, or method.<member>.<key> for one of several methods"
            raise UserError(f"unknown key {key}", origin, todo)
        if own:
            before = tree.method.get(member)
            value = {**(before if isinstance(before, DictConfig) else {}), own: value}
        tree.method[member] = value
        return
    if key not in known:
        groups = {name.split(".")[0] for name in known if "." in name}
        if key in groups:
            raise UserError(f"{key} is a group of keys", origin, f"set one of {key}.<key>")
        # A group is picked by its own word; its name as a key is refused.
        valid = [*NAMES, *(name for name in known if name not in NAMES.values())]
        hint = near_match(key, [*valid, *([f"method.{rest}"] if rest else [])])
        what = f"unknown key {key}" + (f"; {hint}" if hint else "")
        raise UserError(what, origin, "mixbench run --show prints every key")
    _assign(tree, key, value, key, origin, texts)


def _assign(tree: Any, path: str, value: Any, key: str, origin: str, texts: dict[str, str]) -> None:
    text = texts.get(key) if origin == COMMAND_LINE else None
    if text is not None and _takes_words(tree, path):
        value = yaml_files.as_typed(value, text)
    try:
        OmegaConf.update(tree, path, value, merge=False)
        switch = isinstance(OmegaConf.select(tree, path), bool)
        if switch and isinstance(value, int | float) and value not in (0, 1):
            raise ValueError(value)  # which would be read as true
    except (OmegaConfBaseException, ValueError, TypeError, KeyError) as error:
        shown = repr(value) if text is None or not isinstance(value, bool) else text
        todo = f"give {_wanted(tree, path)}"
        raise UserError(f"{key}={shown} has the wrong type", origin, todo) from error


_WORDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}
_WORDS |= {"None": "null", "list[str]": "a list of texts such as [a, b]"}
_WORDS |= {"list[int]": "a list such as [1, 2]", "list[float]": "a list such as [0.5, 1]"}


def _field_of(tree: Any, path: str) -> dataclasses.Field[Any]:
    parent, _, leaf = path.rpartition(".")
    cls: Any = OmegaConf.get_type(OmegaConf.select(tree, parent) if parent else tree)
    return next(item for item in dataclasses.fields(cls) if item.name == leaf)


def _takes_words(tree: Any, path: str) -> bool:
    """Whether a key takes text alone, so that ``yes`` and ``12:30`` are words for it."""
    kinds = set(type_of(_field_of(tree, path)).split(" | "))
    return bool({"str", "list[str]"} & kinds) and kinds <= {"str", "list[str]", "None"}


def _wanted(tree: Any, path: str) -> str:
    item = _field_of(tree, path)
    also = info_of(item).also  # the only text that is allowed, if it is one
    words = _WORDS | ({"str": also} if isinstance(also, str) else {})
    return " or ".join(words.get(kind, f"a {kind}") for kind in type_of(item).split(" | "))


def _to_object(tree: Any, origins: dict[str, str], prefix: str = "method.") -> Any:
    try:
        return OmegaConf.to_object(tree)
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        cause = error.__cause__ or error
        if isinstance(cause, UserError):  # it knows better where
            raise cause from None
        # A method calls its keys method.<key>, also where it is one of several.
        text = str(cause).splitlines()[0].replace("method.", prefix)
        # What somebody has given is at fault before a default that it does not go with.
        order = sorted(origins, key=lambda k: (origins[k] == DEFAULT, -len(k)))
        key = next((k for k in order if k in text), "")
        short = key.removeprefix("method.")
        key = key or next((k for k in origins if short and k.endswith(short)), "")
        todo = f"correct {key}" if key else "correct the value"
        raise UserError(text, origins.get(key, "configuration"), todo) from error


def _idle(
    known: list[tuple[str, str, Container[Any]]], config: RunConfig, keys: Iterable[str]
) -> list[str]:
    """Notes on keys that have no effect beside the values of other keys."""
    keys = set(keys)
    asked = [condition for condition in known if condition[0] in keys]
    plain = dict(flatten(to_plain(config))) if asked else {}
    return [
        f"{key} has no effect while {decider}={_show(plain[decider])}"
        for key, decider, values in asked
        if plain[decider] not in values
    ]


def _unread(config: RunConfig, keys: Iterable[str]) -> list[str]:
    """Notes on keys of suites, none of which is asked for."""
    asked = sorted(key for key in keys if key.startswith("eval.") and key != "eval.suites")
    if not asked:  # no suite is imported
        return []
    names = dict.fromkeys([*SUITES.table, *config.eval.suites])
    read = {name: {*SUITES.get(name).keys, *SUITES.get(name).reads} for name in names}
    found = []
    for key in asked:
        readers = [name for name in names if key in read[name]]
        if readers and not set(readers) & set(config.eval.suites):
            found.append(f"{key} has no effect without a suite that reads it: {', '.join(readers)}")
    return found
