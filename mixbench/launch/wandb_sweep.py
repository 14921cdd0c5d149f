"""A grid of runs as a W&B sweep file, for agents on any machine."""

import math
from typing import Any

import yaml

from mixbench.config import yaml_files
from mixbench.config.overrides import split_overrides
from mixbench.errors import UserError
from mixbench.launch.plan import PlannedRun

_HEAD = """\
# 1. wandb sweep THIS_FILE      prints the sweep's id
# 2. wandb agent SWEEP_ID       on each machine, in a folder of its own or a shared one
# Agents carry out `mixbench run`: finished runs are skipped, interrupted ones resumed.
"""


def sweep_file(runs: list[PlannedRun], *, project: str) -> str:
    """Write the sweep that covers the same runs as a bench or a plan.

    W&B hands out one combination of the grid at a time; the metric ranks runs in its pages and
    steers nothing. Agents report as they go, so ``wandb.mode`` becomes ``online`` unless given.

    Args:
        runs: A whole grid, as of :func:`mixbench.launch.plan.expand`.
        project: W&B project that the sweep belongs to.

    Returns:
        YAML text.

    Raises:
        UserError: If the runs are not a whole grid.
    """
    values: dict[str, dict[str, None]] = {}  # as a set that keeps its order
    for run in runs:
        for key, text in split_overrides(run.words):
            values.setdefault(key, {})[text] = None
    if math.prod(map(len, values.values())) != len(runs):
        raise UserError(
            "these runs are not a complete grid", "W&B sweep", "write one W&B sweep for each grid"
        )
    values.setdefault("wandb.mode", {"online": None})
    content = {
        "project": project,
        "program": "mixbench",  # agents ask for one; the command below is what they start
        "method": "grid",
        "metric": {"name": "test/top1", "goal": "maximize"},
        "command": ["python", "-m", "mixbench", "run", "${args_no_hyphens}"],
        "parameters": {key: _parameter([*texts]) for key, texts in values.items()},
    }
    return _HEAD + yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def _parameter(texts: list[str]) -> dict[str, Any]:
    if len(texts) == 1:
        return {"value": _value(texts[0])}
    return {"values": [_value(text) for text in texts]}


def _value(text: str) -> Any:
    """A number where the agent writes it as it was given (1e-3 would come back as 0.001)."""
    value, _ = yaml_files.parse(text, "command line")
    return value if isinstance(value, int | float) and str(value) == text else text
