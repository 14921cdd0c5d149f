"""Classification: one class per image."""

from torch import Tensor

import mixbench.functional as mf
from mixbench.config.schema import OptimConfig
from mixbench.metrics import curve_scores, scores, topk
from mixbench.tasks.base import Holdout, Task


class Classification(Task):
    """Images of one class each; soft targets sum to 1."""

    name = "multiclass"
    kind = "multiclass"
    monitor = "top1"

    def targets(self, labels: Tensor, num_classes: int, optim: OptimConfig) -> Tensor:
        """One-hot targets, smoothed by ``optim.label_smoothing``."""
        return mf.one_hot(labels, num_classes, smoothing=optim.label_smoothing)

    def criterion(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy against soft targets."""
        return mf.soft_cross_entropy(logits, targets)

    def training_scores(self, logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """``top1_mixed``, the weight of the predicted class in the mixed label, and ``ce``."""
        hit = targets.gather(1, logits.argmax(dim=1, keepdim=True))
        # Methods of another loss have this one as well, to be compared.
        return {"top1_mixed": 100 * hit.mean(), "ce": mf.soft_cross_entropy(logits, targets)}

    def epoch_scores(self, logits: Tensor, labels: Tensor) -> dict[str, float]:
        """Accuracy, likelihood and calibration."""
        return curve_scores(logits, labels)

    def peek_score(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Accuracy in percent."""
        return topk(logits, labels)

    def scores(self, logits: Tensor, labels: Tensor, holdout: Holdout) -> dict[str, float]:
        """All scores of single-label predictions."""
        return scores(logits, labels, holdout)
