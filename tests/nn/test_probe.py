import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

from mixbench.nn import probe
from mixbench.nn.probe import knn_scores, linear_probe


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(120) % 3
    centres = torch.randn(3, 5, generator=generator)
    features = centres[labels] + torch.randn(120, 5, generator=generator)
    return features * torch.tensor([1.0, 10.0, 0.1, 1.0, 3.0]) + 7, labels


@pytest.mark.parametrize("k", [1, 5, 40])
def test_neighbours_vote_by_the_formula_of_wu_and_others(data, k):
    features, labels = data
    bank = F.normalize(features[:100] - 7, dim=1)
    z = features[100:] - 7
    found = knn_scores(z, bank, labels[:100], 3, k=k, temperature=0.07)
    for row, scores in zip(z, found, strict=True):
        cosines = F.cosine_similarity(row[None], bank)
        near = cosines.argsort(descending=True)[:k]
        votes = torch.zeros(3)
        for index in near.tolist():
            votes[labels[index]] += (cosines[index] / 0.07).exp()
        expected = (votes / votes.sum()).clamp(min=1e-12).log()
        torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [3, 7, 8])
def test_equally_similar_images_share_the_votes_that_are_left(size):
    one, other = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    bank = torch.stack([one, *[other] * size])
    labels = torch.tensor([0, *torch.arange(size) % 2 + 1])
    found = knn_scores(one[None], bank, labels, 3, k=2, temperature=0.5).exp()[0]
    # One vote of exp(1 / T), and one of exp(0.6 / T) that all others hold together.
    weights = torch.tensor([1.0, 0.6]).div(0.5).softmax(dim=0)
    ones = (labels == 1).sum() / size
    expected = torch.stack([weights[0], weights[1] * ones, weights[1] * (1 - ones)])
    torch.testing.assert_close(found, expected)


def test_the_order_of_the_bank_decides_nothing():
    generator = torch.Generator().manual_seed(0)
    kinds = F.normalize(torch.randn(5, 33, generator=generator), dim=1)
    bank, labels = kinds[torch.arange(331) % 5], torch.arange(331) % 4
    z = torch.cat([kinds, torch.zeros(1, 33)])  # 0 is as similar to all
    found = knn_scores(z, bank, labels, 4, k=20, temperature=0.1)
    torch.testing.assert_close(found[-1].exp(), labels.bincount() / 331)
    for order in (torch.arange(331).flip(0), torch.randperm(331, generator=generator)):
        again = knn_scores(z, bank[order], labels[order], 4, k=20, temperature=0.1)
        torch.testing.assert_close(again, found, rtol=0, atol=1e-5)


def test_a_small_temperature_overflows_nothing_and_fewer_neighbours_than_asked_for_all_vote(data):
    features, labels = data
    bank = F.normalize(features, dim=1)
    sharp = knn_scores(features, bank, labels, 3, k=500, temperature=1e-3)
    assert bool(sharp.isfinite().all())
    assert torch.equal(sharp.argmax(dim=1), labels)  # each is its own nearest neighbour
    flat = knn_scores(features, bank, labels, 3, k=500, temperature=1e6)
    torch.testing.assert_close(flat, torch.full((120, 3), 1 / 3).log(), rtol=0, atol=1e-4)


def test_in_parts_neighbours_vote_as_in_one(data, monkeypatch):
    features, labels = data
    args = (features, F.normalize(features, dim=1), labels, 3)
    whole = knn_scores(*args, k=7, temperature=0.1)
    monkeypatch.setattr(probe, "CHUNK_ROWS", 50)
    torch.testing.assert_close(knn_scores(*args, k=7, temperature=0.1), whole)


@pytest.mark.parametrize("decay", [1e-2, 1e-4])
def test_the_classifier_is_the_logistic_regression_of_scikit_learn(data, decay):
    features, labels = data
    weight, bias = linear_probe(features, labels, 3, decay=decay, steps=1000)
    ready = (features - features.mean(0)) / features.std(0, correction=0)
    model = LogisticRegression(C=1 / (decay * len(labels)), max_iter=10_000, tol=1e-10)
    model.fit(ready.double().numpy(), labels.numpy())
    expected = torch.from_numpy(model.predict_proba(ready.double().numpy())).float()
    found = (features @ weight.t() + bias).softmax(dim=1)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-3)


def test_equal_features_give_equal_classifiers_and_a_constant_feature_none_of_its_own(data):
    features, labels = data
    features[:, 2] = 3.25
    first, second = (linear_probe(features, labels, 4, decay=1e-3) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert bool(first[0].isfinite().all())
    assert first[0][:, 2].abs().max() < 1e-6
    assert first[0].shape == (4, 5)
    hits = (features @ first[0].t() + first[1]).argmax(dim=1) == labels
    assert hits.float().mean() > 0.8


def test_features_may_need_no_gradient_and_get_none(data):
    features, labels = data
    with torch.no_grad():
        weight, bias = linear_probe(features, labels, 3, decay=1e-3)
    assert not weight.requires_grad
    assert not bias.requires_grad
    assert weight.dtype == torch.float32
