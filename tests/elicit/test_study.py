import itertools
import random
import sqlite3
import threading
import uuid
from collections import Counter

import pytest
from elicit_study import Clock, make_study, plain_answer

from mixbench.elicit.answers import RefusedError
from mixbench.elicit.settings import JUDGING_TASKS, StudySettings
from mixbench.elicit.study import Study, course
from mixbench.errors import UserError


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def study(tmp_path, clock):
    found = make_study(tmp_path / "study.db", clock=clock)
    yield found
    found.close()


def begun(study, name):
    study.begin(name)
    study.understood(name, right=True)
    return study.state(name)


def body(state, answer, ms=5000):
    trial = state["trial"]["id"]
    return {"uuid": str(uuid.uuid4()), "trial": trial, "ms": ms, "answer": answer}


def give(study, name, count=None):
    """Answer so many trials, or all."""
    for _ in itertools.count() if count is None else range(count):
        state = study.state(name)
        if state["stage"] != "trial":
            return
        study.answer(name, body(state, plain_answer(study.settings, state["trial"])))


def columns(study, *names):
    return [tuple(row[name] for name in names) for row in study.judgements()]


@pytest.mark.parametrize("task", JUDGING_TASKS)
def test_a_person_judges_each_stimulus_once_the_repeats_twice_and_both_checks(tmp_path, task):
    study = make_study(tmp_path / "s.db", task=task, images=30, trials=30)
    begun(study, "a")
    give(study, "a")
    assert study.state("a") == {"stage": "comments"}
    rows = study.judgements()
    assert len(rows) == 30 + study.settings.repeats + 2
    own = Counter(row["stimulus_id"] for row in rows if not row["is_repeat"])
    assert set(own.values()) == {1}
    repeated = [row for row in rows if row["is_repeat"]]
    assert len(repeated) == study.settings.repeats == 1
    assert all(row["repeat_index"] == 1 and row["stimulus_id"] in own for row in repeated)
    assert sorted(row["lam_true"] for row in rows if row["is_check"]) == [0, 1]
    study.close()


@pytest.mark.parametrize("trials", [20, 45, 60, 100])
def test_two_to_five_percent_are_repeated_at_a_distance_and_at_other_places_each_time(trials):
    repeats = StudySettings(images=trials, trials=trials).repeats
    assert 0.02 <= repeats / trials <= 0.05
    places = set()
    for seed in range(50):
        slots = course(trials, repeats, random.Random(seed))
        assert Counter(slot.kind for slot in slots) == {
            "new": trials, "repeat": repeats, "check": 2
        }  # fmt: skip
        for place, slot in enumerate(slots):
            if slot.kind == "repeat":
                assert slots[slot.repeat_of].kind == "new"
                assert place - slot.repeat_of >= trials // 4
                places.add(place)
        assert slots[0].kind == "new"
    assert len(places) > 10


def test_a_study_of_one_image_has_a_course():
    assert Counter(slot.kind for slot in course(1, 0, random.Random(0))) == {"new": 1, "check": 2}


def test_stimuli_that_fewer_have_judged_come_first(tmp_path):
    study = make_study(tmp_path / "s.db", images=30, trials=5)
    for person in "abcdef":  # 6 people with 5 each judge all 30 once
        begun(study, person)
        give(study, person)
    rows = [row for row in study.judgements() if not row["is_check"]]
    assert Counter(Counter(row["stimulus_id"] for row in rows).values()) == {1: 30}
    study.close()


def test_people_who_look_at_the_same_time_see_different_stimuli(tmp_path, clock):
    study = make_study(tmp_path / "s.db", clock=clock, images=6, trials=3)
    shown = [begun(study, person)["trial"]["pictures"][0] for person in "abcdef"]
    assert len(set(shown)) == 6
    # Whoever has left no longer keeps a stimulus from others.
    clock.now += 3600
    later = [begun(study, person)["trial"]["pictures"][0] for person in "ghijkl"]
    assert len(set(later)) == 6
    study.close()


def test_an_answer_that_comes_twice_counts_once(study):
    state = begun(study, "a")
    given = body(state, {"slider": 30, "confidence": 80})
    study.answer("a", given)
    after = study.state("a")
    study.answer("a", given)
    assert study.state("a") == after
    assert columns(study, "id") == [(given["uuid"],)]
    with pytest.raises(RefusedError, match="taken"):  # nobody else can use its name
        study.answer("b", body(begun(study, "b"), given["answer"]) | {"uuid": given["uuid"]})
    assert len(study.judgements()) == 1


