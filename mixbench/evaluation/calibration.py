"""The calibration suite: accuracy and calibration, which every test finds.

It can be asked for again of a finished run, whose stored predictions it reads.
"""

from mixbench.evaluation.suite import Suite


class Calibration(Suite):
    """Scores of the test itself, see :func:`mixbench.metrics.classification.scores`."""

    name = "calibration"
    columns = ("top1", "top5", "map", "cf1", "of1", "nll", "nll_cf", "ece", "ece_cf", "ece_ts")
    columns += ("aece", "aece_cf", "brier", "brier_cf", "bias", "oe", "T", "aurc")
    tasks = frozenset({"multiclass", "multilabel"})
    of_test = True
