"""Sources of a configuration's values: words on the command line and experiment files."""

import re
import shlex
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mixbench.config import yaml_files
from mixbench.config.names import DATA, METHODS, NETS, SUITES
from mixbench.config.schema import DataConfig, NetConfig
from mixbench.errors import UserError

COMMAND_LINE = "command line"
DEFAULT = "default"
NAMES = {"data": "data.kind", "net": "net.name", "method": "method.name", "recipe": "recipe"}
_REGISTRIES = {"data": DATA, "net": NETS, "method": METHODS}


def split_overrides(overrides: str | Sequence[str]) -> list[tuple[str, str]]:
    """Split override words into keys and raw values.

    Args:
        overrides: One string, or a list of words.

    Returns:
        Pairs of key and text.

    Raises:
        UserError: If a word is not ``key=value``.
    """
    try:
        words = shlex.split(overrides) if isinstance(overrides, str) else list(overrides)
    except ValueError as error:
        raise UserError(
            f"cannot be split into words: {error}", COMMAND_LINE, "close every quotation mark"
        ) from error
    pairs = []
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not all(part.isidentifier() for part in key.split(".")):
            raise UserError(
                f"{word!r} is not an override",
                COMMAND_LINE,
                "write key=value, for example method=cutmix or method.alpha=0.5",
            )
        if not text.strip():
            raise UserError(f"{key}= is empty", COMMAND_LINE, f"give {key} a value or leave it out")
        pairs.append((key, text))
    return pairs


def code_names(items: Iterable[tuple[str, Any]]) -> dict[str, str]:
    """Names of code to import, ``module:attribute``, among keys and their values.

    Args:
        items: Dotted keys with values.

    Returns:
        For each name the word that gives it on the command line.
    """
    items = list(items)
    groups = {key: group for group in _REGISTRIES for key in (group, NAMES[group])}
    suites = (value for key, value in items if key == "eval.suites")
    named = {
        name: f"eval.suites=[{name}]"
        for value in suites
        for name in re.findall(r"[\w.:]+", str(value))  # a list, or its text on the command line
        if SUITES.names_code(name)
    }
    return named | {
        value: f"{groups[key]}={value}"
        for key, value in items
        if key in groups and isinstance(value, str) and _REGISTRIES[groups[key]].names_code(value)
    }


def refuse_code(
    items: Iterable[tuple[str, Any]],
    origin: str,
    trusted: Collection[str] = (),
    option: str | None = None,
) -> None:
    """Refuse a file that names code unknown to the command line: anyone may have written it.

    Args:
        items: What the file sets, as for :func:`code_names`.
        origin: The file.
        trusted: Names of code that stand on the command line.
        option: Option that trusts a name; None where an override does.

    Raises:
        UserError: With what to type for code that is trusted.
    """
    for name, word in code_names(items).items():
        if name not in trusted:
            word = f"{option} {name}" if option else word
            todo = f"add {word} to the command if you trust it"
            raise UserError(f"the file names code that would be imported: {name}", origin, todo)


def refuse_place(items: Iterable[tuple[str, Any]], origin: str) -> None:
    """Refuse a file that writes runs to an absolute path; a relative one is harmless.

    Args:
        items: Dotted keys with values.
        origin: The file.

    Raises:
        UserError: With what to type for a place that is wanted.
    """
    place = dict(items).get("run.dir")
    if isinstance(place, str) and Path(place).is_absolute():
        todo = f"give run.dir={place} on the command line, if you want the runs there"
        raise UserError("run.dir of a file must be a relative path", origin, todo)


