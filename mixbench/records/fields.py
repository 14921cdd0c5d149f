"""Checks of plain values, as JSON holds them, against the annotations of a class."""

import types
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

from mixbench.files import INT64

_WORDS = {
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    list: "a list",
    dict: "a mapping",
    types.NoneType: "null",
}


_hints = cache(get_type_hints)


def check_fields(content: dict[str, Any], hints: dict[str, Any], where: str = "") -> None:
    """Compare the values of a mapping with types.

    Args:
        content: Plain values by name; names without a type may hold anything.
        hints: Types by name: ``str``, ``bool``, ``int``, ``float``, ``None``, ``Any``,
            ``Literal``, typed dicts, and lists, dicts and unions of these.
        where: What the mapping is part of, for the message.

    Raises:
        ValueError: At the first value of another type, with its name.
    """
    for name in content.keys() & hints.keys():
        _check(content[name], hints[name], f"{where}{name}")


def _check(value: Any, hint: Any, name: str) -> None:
    if type(value) is hint and hint is not int:  # nearly every value, and tables read thousands
        return
    origin, args = get_origin(hint), get_args(hint)
    if _is(value, int) and value not in INT64:
        raise ValueError(f"{name} is beyond 64 bits")
    if hint is Any:
        return
    if origin in (Union, types.UnionType):
        if not any(_is(value, get_origin(part) or part) for part in args):
            raise _wrong(value, hint, name)
        hint = next(part for part in args if _is(value, get_origin(part) or part))
        _check(value, hint, name)
    elif origin is Literal:
        if value not in args or not isinstance(value, str):
            raise ValueError(f"{name} must be one of {', '.join(args)}")
    elif is_typeddict(hint):
        _check(value, dict, name)
        check_fields(value, _hints(hint), f"{name}.")
    elif not _is(value, origin or hint):
        raise _wrong(value, hint, name)
    elif origin is list:
        for number, item in enumerate(value, 1):
            _check(item, args[0], f"{name}[{number}]")
    elif origin is dict:
        for key, item in value.items():
            _check(item, args[1], f"{name}.{key}")


def _is(value: Any, kind: Any) -> bool:
    """As isinstance, but true is no number, and a whole number is one."""
    if kind is Any:
        return True
    if kind is float:
        return type(value) in (int, float)
    return type(value) is kind


def _wrong(value: Any, hint: Any, name: str) -> ValueError:
    parts = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    wanted = " or ".join(_WORDS.get(get_origin(part) or part, str(part)) for part in parts)
    found = _WORDS.get(type(value), type(value).__name__)
    return ValueError(f"{name} must be {wanted}, and is {found}")
