"""Experiment files: where they are found, and how their YAML is read.

Plain YAML 1.1 has readings that surprise (``on`` is a truth value, ``010`` is eight, a repeated
key silently wins). Such a file is refused or warned about here, with file and line.
"""

import copy
import fnmatch
import functools
import re
from pathlib import Path
from typing import Any

import yaml

from mixbench.errors import UserError, near_match
from mixbench.files import read_text

GROUPS = ("data", "net", "method", "recipe")
MAX_BYTES, MAX_NODES, MAX_DEPTH, MAX_LETTERS = 1_000_000, 10_000, 30, 10_000

_WORDS = re.compile(r"^(y|n|yes|no|on|off)$", re.IGNORECASE)
_OCTAL = re.compile(r"^[-+]?0\d+$")
_FLOAT = re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")


def folders() -> list[Path]:
    """Folders that hold experiment files, the one to prefer first.

    Returns:
        The working directory's ``experiments``, then the package's own.
    """
    package = Path(__file__).resolve().parents[1]
    places = (Path("experiments"), package / "_experiments", package.parent / "experiments")
    return [place for place in places if place.is_dir()]


def names(group: str, pattern: str = "*") -> list[str]:
    """Names for which a group has a file.

    Args:
        group: One of ``data``, ``net``, ``method``, ``recipe``.
        pattern: Shell-style pattern.

    Returns:
        Sorted names.
    """
    files = (path.stem for folder in folders() for path in (folder / group).glob("*.yaml"))
    return sorted(set(fnmatch.filter(files, pattern)))


def find(group: str, name: str) -> Path | None:
    """The file of a name, from the first folder that has it.

    Args:
        group: One of ``data``, ``net``, ``method``, ``recipe``.
        name: A name without path or suffix.

    Returns:
        Path, or None where no folder has one.
    """
    if not re.fullmatch(r"[\w.-]+", name) or name.startswith("."):
        return None
    paths = (folder / group / f"{name}.yaml" for folder in folders())
    return next((path for path in paths if path.is_file()), None)


def check_recipe(name: str) -> None:
    """Refuse a recipe that has no file.

    Args:
        name: Recipe name.

    Raises:
        UserError: With the nearest name and all names.
    """
    if find("recipe", name) is None:
        known = names("recipe")
        hint = near_match(name, known)
        raise UserError(
            f"unknown recipe {name!r}" + (f"; {hint}" if hint else ""),
            where=f"recipe={name}",
            todo=f"choose one of: {', '.join(known)}",
        )


