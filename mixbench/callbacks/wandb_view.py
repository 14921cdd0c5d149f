"""The W&B view of a run: Lightning's logger, without its power to stop a training."""

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger

from mixbench.results.wandb_run import View, open_view

STEP = "trainer/global_step"


class WandbView(WandbLogger):
    """Sends what Lightning logs to an open W&B run; no call raises or waits.

    Args:
        view: The run.
        project: Its project.
    """

    def __init__(self, view: View, project: str) -> None:
        super().__init__(experiment=view.run, project=project, save_dir=view.folder)
        self.view = view
        self._epoch: float | None = None
        view.send(self._define_axes)

    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """Nothing to do: the run was opened with the configuration."""
        del params

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Send values with their step and epoch."""
        values = dict(metrics)
        self._epoch = values.get("epoch", self._epoch)
        if self._epoch is not None:
            values["epoch"] = self._epoch
        self.view.send(lambda: WandbLogger.log_metrics(self, values, step))

    def log_image(
        self, key: str, images: list[Any], step: int | None = None, **kwargs: Any
    ) -> None:
        """Send pictures."""
        self.view.send(lambda: WandbLogger.log_image(self, key, images, step, **kwargs))

    def finalize(self, status: str) -> None:
        """Nothing to do: the test comes after the training, and :meth:`close` after both."""
        del status

    def close(self, timeout: float = 30.0) -> None:
        """Finish the run.

        Args:
            timeout: Seconds to wait at most.
        """
        self.view.close(timeout)

    def _define_axes(self) -> None:
        self.view.run.define_metric(STEP)
        self.view.run.define_metric("epoch")
        self.view.run.define_metric("*", step_metric=STEP, step_sync=True)


def wandb_logger(
    folder: Path,
    *,
    run_id: str,
    attempt: int,
    mode: str | None,
    project: str,
    config: dict[str, Any],
    tags: list[str],
    notes: str,
) -> WandbView | None:
    """The W&B view of a run, to be closed by the caller.

    Every attempt gets an id of its own in the group of the run, as W&B cannot resume offline.

    Args:
        folder: Folder of the run.
        run_id: Id of the run.
        attempt: Number of this attempt, from 1.
        mode: As for :func:`mixbench.results.wandb_run.open_view`.
        project: W&B project.
        config: Resolved configuration.
        tags: Tags.
        notes: Notes.

    Returns:
        The logger, or None when disabled.
    """
    view = open_view(
        folder,
        run_id=f"{run_id}-a{attempt}",
        name=run_id,
        group=run_id,
        project=project,
        mode=mode,
        config=config | {"run_id": run_id},
        tags=tags,
        notes=notes,
    )
    return WandbView(view, project) if view else None
