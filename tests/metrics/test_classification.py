import math

import pytest
import torch
from torchmetrics.classification import MulticlassCalibrationError

from mixbench.metrics import StoredLogits, curve_scores, ece, nll, scores, signed_bias, topk
from mixbench.metrics.classification import brier, worst_class_accuracy


def logits_of(probs):
    return torch.tensor(probs).log()


@pytest.fixture
def predictions():
    generator = torch.Generator().manual_seed(5)
    logits = 2 * torch.randn(500, 7, generator=generator)
    y = torch.where(
        torch.rand(500, generator=generator) < 0.6,
        logits.argmax(1),
        torch.randint(7, (500,), generator=generator),
    )
    return logits, y


def test_values_worked_out_by_hand():
    logits = logits_of([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.5, 0.3, 0.2], [0.2, 0.2, 0.6]])
    y = torch.tensor([0, 2, 0, 1])
    assert topk(logits, y).item() == 50
    assert topk(logits, y, 2).item() == 75  # the tie of the last row goes to the lower index
    expected = -(math.log(0.7) + math.log(0.3) + math.log(0.5) + math.log(0.2)) / 4
    assert nll(logits, y).item() == pytest.approx(expected, rel=1e-6)
    squares = (
        (0.09 + 0.04 + 0.01) + (0.01 + 0.36 + 0.49) + (0.25 + 0.09 + 0.04) + (0.04 + 0.64 + 0.36)
    )
    assert brier(logits, y).item() == pytest.approx(squares / 4, rel=1e-6)
    # Two bins: 0.5 falls in the lower one; 0.7, 0.6 and 0.6 in the upper one, one of three right.
    gap = (abs(1 - 0.5) + abs(1 - 1.9)) / 4
    assert ece(logits, y, bins=2).item() == pytest.approx(gap, rel=1e-6)
    assert signed_bias(logits, y).item() == pytest.approx(2.4 / 4 - 0.5, rel=1e-6)


def test_ece_agrees_with_torchmetrics_away_from_bin_borders(predictions):
    logits, y = predictions
    reference = MulticlassCalibrationError(num_classes=7, n_bins=15, norm="l1")
    expected = reference(logits.softmax(1), y)
    torch.testing.assert_close(ece(logits, y), expected.double(), rtol=1e-5, atol=1e-6)


def test_certain_predictions_fall_in_the_last_bin():
    # In float32 a gap of 200 is a confidence of exactly 1; torchmetrics opens a 16th bin for it.
    logits = torch.tensor([[200.0, 0.0], [200.0, 0.0], [2.9, 0.0], [2.9, 0.0]])
    y = torch.tensor([0, 1, 0, 0])
    low = torch.sigmoid(torch.tensor(2.9)).item()  # 0.948, in (14/15, 1]
    assert ece(logits, y).item() == pytest.approx(abs(3 - 2 - 2 * low) / 4, rel=1e-5)


def test_a_confidence_on_a_border_belongs_to_the_bin_that_ends_there():
    logits = logits_of([[0.5, 0.5], [0.5, 0.5], [0.9, 0.1]])
    y = torch.tensor([0, 1, 0])
    value = ece(logits, y, bins=2).item()
    assert value == pytest.approx((abs(1 - 1.0) + abs(1 - 0.9)) / 3, rel=1e-5)


def test_bf16_logits_are_scored_in_float32():
    logits = torch.tensor([[9.0, 0.0], [0.0, 9.0]])
    y = torch.tensor([0, 0])
    assert nll(logits.bfloat16(), y) == nll(logits, y)
    assert ece(logits.bfloat16(), y) == ece(logits, y)


def test_overconfidence_is_positive_and_underconfidence_negative(predictions):
    logits, y = predictions
    accuracy = topk(logits, y) / 100
    assert signed_bias(1e6 * logits, y).item() == pytest.approx(1 - accuracy.item(), rel=1e-5)
    assert signed_bias(1e-6 * logits, y).item() == pytest.approx(1 / 7 - accuracy.item(), rel=1e-5)


def test_scores_have_the_names_of_a_leaderboard_row(predictions):
    logits, y = predictions
    assert list(curve_scores(logits, y)) == ["top1", "top5", "nll", "ece", "brier", "bias"]
    assert "top5" not in scores(logits[:, :4], y % 4)


# FAULTS row 45.
def test_batching_and_repeated_samples_change_nothing(predictions):
    logits, y = predictions
    ids = torch.arange(500)
    whole, parts = StoredLogits(), StoredLogits()
    whole.update(logits, y, ids)
    shuffled = torch.randperm(500, generator=torch.Generator().manual_seed(0))
    for rows in [*shuffled.split(64), shuffled[:13]]:  # the last ones a second time
        parts.update(logits[rows], y[rows], ids[rows])
    assert torch.equal(whole.compute()[0], parts.compute()[0])
    assert torch.equal(parts.compute()[2], ids)
    found = scores(*parts.compute()[:2])
    assert scores(*whole.compute()[:2]) == found == pytest.approx(scores(logits, y))


def test_the_worst_class_is_the_one_recognised_least_often():
    logits = torch.eye(3)[[0, 0, 1, 2, 1, 1]]
    y = torch.tensor([0, 0, 0, 1, 1, 1])  # nobody is of class 2
    assert float(worst_class_accuracy(logits, y)) == pytest.approx(200 / 3)
    y = torch.tensor([0, 0, 0, 1, 1, 2])
    assert float(worst_class_accuracy(logits, y)) == 0
    logits[0, 0] = torch.nan
    assert worst_class_accuracy(logits, y).isnan()
