import math

import pytest
import torch
from sklearn.metrics import average_precision_score

from mixbench.metrics import mean_average_precision, multilabel_scores

NAN = float("nan")


@pytest.fixture
def predictions():
    generator = torch.Generator().manual_seed(2)
    logits = 3 * torch.randn(200, 6, generator=generator)
    targets = (torch.rand(200, 6, generator=generator) < 0.2).float()
    return logits + targets, targets


def test_it_is_the_mean_of_scikit_learns_average_precision(predictions):
    logits, targets = predictions
    expected = average_precision_score(targets.numpy(), logits.numpy(), average="macro")
    assert mean_average_precision(logits, targets).item() == pytest.approx(100 * expected, rel=1e-5)
    assert multilabel_scores(logits, targets)["map"] == pytest.approx(100 * expected, rel=1e-5)


def test_unknown_labels_take_no_part(predictions):
    logits, targets = predictions
    hidden = torch.rand(200, 6, generator=torch.Generator().manual_seed(3)) < 0.3
    partly = targets.masked_fill(hidden, NAN)
    expected = [
        average_precision_score(targets[~hidden[:, k], k], logits[~hidden[:, k], k])
        for k in range(6)
    ]
    found = mean_average_precision(logits, partly).item()
    assert found == pytest.approx(100 * sum(expected) / 6, rel=1e-5)


def test_a_class_without_a_positive_image_is_left_out(predictions):
    logits, targets = predictions
    targets[:, 1:] = 0
    targets[0, 5] = NAN
    expected = average_precision_score(targets[:, 0], logits[:, 0])
    assert mean_average_precision(logits, targets).item() == pytest.approx(100 * expected, rel=1e-5)
    assert math.isnan(mean_average_precision(logits, torch.zeros_like(targets)))


def test_large_logits_are_still_told_apart():
    logits = torch.tensor([[60.0, 0.0], [50.0, 1.0], [40.0, 2.0], [30.0, 3.0]])
    targets = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    assert mean_average_precision(logits, targets).item() == pytest.approx(100)
