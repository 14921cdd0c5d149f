"""Names and what they stand for: ``list``, which imports none of them, and ``info``."""

import argparse
import dataclasses
import inspect
import itertools
import textwrap
from typing import Any

from mixbench.cli.console import importing, print_result, terminal_width
from mixbench.errors import UserError, near_match

KINDS = ("methods", "data", "nets", "recipes")
NARROW = 30  # columns that a text needs to be broken into lines


def list_names(args: argparse.Namespace) -> int:
    """Print the names of a kind."""
    words = list(args.words)
    if args.compat:
        return _compat(words)
    kinds = [words.pop(0)] if words and words[0] in KINDS else list(KINDS)
    if len(words) > 1:
        hint = near_match(words[0], KINDS)
        raise UserError(f"unknown kind {words[0]!r}", "list", hint or f"one of {', '.join(KINDS)}")
    pattern = words[0] if words else "*"
    found = {kind: _names(kind, pattern) for kind in kinds}
    if pattern != "*" and not any(found.values()):
        every = [name for kind in kinds for name in _names(kind, "*")]
        hint = near_match(pattern, [*KINDS, *every])
        if pattern and any(pattern in name for name in every):
            hint = f"write '*{pattern}*' for the names that hold it"
        raise UserError(f"nothing matches {pattern!r}", "list", hint or "try mixbench list")
    column = max((len(name) for names in found.values() for name in names), default=0) + 4
    for kind, names in found.items():
        if not names:
            continue
        if len(kinds) > 1:
            print_result(f"{kind}:")
        for name in names:
            print_result(_entry(name, _summary(kind, name), column))
    return 0


def _entry(name: str, summary: str, column: int) -> str:
    """A name and what it stands for: broken into lines on a terminal, one line for a program."""
    first = f"  {name}".ljust(column)
    width = terminal_width() or 0
    if width - column < NARROW:
        return f"{first}{summary}".rstrip()
    lines = textwrap.wrap(summary, width - column, break_on_hyphens=False) or [""]
    return f"\n{' ' * column}".join([f"{first}{lines[0]}".rstrip(), *lines[1:]])


def info(args: argparse.Namespace) -> int:
    """Print what is known of a name."""
    with importing():
        return _info(args)


def _info(args: argparse.Namespace) -> int:
    from mixbench.config import yaml_files
    from mixbench.config.names import METHODS, NETS
    from mixbench.config.settings import default_of, info_of, type_of
    from mixbench.leaderboard.literature import figures
    from mixbench.leaderboard.render import literature_table

    kinds = [kind for kind in KINDS if args.name in _names(kind, "*")]
    if not kinds and ":" not in args.name:
        every = [name for kind in KINDS for name in _names(kind, "*")]
        raise UserError(
            f"unknown name {args.name!r}",
            "mixbench info",
            near_match(args.name, every) or "see mixbench list",
        )
    if not kinds or kinds[0] == "methods":
        cls = METHODS.get(args.name)
        fields = dataclasses.fields(cls.Config)
        print_result(f"{args.name}: {_docstring(cls)}")
        if fields:
            print_result("\nKeys:")
        used = _used_values(args.name, {item.name: repr(default_of(item)) for item in fields})
        for item in fields:
            told = info_of(item)
            value, notes = _used_value(repr(default_of(item)), used[f"method.{item.name}"])
            kind = told.allowed if told.options else f"{type_of(item)} {told.allowed}".rstrip()
            official = "" if told.official is None else f"; official: {told.official}"
            print_result(f"  method.{item.name}={value}  ({kind})  {told.meaning}{official}{notes}")
        kinds = ["methods"]
    if "nets" in kinds:
        print_result(f"{args.name}: {_docstring(NETS.get(args.name))}")
    groups = {"methods": "method", "data": "data", "nets": "net", "recipes": "recipe"}
    for kind in kinds:
        path = yaml_files.find(groups[kind], args.name)
        if path is not None:
            print_result(f"\n{groups[kind]} file, experiments/{groups[kind]}/{path.name}:")
            print_result("  " + path.read_text(encoding="utf-8").rstrip().replace("\n", "\n  "))
    if "methods" in kinds and (found := figures(args.name)):
        print_result(f"\n{literature_table(found)}".rstrip())
    return 0


