"""From logits and labels to the numbers of a leaderboard row, without Lightning."""

from mixbench.metrics.calibration import (
    Floor,
    Reliability,
    adaptive_ece,
    augrc,
    aurc,
    aurc_mean,
    classwise_ece,
    ece,
    ece_floor,
    ece_openmixup,
    maxce,
    overconfidence_error,
    reliability,
    rmsce,
    signed_bias,
)
from mixbench.metrics.classification import brier, curve_scores, nll, scores, topk
from mixbench.metrics.detection import detection_scores, ood_score
from mixbench.metrics.gaze import (
    Inconsistency,
    centre_gaussian,
    density_maps,
    gaze_inconsistency,
    gaze_lam,
)
from mixbench.metrics.multilabel import F1, f1_scores, mean_average_precision, multilabel_scores
from mixbench.metrics.stored import Score, StoredLogits
from mixbench.metrics.temperature import cross_fit, fit_temperature, stratified_halves

__all__ = [
    "F1",
    "Floor",
    "Inconsistency",
    "Reliability",
    "Score",
    "StoredLogits",
    "adaptive_ece",
    "augrc",
    "aurc",
    "aurc_mean",
    "brier",
    "centre_gaussian",
    "classwise_ece",
    "cross_fit",
    "curve_scores",
    "density_maps",
    "detection_scores",
    "ece",
    "ece_floor",
    "ece_openmixup",
    "f1_scores",
    "fit_temperature",
    "gaze_inconsistency",
    "gaze_lam",
    "maxce",
    "mean_average_precision",
    "multilabel_scores",
    "nll",
    "ood_score",
    "overconfidence_error",
    "reliability",
    "rmsce",
    "scores",
    "signed_bias",
    "stratified_halves",
    "topk",
]
