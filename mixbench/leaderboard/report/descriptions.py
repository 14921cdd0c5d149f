"""Descriptions of methods, read from their source text: no method is imported for a page."""

import ast
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from mixbench.config.names import METHODS, SUMMARIES
from mixbench.leaderboard.text import plain_docstring

PACKAGE = Path(__file__).resolve().parents[2]
PARTS = ("Paper", "Formula", "What it aligns", "Published", "Deviations", "Cost")  # of a docstring
_PART = re.compile(rf"^({'|'.join(PARTS)}): ", re.MULTILINE)


@dataclass(frozen=True)
class Description:
    """A method in words.

    Attributes:
        summary: One line.
        parts: Titles and texts, such as ``Paper`` and ``Deviations``.
    """

    summary: str
    parts: list[tuple[str, str]] = field(default_factory=list)


@cache
def describe_method(name: str) -> Description:
    """The description of a method.

    Args:
        name: Its name in a record.

    Returns:
        What its class says; of a method that is not built in, only that.
    """
    place = METHODS.table.get(name)
    if place is None:
        return Description(
            "It is not a method of this version, so that nothing is known of it here."
        )
    pieces = _PART.split(_docstring(place))
    parts = [
        (title, " ".join(plain_docstring(text).split()))
        for title, text in zip(pieces[1::2], pieces[2::2], strict=True)
    ]
    return Description(f"{SUMMARIES[name]}.", parts)


def _docstring(place: str) -> str:
    module, _, attribute = place.partition(":")
    path = PACKAGE.joinpath(*module.split(".")[1:]).with_suffix(".py")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    classes = (node for node in tree.body if isinstance(node, ast.ClassDef))
    return next((ast.get_docstring(node) or "" for node in classes if node.name == attribute), "")
