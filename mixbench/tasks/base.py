"""The interface of a task."""

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor

from mixbench.config.names import TASKS
from mixbench.config.schema import OptimConfig, RunConfig
from mixbench.data.images import Splits
from mixbench.errors import UserError

MIXES_LABELS = frozenset(
    {"multiclass", "multilabel"}
)  # tasks of a method that needs soft labels only
Holdout = tuple[Tensor, Tensor] | None  # logits and labels of the hold-out


class Task(ABC):
    """Interface of a task, which is what a method learns; every task derives from it.

    Attributes:
        name: By which methods say in ``tasks`` that they can learn it.
        kind: Labels of the data that it needs: ``multiclass`` or ``multilabel``.
        labelled: Whether training sees the labels. Where it does not, ``task=<name>`` picks the
            task.
        classifies: Whether outputs are logits of classes. Where training does not see the labels, a
            classifier is then fitted to the features before each evaluation.
        monitor: Score by which an epoch is chosen, by its bare name.
    """

    name = ""
    kind = ""
    labelled = True
    classifies = True
    monitor = ""

    def view(self, splits: Splits, config: RunConfig) -> Splits:
        """The data as this task sees them."""
        del config
        return splits

    def refuse(self, config: RunConfig) -> None:
        """Raise a UserError where a key cannot have an effect on this task."""
        del config

    @abstractmethod
    def targets(self, labels: Tensor, num_classes: int, optim: OptimConfig) -> Tensor:
        """Labels of a batch to what methods mix: (B, K) weights of the classes."""

    @abstractmethod
    def criterion(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Loss of outputs (B, K) against mixed targets (B, K), a scalar."""

    def probabilities(self, logits: Tensor) -> Tensor:
        """Probability of each class by outputs (B, K), in [0, 1]; one class per image is right."""
        return logits.float().softmax(dim=1)

    def training_scores(self, logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Scalars of a mixed batch that are worth a curve, by bare name."""
        del logits, targets
        return {}

    @abstractmethod
    def epoch_scores(self, logits: Tensor, labels: Tensor) -> dict[str, Any]:
        """Scores of the hold-out after an epoch."""

    @abstractmethod
    def peek_score(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The monitored score alone."""

    @abstractmethod
    def scores(self, logits: Tensor, labels: Tensor, holdout: Holdout) -> dict[str, float]:
        """Scores of the test set, as a row of the leaderboard has them."""


def find_task(asked: str, kind: str) -> Task:
    """The task of a run.

    Args:
        asked: Value of ``task``: ``supervised``, or the name of a task without labels.
        kind: Labels of the data.

    Returns:
        The task.

    Raises:
        UserError: If there is none of this name.
    """
    if asked == "supervised":
        TASKS.check(kind, "labels of the data")
    return TASKS.get(kind if asked == "supervised" else asked)()


def check_data(task: Task, kind: str, data: str) -> None:
    """Refuse data of other labels than a task needs.

    Args:
        task: The task.
        kind: Labels of the data.
        data: The data in words, for the message.

    Raises:
        UserError: If they are others.
    """
    if kind != task.kind:
        raise UserError(
            f"task={task.name} is judged by a classification, one label for each image",
            f"{data}, which is {kind}",
            "use other data",
        )
