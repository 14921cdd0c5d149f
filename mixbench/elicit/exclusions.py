"""People whose answers are doubtful: too fast, or not attentive."""

import json
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

LEAST_MS = 1500  # median time of a judgement
NEAR = {"infer": 0.25, "construct": 0.1, "select": 0.1}  # of the right weight, in a check


def passes(row: Mapping[str, Any], facts: Mapping[str, Any]) -> bool:
    """Whether a person noticed that a check shows one image alone.

    Args:
        row: A judgement of a check.
        facts: Of its stimulus.

    Returns:
        False where the answer lies elsewhere.
    """
    if row["task"] == "categorical":
        shown = facts["y1"] if facts["lam"] > 0.5 else facts["y2"]
        return json.loads(row["label_json"])["first"] == shown
    return abs(row["lam_human"] - facts["lam"]) <= NEAR[row["task"]] + 1e-9


def doubtful(
    rows: Iterable[Mapping[str, Any]], stimuli: Mapping[str, Mapping[str, Any]]
) -> dict[str, list[str]]:
    """People whose answers are doubtful.

    Args:
        rows: Judgements, as :meth:`mixbench.elicit.study.Study.judgements` returns them.
        stimuli: Facts of all stimuli.

    Returns:
        The reasons by the person's random number, each in a few words.
    """
    people: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        people.setdefault(row["rater_id"], []).append(row)
    found: dict[str, list[str]] = {}
    for person, own in people.items():
        median = statistics.median(row["rt_ms"] for row in own)
        checks = [row for row in own if row["is_check"]]
        failed = sum(not passes(row, stimuli[row["stimulus_id"]]) for row in checks)
        reasons = []
        if median < LEAST_MS:
            reasons.append(f"median of {median / 1000:.1f} s a judgement")
        if failed:
            reasons.append(f"failed {failed} of {len(checks)} checks")
        if reasons:
            found[person] = reasons
    return found
