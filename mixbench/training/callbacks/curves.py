"""The local log of a run: ``metrics.csv``."""

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from mixbench.records.curves import read_cells, write_curves

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
        """A value that Lightning asks for and that has no use here."""
        return "curves"

    @property
    def version(self) -> str:
        """A value that Lightning asks for and that has no use here."""
        return ""

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """No-op: the runner writes the configuration."""
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
