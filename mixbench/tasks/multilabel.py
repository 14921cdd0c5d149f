"""Multi-label classification: any number of classes per image."""

from torch import Tensor

import mixbench.functional as mf
from mixbench.config.schema import OptimConfig, RunConfig
from mixbench.errors import UserError
from mixbench.metrics import mean_average_precision, multilabel_scores
from mixbench.tasks.base import Holdout, Task


class MultiLabel(Task):
    """Images of several classes each; a label of NaN is not known and counts for nothing.

    A mixed label is unknown where that of either image is.
    """

    name = "multilabel"
    kind = "multilabel"
    monitor = "map"

    def refuse(self, config: RunConfig) -> None:
        """Refuse label smoothing, which is defined for one class per image."""
        if config.optim.label_smoothing:
            raise UserError(
                "label smoothing is for one class per image, and these images have several",
                f"optim.label_smoothing={config.optim.label_smoothing}",
                "remove it",
            )

    def targets(self, labels: Tensor, num_classes: int, optim: OptimConfig) -> Tensor:
        """The (B, K) labels as they are."""
        del num_classes, optim
        return labels

    def criterion(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Binary cross-entropy of each class against soft targets."""
        return mf.soft_binary_cross_entropy(logits, targets)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Probability of each class by itself."""
        return logits.float().sigmoid()

    def epoch_scores(self, logits: Tensor, labels: Tensor) -> dict[str, float]:
        """Mean average precision and F1."""
        return multilabel_scores(logits, labels)

    def peek_score(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean average precision in percent."""
        return mean_average_precision(logits, labels)

    def scores(self, logits: Tensor, labels: Tensor, holdout: Holdout) -> dict[str, float]:
        """The same; there is no temperature to fit on a hold-out."""
        del holdout
        return multilabel_scores(logits, labels)
