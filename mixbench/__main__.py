"""``python -m mixbench``.

``python -m`` and ``python -c`` look for modules in the working directory first, and whoever unpacks
a stranger's runs there would import the stranger's ``yaml.py`` or ``torch.py``. Nothing is imported
here but what Python itself has loaded already.
"""

import os
import sys


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


if __name__ == "__main__":
    leave_working_directory()
    from mixbench.cli import main

    sys.exit(main())
