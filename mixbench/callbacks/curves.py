"""Loggers: the local ``metrics.csv``, and W&B as a view of it."""

import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger

from mixbench.results.curves import read_cells, write_curves

INTERVAL = 5.0  # seconds between writes
log = logging.getLogger("mixbench")


class CurveLogger(Logger):
    """Keeps all logged values and writes them as one table.

    Args:
        path: The ``metrics.csv``.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.rows: dict[int, dict[str, Any]] = {}
        self._written, self._warned = 0.0, False

    @property
    def name(self) -> str:
        """Lightning asks for one; nothing is made of it."""
        return "curves"

    @property
    def version(self) -> str:
        """Lightning asks for one; nothing is made of it."""
        return ""

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Nothing to do: the runner writes the configuration."""
        return

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add values to the row of a step."""
        row = self.rows.setdefault(step or 0, {"epoch": "", "step": step or 0})
        row.update({key: f"{value:.8g}" for key, value in metrics.items()})
        if "epoch" in metrics:
            row["epoch"] = int(metrics["epoch"])
        if time.monotonic() - self._written > INTERVAL:
            self.save()

    def save(self) -> None:
        """Write the table; a full disk costs curves, not the run."""
        self._written = time.monotonic()
        try:
            write_curves(self.path, [self.rows[step] for step in sorted(self.rows)])
        except OSError as error:
            if not self._warned:
                log.warning("%s cannot be written: %s", self.path.name, error.strerror)
            self._warned = True

    def last_row(self) -> dict[str, Any]:
        """The only row that may still grow, for a checkpoint."""
        return dict(self.rows[max(self.rows)]) if self.rows else {}

    def go_on_from(self, last: dict[str, Any]) -> None:
        """Take up the table on disk as it was when a checkpoint was written.

        Args:
            last: What :meth:`last_row` said then; later rows are dropped.
        """
        rows = read_cells(self.path) if self.path.exists() and last else []
        self.rows = {int(row["step"]): row for row in rows if int(row["step"]) < last["step"]}
        if last:
            self.rows[last["step"]] = dict(last)

    def finalize(self, status: str) -> None:
        """Write what is left."""
        del status
        self.save()


def wandb_logger(
    folder: Path,
    *,
    run_id: str,
    attempt: int,
    mode: Any,
    project: str,
    config: dict[str, Any],
    tags: list[str],
    notes: str,
) -> WandbLogger | None:
    """The W&B view of a run, offline unless asked otherwise.

    Every attempt gets an id of its own in the group of the run, as W&B cannot resume offline.

    Args:
        folder: Folder of the run.
        run_id: Id of the run.
        attempt: Number of this attempt, from 1.
        mode: ``online``, ``offline`` or ``disabled``; None reads WANDB_MODE, else offline.
        project: W&B project.
        config: Resolved configuration.
        tags: Tags.
        notes: Notes.

    Returns:
        The logger, or None when disabled.
    """
    mode = mode or os.environ.get("WANDB_MODE") or "offline"
    if mode in ("disabled", "dryrun"):
        return None
    os.environ.setdefault("WANDB_SILENT", "true")  # read when wandb is imported
    import wandb

    run = wandb.init(
        dir=folder,
        name=run_id,
        id=f"{run_id}-a{attempt}",
        group=run_id,
        project=project,
        mode=mode,
        config=config,
        tags=tags,
        notes=notes or None,
        settings=wandb.Settings(console="off", disable_git=True, save_code=False),
    )
    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    return WandbLogger(experiment=run)
