"""Predictions against people's answers."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from paths import SHARED
from scipy.stats import entropy, pearsonr, wasserstein_distance

from mixbench.data.labels import read_human
from mixbench.errors import UserError
from mixbench.metrics.human import (
    HumanLabels,
    answer_scores,
    answers_of,
    human_cross_entropy,
    human_entropy,
    human_scores,
    sorted_distance,
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
    assert found["ce_human"] == pytest.approx(float(human_cross_entropy(logits, counts[[2, 0]])))
    assert found["entropy_human"] == pytest.approx(float(human_entropy(counts[[2, 0]])))
    assert found == pytest.approx(answer_scores(logits, counts[[2, 0]]))
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
    with pytest.raises(UserError, match="cannot be read"):
        read_human(tmp_path / "people.npz")
    with pytest.raises(UserError, match="does not exist"):
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


def test_distances_are_those_of_their_definitions():
    probs = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.4, 0.3, 0.3]])
    answers = np.array([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0], [0.3, 0.4, 0.3]])
    found = answer_scores(torch.from_numpy(np.log(probs)), torch.from_numpy(50 * answers))
    assert found["l1_human"] == pytest.approx((0.6 + 0.4 + 0.2) / 3)
    gaps = [np.abs(np.sort(p) - np.sort(q)).mean() for p, q in zip(probs, answers, strict=True)]
    assert found["w1_human"] == pytest.approx(np.mean(gaps))
    pairs = zip(probs, answers, strict=True)
    assert gaps == pytest.approx([wasserstein_distance(p, q) for p, q in pairs])
    entropies = entropy(probs, axis=1), entropy(answers, axis=1)
    assert found["entropy_corr"] == pytest.approx(pearsonr(*entropies).statistic)


def test_a_correlation_with_what_never_changes_is_none():
    logits = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.5, 0.0]])
    assert math.isnan(answer_scores(logits, torch.tensor([[4, 1], [1, 4], [8, 2]]))["entropy_corr"])


def test_the_distance_of_sorted_probabilities_knows_no_classes():
    label = torch.tensor([[0.6, 0.3, 0.1]])
    assert float(sorted_distance(label, label[:, [2, 0, 1]])) == 0
    assert float(sorted_distance(label, torch.tensor([[1.0, 0.0, 0.0]]))) == pytest.approx(0.8 / 3)


SOFT = np.array([[0.7, 0.2, 0.1], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]], np.float32)


@pytest.fixture(params=["npz", "json"])
def annotated(request, tmp_path):
    """Soft labels by two people of image 6 and one of image 2, in both layouts."""
    path = tmp_path / f"soft.{request.param}"
    if request.param == "npz":
        np.savez(path, image_index=np.array([6, 6, 2], np.int16), soft_label=SOFT)
    else:
        path.write_text(json.dumps({"6": SOFT[:2].tolist(), "2": SOFT[2:].tolist()}))
    return path


def test_soft_labels_of_few_people_count_by_their_mean(annotated):
    human = read_human(annotated)
    assert human.rows is not None
    assert human.rows.tolist() == [2, 6]
    torch.testing.assert_close(human.counts[1], torch.tensor([0.6, 0.35, 0.05]).double())
    rows, labels = torch.tensor([9, 6, 2, 0]), torch.tensor([0, 1, 2, 0])
    place, shares = answers_of(human, rows, labels, 3)
    assert place.tolist() == [1, 2]
    torch.testing.assert_close(shares, human.counts[[1, 0]])
    logits = torch.tensor([[9.0, 0, 0], [1.0, 2.0, 0.0], [0.0, 1.0, 0.5], [0.0, 9.0, 0.0]])
    expected = answer_scores(logits[1:3], shares)
    assert human_scores(logits, labels, rows, human) == pytest.approx(expected)
    with pytest.raises(UserError, match="none of its images"):
        answers_of(human, torch.tensor([0, 1]), labels[:2], 3)


@pytest.mark.parametrize(
    ("rows", "labels", "message"),
    [
        ([1], [[70, 20, 10]], r"lie in \[0, 1\]"),
        ([1], [[0.5, 0.2, 0.1]], "of image 1 sums to 0.8"),
        ([1, 2], [[0.5, 0.2, 0.3]], "for 2 image_index"),
        ([-1], [[0.5, 0.2, 0.3]], "image_index"),
        ([1], [[0.5, 0.7, -0.2]], r"lie in \[0, 1\]"),
    ],
)
def test_labels_that_are_none_are_refused(tmp_path, rows, labels, message):
    np.savez(tmp_path / "soft.npz", image_index=np.array(rows), soft_label=np.array(labels))
    with pytest.raises(UserError, match=message):
        read_human(tmp_path / "soft.npz")
    (tmp_path / "soft.json").write_text("[1, 2]")
    with pytest.raises(UserError, match="does not map numbers of images"):
        read_human(tmp_path / "soft.json")
    with pytest.raises(UserError, match="does not exist"):
        read_human(tmp_path / "gone.json")


@pytest.mark.skipif(not HUMAN.with_name("cifar10s.npz").is_file(), reason="needs cifar10s.npz")
def test_cifar_10s_and_cifar_10h_agree_on_most_images():
    many, few = read_human(HUMAN), read_human(HUMAN.with_name("cifar10s.npz"))
    assert few.counts.shape == (1000, 10)
    same = many.counts[few.rows].argmax(dim=1) == few.counts.argmax(dim=1)
    assert float(same.double().mean()) > 0.9
