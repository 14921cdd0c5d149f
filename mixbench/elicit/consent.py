"""The text that a person agrees to before a study begins."""

import re
from pathlib import Path
from typing import NamedTuple

from mixbench.errors import UserError, counted
from mixbench.files import read_text

_BOX = re.compile(r"^\[ ?\]\s*(.+)$")
_GAP = re.compile(r"\[[^\]\[]{2,}\]")  # a place that somebody has to fill in
BOXES = 3
MOST_BYTES = 64 << 10


class Consent(NamedTuple):
    """Paragraphs of a consent text, and the sentences of its boxes."""

    paragraphs: list[str]
    boxes: list[str]


def usual_consent() -> str:
    """The text to start from, with gaps in square brackets."""
    return Path(__file__).with_name("consent.txt").read_text(encoding="utf-8")


def read_consent(path: Path) -> str:
    """Read a consent text.

    Args:
        path: A text file: paragraphs with empty lines between them, and three lines that begin
            with ``[ ]``, each a sentence that has to be agreed to.

    Returns:
        The text.

    Raises:
        UserError: If it cannot be read, or is not written so.
    """
    try:
        text = read_text(path, MOST_BYTES)
    except ValueError as error:
        raise UserError("the consent text is not UTF-8", str(path), "save it as UTF-8") from error
    parse_consent(text, str(path))
    return text


def parse_consent(text: str, where: str = "") -> Consent:
    """Paragraphs and boxes of a text.

    Args:
        text: As :func:`read_consent` describes it.
        where: File that it comes from, for messages.

    Returns:
        Both, each on one line.

    Raises:
        UserError: If there are not three boxes, or nothing else.
    """
    boxes, others = [], []
    for line in text.splitlines():
        match = _BOX.match(line.strip())
        (boxes if match else others).append(match[1] if match else line)
    blocks = re.split(r"\n\s*\n", "\n".join(others))
    paragraphs = [" ".join(block.split()) for block in blocks if block.strip()]
    if len(boxes) != BOXES or not paragraphs:
        raise UserError(
            f"the consent text has {counted(len(paragraphs), 'paragraph')} and {len(boxes)} boxes",
            where,
            f"write paragraphs, and {BOXES} lines that begin with [ ]",
        )
    return Consent(paragraphs, boxes)


def check_edited(text: str) -> None:
    """Refuse a text that nobody has made that of their own study.

    Args:
        text: The text.

    Raises:
        UserError: If it is the one to start from, or has gaps.
    """
    todo = "write it with: mixbench elicit consent -o FILE, edit it, and give --consent FILE"
    if text.split() == usual_consent().split():
        raise UserError("a public study needs a consent text of its own", "--public", todo)
    gap = _GAP.search(" ".join(parse_consent(text).paragraphs + parse_consent(text).boxes))
    if gap:
        raise UserError(
            f"the consent text still has the gap {gap[0]}",
            "--consent",
            "replace it by your own words",
        )
