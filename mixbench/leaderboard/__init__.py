"""Finished runs judged: rows over seeds, tests, verdicts, and their tables.

The package is called, too: ``mixbench.leaderboard("runs")`` gives the rows to Python, as
:func:`mixbench.leaderboard.frame.leaderboard_frame` says.
"""

import sys
from types import ModuleType
from typing import Any


class _CallablePackage(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from mixbench.leaderboard.frame import leaderboard_frame

        return leaderboard_frame(*args, **kwargs)


sys.modules[__name__].__class__ = _CallablePackage
