import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from mixbench.metrics import detection_scores, ood_score


@pytest.mark.parametrize("levels", [3, 12, 10_000])
def test_measures_agree_with_scikit_learn_also_where_scores_tie(levels):
    generator = torch.Generator().manual_seed(levels)
    inside = ((torch.randn(300, generator=generator) + 1) * levels / 4).round()
    outside = (torch.randn(170, generator=generator) * levels / 4).round()
    found = detection_scores(inside, outside)
    score, truth = torch.cat([inside, outside]), torch.cat([torch.ones(300), torch.zeros(170)])
    assert found["auroc"] == pytest.approx(100 * roc_auc_score(truth, score))
    assert found["aupr_in"] == pytest.approx(100 * average_precision_score(truth, score))
    assert found["aupr_out"] == pytest.approx(100 * average_precision_score(1 - truth, -score))
    for name, target, value in (("fpr95", truth, score), ("fpr95_oodpos", 1 - truth, -score)):
        false, true, _ = roc_curve(target, value, drop_intermediate=False)
        assert found[name] == pytest.approx(100 * false[(true >= 0.95 - 1e-12).argmax()])
    false, true, _ = roc_curve(truth, score, drop_intermediate=False)
    assert found["det_acc"] == pytest.approx(100 * (1 - ((false + 1 - true) / 2).min()))


def test_exactly_95_percent_are_enough():
    inside, outside = torch.arange(20.0), torch.tensor([0.5, 30.0])
    assert detection_scores(inside, outside)["fpr95"] == 50  # 19 of 20 from 1 on
    assert detection_scores(torch.arange(19.0), outside)["fpr95"] == 100  # 18 of 19 are too few


def test_scores_are_higher_for_surer_predictions():
    sure, unsure = torch.tensor([[9.0, 0.0, 0.0]]), torch.tensor([[1.0, 1.0, 1.0]])
    for name in ("msp", "maxlogit", "energy", "negentropy"):
        assert ood_score(sure, name) > ood_score(unsure, name)
    assert ood_score(torch.tensor([[0.0, -2000.0]]), "negentropy") == 0


def test_bad_scores_are_refused():
    with pytest.raises(ValueError, match="msp, maxlogit"):
        ood_score(torch.zeros(1, 2), "softmax")
    with pytest.raises(ValueError, match="OOD images must be one or more"):
        detection_scores(torch.zeros(3), torch.zeros(0))
    with pytest.raises(ValueError, match="ID images"):
        detection_scores(torch.tensor([float("nan")]), torch.zeros(2))
