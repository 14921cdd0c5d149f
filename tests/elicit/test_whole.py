"""Studies from the page to the network, by people whose bias is known."""

import json
import threading
import time
from collections import Counter

import numpy as np
import pytest
from elicit_study import Clock, Rater, knowing, make_study, served

from mixbench.config.compose import compose
from mixbench.data.hmix import read_hmix
from mixbench.elicit import guard
from mixbench.elicit.export import export_study
from mixbench.elicit.findings import findings
from mixbench.elicit.settings import StudySettings
from mixbench.elicit.stimuli import render_stimuli
from mixbench.elicit.study import Study
from mixbench.methods.hmix import read_label_map
from mixbench.training.run import run

PEOPLE = 20
CONSENT = "Text.\n\n[ ] One.\n[ ] Two.\n[ ] Three.\n"


def bias(lam):
    """What the simulated people see, on average: the weaker image stronger than it is."""
    return lam + 0.12 * np.sin(2 * np.pi * lam)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Digits that 20 people with that bias, and noise of their own, judge over HTTP."""
    path = tmp_path_factory.mktemp("study") / "s.db"
    clock, rng = Clock(), np.random.default_rng(0)
    settings = StudySettings(images=60, trials=30, consent=CONSENT)
    stimuli, names = render_stimuli(compose("data=digits method=mixup net.width=4"), settings)
    found = Study.create(path, settings, names, stimuli, clock=clock)
    own = rng.normal(0, 0.03, PEOPLE)

    def see(lam, person):
        if lam in (0, 1):
            return lam
        return bias(lam) + own[person] + rng.normal(0, 0.05)

    judge = knowing(found, see)
    with served(found) as port:
        for person in range(PEOPLE):
            rater = Rater(port)
            state = rater.begin(settings)
            rater.finish(state, lambda trial, p=person: judge(settings, trial, p), clock)
            rater.close()
    yield found
    found.close()


@pytest.fixture(scope="module")
def exported(study, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "out"
    export_study(study.path, folder, "hmix", True)
    return folder


def test_everybody_is_counted_once_and_every_image_as_often_as_the_others(study):
    rows = study.judgements()
    assert len(rows) == PEOPLE * (30 + 1 + 2)
    judged = Counter(r["stimulus_id"] for r in rows if not r["is_check"] and not r["is_repeat"])
    assert set(judged.values()) == {PEOPLE * 30 // 60}
    found = findings(rows, study.stimuli(), study.class_names, "infer")
    assert found.doubtful == {}
    assert found.agreement.single > 0.8


def test_the_fitted_map_recovers_the_bias_of_the_people(exported):
    knots, rated, sure = read_label_map(exported)
    assert read_hmix(exported).infer.repeated.sum() == PEOPLE
    inside = (knots > 0) & (knots < 1)
    np.testing.assert_allclose(rated[inside], bias(knots[inside]), atol=0.02)
    assert abs(bias(0.25) - 0.25) > 0.1  # which no map without judgements has
    np.testing.assert_allclose(sure, 0.75, atol=1e-6)


def test_a_network_is_trained_on_the_judgements(exported, runs, digits_once):
    record = run(
        compose(
            "data=digits data.limit=256 net.width=4 epochs=1 batch_size=64 wandb.mode=disabled "
            f"eval.suites=[] method=hmix method.source={exported}"
        )
    )
    assert record.status == "done"
    # The identity of a run holds what the files say, and not where they lie.
    moved = exported.parent / "moved"
    moved.mkdir()
    for path in exported.iterdir():
        (moved / path.name).write_bytes(path.read_bytes())
    from mixbench.training.job import resolve

    def hashed(folder):
        words = f"data=digits net.width=4 method=hmix method.source={folder}"
        return resolve(compose(words)).identity.config_hash

    before = hashed(exported)
    assert hashed(moved) == before
    csv = moved / "hmix_infer_mixing_factor.csv"
    csv.write_text(csv.read_text().replace('""confidence"": 75.0', '""confidence"": 15.0', 1))
    assert hashed(moved) != before


@pytest.mark.slow
def test_two_hundred_people_at_once_are_served_and_nothing_is_lost(tmp_path, monkeypatch, capsys):
    """Prints answers per second and the 95th percentile of their times."""
    people, trials = 200, 20
    # All of them come from one address, and none of them stops to think.
    monkeypatch.setattr(guard, "SESSION_RATE", (10_000.0, 1000.0))
    study = make_study(tmp_path / "s.db", images=100, trials=trials)
    times, errors = [], []

    with served(study) as port:

        def person():
            try:
                rater = Rater(port)
                state = rater.begin(study.settings)
                while state["stage"] == "trial":
                    rater.ask("GET", f"/picture/{state['trial']['pictures'][0]}")
                    given = rater.answer(state, {"slider": 30, "confidence": 80})
                    began = time.perf_counter()
                    state = rater.json("POST", "/answer", given)
                    times.append(time.perf_counter() - began)
                rater.close()
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=person) for _ in range(people)]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(300)
        took = time.perf_counter() - began
    assert errors == []
    rows = study.judgements()
    total = people * (trials + 1 + 2)
    assert len(rows) == len(times) == total
    assert len({(r["rater_id"], r["stimulus_id"], r["repeat_index"]) for r in rows}) == total
    judged = Counter(r["stimulus_id"] for r in rows if not r["is_check"] and not r["is_repeat"])
    assert max(judged.values()) - min(judged.values()) <= 3
    with capsys.disabled():
        told = {"answers/s": round(total / took), "p95 ms": round(1e3 * np.quantile(times, 0.95))}
        print(f"\n{people} people: {json.dumps(told)}")  # noqa: T201
    study.close()
