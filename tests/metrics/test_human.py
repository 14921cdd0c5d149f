"""Predictions against people's answers."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from paths import SHARED

from mixbench.data.labels import read_human
from mixbench.errors import UserError
from mixbench.metrics.human import (
    HumanLabels,
    human_cross_entropy,
    human_entropy,
    human_scores,
)

HUMAN = SHARED / "data" / "cifar10h.npz"


def test_the_cross_entropy_is_that_of_its_definition():
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.5, 3.0]])
    counts = torch.tensor([[40, 10, 0], [0, 5, 45]])
    expected = []
    for row, answers in zip(logits.tolist(), counts.tolist(), strict=True):
        total = sum(map(math.exp, row))
        terms = (n / 50 * math.log(math.exp(z) / total) for z, n in zip(row, answers, strict=True))
        expected.append(-sum(terms))
    assert float(human_cross_entropy(logits, counts)) == pytest.approx(sum(expected) / 2)


def test_unanimous_answers_give_the_usual_cross_entropy():
    logits = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
    y = torch.arange(20) % 5
    counts = 47 * torch.nn.functional.one_hot(y)
    usual = torch.nn.functional.cross_entropy(logits, y)
    torch.testing.assert_close(human_cross_entropy(logits, counts).float(), usual)
    assert float(human_entropy(counts)) == 0


def test_every_image_counts_the_same_however_many_were_asked():
    logits = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    counts = torch.tensor([[3.0, 1.0], [1.0, 1.0]])
    scaled = counts * torch.tensor([[20.0], [1.0]])
    torch.testing.assert_close(
        human_cross_entropy(logits, scaled), human_cross_entropy(logits, counts)
    )


def test_no_prediction_falls_below_the_entropy_of_the_answers():
    counts = torch.tensor([[30.0, 20.0], [1.0, 49.0]])
    matched = (counts / 50).log()
    torch.testing.assert_close(human_cross_entropy(matched, counts), human_entropy(counts))
    assert human_cross_entropy(matched + torch.tensor([0.3, 0.0]), counts) > human_entropy(counts)


def test_confident_errors_stay_finite_in_half_precision():
    logits = torch.tensor([[60000.0, 0.0]], dtype=torch.float16)
    assert float(human_cross_entropy(logits, torch.tensor([[1, 1]]))) == pytest.approx(30000)


def test_images_are_found_by_their_place():
    counts = torch.tensor([[9.0, 1.0], [1.0, 9.0], [5.0, 5.0]])
    human = HumanLabels(counts, torch.tensor([0, 1, 0]), Path("people.npz"))
    logits = torch.tensor([[1.0, 2.0], [2.0, 0.0]])
    found = human_scores(logits, torch.tensor([0, 0]), torch.tensor([2, 0]), human)
    assert found == pytest.approx(
        {
            "ce_human": float(human_cross_entropy(logits, counts[[2, 0]])),
            "entropy_human": float(human_entropy(counts[[2, 0]])),
        }
    )
    with pytest.raises(UserError, match="classes of 1 of 2 images differ"):
        human_scores(logits, torch.tensor([0, 0]), torch.tensor([1, 0]), human)
    with pytest.raises(UserError, match="answers for 3 images in 2 classes"):
        human_scores(logits, torch.tensor([0, 0]), torch.tensor([3, 0]), human)
    with pytest.raises(UserError, match="3 classes"):
        human_scores(torch.zeros(2, 3), torch.tensor([0, 0]), torch.tensor([2, 0]), human)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"probs": np.eye(2)}, r"need counts \(N, K\)"),
        ({"counts": np.zeros((2, 2))}, "no answer"),
        ({"counts": np.array([[2, -1]])}, "negative counts"),
        ({"counts": np.array([["1", "2"]])}, r"counts \(N, K\)"),
        ({"counts": np.ones((2, 2)), "labels": np.array([0, 0.7])}, "whole numbers"),
        ({"counts": np.ones((2, 2)), "labels": np.array(["a", "b"])}, "whole numbers"),
        ({"counts": np.ones((2, 2)), "labels": np.zeros(3)}, r"labels \(3,\) for counts \(2, 2\)"),
    ],
)
def test_files_without_answers_are_refused(tmp_path, content, message):
    np.savez(tmp_path / "people.npz", **content)
    with pytest.raises(UserError, match=message):
        read_human(tmp_path / "people.npz")
    (tmp_path / "people.npz").write_text("counts")
    with pytest.raises(UserError, match="not a readable"):
        read_human(tmp_path / "people.npz")
    with pytest.raises(UserError, match="no such file"):
        read_human(tmp_path / "missing.npz")


@pytest.mark.skipif(not HUMAN.is_file(), reason="CIFAR-10H is not beside the checkout")
def test_cifar_10h_is_about_the_images_of_the_test_pack():
    human = read_human(HUMAN)
    with np.load(HUMAN.with_name("cifar10_test10k.npz")) as pack:
        labels, rows = (torch.from_numpy(pack[key]).long() for key in ("label", "original_index"))
    assert human.counts.shape == (10000, 10)
    logits = 5 * torch.nn.functional.one_hot(labels, 10).float()
    found = human_scores(logits, labels, rows, human)
    with np.load(HUMAN) as raw:
        probs = raw["counts"] / raw["counts"].sum(1, keepdims=True)
    norm = math.log(math.exp(5) + 9)
    direct = np.mean(norm - 5 * probs[np.arange(10000), labels.numpy()])
    assert found["ce_human"] == pytest.approx(direct, rel=1e-9)
    assert 0 < found["entropy_human"] < found["ce_human"]
    with pytest.raises(UserError, match="classes of"):
        human_scores(logits, labels, rows.flip(0), human)
