import json
import re

import numpy as np
import pytest
from elicit_study import HOSTILE, Clock, knowing, make_study

from mixbench.elicit.findings import findings, start_gap
from mixbench.elicit.report import write_study_report
from mixbench.elicit.settings import JUDGING_TASKS
from mixbench.errors import UserError


def row(person, stimulus, **fields):
    """A judgement of the task infer."""
    return {
        "rater_id": person, "stimulus_id": stimulus, "task": "infer", "lam_true": 0.5,
        "lam_human": 0.5, "confidence": 0.5, "lam_low": None, "lam_high": None,
        "start_value": None, "is_repeat": 0, "is_check": 0, "repeat_index": 0, "label_json": None,
        "rt_ms": 5000,
    } | fields  # fmt: skip


def fact(lam=0.5, y1=0, y2=1, **fields):
    return {"lam": lam, "bin": lam, "y1": y1, "y2": y2} | fields


NAMES = ["cat", "dog", "ship"]


def test_what_people_see_is_found_again_by_true_weight():
    stimuli = {f"s{n}": fact(lam) for n, lam in enumerate([0.1, 0.25, 0.5, 0.75, 0.9])}
    rows = [
        row(f"p{p}", name, lam_true=facts["lam"], lam_human=0.2 + 0.6 * facts["lam"])
        for p in range(4)
        for name, facts in stimuli.items()
    ]
    found = findings(rows, stimuli, NAMES, "infer")
    assert [each.level for each in found.levels] == [0.1, 0.25, 0.5, 0.75, 0.9]
    for each in found.levels:
        assert each.mean == pytest.approx(0.2 + 0.6 * each.level)
        assert (each.low, each.high) == pytest.approx((each.mean, each.mean))  # all agree
    assert np.interp(0.25, *found.label_map[:2]) == pytest.approx(0.35)
    assert found.agreement.single == pytest.approx(1)
    assert found.used == 20


def test_doubtful_people_checks_and_repeats_count_for_nothing():
    stimuli = {"a": fact(0.25), "b": fact(0.75), "check": fact(1.0)}
    good = [row("p", "a", lam_true=0.25, lam_human=0.3), row("p", "b", lam_true=0.75)]
    again = row("p", "a", lam_true=0.25, lam_human=0.9, is_repeat=1, repeat_index=1)
    checks = [row("p", "check", lam_true=1.0, lam_human=0.95, is_check=1)]
    fast = [row("q", "a", lam_true=0.25, lam_human=1.0, rt_ms=100)]
    missed = [
        row("r", "a", lam_true=0.25, lam_human=1.0),
        row("r", "check", lam_true=1.0, lam_human=0.4, is_check=1),
    ]
    found = findings([*good, again, *checks, *fast, *missed], stimuli, NAMES, "infer")
    assert found.doubtful.keys() == {"q", "r"}
    assert found.used == 2
    assert {each.level: each.mean for each in found.levels} == pytest.approx({0.25: 0.3, 0.75: 0.5})
    assert found.repeats.count == 1
    assert found.repeats.mean == pytest.approx(0.6)


def test_a_bias_towards_a_class_has_its_sign_whichever_image_it_is_in():
    stimuli = {"a": fact(0.5, 0, 1), "b": fact(0.5, 1, 0), "c": fact(0.5, 1, 2)}
    rows = [row("p", "a", lam_human=0.7), row("p", "b", lam_human=0.3), row("p", "c")]
    found = findings(rows, stimuli, NAMES, "infer")
    cats = found.pairs[0]
    assert (cats.first, cats.second, cats.count) == ("cat", "dog", 2)
    assert cats.bias == pytest.approx(0.2)
    assert cats.shrunk == pytest.approx(0.2 * 2 / 22)
    # Who needs 0.7 of the cat to see half a cat sees less of it.
    found = findings(rows, stimuli, NAMES, "select")
    assert found.pairs[0].bias == pytest.approx(-0.2)


def test_what_people_see_at_all_weights_alike_is_no_bias_of_a_pair():
    stimuli = {"a": fact(0.25, 0, 1), "b": fact(0.25, 1, 2), "c": fact(0.75, 2, 0)}
    rows = [
        row("p", name, lam_true=facts["lam"], lam_human=0.2 + 0.6 * facts["lam"])
        for name, facts in stimuli.items()
    ]
    found = findings(rows, stimuli, NAMES, "infer")
    assert len(found.pairs) == 3
    assert all(abs(each.bias) < 1e-9 for each in found.pairs)


