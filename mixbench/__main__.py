"""``python -m mixbench``."""

import sys

from mixbench import leave_working_directory

if __name__ == "__main__":
    leave_working_directory()
    from mixbench.cli import main

    sys.exit(main())
