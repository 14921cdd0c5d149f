"""From logits and labels to the numbers of a leaderboard row, without Lightning."""

from mixbench.metrics.classification import ece, nll, scores, signed_bias, topk
from mixbench.metrics.stored import StoredLogits

__all__ = ["StoredLogits", "ece", "nll", "scores", "signed_bias", "topk"]
