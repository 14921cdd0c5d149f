"""Files to start a method, a suite or a data set of one's own from."""

import keyword
import re
import sys
from importlib.util import find_spec
from pathlib import Path

from mixbench.errors import UserError
from mixbench.files import write_text

KINDS = ("method", "suite", "data")
TEMPLATES = Path(__file__).with_name("templates")


def write_new(kind: str, name: str, folder: Path) -> list[Path]:
    """Write a module, a plan and a test that work as they are.

    Args:
        kind: One of :data:`KINDS`.
        name: Name of the module, in small letters.
        folder: Folder to write to.

    Returns:
        The files: ``<name>.py``, ``<name>.yaml`` and ``test_<name>.py``.

    Raises:
        UserError: If the name cannot be that of a module, another module has it, or one of the
            files exists.
    """
    class_name = class_of(name)
    parts = {".py": f"{name}.py", ".yaml": f"{name}.yaml", "_test.py": f"test_{name}.py"}
    paths = {part: folder / file for part, file in parts.items()}
    if there := [path for path in paths.values() if path.exists() or path.is_symlink()]:
        raise UserError(f"{there[0].name} exists", str(there[0]), "choose another name")
    if name in sys.stdlib_module_names or (
        find_spec(name) is not None and not (folder / name).is_dir()
    ):
        raise UserError(f"{name} is the name of an installed module", "new", "choose another name")
    for part, path in paths.items():
        text = (TEMPLATES / f"{kind}{part}.txt").read_text(encoding="utf-8")
        write_text(path, text.replace("NAME", name).replace("CLASS", class_name))
    return list(paths.values())


def class_of(name: str) -> str:
    """The name of a module's class.

    Args:
        name: Name of the module.

    Returns:
        The same in capitals, such as ``OwnMix`` for ``own_mix``.

    Raises:
        UserError: If it cannot be the name of a module.

    Example:
        >>> class_of("own_mix")
        'OwnMix'
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,60}", name) or keyword.iskeyword(name):
        raise UserError(
            f"{name!r} cannot be the name of a Python module",
            "new",
            "use small letters, digits and underscores, with a letter first, such as own_mix",
        )
    return "".join(word.capitalize() for word in name.split("_"))
