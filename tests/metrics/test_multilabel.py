import math

import pytest
import torch
from sklearn.metrics import average_precision_score, precision_recall_fscore_support

from mixbench.metrics import f1_scores, mean_average_precision, multilabel_scores

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


def test_f1_is_that_of_mean_precision_and_mean_recall(predictions):
    logits, targets = predictions
    given = (logits >= 0).int().numpy()
    found = f1_scores(logits, targets)
    for name, average in (("overall", "micro"), ("class", "macro")):
        precision, recall, _, _ = precision_recall_fscore_support(
            targets.numpy(), given, average=average, zero_division=0
        )
        assert getattr(found, f"{name}_precision").item() == pytest.approx(100 * precision)
        assert getattr(found, f"{name}_recall").item() == pytest.approx(100 * recall)
        f1 = found.of1 if name == "overall" else found.cf1
        assert f1.item() == pytest.approx(200 * precision * recall / (precision + recall))
    assert multilabel_scores(logits, targets)["cf1"] == found.cf1
    assert multilabel_scores(logits, targets)["of1"] == found.of1


def test_only_so_many_labels_are_given_to_an_image():
    logits = torch.tensor([[3.0, 2.0, 1.0], [-1.0, -2.0, 0.0]])
    targets = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
    found = f1_scores(logits, targets, top=2)
    # Given: 0 and 1 to the first, 2 alone to the second, as 0 is reached and below it nothing is.
    assert found.overall_precision.item() == pytest.approx(100 * 2 / 3)
    assert found.overall_recall.item() == pytest.approx(100 * 2 / 4)
    assert f1_scores(logits, targets, top=9) == f1_scores(logits, targets)


def test_unknown_labels_and_classes_without_positives_do_not_count_in_f1():
    logits = torch.tensor([[1.0, 1.0, 1.0], [1.0, -1.0, 1.0]])
    targets = torch.tensor([[1.0, NAN, 0.0], [0.0, 1.0, 0.0]])
    found = f1_scores(logits, targets)
    assert found.overall_precision.item() == pytest.approx(100 / 4)
    assert found.overall_recall.item() == pytest.approx(50)
    # The last class has no positive; the second is never given where it is known.
    assert found.class_precision.item() == pytest.approx((50 + 0) / 2)
    assert found.class_recall.item() == pytest.approx((100 + 0) / 2)
    nothing = multilabel_scores(logits, torch.zeros(2, 3))
    assert math.isnan(nothing["cf1"])
    assert math.isnan(nothing["of1"])
    assert f1_scores(-logits.abs(), targets).cf1 == 0
