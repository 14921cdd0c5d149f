import pytest

import mixbench.functional as mf

GOLDEN = "hill"
NOT_COMPARED: dict[str, str] = {}
MAY_MISS = "the ratings carry no licence and are read from ../shared/golden or MIXBENCH_GOLDEN only"

RULES = {  # names in the file, where they are not ours
    "conf_weighted_mean": "conf_weighted",
    "conf_shrink_half": "shrink_half",
}


@pytest.mark.cases("hill")
def test_ratings_become_the_published_and_our_weights(case):
    ratings, confidence = case["lam_human"], case["confidence"]
    for key in case.arrays:
        if key.startswith("expect_"):
            name = key.removeprefix("expect_")
            rule = RULES.get(name, name)
            case.compare(key, mf.rated_lam(ratings, confidence, rule=rule))


def test_every_recorded_case_is_compared(untested_cases):
    assert untested_cases == []
