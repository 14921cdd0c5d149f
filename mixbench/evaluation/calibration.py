"""The calibration suite: accuracy and calibration, which every test finds.

It can be asked for again of a finished run, whose stored predictions it reads.
"""

from collections.abc import Iterable, Mapping

from mixbench.config.schema import DataInfo
from mixbench.data.images import Batch
from mixbench.evaluation.suite import Counts, Model, Suite


class Calibration(Suite):
    """Scores of the test itself, see :func:`mixbench.metrics.classification.scores`."""

    name = "calibration"
    columns = ("top1", "top5", "map", "cf1", "of1", "nll", "nll_cf", "ece", "ece_cf", "ece_ts")
    columns += ("aece", "aece_cf", "brier", "brier_cf", "bias", "oe", "T", "aurc")
    columns += ("psnr", "psnr_gain", "psnr_second", "ssim", "residual", "swapped")  # of task=demix
    tasks = frozenset({"multiclass", "multilabel"})
    of_test = True

    def count(self, model: Model, batches: Iterable[Batch], info: DataInfo) -> Counts:
        """No images of its own: the test has seen them all."""
        del model, batches, info
        return {"n": 0}

    def score(self, counts: Mapping[str, int]) -> dict[str, float]:
        """No scores beside those of the test."""
        del counts
        return {}
