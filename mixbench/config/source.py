"""What the text of a class says: its docstring and its ``Config`` fields, without importing it.

``mixbench list`` and ``mixbench info`` answer from here, as importing a method loads torch and
Lightning. The comment beside a field is its description.
"""

import ast
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple


@dataclass
class ConfigField:
    """A key of a method as its source spells it."""

    name: str
    type: str
    default: str
    comment: str


def config_fields(source: str) -> list[ConfigField]:
    """Fields of the ``Config`` of a class.

    Args:
        source: ``module:Class``.

    Returns:
        Its annotated fields in order, then those that it inherits within its package or from this
        one.

    Raises:
        ValueError: If the module or class is not found.
    """
    fields: dict[str, ConfigField] = {}
    for part in _configs(_class(source))[0]:
        # The annotations of any other class are no fields.
        marks = (ast.unparse(mark) for mark in part.node.decorator_list)
        for item in part.node.body if any("dataclass" in mark for mark in marks) else ():
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                name, annotation = item.target.id, ast.unparse(item.annotation)
                if annotation.startswith("InitVar"):  # an argument, and no key
                    continue
                default = ast.unparse(_default(item.value)) if item.value is not None else ""
                comment = _comment(part.text.splitlines(), item)
                fields.setdefault(name, ConfigField(name, annotation, default, comment))
    return list(fields.values())


def config_is_closed(source: str) -> bool:
    """Whether :func:`config_fields` names all keys of a class, none inherited from elsewhere.

    Args:
        source: ``module:Class``.

    Returns:
        True if every class that its ``Config`` derives from was found and read.

    Raises:
        ValueError: If the module or class is not found.
    """
    return _configs(_class(source))[1]


def docstring(source: str) -> str:
    """Docstring of a class or function.

    Args:
        source: ``module:Class`` or ``module:function``.

    Returns:
        Its docstring, empty if it has none.

    Raises:
        ValueError: If the module or name is not found.
    """
    return ast.get_docstring(_class(source).node) or ""


class _Found(NamedTuple):
    """A class in the text of its module."""

    module: str
    text: str
    node: ast.ClassDef


def _class(source: str) -> _Found:
    module, _, name = source.partition(":")
    text = _text(module)
    for node in _parse(text).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return _Found(module, text, node)  # type: ignore[arg-type]
    raise ValueError(f"{name} not found in {module}")


def _text(module: str) -> str:
    # Only the top-level package's parents are imported, never the module itself.
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise ValueError(f"module {module} not found")
    return Path(spec.origin).read_text(encoding="utf-8")


def _configs(found: _Found) -> tuple[list[_Found], bool]:
    """The ``Config`` of a method and all that it derives from, and whether none is missing."""
    try:
        config = _config(found)
        above, complete = _lineage(config) if config else ([], False)
    except RecursionError as error:
        raise ValueError(f"{found.module}:{found.node.name} derives from itself") from error
    return ([config, *above] if config else []), complete


def _config(found: _Found) -> _Found | None:
    """The own ``Config`` of a class, or that of its nearest base; None where it may be hidden."""
    config = _inner(found, "Config")
    for base in found.node.bases if config is None else ():
        parent = _resolve(found, ast.unparse(base).split("."))
        config = parent and _config(parent)
        if parent is None or config is not None:
            return config
    return config


def _lineage(found: _Found) -> tuple[list[_Found], bool]:
    """Classes that a class derives from, nearest first, and whether all of them were found."""
    classes, complete = [], True
    for base in found.node.bases:
        parent = _resolve(found, ast.unparse(base).split("."))
        if parent is None:
            complete = False
            continue
        above, known = _lineage(parent)
        classes += [parent, *above]
        complete = complete and known
    return classes, complete


@lru_cache(maxsize=128)  # a configuration asks for the same few texts again and again
def _parse(text: str) -> ast.Module:
    return ast.parse(text)


def _resolve(place: _Found, names: list[str]) -> _Found | None:
    """The class of a dotted name, if its text is in the same package or in this one."""
    for node in _parse(place.text).body:
        if isinstance(node, ast.ClassDef) and node.name == names[0]:
            found: _Found | None = place._replace(node=node)
            for name in names[1:]:
                found = found and _inner(found, name)
            return found
        if not isinstance(node, ast.ImportFrom) or node.level or not node.module:
            continue
        original = {alias.asname or alias.name: alias.name for alias in node.names}.get(names[0])
        near = (place.module.partition(".")[0], __name__.partition(".")[0])
        if original is not None and node.module.partition(".")[0] in near:
            try:
                other = _Found(node.module, _text(node.module), place.node)
            except (OSError, SyntaxError, ValueError, ImportError):
                return None
            return _resolve(other, [original, *names[1:]])
    return None


def _inner(found: _Found, name: str) -> _Found | None:
    inner = (item for item in found.node.body if isinstance(item, ast.ClassDef))
    node = next((item for item in inner if item.name == name), None)
    return None if node is None else found._replace(node=node)


def _default(value: ast.expr) -> ast.expr:
    """The list of ``field(default_factory=lambda: [...])``; any other default as it stands."""
    if isinstance(value, ast.Call):
        for keyword in value.keywords:
            if keyword.arg == "default_factory" and isinstance(keyword.value, ast.Lambda):
                return keyword.value.body
    return value


def _comment(lines: list[str], node: ast.AnnAssign) -> str:
    last = lines[(node.end_lineno or node.lineno) - 1]
    code = last.encode()[: node.end_col_offset or 0].decode()
    return last[len(code) :].strip().removeprefix("#").strip()