def read(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Read an experiment file.

    Args:
        path: The file.

    Returns:
        Its mapping, and warnings about values that YAML reads in a surprising way.

    Raises:
        UserError: If it cannot be read or is not one plain mapping, with file and line.
    """
    try:
        text = read_text(path, MAX_BYTES)
    except OSError as error:
        raise UserError(f"the file cannot be read: {error.strerror}", where=str(path)) from error
    except UnicodeDecodeError as error:
        raise UserError(f"the file cannot be read: {error}", where=str(path)) from error
    mapping, notes = parse(text, str(path))
    if mapping is None:
        raise UserError("the file is empty", where=str(path), todo="write `key: value` lines")
    if not isinstance(mapping, dict):
        raise UserError(f"expected `key: value` lines, found {_kind(mapping)}", where=f"{path}:1")
    return mapping, notes


def parse(text: str, origin: str, *, words: bool = False) -> tuple[Any, list[str]]:
    """Read YAML text as plain values.

    Args:
        text: YAML.
        origin: Where it comes from, for messages.
        words: Whether ``yes``, ``007`` and their like stand for text, see :func:`as_typed`, and
            need no warning.

    Returns:
        Plain Python value, and warnings.

    Raises:
        UserError: On anything but plain values of moderate size.
    """
    if len(text) > MAX_BYTES:
        raise UserError(f"the YAML has more than {MAX_BYTES} characters", where=origin)
    value, notes = _parsed(text, origin, words)
    return copy.deepcopy(value), list(notes)


def as_typed(value: Any, text: str) -> Any:
    """A value for a key of text: what YAML reads as truth values and numbers, as it was typed.

    Args:
        value: What :func:`parse` made of the text.
        text: YAML.

    Returns:
        The value, or a list of values, with ``yes`` in place of true and ``12:30`` in place of 750
        where that was typed.
    """
    several = value if isinstance(value, list) else [value]
    if not any(isinstance(each, int | float) for each in several):  # a truth value is an int
        return value
    words = yaml.load(text, yaml.BaseLoader)  # to which all is text
    typed = words if isinstance(value, list) else [words]
    kept = [w if isinstance(v, int | float) else v for v, w in zip(several, typed, strict=True)]
    return kept if isinstance(value, list) else kept[0]


@functools.lru_cache(maxsize=256)
def _parsed(text: str, origin: str, words: bool) -> tuple[Any, list[str]]:
    """What :func:`parse` returns, once for runs of a grid and all that read the same files."""
    notes: list[str] = []
    try:
        loader = _Loader(text, origin)
    except yaml.YAMLError as error:  # a character that no YAML may hold
        raise UserError(
            f"the text is not valid YAML: {getattr(error, 'reason', error)}", origin
        ) from error
    try:
        node = loader.get_single_node()
        if node is None:
            return None, notes
        _inspect(node, origin, notes, words)
        return loader.construct_document(node), notes
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        hint = "indent with spaces" if "\\t" in problem else "see the YAML syntax"
        line = f":{mark.line + 1}" if mark else ""
        raise UserError(
            f"the text is not valid YAML: {problem}", f"{origin}{line}", hint
        ) from error
    except UserError:
        raise
    except (ValueError, RecursionError, OverflowError) as error:
        raise UserError(f"the text is not a plain YAML value: {error}", where=origin) from error
    finally:
        loader.dispose()


class _Loader(yaml.SafeLoader):
    """Stops while it reads where the text is too large, too deep, or grows by its aliases."""

    def __init__(self, text: str, origin: str) -> None:
        super().__init__(text)
        self.origin = origin
        self.count = self.depth = 0
        self.sizes: dict[str, int] = {}  # nodes below each anchor

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose one node, an alias as often as it is used."""
        event: Any = self.peek_event()
        name = event.anchor
        where = f"{self.origin}:{event.start_mark.line + 1}"
        if isinstance(event, yaml.AliasEvent):
            if name in self.anchors and name not in self.sizes:
                raise UserError(f"*{name} contains itself", where)
            self.count += self.sizes.get(name, 0)
        before = self.count
        self.count += 1
        long = isinstance(event, yaml.ScalarEvent) and len(event.value) > MAX_LETTERS
        if self.count > MAX_NODES or self.depth > MAX_DEPTH or long:
            raise UserError("the YAML is too large or too deeply nested", where)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        if name is not None and not isinstance(event, yaml.AliasEvent):
            self.sizes[name] = self.count - before
        return node


def _inspect(root: yaml.Node, origin: str, notes: list[str], words: bool) -> None:
    stack = [root]
    while stack:
        node = stack.pop()
        where = f"{origin}:{node.start_mark.line + 1}"
        if not node.tag.startswith("tag:yaml.org,2002:") or node.tag.count("python"):
            raise UserError(f"the tag {node.tag} is not allowed", where, "write a plain value")
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in node.value:
                at = f"{origin}:{key.start_mark.line + 1}"
                if not isinstance(key, yaml.ScalarNode):
                    raise UserError("a key must be a word", where=at)
                if key.value in seen:
                    raise UserError(f"the key {key.value!r} appears twice", where=at)
                seen.add(key.value)
                if key.tag == "tag:yaml.org,2002:bool":
                    notes.append(f"{at}: YAML reads the key {key.value!r} as a truth value")
                if key.tag != "tag:yaml.org,2002:merge":  # a key is a word, whatever it looks like
                    key.tag = "tag:yaml.org,2002:str"
                stack.append(value)
        elif isinstance(node, yaml.SequenceNode):
            stack.extend(node.value)
        elif isinstance(node, yaml.ScalarNode):
            _inspect_scalar(node, where, notes, words)


def _inspect_scalar(node: yaml.ScalarNode, where: str, notes: list[str], words: bool) -> None:
    if "${" in node.value:
        raise UserError(
            f"{node.value!r}: references to other keys are not supported", where, "write the value"
        )
    if node.style is not None:
        return
    if _WORDS.match(node.value) and node.tag.endswith(":bool"):
        if not words:
            what = f"YAML reads {node.value!r} as a truth value"
            notes.append(f"{where}: {what}; quote it, or write true or false")
    elif _OCTAL.match(node.value) and node.tag.endswith(":int"):
        if not words:
            value = int(node.value, 8)
            notes.append(f"{where}: YAML reads {node.value!r} as octal, {value}; drop the zero")
    elif _FLOAT.match(node.value):  # YAML 1.1 wants a dot: 1e-3 would be text
        node.tag = "tag:yaml.org,2002:float"


def _kind(value: Any) -> str:
    return "a list" if isinstance(value, list) else "a single value"
