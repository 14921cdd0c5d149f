"""Mistakes in the words of a command, told as all other errors are."""

import argparse
import re
from collections.abc import Iterable
from typing import Any, NoReturn

from mixbench.errors import UserError, near_match

_COUNTS = {"one argument": "a value", "at least one argument": "one value or more"}
_KINDS = {"int": "a whole number", "float": "a number"}


class CommandParser(argparse.ArgumentParser):
    """A parser that raises a user error where argparse would print its own and leave."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # -3d is the value of the option in front of it, as -3 is: no option begins with a digit.
        self._negative_number_matcher = re.compile(r"-\.?\d")

    def error(self, message: str) -> NoReturn:
        """Refuse the words of the command.

        Args:
            message: What argparse says of them.

        Raises:
            UserError: Always.
        """
        about = re.match(r"argument (\S+): (.*)", message, re.DOTALL)
        if about is not None:
            raise self._bad_value(*about.groups())
        lacking = message.partition("required: ")[2]
        if lacking:
            # Of what may stand any number of times, argparse says that it is required, too.
            free = {_name(action) for action in self._positional() if action.nargs == "*"}
            names = [name for name in lacking.split(", ") if name not in free]
            verb = "is" if len(names) == 1 else "are"
            what = f"{' and '.join(names)} {verb} missing"
            help_too = f"; {self.prog} --help lists the commands" * (names == ["COMMAND"])
            raise UserError(what, self.prog, f"write {self.synopsis()}{help_too}")
        raise UserError(message, self.prog, f"{self.prog} --help lists what it takes")

    def unknown_option(self, word: str) -> UserError:
        """The error for an option that the command does not have.

        Args:
            word: Such as ``--budget`` or ``--budget=4h``.
        """
        name = word.partition("=")[0]
        known = [text for action in self._actions for text in action.option_strings]
        hint = near_match(name, known)
        todo = f"{self.prog} --help lists its options"
        if not hint and "overrides" in {action.dest for action in self._actions}:
            todo += f"; a key is set without dashes, as {name.lstrip('-')}=VALUE"
        what = f"unknown option {name}" + (f"; {hint}" if hint else "")
        return UserError(what, self.prog, todo)

    def synopsis(self) -> str:
        """The command with all that it needs."""
        needed = [a for a in self._actions if a.option_strings and a.required]
        parts = [_shown(a) for a in self._positional()]
        return " ".join([self.prog, *parts, *map(_shown, needed)])

    def _positional(self) -> list[argparse.Action]:
        return [a for a in self._actions if not a.option_strings]

    def _bad_value(self, name: str, problem: str) -> UserError:
        action = next((a for a in self._actions if name in (_name(a), *name_forms(a))), None)
        wrong = re.match(r"invalid (\w+ value|choice): '?(.*?)'?( \(choose from .*)?$", problem)
        where = f"{self.prog}, {name}"
        if action is None:
            return UserError(f"{name}: {problem}", self.prog, f"{self.prog} --help explains it")
        if wrong is not None and action.choices is not None:
            known = [str(choice) for choice in action.choices]
            hint, noun = near_match(wrong[2], known), _noun(action)
            what = f"unknown {noun} {wrong[2]!r}" + (f"; {hint}" if hint else "")
            place = self.prog if not action.option_strings else where
            return UserError(what, place, f"choose one of: {', '.join(known)}")
        todo = f"write {_shown(action)}" + (f": {action.help}" if action.help else "")
        if wrong is not None:
            kind = _KINDS.get(wrong[1].partition(" ")[0], "another value")
            return UserError(f"{name} must be {kind}, got {wrong[2]!r}", where, todo)
        expected = problem.partition("expected ")[2]
        if expected:
            counted = _COUNTS.get(expected, expected.replace("argument", "value"))
            return UserError(f"{name} needs {counted}", where, todo)
        return UserError(f"{name}: {problem}", where, todo)


def name_forms(action: argparse.Action) -> Iterable[str]:
    """The names under which argparse speaks of an option."""
    return (*action.option_strings, "/".join(action.option_strings))


def _noun(action: argparse.Action) -> str:
    return _name(action).lstrip("-").lower()


def _name(action: argparse.Action) -> str:
    if action.option_strings:
        return "/".join(action.option_strings)
    return action.metavar if isinstance(action.metavar, str) else action.dest


def _shown(action: argparse.Action) -> str:
    """An option or a word with its values."""
    metavar = action.metavar if action.metavar is not None else action.dest.upper()
    if action.metavar is None and action.choices is not None:
        metavar = "|".join(map(str, action.choices))
    values = metavar if isinstance(metavar, str) else " ".join(metavar)
    if action.nargs == "+":
        values = f"{values} ..."
    if action.nargs == "*":
        values = f"[{values} ...]"
    return f"{action.option_strings[0]} {values}" if action.option_strings else values
