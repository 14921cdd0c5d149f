"""Named objects that are imported when they are asked for, not when they are listed."""

import fnmatch
import functools
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module, metadata
from typing import Any, TypeVar

from mixbench.errors import MixbenchError, UserError, explain, near_match

_T = TypeVar("_T")


class Registry:
    """Names of one kind, from a table of strings, from plug-ins and from decorators.

    Args:
        kind: What the names stand for, as it appears in messages.
        table: Built-in names as ``module:attribute``.
        group: Entry-point group under which other packages add names.
        families: What stands for all names that begin with a word and a colon, by the word.
        needs: Attributes of the classes that the names stand for; none where they are no classes.
        key: Configuration key that takes such a name, for messages; the first word of the kind if
            empty.
    """

    def __init__(
        self,
        kind: str,
        table: dict[str, str],
        group: str | None = None,
        families: dict[str, str] | None = None,
        needs: Sequence[str] = (),
        key: str = "",
    ) -> None:
        self.kind, self.families, self.needs = kind, families or {}, needs
        self.key = key or kind.split()[0]
        self.table = dict(table)
        self.group = group
        self._objects: dict[str, Any] = {}

    def register(self, name: str) -> Callable[[_T], _T]:
        """Decorate a class or function to make it available under ``name``.

        Args:
            name: New name, or the name under which the table already lists this very object.

        Returns:
            The decorator; it returns its argument.

        Raises:
            UserError: When the decorator meets a name that is taken.
        """

        def add(target: _T) -> _T:
            path = f"{target.__module__}:{target.__qualname__}"  # type: ignore[attr-defined]
            known = self._objects.get(name)
            # Running a notebook cell or reloading a module defines the same object again.
            same = known is not None and path == f"{known.__module__}:{known.__qualname__}"
            if not same and (known is not None or self._sources().get(name, path) != path):
                raise UserError(
                    f"{self.kind} {name!r} is registered already",
                    where=path,
                    todo="choose another name",
                )
            self._objects[name] = target
            return target

        return add

    def names(self, pattern: str = "*") -> list[str]:
        """List registered names without importing what they stand for.

        Args:
            pattern: Shell-style pattern.

        Returns:
            Sorted names.
        """
        return sorted(fnmatch.filter({*self._sources(), *self._objects}, pattern))

    def check(self, name: str, where: str = "") -> None:
        """Refuse an unknown name, without importing anything.

        Args:
            name: A registered name, or ``module:attribute``.
            where: The key or option that names it, for the message; else the kind.

        Raises:
            UserError: With the nearest name and all names.
        """
        if name in self.table or _is_path(name):  # to look for plug-ins takes tens of milliseconds
            return
        known = self.names()
        if name in known:
            return
        own = f"write {name}:NAME for what {name}.py defines, or " if _is_module(name) else ""
        raise UserError(
            f"unknown {self.kind} {name!r}{_joined(near_match(name, known))}",
            where=where or f"{self.key}={name}",
            todo=f"{own}choose one of: {', '.join(known)}",
        )

    def source(self, name: str) -> str | None:
        """The place at which a name's object is defined.

        Args:
            name: A registered name, or ``module:attribute``.

        Returns:
            ``module:attribute``, or None for an object that only exists in this process.
        """
        if self.names_code(name):
            add_working_directory()
            return name
        word, colon, _ = name.partition(":")
        if colon:
            return self.families.get(word)
        return self.table.get(name) or self._sources().get(name)

    def names_code(self, name: str) -> bool:
        """Tell whether a name is itself the place of an object, which is imported when it is used.

        Args:
            name: Any name.

        Returns:
            True for ``module:attribute``, unless the word before the colon is that of a family.
        """
        return _is_path(name) and name.partition(":")[0] not in self.families

    def get(self, name: str) -> Any:
        """Import and return what ``name`` stands for.

        Args:
            name: A registered name, or ``module:attribute``.

        Returns:
            The object.

        Raises:
            UserError: If the name is unknown or its module cannot be imported.
        """
        self.check(name)
        if name in self._objects:
            return self._objects[name]
        path = self.source(name)
        assert path is not None
        module, _, attribute = path.partition(":")
        try:
            found: Any = import_module(module)
            for part in attribute.split("."):
                found = getattr(found, part)
        except (Exception, SystemExit) as error:  # the module may be anybody's
            place = getattr(sys.modules.get(module), "__file__", None)
            raise UserError(
                f"{self.kind} {name!r} cannot be imported: {explain(error).what}",
                where=f"{path}, in {place}" if place else path,
                todo="check its name; a module of the working directory is found only where no "
                "installed one has its name",
            ) from error
        lacking = [word for word in self.needs if not hasattr(found, word)]
        lacking += sorted(getattr(found, "__abstractmethods__", ()))
        if lacking or (self.needs and not isinstance(found, type)):
            raise UserError(
                f"{path} is not a {self.kind}" + (f": it has no {lacking[0]}" if lacking else ""),
                where=f"{self.key}={name}",
                todo=f"name a class of a {self.kind}; mixbench list shows the built-in names",
            )
        return found

    @contextmanager
    def guarded(self, name: str, failing: str, todo: str = "correct it") -> Iterator[None]:
        """Around calls of somebody else's code, whose errors become those of its name.

        Args:
            name: A registered name, or ``module:attribute``.
            failing: What did not work, such as ``cannot be built``, for the message.
            todo: What to do about it.

        Raises:
            UserError: In place of an unforeseen exception, unless the name is built in.
        """
        try:
            yield
        except MixbenchError:
            raise
        except Exception as error:
            if name in self.table or name.partition(":")[0] in self.families:
                raise
            module = sys.modules.get((self.source(name) or name).partition(":")[0])
            frames = traceback.extract_tb(error.__traceback__)
            own = [frame for frame in frames if frame.filename == getattr(module, "__file__", None)]
            raise UserError(
                f"{name} {failing}: {explain(error).what}",
                ", ".join([f"{self.key}={name}", *(f"{f.filename}:{f.lineno}" for f in own[-1:])]),
                f"{todo}; --debug prints the traceback",
            ) from error

    def _sources(self) -> dict[str, str]:
        if self.group is None:
            return self.table
        return {**_plugins(self.group, tuple(sys.path)), **self.table}


@functools.cache
def _plugins(group: str, places: tuple[str, ...]) -> dict[str, str]:
    """Names that packages add; files of all packages below the places are read for it, so once."""
    return {entry.name: entry.value for entry in metadata.entry_points(group=group)}


def add_working_directory() -> None:
    """Look in the working directory too, behind everything else."""
    try:
        here = os.getcwd()
    except FileNotFoundError:  # it was removed
        return
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)


def _is_path(name: str) -> bool:
    module, colon, attribute = name.partition(":")
    words = [*module.split("."), *attribute.split(".")]
    return bool(colon) and all(word.isidentifier() for word in words)


def _is_module(name: str) -> bool:
    """Whether a name is that of a module in the working directory."""
    return name.isidentifier() and os.path.isfile(f"{name}.py")


def _joined(hint: str) -> str:
    return f"; {hint}" if hint else ""
