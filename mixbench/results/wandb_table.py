"""A leaderboard as a table in W&B."""

import json
import uuid
from pathlib import Path
from typing import Any

from mixbench.results.leaderboard import Leaderboard
from mixbench.results.table import render
from mixbench.results.wandb_run import View, open_view

SHARED = ("data", "net", "recipe", "recipe_hash", "select", "epochs")
OWN = ("method", "fidelity", "n", "failed")
PARTS = ("mean", "sd", "low", "high")


def log_table(board: Leaderboard, *, project: str, folder: Path, mode: str | None) -> str:
    """Log a leaderboard as one table with a row per method.

    Args:
        board: The leaderboard.
        project: W&B project.
        folder: Gets a folder ``wandb``.
        mode: As for :func:`mixbench.results.wandb_run.open_view`.

    Returns:
        One line that says where it went.
    """
    view = open_view(
        folder,
        run_id=f"leaderboard-{uuid.uuid4().hex[:8]}",
        name="leaderboard",
        job_type="leaderboard",
        project=project,
        mode=mode,
    )
    if view is None:
        return "W&B: no leaderboard was logged"
    columns, rows = table_rows(board)
    view.send(lambda: _log(view, columns, rows))
    if not view.close():
        return f"W&B: the leaderboard is not complete; what there is: {view.folder}"
    return f"W&B: {view.url}" if view.url else f"W&B: offline, upload with: {view.sync_command}"


def table_rows(board: Leaderboard) -> tuple[list[str], list[list[Any]]]:
    """A leaderboard as a flat table.

    Args:
        board: The leaderboard.

    Returns:
        Names of the columns, and the rows; None where there is no finite value.
    """
    lines: list[dict[str, Any]] = []
    for group in json.loads(render(board, "json"))["groups"]:
        for row in group["rows"]:
            line = {key: group[key] for key in SHARED} | {key: row[key] for key in OWN}
            for name, summary in row["metrics"].items():
                line |= {f"{name}_{part}": summary[part] for part in PARTS}
            lines.append(line)
    columns = list(dict.fromkeys([*SHARED, *OWN, *(key for line in lines for key in line)]))
    return columns, [[line.get(key) for key in columns] for line in lines]


def _log(view: View, columns: list[str], rows: list[list[Any]]) -> None:
    import wandb

    view.run.log({"leaderboard": wandb.Table(columns=[*columns], data=rows)})
