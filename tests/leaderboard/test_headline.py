import math

import pytest

from mixbench.leaderboard.headline import headline, score_texts


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (
            "aece brier ece ece_cf fgsm_8 fgsm_8_acc nll nll_cf pgd20_1 top1 top5 val_top1 T",
            ["top1", "nll", "ece_cf", "fgsm_8", "top5"],
        ),
        ("cf1 ece map nll of1 top1_best_test", ["map", "nll", "ece", "cf1"]),
        ("occ_auc top1", ["top1", "occ_auc"]),
        ("gaze_centre mine", []),
        ("", []),
    ],
)
def test_at_most_five_scores_stand_for_all_and_the_ranking_one_is_first(names, expected):
    assert headline(dict.fromkeys(names.split(), 1.0)) == expected


def test_scores_have_their_digits_and_units():
    texts = list(score_texts({"top1": 95.2, "nll": 0.123456, "ece": math.nan}))
    assert texts == ["top1 95.20 %", "nll 0.1235", "ece \N{EN DASH}"]
