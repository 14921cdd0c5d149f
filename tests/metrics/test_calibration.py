import itertools
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from mixbench import metrics
from mixbench.metrics import calibration


def logits_of(probs) -> Tensor:
    return torch.tensor(probs).log()


def draw(n: int, classes: int, scale: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits, and labels drawn from their own probabilities: perfectly calibrated."""
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(n, classes, generator=generator)
    return logits, torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]


# Two bins hold 0.6 (right, wrong) and 0.9 (right, right); with four bins 0.4 (wrong) has its own.
PROBS = [[0.6, 0.2, 0.2], [0.2, 0.6, 0.2], [0.9, 0.05, 0.05], [0.05, 0.05, 0.9], [0.4, 0.3, 0.3]]
LABELS = [0, 0, 0, 2, 1]


def test_gaps_of_bins_worked_out_by_hand():
    logits, y = logits_of(PROBS), torch.tensor(LABELS)
    gaps = [0.4, 0.1, -0.1]  # of confidence over accuracy, in bins of 1, 2 and 2 samples
    shares, confidences = [1 / 5, 2 / 5, 2 / 5], [0.4, 0.6, 0.9]
    rows = list(zip(shares, confidences, gaps, strict=True))
    assert metrics.maxce(logits, y, 4).item() == pytest.approx(0.4, rel=1e-5)
    squares = sum(share * gap * gap for share, _, gap in rows)
    assert metrics.rmsce(logits, y, 4).item() == pytest.approx(math.sqrt(squares), rel=1e-5)
    over = sum(share * confidence * max(gap, 0) for share, confidence, gap in rows)
    assert metrics.overconfidence_error(logits, y, 4).item() == pytest.approx(over, rel=1e-5)
    # Equal counts: {0.4, 0.6, 0.6}, as the first bins are larger, and {0.9, 0.9}.
    adaptive = abs(1.6 - 1) / 5 + abs(1.8 - 2) / 5
    assert metrics.adaptive_ece(logits, y, 2).item() == pytest.approx(adaptive, rel=1e-5)
    bins = metrics.reliability(logits, y, 4)
    assert bins.counts.tolist() == [0, 1, 2, 2]
    torch.testing.assert_close(bins.accuracy.float(), torch.tensor([0, 0, 0.5, 1]))
    torch.testing.assert_close(bins.confidence.float(), torch.tensor([0, 0.4, 0.6, 0.9]))
    # OpenMixup sorts the means of bins apart from each other: (0, .4, .6, .9), (0, 0, .5, 1).
    legacy = (1 * 0.4 + 2 * 0.1 + 2 * 0.1) / 5
    assert metrics.ece_openmixup(logits, y, 4).item() == pytest.approx(legacy, rel=1e-5)


def test_openmixups_figure_pairs_bins_that_do_not_belong_together():
    logits = torch.tensor([[1.0, 0], [1, 0], [3, 0], [3, 0]])
    y = torch.tensor([0, 0, 1, 1])  # sure and wrong, unsure and right
    assert metrics.ece(logits, y, 10) > 0.5
    assert metrics.ece_openmixup(logits, y, 10) < metrics.ece(logits, y, 10) - 0.3


def test_each_class_has_a_calibration_of_its_own():
    logits, y = logits_of([[0.7, 0.3], [0.7, 0.3]]), torch.tensor([0, 1])
    # Class 0 is predicted with 0.7 and true in half, class 1 with 0.3 and true in half.
    assert metrics.classwise_ece(logits, y).item() == pytest.approx(0.2, rel=1e-5)
    assert metrics.classwise_ece(logits, y.new_tensor([0, 0])).item() == pytest.approx(0.3)


def test_a_network_that_is_sure_and_wrong_has_the_largest_errors():
    logits, y = torch.tensor([[200.0, 0.0]] * 4), torch.tensor([1] * 4)
    for function in (metrics.ece, metrics.maxce, metrics.rmsce, metrics.overconfidence_error):
        assert function(logits, y) == 1
    assert metrics.overconfidence_error(logits / 400, 1 - y) == 0  # under-confident


def test_risks_grow_as_less_sure_predictions_are_counted():
    logits = logits_of([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]])
    y = torch.tensor([0, 1, 0, 1])
    risks = [0, 1 / 2, 1 / 3, 2 / 4]
    assert metrics.aurc_mean(logits, y).item() == pytest.approx(sum(risks) / 4)
    trapezoids = [(a + b) / 2 for a, b in pairwise(risks)]
    assert metrics.aurc(logits, y).item() == pytest.approx(sum(trapezoids) / 3)
    scaled = [risk * share / 4 for risk, share in zip(risks, range(1, 5), strict=True)]
    trapezoids = [(a + b) / 2 for a, b in pairwise(scaled)]
    assert metrics.augrc(logits, y).item() == pytest.approx(sum(trapezoids) / 3)
    assert math.isnan(metrics.aurc(logits[:1], y[:1]))


def orders(size: int) -> Tensor:
    """All permutations of (size,) places."""
    return torch.tensor(list(itertools.permutations(range(size))))


# Logits of two classes; what is equal here ties, and is right and wrong in other proportions.
TIED = [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [1.0, 0.0]]


@pytest.mark.parametrize("tied", [TIED, [[0.0, 0.0]] * 6, [[300.0, 0.0]] * 4 + [[0.0, 40.0]] * 2])
def test_ties_count_by_the_mean_over_all_orders(tied):
    logits, y = torch.tensor(tied), torch.tensor([0, 1, 1, 0, 0, 1])
    wrong = (logits.argmax(dim=1) != y).double()
    odds = (logits[:, 0] - logits[:, 1]).abs()
    kept = [order for order in orders(6) if (odds[order].diff() <= 0).all()]
    errors = torch.stack([wrong[order].cumsum(0) for order in kept])
    counts = torch.arange(1, 7)
    for function, curve in (
        (metrics.aurc_mean, errors / counts),
        (metrics.aurc, torch.stack([errors[:, :-1] / counts[:-1], errors[:, 1:] / counts[1:]])),
        (metrics.augrc, torch.stack([errors[:, :-1], errors[:, 1:]]) / 6),
    ):
        assert function(logits, y).item() == pytest.approx(curve.mean().item(), rel=1e-12)
    # Bins of 3: the gap of each is the mean over the orders, before its absolute value.
    confidence = logits.softmax(dim=1).amax(dim=1).double()
    gaps = torch.stack([((1 - wrong) - confidence)[order].view(2, 3).sum(dim=1) for order in kept])
    adaptive = gaps.mean(dim=0).abs().sum() / 6
    assert metrics.adaptive_ece(logits, y, 2).item() == pytest.approx(adaptive.item(), rel=1e-6)


def test_a_collapsed_network_has_the_areas_of_its_error_and_one_gap():
    logits, y = torch.full((500, 10), 0.1), torch.arange(500) // 50
    assert metrics.aurc(logits, y).item() == pytest.approx(0.9, rel=1e-12)
    assert metrics.aurc_mean(logits, y).item() == pytest.approx(0.9, rel=1e-12)
    # The trapezoids of 0.9 k / N from k = 1 to N.
    assert metrics.augrc(logits, y).item() == pytest.approx(0.9 * (1 + 1 / 500) / 2, rel=1e-12)
    for function in (metrics.adaptive_ece, metrics.ece):
        assert function(logits, y).item() == pytest.approx(0, abs=1e-7)


def test_predictions_beyond_a_softmax_of_float64_are_told_apart():
    gaps = torch.tensor([17.0, 25.0, 40.0, 400.0, 4000.0])
    logits = torch.stack([gaps, torch.zeros(5)], dim=1)
    assert (logits.softmax(dim=1)[1:, 0] == 1).all()
    torch.testing.assert_close(calibration.log_odds(logits), gaps.double(), rtol=1e-12, atol=0)
    y = torch.tensor([1, 1, 0, 0, 0])  # the least sure two are wrong
    assert metrics.aurc_mean(logits, y).item() == pytest.approx((1 / 4 + 2 / 5) / 5, rel=1e-12)
    assert metrics.aurc_mean(logits, y).item() < metrics.aurc_mean(logits, 1 - y).item()


def test_log_odds_are_those_of_the_predicted_class():
    logits = torch.tensor([[math.log(0.5), math.log(0.2), math.log(0.3)]], dtype=torch.float64)
    assert calibration.log_odds(logits).item() == pytest.approx(0, abs=1e-15)
    inf = math.inf
    three = torch.tensor([[0.1, 0.7, -0.3]])
    a, b, c = three.double()[0].tolist()
    exact = b - math.log(math.exp(a) + math.exp(c))
    assert calibration.log_odds(three).item() == pytest.approx(exact, rel=1e-12)
    rows = [[0.0, -inf], [inf, 0.0], [-inf, -inf], [math.nan, 0.0], [0.0, math.nan]]
    found = calibration.log_odds(torch.tensor(rows)).tolist()
    assert found[0] == inf
    assert all(math.isnan(value) for value in found[1:])


def test_the_floor_is_the_error_of_a_calibrated_network():
    logits, _ = draw(2000, 10, 2)
    floor = metrics.ece_floor(logits)
    generator = torch.Generator().manual_seed(99)
    probs = logits.softmax(1)
    errors = torch.stack(
        [
            metrics.ece(logits, torch.multinomial(probs, 1, generator=generator)[:, 0])
            for _ in range(100)
        ]
    )
    assert floor.mean.item() == pytest.approx(errors.mean().item(), rel=0.08)
    assert 0.85 < (errors < floor.quantile).float().mean() < 1
    assert metrics.ece_floor(logits) == floor
    assert metrics.ece_floor(logits, seed=1) != floor


def test_the_floor_of_one_confidence_is_the_mean_deviation_of_coins():
    n, p = 400, torch.tensor(1.0).sigmoid().item()
    expected = math.sqrt(2 * p * (1 - p) / (math.pi * n))
    floor = metrics.ece_floor(torch.tensor([[1.0, 0.0]]).expand(n, 2), redraws=2000)
    assert floor.mean.item() == pytest.approx(expected, rel=0.05)
    # The 95 % quantile of |normal| is 1.96 deviations.
    assert floor.quantile.item() == pytest.approx(1.96 * math.sqrt(p * (1 - p) / n), rel=0.08)


def test_the_temperature_minimises_the_loss():
    logits, y = draw(300, 5, 2)
    fitted = metrics.fit_temperature(logits, y)
    found = minimize_scalar(
        lambda log: metrics.nll(logits.double() / math.exp(log), y).item(),
        bounds=(-3, 3),
        method="bounded",
        options={"xatol": 1e-8},
    )
    assert fitted.item() == pytest.approx(math.exp(found.x), rel=1e-3)
    for factor in (0.02, 0.3, 7):
        scaled = metrics.fit_temperature(factor * logits.double(), y)
        assert scaled.item() == pytest.approx(factor * fitted.item(), rel=1e-6)
    assert fitted.item() == pytest.approx(1, abs=0.2)  # it was calibrated


def test_a_temperature_that_does_not_exist_is_1_or_a_bound():
    logits, y = torch.eye(4) * 5, torch.arange(4)
    assert metrics.fit_temperature(logits, y) == 1  # no error: the smaller, the better
    assert metrics.fit_temperature(logits, y.flip(0)).item() == pytest.approx(100, rel=1e-6)
    sure = 1e4 * torch.tensor([[1.0, 0.9999], [1.0, 0.9998], [1.0, 0.9999]])
    assert metrics.fit_temperature(1e-4 * sure, torch.tensor([0, 0, 1])).item() == pytest.approx(
        0.01, rel=1e-6
    )
    with pytest.raises(ValueError, match="hold out some"):
        metrics.fit_temperature(logits[:0], y[:0])


def test_many_rows_are_taken_in_parts(monkeypatch):
    logits, y = draw(500, 4, 2)
    whole = metrics.fit_temperature(logits, y)
    monkeypatch.setattr("mixbench.metrics.temperature._ROWS", 64)
    assert metrics.fit_temperature(logits, y).item() == pytest.approx(whole.item(), rel=1e-9)


@pytest.mark.parametrize("n", [2, 13, 400, 401])
def test_halves_hold_every_class_alike(n):
    y = torch.randint(7, (n,), generator=torch.Generator().manual_seed(n))
    second = metrics.stratified_halves(y)
    assert abs(2 * second.sum() - n) <= 1
    for k in range(7):
        assert abs(2 * second[y == k].sum() - (y == k).sum()) <= 1
    assert torch.equal(second, metrics.stratified_halves(y))
    if n > 13:
        assert not torch.equal(second, metrics.stratified_halves(y, seed=1))
        ordered = metrics.stratified_halves(y.sort().values)
        assert ordered[1:].logical_xor(ordered[:-1]).float().mean() < 0.9  # drawn, not in turns


def test_no_sample_is_scored_with_a_temperature_that_saw_it():
    logits, y = draw(200, 5, 3)
    second = metrics.stratified_halves(y)
    scaled, temperatures = metrics.cross_fit(logits, y)
    for own, part, used in ((~second, second, 0), (second, ~second, 1)):
        fitted = metrics.fit_temperature(logits[part], y[part])
        assert temperatures[used] == fitted
        torch.testing.assert_close(scaled[own], (logits[own].double() / fitted).float())
        changed = torch.where(own[:, None], 9 * logits, logits)
        again, _ = metrics.cross_fit(changed, y)
        torch.testing.assert_close(again[own], 9 * scaled[own])


def test_cross_fitting_comes_close_to_the_best_temperature():
    logits, y = draw(10_000, 10, 2)
    logits = 3 * logits
    best = metrics.nll(logits.double() / metrics.fit_temperature(logits, y), y)
    crossed = metrics.nll(metrics.cross_fit(logits, y)[0], y)
    assert best - 1e-6 <= crossed < best + 3e-4
    assert metrics.nll(logits, y) > best + 0.3


def test_all_scores_have_their_names_and_follow_the_suffix():
    logits, y = draw(300, 8, 2)
    logits = 2 * logits
    found = metrics.scores(logits, y, holdout=draw(200, 8, 2, seed=1))
    plain = ("nll", "ece", "aece", "oe", "brier")
    assert {f"{name}_{end}" for name in plain for end in ("cf", "ts")} <= found.keys()
    assert {"top5", "bias", "maxce", "rmsce", "cwece", "aurc", "augrc"} <= found.keys()
    assert {"ece_floor", "ece_floor_95", "ece_openmixup", "T", "T_ts"} <= found.keys()
    assert found["T"] == pytest.approx(2, rel=0.2)
    assert found["T_ts"] == pytest.approx(1, rel=0.2)  # its hold-out was calibrated
    scaled = metrics.curve_scores(metrics.cross_fit(logits, y)[0], y)
    assert found["ece_cf"] == scaled["ece"] < found["ece"]
    assert found["nll_cf"] == scaled["nll"]
    assert found["brier_cf"] == scaled["brier"]
    held = logits / found["T_ts"]
    assert found["nll_ts"] == pytest.approx(metrics.nll(held, y).item(), rel=1e-5)
    assert found["oe_ts"] == pytest.approx(metrics.overconfidence_error(held, y).item(), rel=1e-4)
    assert found["ece_floor"] < found["ece_floor_95"] < found["ece"]
    pair = metrics.cross_fit(logits, y)[1]
    assert found["T"] == pytest.approx(math.sqrt(pair[0] * pair[1]))
    assert not {"T_ts", "nll_ts"} & metrics.scores(logits, y).keys()


def test_one_sample_has_neither_cross_fit_nor_risk_curve():
    found = metrics.scores(torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
    assert all(math.isfinite(value) for value in found.values())
    assert not {"T", "nll_cf", "aurc"} & found.keys()


def test_predictions_that_are_not_finite_leave_scores_that_are_not():
    logits, y = draw(20, 8, 2)
    logits[3] = math.nan
    found = metrics.scores(logits, y, holdout=draw(20, 8, 2))
    assert {name for name, value in found.items() if not math.isnan(value)} == {"T_ts"}
    found = metrics.scores(*draw(20, 8, 2), holdout=(logits, y))
    assert all(math.isnan(value) == name.endswith("_ts") for name, value in found.items())


def test_logits_within_0_and_1_are_no_probabilities():
    logits, y = torch.rand(50, 3, generator=torch.Generator().manual_seed(0)), torch.arange(50) % 3
    confidence = calibration.confidence_and_hit(logits, y)[0]
    assert confidence.max() < 0.6


def test_top_k_gives_ties_to_the_lower_class():
    logits = torch.tensor([[1.0, 2.0, 1.0, 1.0]] * 4)
    y = torch.arange(4)
    hits = [
        [metrics.topk(logits[i : i + 1], y[i : i + 1], k).item() for k in (1, 2, 3)]
        for i in range(4)
    ]
    assert hits == [[0, 100, 100], [100, 100, 100], [0, 0, 100], [0, 0, 0]]
    assert metrics.topk(torch.full((2, 3), -math.inf), torch.tensor([0, 2]), 2) == 50


def test_samples_in_another_order_have_the_same_scores():
    logits, y = draw(400, 6, 2)
    order = torch.randperm(400, generator=torch.Generator().manual_seed(1))
    stored = metrics.StoredLogits(), metrics.StoredLogits()
    stored[0].update(logits, y, torch.arange(400))
    for rows in [*order.split(7), order[:9]]:
        stored[1].update(logits[rows], y[rows], rows)
    first, second = (metrics.scores(*one.compute()[:2]) for one in stored)
    assert first == second


# FAULTS row 45.
@pytest.mark.parametrize("batch", [1, 5, 13])
def test_a_score_as_a_metric_depends_on_no_batch_and_no_padding(batch):
    logits, y = draw(13, 4, 2)
    ids = torch.arange(13)
    metric = metrics.Score(metrics.ece)
    for rows in [*ids.split(batch), ids[:3]]:  # a sampler that fills up with the first samples
        metric.update(logits[rows], y[rows], rows)
    assert metric.compute() == metrics.ece(logits, y)


def by_bins(confidence, hit, size, legacy):
    """Gaps of bins of ``size`` in the order of confidence, squared and weighed by their counts."""
    order = np.argsort(confidence)
    count = max(1, len(order) // size)
    edges = [*range(0, count * size, size), len(order)]
    ends = list(pairwise(edges))
    found = 0.0
    for low, high in ends[:-1] if legacy else ends:
        rows = order[low:high]
        gap = confidence[rows].mean() - hit[rows].mean()
        found += len(rows) / len(order) * gap**2
    return np.sqrt(found)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(("count", "size"), [(730, 100), (500, 100), (199, 100), (95, 10)])
def test_bins_of_equal_mass_and_the_last_one_counts(count, size, legacy):
    generator = torch.Generator().manual_seed(count)
    logits = 3 * torch.randn(count, 6, generator=generator)
    y = torch.randint(6, (count,), generator=generator)
    confidence, hit = (v.double().numpy() for v in calibration.confidence_and_hit(logits, y))
    expected = by_bins(confidence, hit, size, legacy)
    found = float(calibration.equal_mass_rmsce(logits, y, size, legacy=legacy))
    assert found == pytest.approx(expected, rel=1e-6)


def test_the_most_confident_samples_are_what_the_published_code_leaves_out():
    sure = torch.tensor([[20.0, 0.0]]).repeat(100, 1)
    fair = torch.tensor([[0.2, 0.0]]).repeat(100, 1)
    y = torch.cat([torch.ones(100), torch.arange(100) % 2]).long()  # sure ones are all wrong
    logits = torch.cat([sure, fair])
    whole = float(calibration.equal_mass_rmsce(logits, y))
    assert whole > 0.7
    assert float(calibration.equal_mass_rmsce(logits, y, legacy=True)) < 0.05
    assert float(calibration.equal_mass_rmsce(logits, y, size=1000)) > 0  # fewer than a bin are one


def test_rows_without_an_id_count_each_and_stand_behind_the_others():
    logits, y = torch.eye(4), torch.tensor([0, 1, 2, 0])
    stored = metrics.StoredLogits()
    stored.update(logits[:2], y[:2])
    stored.update(logits[2:], y[2:], torch.tensor([7, 3]))
    stored.update(logits[:1], y[:1])
    found, labels, ids = stored.compute()
    assert ids.tolist() == [3, 7, 8, 9, 10]
    assert torch.equal(found, logits[[3, 2, 0, 1, 0]])
    assert labels.tolist() == [0, 2, 0, 1, 0]


def test_a_score_needs_no_ids():
    score = metrics.Score(metrics.topk)
    for rows in ([0, 1], [2, 3], [0]):  # the last repeats image 0, which nothing tells
        score.update(torch.eye(4)[rows], torch.tensor([0, 1, 2, 0])[rows])
    assert score.compute().item() == pytest.approx(80)