def file_layers(
    picks: dict[str, str], notes: list[str]
) -> Iterator[tuple[str, list[tuple[str, Any]]]]:
    """Yield the experiment files as flat layers, in the order in which they apply.

    Args:
        picks: Name given for each group.
        notes: Receives warnings about surprising YAML.

    Yields:
        Origin of a layer, and its dotted keys with values.

    Raises:
        UserError: On an unknown name or a file that cannot be used.
    """
    for group, name in picks.items():
        if group == "recipe":
            yaml_files.check_recipe(name)
        elif group == "data":
            _check_data(name)
        else:
            _REGISTRIES[group].check(name)
    data = picks.get("data", DataConfig.kind)
    method = picks.get("method", "erm")
    origin, content = _read("data", data, notes)
    own_origin, own = _read("method", method, notes)
    # A method that trains something else than a classifier comes with its own network and recipe.
    recipe = _default(content, "recipe", origin)
    recipe = picks.get("recipe", _default(own, "recipe", own_origin) or recipe)
    yield origin, _named("data", data, _prefixed("data", content), origin)

    net = picks.get("net", _default(own, "net", own_origin) or NetConfig.name)
    origin, content = _read("net", net, notes)
    yield origin, _named("net", net, _prefixed("net", content), origin)

    per_data = _mapping(own.pop("per_data", {}), own_origin, "per_data")
    own |= _mapping(per_data.get(data, {}), own_origin, f"per_data.{data}")
    yield own_origin, _named("method", method, _prefixed("method", own), own_origin)

    if recipe is not None:
        yaml_files.check_recipe(recipe)
        origin, content = _read("recipe", recipe, notes)
        per_method = _mapping(content.pop("per_method", {}), origin, "per_method")
        if "method" in content:
            raise UserError(
                "a recipe cannot set keys of `method`", origin, "set them under `per_method`"
            )
        own = _mapping(per_method.get(method, {}), origin, f"per_method.{method}")
        items = [*flatten(content), *_prefixed("method", own)]
        yield origin, _named("recipe", recipe, items, origin)


def saved_layer(path: Path, picks: dict[str, str]) -> tuple[str, list[tuple[str, Any]]]:
    """The configuration of an earlier run as one layer.

    Args:
        path: Its ``config.yaml``.
        picks: Names given on the command line; they can only repeat the file's own.

    Returns:
        Origin, and dotted keys with values.

    Raises:
        UserError: If the file cannot be used or names something else.
    """
    content, _ = yaml_files.read(path)
    items = dict(flatten(content))
    for group, key in NAMES.items():
        name = items.get(key)
        if not isinstance(name, str):
            raise UserError(f"{key} is missing", str(path), "give the config.yaml of a run")
        if picks.get(group, name) != name:
            raise UserError(
                f"{group}={picks[group]} differs from {name}", str(path), "start a new run for it"
            )
        if group in _REGISTRIES:
            _REGISTRIES[group].check(name)
    return str(path), list(items.items())


def _check_data(name: str) -> None:
    """Refuse an unknown data set; if it is a path, with the keys that take one."""
    try:
        DATA.check(name)
    except UserError as error:
        if not Path(name).exists():
            raise
        keys = "data=pack data.train" if name.endswith(".npz") else "data=folder data.root"
        raise UserError(error.what, error.where, f"write {keys}={name}") from None


def _named(
    group: str, name: str, items: list[tuple[str, Any]], origin: str
) -> list[tuple[str, Any]]:
    """Put the picked name in front; no file may pick one, least of all a class to import."""
    for key, _ in items:
        if key in NAMES.values():
            raise UserError(f"{key} cannot be set in a file", origin, "give it on the command line")
    return [(NAMES[group], name), *items]


def _read(group: str, name: str, notes: list[str]) -> tuple[str, dict[str, Any]]:
    path = yaml_files.find(group, name)
    if path is None:  # a plug-in may come without a file
        return DEFAULT, {}
    content, surprises = yaml_files.read(path)
    notes += surprises
    return f"experiments/{group}/{Path(path).name}", content


def _default(content: dict[str, Any], group: str, origin: str) -> str | None:
    """The name that a file picks for a group where the command line names none; it is taken out."""
    name = content.pop(f"default_{group}", None)
    if not isinstance(name, str | None):
        raise UserError(
            f"default_{group}: {name!r} is not a name", origin, "write the name as text"
        )
    if name is not None and group in _REGISTRIES:
        if _REGISTRIES[group].names_code(name):
            raise UserError(
                f"default_{group}: {name} names code that would be imported",
                origin,
                "give a registered name",
            )
        _REGISTRIES[group].check(name)
    return name


def _mapping(value: Any, origin: str, key: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{key} must hold `key: value` lines", where=origin)
    return value


def _prefixed(group: str, content: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(f"{group}.{key}", value) for key, value in flatten(content)]


def flatten(content: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested dicts.

    Args:
        content: Nested dicts.
        prefix: Path of ``content`` itself, with its dot.

    Yields:
        Dotted key and value; an empty dict is a leaf.
    """
    for key, value in content.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            yield from flatten(value, f"{path}.")
        else:
            yield path, value