def test_only_the_open_trial_can_be_answered_and_only_once(study):
    state, other = begun(study, "a"), begun(study, "b")
    right = {"slider": 30, "confidence": 80}
    for given in (body(other, right), body(state, right) | {"trial": "0" * 32}):
        with pytest.raises(RefusedError, match="Another trial"):
            study.answer("a", given)
    study.answer("a", body(state, right))
    with pytest.raises(RefusedError, match="Another trial"):
        study.answer("a", body(state, right))
    with pytest.raises(RefusedError, match="not begun"):
        study.answer("nobody", body(state, right))
    assert len(study.judgements()) == 1


def test_what_is_stored_is_what_was_said(study, clock):
    state = begun(study, "a")
    clock.now += 4.0
    study.answer("a", body(state, {"slider": 30, "confidence": 80}, ms=3500))
    (row,) = study.judgements()
    assert (row["lam_human"], row["confidence"], row["rt_ms"]) == (0.7, 0.8, 3500)
    assert row["task"] == "infer"
    assert row["perspective"] == "others"
    facts = study.stimuli()[row["stimulus_id"]]
    assert row["lam_true"] == facts["lam"]
    assert row["created_utc"] == "2023-11-14T22:13:24.000Z"


def test_nobody_can_claim_more_time_than_has_passed(study, clock):
    state = begun(study, "a")
    clock.now += 0.25
    study.answer("a", body(state, {"slider": 30, "confidence": 80}, ms=60_000))
    assert columns(study, "rt_ms") == [(250,)]


def test_a_start_and_an_order_are_drawn_for_each_trial_and_stored(tmp_path):
    starts = make_study(tmp_path / "a.db", task="construct")
    orders = make_study(tmp_path / "b.db", task="select")
    for study in (starts, orders):
        begun(study, "a")
        give(study, "a")
    assert {start for (start,) in columns(starts, "start_value")} == {0.1, 0.9}
    found = [order for (order,) in columns(orders, "order_json")]
    assert len(set(found)) == len(found)
    starts.close()
    orders.close()


def test_the_tile_that_is_chosen_gives_the_weight_at_its_place(tmp_path):
    study = make_study(tmp_path / "s.db", task="select")
    state = begun(study, "a")
    pictures = state["trial"]["pictures"]
    kept = sqlite3.connect(study.path)
    steps = dict(kept.execute("SELECT picture_id, step FROM pictures").fetchall())
    kept.close()
    study.answer("a", body(state, {"tile": 3}))
    assert columns(study, "lam_human") == [(steps[pictures[3]] / 10,)]
    study.close()


INFER = {"slider": 30, "confidence": 80}
WRONG = [
    ("infer", {}),
    ("infer", {"slider": 30}),
    ("infer", INFER | {"lam_true": 1}),
    ("infer", {"slider": 30, "confidence": 101}),
    ("infer", {"slider": -1, "confidence": 80}),
    ("infer", {"slider": float("nan"), "confidence": 80}),
    ("infer", {"slider": "30", "confidence": 80}),
    ("infer", {"slider": True, "confidence": 80}),
    ("infer", {"slider": None, "confidence": 80}),
    ("infer", INFER | {"low": 10, "high": 90}),  # nobody asked
    ("construct", {"step": 11, "moves": 3}),
    ("construct", {"step": 5, "moves": 0}),
    ("construct", {"step": 5, "moves": 1}),  # further away than that
    ("construct", {"step": 5, "moves": 5}),  # no odd number leads there
    ("construct", {"step": 5.0, "moves": 4}),
    ("select", {"tile": 11}),
    ("select", {"tile": -1}),
    ("select", {"tile": "select0.5"}),
    ("categorical", {"first": 0, "first_share": 60}),
]
LABEL = {"first": 0, "first_share": 60, "second": None, "second_share": None, "impossible": []}
WRONG += [
    ("categorical", LABEL | change)
    for change in (
        {"first": 3},
        {"first": -1},
        {"first_share": 0},
        {"second": 0, "second_share": 10},
        {"second": 1},
        {"second_share": 10},
        {"impossible": [0]},
        {"impossible": [3]},
        {"impossible": "all"},
        {"impossible": [1] * 100},
    )
]


@pytest.mark.parametrize(("task", "answer"), WRONG)
def test_a_forged_answer_is_refused_and_leaves_the_trial_open(tmp_path, task, answer):
    study = make_study(tmp_path / "s.db", task=task)
    state = begun(study, "a")
    with pytest.raises(RefusedError) as refused:
        study.answer("a", body(state, answer))
    assert refused.value.status == 400
    assert study.judgements() == []
    assert study.state("a") == state
    give(study, "a")  # and an honest one is taken
    study.close()