def _docstring(target: Any) -> str:
    from mixbench.leaderboard.text import plain_docstring

    return plain_docstring(inspect.getdoc(target) or "")


def _used_values(name: str, defaults: dict[str, str]) -> dict[str, dict[str, str]]:
    """The values that runs of a method use, by key and data set, from the experiment files."""
    from mixbench.config.names import DATA
    from mixbench.config.overrides import file_layers

    found = {f"method.{key}": dict.fromkeys(DATA.names(), text) for key, text in defaults.items()}
    for data in DATA.names():
        for _, items in file_layers({"method": name, "data": data}, []):
            for key, value in items:
                if key in found:
                    found[key][data] = repr(value)
    return found


def _used_value(default: str, by_data: dict[str, str]) -> tuple[str, str]:
    """The value of a run that names no data set, and a note where others differ."""
    from mixbench.config.schema import DataConfig

    value = by_data[DataConfig().kind]
    others: dict[str, list[str]] = {}
    for data, other in by_data.items():
        if other != value:
            others.setdefault(other, []).append(data)
    told = [f"{other} with data={','.join(names)}" for other, names in others.items()]
    told += [f"{default} in build_method"] * (value != default)
    return value, f" [{'; '.join(told)}]" if told else ""


def _compat(words: list[str]) -> int:
    """Print which methods work with which networks and tasks; unlike a list, this imports them."""
    kind = words.pop(0) if words and words[0] in ("methods", "nets") else "methods"
    pattern = words[0] if words else "*"
    found = _names(kind, pattern)
    if len(words) > 1 or not found:
        hint = near_match(pattern, _names(kind, "*"))
        raise UserError(f"nothing matches {' '.join(words)!r}", "list --compat", hint)
    from mixbench.training.requirements import LOGITS, pairs

    nets = found if kind == "nets" else _names("nets", "*")
    rows = pairs(found if kind == "methods" else _names("methods", "*"), nets)
    first = max(len(row.method) for row in rows)
    for place, net in enumerate(nets):
        print_result(f"{' ' * first}  {'| ' * place}{net}")
    for row in rows:
        marks = ["?" if m is None else "-" if m else "x" for m in row.missing.values()]
        print_result(f"{row.method:<{first}}  {' '.join(marks)}  {', '.join(row.tasks)}")
    for row in rows:
        lacking = {word for missing in row.missing.values() for word in missing or ()} - {LOGITS}
        if lacking:
            print_result(f"{row.method} needs {', '.join(sorted(lacking))}")
    print_result(
        "x: works with default settings; -: does not; ?: the network does not say what it provides"
    )
    return 0


def _names(kind: str, pattern: str) -> list[str]:
    from mixbench.config import yaml_files
    from mixbench.config.names import DATA, METHODS, NETS

    if kind == "recipes":
        return yaml_files.names("recipe", pattern)
    return {"methods": METHODS, "data": DATA, "nets": NETS}[kind].names(pattern)


def _summary(kind: str, name: str) -> str:
    """A line that describes a name: of a method from the table, else from the experiment file."""
    from mixbench.config import yaml_files
    from mixbench.config.names import METHODS, SUMMARIES

    if kind == "methods":
        return SUMMARIES.get(name) or METHODS.source(name) or ""
    path = yaml_files.find({"data": "data", "nets": "net", "recipes": "recipe"}[kind], name)
    lines = path.read_text(encoding="utf-8").splitlines() if path else []
    comment = itertools.takewhile(lambda line: line.startswith("#"), lines)
    text = " ".join(line.lstrip("# ") for line in comment)
    return text.split(". ")[0].rstrip(".")
