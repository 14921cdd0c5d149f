"""From logits and labels to the numbers of a leaderboard row, without Lightning."""

from mixbench.metrics.classification import ece, nll, scores, signed_bias, topk
from mixbench.metrics.multilabel import mean_average_precision, multilabel_scores
from mixbench.metrics.stored import StoredLogits

__all__ = [
    "StoredLogits",
    "ece",
    "mean_average_precision",
    "multilabel_scores",
    "nll",
    "scores",
    "signed_bias",
    "topk",
]
