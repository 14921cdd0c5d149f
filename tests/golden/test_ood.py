import pytest
import torch

from mixbench.metrics import detection_scores, ood_score

GOLDEN = "ood"
NOT_COMPARED: dict[str, str] = {}


def score_names(case):
    return [key.removeprefix("score_id_") for key in case.arrays if key.startswith("score_id_")]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.cases("*")
def test_scores_and_measures_follow_the_definitions(case, dtype):
    for name in score_names(case):
        for side in ("id", "ood"):
            if f"logits_{side}" in case:
                score = ood_score(case[f"logits_{side}"], name)
                case.compare(f"expect_score_{side}_{name}", score, "expect_score_*")
        # float32 keeps the ties of the file
        inside, outside = (case[f"score_{side}_{name}"].to(dtype) for side in ("id", "ood"))
        for measure, value in detection_scores(inside, outside).items():
            value = torch.tensor(value, dtype=torch.float64)
            case.compare(f"expect_{measure}_{name}", value, "measures")


def test_every_recorded_case_is_compared(untested_cases):
    assert untested_cases == []
