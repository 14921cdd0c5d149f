import numpy as np
import pytest
import torch

from mixbench.metrics import mean_average_precision
from mixbench.race.scores import fold_score, image_scores, score_of_labels
from mixbench.records.predictions import Predictions, write_predictions
from mixbench.stats.gain import gain_interval


def stored(path, logits, labels):
    ids = torch.arange(len(labels))
    write_predictions(
        path, Predictions(torch.from_numpy(logits).float(), torch.from_numpy(labels), ids)
    )


@pytest.fixture
def run(tmp_path):
    def write(labels, classes, name="p.npz", seed=0):
        rng = np.random.default_rng(seed)
        logits = rng.normal(size=(len(labels), classes))
        logits[np.arange(len(labels)), labels] += 1
        stored(tmp_path / name, logits, labels)
        return tmp_path / name, logits

    return write


@pytest.mark.parametrize(
    ("counts", "score"),
    [((100, 34), "top1"), ((102, 34), "balanced"), ((102, 34, 0, 40), "balanced")],
)
def test_the_score_follows_from_the_training_labels(counts, score):
    assert score_of_labels(np.repeat(np.arange(len(counts)), counts)) == score


def test_several_labels_are_scored_by_average_precision():
    assert score_of_labels(np.zeros((10, 3))) == "map"


def test_the_mean_over_images_is_the_accuracy(run):
    labels = np.arange(50) % 3
    path, logits = run(labels, 3)
    right = logits.argmax(1) == labels
    assert image_scores(path, "top1").tolist() == right.astype(float).tolist()
    assert fold_score(path, "top1") == pytest.approx(100 * right.mean())


def test_the_mean_over_images_is_the_balanced_accuracy(run):
    labels = np.repeat([0, 1, 2], [60, 25, 5])
    path, logits = run(labels, 4)  # no image of the last class
    right = logits.argmax(1) == labels
    recall = np.mean([right[labels == name].mean() for name in range(3)])
    assert image_scores(path, "balanced").mean() == pytest.approx(recall)
    assert fold_score(path, "balanced") == pytest.approx(100 * recall)


def test_several_labels_give_twenty_values_whose_mean_is_near_the_score(tmp_path):
    rng = np.random.default_rng(0)
    labels = (rng.random((400, 4)) < 0.2).astype(np.float32)
    labels[0, 0] = np.nan
    logits = rng.normal(size=(400, 4)) + np.nan_to_num(labels)
    stored(tmp_path / "p.npz", logits, labels)
    whole = float(
        mean_average_precision(torch.from_numpy(logits).float(), torch.from_numpy(labels))
    )
    values = image_scores(tmp_path / "p.npz", "map")
    assert values.shape == (20,)
    assert 100 * values.mean() == pytest.approx(whole, abs=2)
    assert fold_score(tmp_path / "p.npz", "map") == pytest.approx(whole)


@pytest.mark.slow
def test_intervals_of_balanced_accuracy_cover_as_often_as_they_say():
    rng = np.random.default_rng(3)
    counts = np.array([500, 200, 150, 100, 50])
    label = np.repeat(np.arange(5), counts)
    weight = 1000 / (5 * counts[label])
    covered = false = 0
    for _ in range(3000):
        hard = rng.normal(3, 3, 1000) - 0.7 * label
        tables = []
        for _ in range(2):
            luck = rng.normal(0, 0.06, (5, 1)) + rng.normal(0, 0.1, (5, 5))[:, label]
            logit = hard + rng.normal(0, 1, 1000) + luck
            tables.append((rng.random((5, 1000)) < 1 / (1 + np.exp(-logit))) * weight)
        found = gain_interval(*tables)
        covered += found.low <= 0 <= found.high
        false += found.low > 0
    assert abs(covered / 3000 - 0.946) < 3 * 2**0.5 * 0.0041
    assert abs(false / 3000 - 0.027) < 3 * 2**0.5 * 0.003
