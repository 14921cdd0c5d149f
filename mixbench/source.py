"""What the text of a class says: its docstring and its ``Config`` fields, without importing it.

``mixbench list`` and ``mixbench info`` answer from here, as importing a method loads torch and
Lightning. The comment beside a field is its description.
"""

import ast
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path


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
        Its annotated fields in order, the base class's own not included.

    Raises:
        ValueError: If the module or class is not found.
    """
    text, node = _class(source)
    lines = text.splitlines()
    inner = (item for item in node.body if isinstance(item, ast.ClassDef))
    config = next((item for item in inner if item.name == "Config"), None)
    if config is None:
        return []
    fields = []
    for item in config.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            default = ast.unparse(_default(item.value)) if item.value is not None else ""
            comment = _comment(lines, item)
            fields.append(
                ConfigField(item.target.id, ast.unparse(item.annotation), default, comment)
            )
    return fields


def config_is_closed(source: str) -> bool:
    """Whether :func:`config_fields` names all keys of a class, none inherited from elsewhere.

    Args:
        source: ``module:Class``.

    Returns:
        True if its ``Config`` derives from ``Method.Config``, which has no fields.

    Raises:
        ValueError: If the module or class is not found.
    """
    inner = (item for item in _class(source)[1].body if isinstance(item, ast.ClassDef))
    config = next((item for item in inner if item.name == "Config"), None)
    return config is not None and [ast.unparse(base) for base in config.bases] == ["Method.Config"]


def docstring(source: str) -> str:
    """Docstring of a class or function.

    Args:
        source: ``module:Class`` or ``module:function``.

    Returns:
        Its docstring, empty if it has none.

    Raises:
        ValueError: If the module or name is not found.
    """
    return ast.get_docstring(_class(source)[1]) or ""


def _class(source: str) -> tuple[str, ast.ClassDef]:
    module, _, name = source.partition(":")
    # Only the top-level package's parents are imported, never the module itself.
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise ValueError(f"module {module} not found")
    text = Path(spec.origin).read_text(encoding="utf-8")
    for node in ast.parse(text).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return text, node  # type: ignore[return-value]
    raise ValueError(f"{name} not found in {module}")


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
