"""A leaderboard as a table in W&B, with a reliability diagram and samples of each row."""

import logging
import math
import uuid
from pathlib import Path
from typing import Any

from mixbench.errors import UserError
from mixbench.leaderboard.rows import Group, Leaderboard, Row
from mixbench.leaderboard.table import OWN, SETTING, default_columns, setting_text
from mixbench.records.marks import marks_text
from mixbench.records.predictions import PREDICTIONS, read_predictions
from mixbench.tracking.run import View, open_view

log = logging.getLogger("mixbench")
SAMPLES = "samples.png"
SEPARATED = "separated.png"  # what a test has made, where a method makes images
SHARED = ("data", "net", "recipe")  # which tell the groups apart in a single table
FIRST = (*SHARED, "method", "n")


def log_table(board: Leaderboard, *, project: str, folder: Path, mode: str | None) -> str:
    """Log a leaderboard as one table with a row per method.

    Args:
        board: The leaderboard.
        project: W&B project.
        folder: Gets a folder ``wandb``.
        mode: As for :func:`mixbench.tracking.run.open_view`.

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
    shown = [pictures(row) for group in board.groups for row in group.rows]
    view.send(lambda: _log(view, columns, rows, shown))
    if not view.close():
        return f"W&B: the leaderboard is not complete; what there is: {view.folder}"
    return f"W&B: {view.url}" if view.url else f"W&B: offline, upload with: {view.sync_command}"


def table_rows(board: Leaderboard) -> tuple[list[str], list[list[Any]]]:
    """A leaderboard as a flat table.

    Args:
        board: The leaderboard.

    Returns:
        Names of the columns, which are those of the tables of a terminal; and the rows, with None
        where there is no finite value.
    """
    lines = [_line(group, row) for group in board.groups for row in group.rows]
    known = dict.fromkeys([*FIRST, *(name for line in lines for name in line if name != "marks")])
    columns = [*known, *["marks"] * any(line["marks"] for line in lines)]
    return columns, [[line.get(name) for name in columns] for line in lines]


def _line(group: Group, row: Row) -> dict[str, Any]:
    """A row of a group by column."""
    line: dict[str, Any] = {name: getattr(group, name) for name in SHARED}
    for name in default_columns(group):
        line[name] = _value(group, row, name)
        if name == group.score:
            line["sd"] = _finite(row.summaries[name].sd)
    return line | {"marks": marks_text(row.marks, len(row.seeds)) or None}


def _value(group: Group, row: Row, name: str) -> Any:
    if name == "method":
        return OWN[name].cell(group, row)
    if name.startswith(SETTING):
        return setting_text(row, name)
    if name == "n":
        return len(row.seeds)
    if name == "cost":
        return row.cost
    if name in ("difference", "p"):
        contrast = group.evidence.contrasts.get(row.label)
        return None if contrast is None else _finite(getattr(contrast, name))
    found = row.summaries.get(name)
    return None if found is None else _finite(found.mean)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def pictures(row: Row) -> tuple[Any, Path | None]:
    """Pictures of a row.

    Args:
        row: Of a leaderboard.

    Returns:
        The reliability diagram of the stored predictions of all its seeds, and the file with
        samples of its first one; None for what there is not.
    """
    paths = (folder / name for folder in row.folders for name in (SEPARATED, SAMPLES))
    # A link in a downloaded run may point to any local picture, and this one is uploaded.
    samples = next((path for path in paths if path.is_file() and not path.is_symlink()), None)
    stored = [folder / PREDICTIONS for folder in row.folders if (folder / PREDICTIONS).exists()]
    if not stored:
        return None, samples
    import torch

    from mixbench.metrics import reliability
    from mixbench.pictures.reliability import reliability_picture

    try:
        found = [read_predictions(path) for path in stored]
        if any(predictions.labels.ndim > 1 for predictions in found):  # of several labels
            return None, samples
        logits = torch.cat([predictions.logits for predictions in found])
        labels = torch.cat([predictions.labels for predictions in found])
    except (UserError, RuntimeError) as error:
        log.warning("no reliability diagram of %s: %s", row.label, str(error).splitlines()[0])
        return None, samples
    return reliability_picture(*reliability(logits, labels), title=row.label), samples


def _log(
    view: View, columns: list[str], rows: list[list[Any]], shown: list[tuple[Any, Path | None]]
) -> None:
    import wandb

    for place, name in enumerate(("reliability", "samples")):
        if any(pair[place] is not None for pair in shown):
            columns = [*columns, name]
            rows = [
                [*row, None if pair[place] is None else wandb.Image(_image(pair[place]))]
                for row, pair in zip(rows, shown, strict=True)
            ]
    view.run.log({"leaderboard": wandb.Table(columns=[*columns], data=rows)})


def _image(picture: Any) -> Any:
    return str(picture) if isinstance(picture, Path) else picture
