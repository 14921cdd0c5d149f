"""The view of a run in W&B: Lightning's logger, without its power to stop a training."""

import uuid
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger

from mixbench.records.record import Record
from mixbench.tracking.run import View, is_disabled, open_view

STEP = "trainer/global_step"
BY_EPOCH = ("val/*", "peek/*", "train/loss_epoch")  # values of which an epoch has one


class WandbView(WandbLogger):
    """Sends what Lightning logs to an open W&B run; no call raises or waits.

    Args:
        view: The run.
        project: Its project.
        test: Whether scores of the test set are shown.
    """

    def __init__(self, view: View, project: str, *, test: bool = True) -> None:
        super().__init__(experiment=view.run, project=project, save_dir=view.folder)
        self.view, self.test = view, test
        self._epoch: float | None = None
        view.send(self._define_axes)

    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """No-op: the run was opened with the configuration."""
        del params

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Send values with their step and epoch, without those that nobody may see yet."""
        values = dict(metrics)
        if not self.test:
            values = {k: v for k, v in values.items() if not k.startswith("test/")}
            if not values.keys() - {"epoch"}:
                return
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
        """No-op: the test comes after the training, and :meth:`close` after both."""
        del status

    def summarize(self, values: Mapping[str, Any]) -> None:
        """Send values that stand for the whole run."""
        self.view.send(lambda: self.view.run.summary.update(dict(values)))

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
        for name in BY_EPOCH:
            self.view.run.define_metric(name, step_metric="epoch", step_sync=True)


def group_of(record: Record) -> str:
    """The name that runs share which differ in nothing but their seed.

    Args:
        record: Of one of them.

    Returns:
        Method, recipe, and a hash of all else that decides a run.
    """
    return f"{record.method}-{record.recipe}-{record.row[:8]}"


def wandb_logger(
    folder: Path,
    *,
    run_id: str,
    group: str,
    attempt: int,
    mode: str | None,
    project: str,
    config: dict[str, Any],
    tags: list[str],
    notes: str,
    job_type: str = "train",
    test: bool = True,
) -> WandbView | None:
    """The W&B view of a run, to be closed by the caller.

    Every attempt gets an id of its own, as W&B cannot resume offline.

    Args:
        folder: Folder of the run.
        run_id: Id of the run, under which its attempts and evaluations are shown.
        group: As :func:`group_of` names it.
        attempt: Number of this attempt, from 1.
        mode: As for :func:`mixbench.tracking.run.open_view`.
        project: W&B project.
        config: Resolved configuration.
        tags: Tags.
        notes: Notes.
        job_type: Kind of run.
        test: Whether scores of the test set are shown.

    Returns:
        The logger, or None when disabled.
    """
    view = open_view(
        folder,
        run_id=f"{run_id}-a{attempt}",
        name=run_id,
        group=group,
        job_type=job_type,
        project=project,
        mode=mode,
        config=config | {"run_id": run_id},
        tags=tags,
        notes=notes,
    )
    return WandbView(view, project, test=test) if view else None


def has_view(folder: Path) -> bool:
    """Whether a run has been shown in W&B.

    Args:
        folder: Folder of the run.

    Returns:
        True if an attempt has left its W&B files there.
    """
    return any((folder / "wandb").glob("*run-*"))


def show_evaluation(
    folder: Path,
    *,
    run_id: str,
    group: str,
    mode: str | None,
    project: str,
    scores: Mapping[str, float],
    facts: dict[str, Any],
    place: Mapping[str, float],
) -> str:
    """Send what a finished run was judged by later, as a W&B run in the group of the run.

    It gets an id of its own, as each attempt does.

    Args:
        folder: Folder of the run.
        run_id: Id of the run.
        group: As :func:`group_of` names it.
        mode: As for :func:`mixbench.tracking.run.open_view`.
        project: W&B project.
        scores: By the names of a leaderboard row.
        facts: How they were found, plain content.
        place: ``step`` and ``epoch`` of the weights, where they are known.

    Returns:
        One line that says where they are; empty if the log says it already.
    """
    if is_disabled(mode):
        return "W&B is disabled: the scores are in the record only"
    view = open_view(
        folder,
        run_id=f"{run_id}-e{uuid.uuid4().hex[:8]}",
        name=run_id,
        group=group,
        job_type="eval",
        project=project,
        mode=mode,
        config={"run_id": run_id, "evaluations": facts},
    )
    if view is None:
        return ""
    logger = WandbView(view, project)
    values = {f"test/{name}": value for name, value in scores.items()}
    if "epoch" in place:
        values["epoch"] = int(place["epoch"])
    logger.log_metrics(values, int(place.get("step", 0)))
    if not view.close():
        return f"W&B: the scores are not complete there; what there is: {view.folder}"
    return f"W&B: {view.url}" if view.url else f"W&B: offline, upload with: {view.sync_command}"
