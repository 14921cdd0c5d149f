"""mixbench: train, compare and verify mixup methods.

The names below load on first use, so that ``import mixbench.functional`` needs torch alone and the
command line answers without it.
"""

import os
import sys
from importlib import import_module

TYPE_CHECKING = (
    False  # typing.py may be a stranger's until `python -m mixbench` has left his folder
)

__version__ = "0.1.0"

_HOMES = {
    "build_method": "mixbench.methods.build",
    "compose": "mixbench.config.compose",
    "functional": "mixbench.functional",
    "leaderboard": "mixbench.leaderboard",
    "list_methods": "mixbench.methods",
    "load": "mixbench.training.predict",
    "plot": "mixbench.leaderboard.plots.draw",
    "register": "mixbench.methods",
    "run": "mixbench.training.run",
}
__all__ = [
    "__version__",
    "build_method",
    "compose",
    "functional",
    "leaderboard",
    "list_methods",
    "load",
    "plot",
    "register",
    "run",
]

if TYPE_CHECKING:
    from mixbench import functional, leaderboard
    from mixbench.config.compose import compose
    from mixbench.leaderboard.plots.draw import plot
    from mixbench.methods import list_methods, register
    from mixbench.methods.build import build_method
    from mixbench.training.predict import load
    from mixbench.training.run import run


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'mixbench' has no attribute {name!r}")
    module = import_module(_HOMES[name])
    return module if module.__name__ == f"mixbench.{name}" else getattr(module, name)


def leave_working_directory() -> None:
    """Take the working directory, which ``python -m`` has put in front, out of the path.

    Whoever unpacks a stranger's runs there would import the stranger's ``yaml.py`` or ``torch.py``.

    It is called before anything else is imported, and stays with modules that are loaded anyway.
    """
    if sys.flags.safe_path:
        return
    first = sys.path.pop(0)
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if os.path.abspath(first) == here and here not in sys.path:
        sys.path.append(here)  # a checkout that is not installed
