"""Where modules are looked for: in the working directory last, and only for what a user typed.

``python -m`` and ``python -c`` look there first, and whoever unpacks a stranger's runs there would
import the stranger's ``yaml.py`` or ``torch.py``.
"""

import os
import sys

SAFE = "PYTHONSAFEPATH"  # set, an interpreter leaves the working directory out


def leave_working_directory() -> None:
    """Take what ``python -m`` has put in front out of the path.

    It is called before anything else is imported, and stays with modules that are loaded anyway.
    """
    if sys.flags.safe_path:
        return
    first = sys.path.pop(0)
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if os.path.abspath(first) == here and here not in sys.path:
        sys.path.append(here)  # a checkout that is not installed


def add_working_directory() -> None:
    """Look in the working directory too, behind everything else."""
    try:
        here = os.getcwd()
    except FileNotFoundError:  # it was removed
        return
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)


def shield_children() -> None:
    """Let Python processes that this one starts leave the working directory out as well."""
    from importlib import metadata

    os.environ.setdefault(SAFE, "1")
    try:
        metadata.version("mixbench")
    except metadata.PackageNotFoundError:  # nor would they find a checkout
        here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        known = os.environ.get("PYTHONPATH", "")
        if here not in known.split(os.pathsep):
            os.environ["PYTHONPATH"] = f"{known}{os.pathsep}{here}" if known else here