@pytest.mark.parametrize(
    "change",
    [
        {"uuid": "1"},
        {"uuid": 7},
        {"uuid": "../../etc/passwd"},
        {"ms": -1},
        {"ms": 1e9},
        {"ms": None},
        {"answer": [30, 80]},
        {"more": 1},
    ],
)
def test_an_answer_of_another_form_is_refused(study, change):
    state = begun(study, "a")
    with pytest.raises(RefusedError):
        study.answer("a", body(state, INFER) | change)
    assert study.judgements() == []


def test_an_interval_holds_its_weight(tmp_path):
    study = make_study(tmp_path / "s.db", interval=True)
    state = begun(study, "a")
    for low, high in ((40, 60), (0, 20)):
        with pytest.raises(RefusedError, match="interval"):
            study.answer("a", body(state, INFER | {"low": low, "high": high}))
    with pytest.raises(RefusedError):
        study.answer("a", body(state, INFER))
    study.answer("a", body(state, INFER | {"low": 10, "high": 45}))
    assert columns(study, "lam_low", "lam_human", "lam_high") == [(0.55, 0.7, 0.9)]
    study.close()


def test_the_file_survives_a_process_that_is_killed_and_goes_on_where_it_stopped(tmp_path):
    study = make_study(tmp_path / "s.db")
    begun(study, "a")
    give(study, "a", 7)
    before = study.state("a")
    # As after a kill: nobody has closed the first connection.
    again = Study(tmp_path / "s.db")
    assert again.state("a") == before
    assert again.judgements() == study.judgements()
    give(again, "a")
    assert len(again.judgements()) == 20 + 1 + 2
    again.close()
    study.close()


def test_many_threads_lose_and_double_nothing(tmp_path):
    study = make_study(tmp_path / "s.db", images=40, trials=20)
    errors = []

    def person(name):
        try:
            begun(study, name)
            give(study, name)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=person, args=(f"p{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    rows = study.judgements()
    assert len(rows) == 8 * 23
    assert len({(r["rater_id"], r["stimulus_id"], r["repeat_index"]) for r in rows}) == len(rows)
    counts = Counter(r["stimulus_id"] for r in rows if not r["is_repeat"] and not r["is_check"])
    assert len(counts) == 40
    assert max(counts.values()) - min(counts.values()) <= 2
    study.close()


def test_what_a_page_is_told_says_nothing_of_what_would_be_right(tmp_path):
    for task in JUDGING_TASKS:
        study = make_study(tmp_path / f"{task}.db", task=task)
        shown = begun(study, "a")["trial"]
        allowed = {"id", "pictures", "first", "second", "start", "goal"}
        assert shown.keys() <= allowed
        if task == "categorical":
            assert shown.keys() == {"id", "pictures"}
        study.close()


def test_pictures_are_for_those_who_were_shown_them(study):
    state = begun(study, "a")
    name = state["trial"]["pictures"][0]
    assert study.picture("a", name).startswith(b"\x89PNG")
    assert study.picture("b", name) is None
    assert study.picture("a", "0" * 32) is None


def test_a_comment_is_taken_once_and_only_at_the_end(study):
    begun(study, "a")
    with pytest.raises(RefusedError, match="trials are not answered yet"):
        study.finish("a", "done")
    give(study, "a")
    for wrong in (None, 3, "x" * 2001):
        with pytest.raises(RefusedError, match="comment"):
            study.finish("a", wrong)
    study.finish("a", "fine \ud800")
    study.finish("a", "another")
    assert [session["comment"] for session in study.sessions()] == ["fine ?"]
    assert study.state("a") == {"stage": "thanks"}


def test_other_files_are_no_studies(tmp_path):
    (tmp_path / "text.db").write_text("no database, but long enough to be looked at as one")
    sqlite3.connect(tmp_path / "other.db").execute("CREATE TABLE t (x)").connection.close()
    for name in ("text.db", "other.db", "nowhere.db"):
        with pytest.raises(UserError, match=r"not a study|does not exist"):
            Study(tmp_path / name)
    study = make_study(tmp_path / "s.db")
    study.close()
    with pytest.raises(UserError, match="exists already"):
        make_study(tmp_path / "s.db")
    db = sqlite3.connect(tmp_path / "s.db")
    db.execute("PRAGMA user_version = 9")
    db.close()
    with pytest.raises(UserError, match="layout 9"):
        Study(tmp_path / "s.db")


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"task": "infr"}, "did you mean 'infer'"),
        ({"images": 0}, "cannot have 0 images"),
        ({"images": 5, "trials": 6}, "one person cannot judge 6"),
        ({"task": "select", "interval": True}, "asks for no weight"),
        ({"perspective": "them"}, "you, others"),
        ({"upscaling": "cubic"}, "nearest, lanczos"),
    ],
)
def test_impossible_settings_are_refused(fields, match):
    with pytest.raises(UserError, match=match):
        StudySettings(**fields)
