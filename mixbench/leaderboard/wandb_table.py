"""A leaderboard as a table in W&B, with a reliability diagram and samples of each row."""

import json
import logging
import uuid
from pathlib import Path
from typing import Any

from mixbench.errors import UserError
from mixbench.leaderboard.render import render
from mixbench.leaderboard.rows import Leaderboard, Row
from mixbench.records.marks import marks_text
from mixbench.records.predictions import PREDICTIONS, read_predictions
from mixbench.tracking.run import View, open_view

log = logging.getLogger("mixbench")
SAMPLES = "samples.png"
SHARED = ("data", "net", "recipe")  # which tell the groups apart in a single table
FIRST = (*SHARED, "method", "n")
TESTED = ("difference", "p")
FURTHER = ("nll", "ece_cf")


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
        Names of the columns: those of the narrow table that a terminal shows, of which some row
        has a value; and the rows, with None where there is no finite one.
    """
    groups = json.loads(render(board, "json"))["groups"]
    lines = [_line(group, row) for group in groups for row in group["rows"]]
    scores = dict.fromkeys(group["score"] for group in groups)
    order = [*FIRST, *scores, "sd", *TESTED, *FURTHER, "marks"]
    columns = [n for n in order if n in FIRST or any(line.get(n) is not None for line in lines)]
    return columns, [[line.get(name) for name in columns] for line in lines]


def _line(group: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    """A row of a group by column."""
    means = {name: summary["mean"] for name, summary in row["metrics"].items()}
    line = {name: group[name] for name in SHARED} | {name: row[name] for name in ("method", "n")}
    line |= {name: means.get(name) for name in (group["score"], *FURTHER)}
    line["sd"] = row["metrics"].get(group["score"], {}).get("sd")
    line |= {name: (row["contrast"] or {}).get(name) for name in TESTED}
    return line | {"marks": marks_text(row["marks"], row["n"]) or None}


def pictures(row: Row) -> tuple[Any, Path | None]:
    """Pictures of a row.

    Args:
        row: Of a leaderboard.

    Returns:
        The reliability diagram of the stored predictions of all its seeds, and the file with
        samples of its first one; None for what there is not.
    """
    paths = (folder / SAMPLES for folder in row.folders)
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