def test_anchoring_by_the_start_is_told():
    stimuli = {"a": fact()}
    rows = [
        row("p", "a", task="construct", start_value=start, lam_human=end, confidence=None)
        for start, end in ((0.1, 0.4), (0.1, 0.5), (0.9, 0.6), (0.9, 0.7))
    ]
    found = findings(rows, stimuli, NAMES, "construct")
    assert start_gap(found) == pytest.approx(0.2)


def test_confidence_that_knows_is_told_from_one_that_does_not():
    stimuli = {str(n): fact(0.5) for n in range(100)}
    error = np.linspace(0, 0.4, 100)
    for sure, sign in ((1 - 2 * error, -1), (2 * error, 1)):
        rows = [
            row(f"p{n % 5}", str(n), lam_human=0.5 + error[n], confidence=float(sure[n]))
            for n in range(100)
        ]
        found = findings(rows, stimuli, NAMES, "infer")
        assert found.sure_of_error == pytest.approx(sign)
        steps = np.diff([each.mean for each in found.calibration])
        assert (np.sign(steps) == sign).all()


def test_intervals_are_counted_that_hold_the_true_weight():
    ends = [(0.4, 0.6), (0.55, 0.7), (0.1, 0.5)]
    rows = [row(str(n), "a", lam_low=low, lam_high=high) for n, (low, high) in enumerate(ends)]
    share, width = findings(rows, {"a": fact()}, NAMES, "infer").covered
    assert (share, width) == pytest.approx((2 / 3, 0.25))


def test_labels_are_judged_by_the_classes_that_were_mixed():
    answers = [
        {"first": 0, "first_share": 0.6, "second": 1, "second_share": 0.2, "impossible": []},
        {"first": 2, "first_share": 0.9, "second": None, "second_share": None, "impossible": []},
    ]
    rows = [
        row(str(n), "a", task="categorical", lam_human=None, confidence=None,
            label_json=json.dumps(answer))
        for n, answer in enumerate(answers)
    ]  # fmt: skip
    found = findings(rows, {"a": fact(0.75, bin=0.75)}, NAMES, "categorical")
    assert found.named == 0.5
    assert found.endpoints == pytest.approx(0.4)
    assert found.levels[0].mean == pytest.approx((0.75 + 0.5) / 2)


def study_of(path, task, people=3, names=(HOSTILE, "dog", "ship")):
    clock = Clock()
    study = make_study(path, list(names), clock=clock, task=task)
    judge = knowing(study)
    for number in range(people):
        name = f"p{number}"
        study.begin(name)
        study.understood(name, right=True)
        while (state := study.state(name))["stage"] == "trial":
            clock.now += 5
            answer = judge(study.settings, state["trial"])
            uuid = f"{number:08x}-0000-4000-8000-{state['done']:012x}"
            study.answer(
                name,
                {"uuid": uuid, "trial": state["trial"]["id"], "ms": 4000, "answer": answer},
            )
        study.finish(name, HOSTILE)
    return study


@pytest.mark.parametrize("task", JUDGING_TASKS)
def test_a_page_holds_the_results_and_nothing_of_a_stranger(tmp_path, task):
    study_of(tmp_path / "s.db", task).close()
    assert write_study_report(tmp_path / "s.db", tmp_path / "r.html") == []
    page = (tmp_path / "r.html").read_text()
    assert "<img" not in page
    assert "<script" not in page
    assert "\u202e" not in page
    assert "&lt;img src=x" in page  # as text
    assert not re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?(?!#)\w+:", page)
    assert "No session is doubtful" in page
    shown = {"infer": 2, "categorical": 1, "construct": 1, "select": 1}[task]
    assert page.count("<svg") == page.count('role="img"') == shown
    assert "ICC(1)" in page


def test_sessions_that_were_left_in_the_middle_and_those_without_answers_are_reported(tmp_path):
    study = study_of(tmp_path / "s.db", "infer", people=1)
    study.begin("late")
    study.close()
    write_study_report(tmp_path / "s.db", tmp_path / "r.html")
    assert "2 sessions, 1 of them finished" in (tmp_path / "r.html").read_text()
    make_study(tmp_path / "empty.db").close()
    with pytest.raises(UserError, match="no judgements"):
        write_study_report(tmp_path / "empty.db", tmp_path / "e.html")
