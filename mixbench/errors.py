"""Messages that reach a user: errors with what happened, where, and what to do; lines of logs.

Beside them what a user says by environment variables that leave a part on or off.
"""

import difflib
import errno
import logging
import os
from collections.abc import Iterable

NATIVE, FUSED = "MIXBENCH_NATIVE", "MIXBENCH_FUSED"  # C code on CPUs; one launch of Triton on GPUs
SWITCHES = (NATIVE, FUSED)
_ON, _OFF = ("", "1", "true", "yes", "on"), ("0", "false", "no", "off")


class MixbenchError(Exception):
    """Base of the errors that the command line prints as up to three lines.

    Args:
        what: What is wrong, in one line.
        where: Config key, file or run that it concerns.
        todo: What to do about it.
    """

    exit_code = 3

    def __init__(self, what: str, where: str = "", todo: str = "") -> None:
        super().__init__(what, where, todo)
        self.what, self.where, self.todo = what, where, todo

    def __str__(self) -> str:
        lines = [printable(self.what)]
        if self.where:
            lines.append(f"  where: {printable(self.where)}")
        if self.todo:
            lines.append(f"  to do: {printable(self.todo)}")
        return "\n".join(lines)


class UserError(MixbenchError, ValueError):
    """Bad configuration, data or arguments; nothing was started."""

    exit_code = 2


class RunFailedError(MixbenchError, RuntimeError):
    """A run started and could not finish."""

    exit_code = 3


class UnreadableImageError(RunFailedError):
    """An image that was found to be unreadable in the middle of a run.

    A worker of a loader hands it on as the text of a traceback, whose last lines are its own.
    """

    def __init__(self, what: str, where: str = "", todo: str = "") -> None:
        if "\n" in what:
            last = what.rstrip().splitlines()[-3:]
            what, where, todo = (line.partition(": ")[2] for line in last)
        super().__init__(what, where, todo)


class InterruptedRunError(MixbenchError):
    """A run was stopped from outside; the same command starts it again.

    Attributes:
        signal: Name of the signal that a group of processes was stopped by.
    """

    exit_code = 4
    signal: str | None = None


def switched_on(name: str) -> bool:
    """Whether an environment variable leaves a part on; it does where it is not set.

    Args:
        name: One of :data:`SWITCHES`.

    Raises:
        UserError: If its value is neither on nor off.
    """
    value = os.environ.get(name, "")
    word = value.strip().lower()
    if word not in (*_ON, *_OFF):
        todo = f"set {name}=0 for off, {name}=1 for on, or leave it out"
        raise UserError(f"{name}={value} is neither on nor off", "environment variable", todo)
    return word in _ON


_REMEDIES = {
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "a part of the path is a file; name a folder",
    errno.EISDIR: "name a file, not a folder",
    errno.EEXIST: "something else is in the way; choose another place",
    errno.ELOOP: "its links lead in a circle; name the file itself",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EACCES: "change its permissions, or choose another place",
    errno.EPERM: "change its permissions, or choose another place",
    errno.EROFS: "choose a place that can be written to",
    errno.ENXIO: "name a file",
    errno.EINVAL: "name a file",
    errno.EFBIG: "name a smaller file",
}
_FULL = (errno.ENOSPC, errno.EDQUOT)


def explain(error: BaseException) -> MixbenchError:
    """An error of any kind as one that can be shown to a user.

    Args:
        error: What was raised.

    Returns:
        The error itself if it is one already; a user error for a path that cannot be used; the
        failure of a run for a full disk; else one that names the exception.
    """
    if isinstance(error, MixbenchError):
        return error
    where = ""
    if isinstance(error, OSError) and isinstance(error.filename, str | os.PathLike):
        where = os.fspath(error.filename)
        where = where if len(where) <= 200 else f"{where[:150]}...{where[-40:]}"
    if isinstance(error, OSError) and error.errno in _FULL:
        todo = "free some space, or ask for more, and give the same command again"
        return RunFailedError(str(error.strerror), where, todo)
    if where and isinstance(error, OSError) and error.errno in _REMEDIES:
        return UserError(str(error.strerror), where, _REMEDIES[error.errno])
    text = " ".join(str(error).split())
    return MixbenchError(f"{type(error).__name__}: {text}" if text else type(error).__name__)


def near_match(name: str, known: Iterable[str]) -> str:
    """Say which known name was probably meant.

    Args:
        name: The unknown name.
        known: Names that exist.

    Returns:
        ``did you mean 'x'?``, or an empty string where nothing is close.
    """
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else ""


def printable(text: str) -> str:
    r"""Text that does nothing to a terminal or a file but stand there, on one line.

    Args:
        text: Any text, such as a name or a message from a stranger's file.

    Returns:
        The same with a space for every kind of white space, and escapes such as ``\x1b`` for
        control characters, marks that turn the direction of writing, and halves of characters.
    """
    if text.isprintable():
        return text
    return "".join(
        sign
        if sign.isprintable()
        else " "
        if sign.isspace()
        else sign.encode("unicode_escape").decode()
        for sign in text
    )


class PrintableFormatter(logging.Formatter):
    """One line per message, whatever names and messages of strangers stand in it."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """The line; a traceback follows it on lines of its own."""
        return printable(super().formatMessage(record))


def time_text(seconds: float) -> str:
    """A time in words.

    Args:
        seconds: How long.

    Returns:
        Such as ``40 s``, ``12 min`` and ``2.5 h``.
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def counted(number: int, noun: str) -> str:
    """A number with its noun.

    Args:
        number: How many.
        noun: In the singular; its plural ends in s, or in es after an s.

    Returns:
        Such as ``1 image``, ``1,000 images`` and ``3 classes``.
    """
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"
