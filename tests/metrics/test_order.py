"""Scores depend on the multiset of predictions and labels, and on numbers alone."""

import math

import pytest
import torch
from torch import Tensor

from mixbench import metrics
from mixbench.metrics.human import human_cross_entropy

CLASSES, SIZE = 6, 240


def labels() -> Tensor:
    return torch.randint(CLASSES, (SIZE,), generator=torch.Generator().manual_seed(1))


def several() -> Tensor:
    """A class or all of them for each image."""
    return (torch.eye(CLASSES)[labels()] + (torch.arange(SIZE) % 5 == 0)[:, None]).clamp(max=1)


def _of_labels(function):
    return lambda logits, rows: function(logits, labels()[rows])


def _of_several(function):
    return lambda logits, rows: function(logits, several()[rows])


SCORES = {
    **{
        name: _of_labels(getattr(metrics, name))
        for name in [
            "adaptive_ece",
            "augrc",
            "aurc",
            "aurc_mean",
            "brier",
            "classwise_ece",
            "curve_scores",
            "ece",
            "ece_openmixup",
            "fit_temperature",
            "maxce",
            "nll",
            "overconfidence_error",
            "reliability",
            "rmsce",
            "signed_bias",
            "topk",
        ]
    },
    "topk 3": _of_labels(lambda logits, y: metrics.topk(logits, y, 3)),
    **{
        name: _of_several(getattr(metrics, name))
        for name in ("f1_scores", "mean_average_precision", "multilabel_scores")
    },
    "f1_scores top": _of_several(lambda logits, targets: metrics.f1_scores(logits, targets, top=2)),
    "detection_scores": lambda logits, rows: metrics.detection_scores(
        *(metrics.ood_score(logits)[rows % 2 == side] for side in (0, 1))
    ),
    "human_cross_entropy": lambda logits, rows: human_cross_entropy(logits, several()[rows]),
    "gaze_inconsistency": lambda logits, rows: (
        metrics.gaze_inconsistency(
            *(torch.ones(SIZE, 2, 2) for _ in range(2)),
            logits[:, :4].view(SIZE, 2, 2),
            logits[:, 4],
        ).value
    ),
}
# What is drawn for the rows in the order of their ids, in which StoredLogits gives them.
SEEDED = {"cross_fit", "ece_floor", "scores", "stratified_halves"}
OF_NO_PREDICTIONS = {
    "F1", "Floor", "Inconsistency", "Reliability", "Score", "StoredLogits",
    "centre_gaussian", "density_maps", "gaze_lam", "ood_score",
}  # fmt: skip


def test_every_score_is_looked_at():
    named = {name.split()[0] for name in SCORES} - {"human_cross_entropy"}
    assert set(metrics.__all__) == named | SEEDED | OF_NO_PREDICTIONS


def drawn(kind: str) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(SIZE, CLASSES, generator=generator)
    rows = torch.arange(SIZE)
    return {
        "untied": logits,
        "all equal": torch.full_like(logits, 0.3),
        "one class": torch.tensor([2.0, 1, 0, 0, 0, 0]).expand(SIZE, -1),
        "two values": torch.eye(CLASSES)[rows % 2],
        "rounded": logits.round(),
        "saturated": torch.where(logits > 1, 100.0, 0.0) + logits,
        "few and sure": 1000 * torch.eye(CLASSES)[rows % CLASSES],
        "bfloat16": (3 * logits).bfloat16(),
    }[kind].contiguous()


def values(found) -> list[float]:
    if isinstance(found, dict):
        found = list(found.values())
    parts = found if isinstance(found, (list, tuple)) else [found]
    return torch.cat([torch.as_tensor(part).double().flatten() for part in parts]).tolist()


@pytest.mark.parametrize(
    "kind",
    [
        "untied",
        "all equal",
        "one class",
        "two values",
        "rounded",
        "saturated",
        "few and sure",
        "bfloat16",
    ],
)
@pytest.mark.parametrize("name", SCORES)
def test_samples_in_another_order_change_no_score(name, kind):
    logits, rows = drawn(kind), torch.arange(SIZE)
    first = values(SCORES[name](logits, rows))
    by_label = labels().argsort(stable=True)  # as folders of classes are read
    shuffled = torch.randperm(SIZE, generator=torch.Generator().manual_seed(2))
    for order in (by_label, by_label.flip(0), shuffled):
        again = values(SCORES[name](logits[order], rows[order]))
        assert again == pytest.approx(first, rel=1e-12, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("share", ["one", "all"])
@pytest.mark.parametrize("name", SCORES)
def test_a_logit_that_is_no_number_leaves_no_number(name, share):
    logits, rows = drawn("untied"), torch.arange(SIZE)
    if share == "one":
        logits[7, 4] = math.nan
    else:
        logits[:] = math.nan
    if name == "detection_scores":
        with pytest.raises(ValueError, match="without NaN"):
            SCORES[name](logits, rows)
        return
    found = SCORES[name](logits, rows)
    if name == "reliability":  # one bin holds the sample
        found = [part.sum() for part in found[1:2]]
    assert all(math.isnan(value) for value in values(found))


@pytest.mark.parametrize("name", sorted(SEEDED - {"stratified_halves"}))
def test_drawn_scores_of_no_numbers_are_none(name):
    logits = drawn("untied")
    logits[7, 4] = math.nan
    function = getattr(metrics, name)
    found = function(logits) if name == "ece_floor" else function(logits, labels())
    found = found[1] if name == "cross_fit" else found
    lost = sum(math.isnan(value) for value in values(found))
    assert lost == (1 if name == "cross_fit" else len(values(found)))
