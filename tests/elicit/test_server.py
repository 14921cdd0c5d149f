import json
import os
import signal
import socket
import subprocess
import sys
import threading
import uuid

import pytest
from elicit_study import HOSTILE, NAMES, Rater, make_study, plain_answer, served

from mixbench.elicit import guard
from mixbench.elicit.guard import MOST_BYTES
from mixbench.elicit.instructions import instructions_of
from mixbench.elicit.limits import RateLimit
from mixbench.elicit.server import listen
from mixbench.elicit.settings import JUDGING_TASKS
from mixbench.elicit.study import Study
from mixbench.errors import UserError

INFER = {"slider": 30, "confidence": 80}


@pytest.fixture
def study(tmp_path):
    found = make_study(tmp_path / "study.db")
    yield found
    found.close()


@pytest.fixture
def port(study):
    with served(study) as found:
        yield found


@pytest.fixture
def rater(port):
    found = Rater(port)
    yield found
    found.close()


def refused(answer, status):
    assert answer[0] == status, answer
    assert json.loads(answer[2])["message"].endswith(".")


@pytest.mark.parametrize("task", JUDGING_TASKS)
def test_a_person_goes_from_consent_to_thanks(tmp_path, task):
    study = make_study(tmp_path / "s.db", task=task)
    with served(study) as port:
        rater = Rater(port)
        assert rater.open() == {"stage": "consent"}
        assert rater.json("POST", "/consent", {"boxes": [True] * 3})["stage"] == "instructions"
        right = [question.right for question in instructions_of(study.settings).questions]
        state = rater.json("POST", "/understood", {"answers": right})
        assert (state["done"], state["total"]) == (0, 23)
        for name in state["trial"]["pictures"]:
            status, headers, content = rater.ask("GET", f"/picture/{name}")
            assert (status, headers["content-type"]) == (200, "image/png")
            assert content.startswith(b"\x89PNG")
        last = rater.finish(state, lambda trial: plain_answer(study.settings, trial))
        assert last["stage"] == "thanks"
        rater.close()
    assert len(study.judgements()) == 23
    study.close()


def test_the_questions_come_again_until_all_answers_are_right(rater, study):
    rater.open()
    rater.json("POST", "/consent", {"boxes": [True] * 3})
    right = [question.right for question in instructions_of(study.settings).questions]
    wrong = [(place + 1) % 3 for place in right]
    for answers, places in ((wrong, [0, 1, 2]), ([right[0], *wrong[1:]], [1, 2])):
        told = rater.json("POST", "/understood", {"answers": answers})
        assert (told["stage"], told["wrong"]) == ("instructions", places)
    refused(rater.ask("POST", "/understood", {"answers": right[:2]}), 400)
    assert rater.json("POST", "/understood", {"answers": right})["stage"] == "trial"
    assert [session["attempts"] for session in study.sessions()] == [3]


def test_nothing_is_judged_before_consent_and_questions(rater, study):
    rater.open()
    answer = {"uuid": str(uuid.uuid4()), "trial": "0" * 32, "ms": 1, "answer": INFER}
    refused(rater.ask("POST", "/answer", answer), 403)
    refused(rater.ask("POST", "/understood", {"answers": [0, 0, 0]}), 403)
    for boxes in ([True, True, False], [True] * 2, [1, 1, 1.5], None):
        refused(rater.ask("POST", "/consent", {"boxes": boxes}), 400)
    assert study.sessions() == []
    rater.json("POST", "/consent", {"boxes": [True] * 3})
    refused(rater.ask("POST", "/answer", answer), 409)
    refused(rater.ask("POST", "/comments", {"text": ""}), 409)


def test_a_page_that_is_loaded_again_goes_on_with_the_same_trial(rater, study):
    state = rater.begin(study.settings)
    del state["wrong"]
    assert rater.open() == state
    state = rater.json("POST", "/answer", rater.answer(state, INFER))
    assert state["done"] == 1
    assert rater.open() == state


def test_an_answer_that_is_sent_again_changes_nothing(rater, study):
    given = rater.answer(rater.begin(study.settings), INFER)
    assert rater.json("POST", "/answer", given) == rater.json("POST", "/answer", given)
    assert len(study.judgements()) == 1


def test_a_page_that_is_open_twice_cannot_answer_twice(rater, study):
    state = rater.begin(study.settings)
    first, second = rater.answer(state, INFER), rater.answer(state, INFER)
    rater.json("POST", "/answer", first)
    refused(rater.ask("POST", "/answer", second), 409)
    assert len(study.judgements()) == 1


# FAULTS row 67.
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://elsewhere.example"}, 403),
        ({"Origin": None}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "elsewhere.example"}, 421),
        ({"Host": "127.0.0.1.elsewhere.example:80"}, 421),
        ({"X_CSRF_Token": "0" * 64}, 403),
        ({"X_CSRF_Token": None}, 403),
        ({"X_CSRF_Token": "\xe9"}, 403),
        ({"Cookie": None}, 403),
        ({"Content_Type": "text/plain"}, 415),
        ({"Content_Type": "application/x-www-form-urlencoded"}, 415),
    ],
)
def test_a_request_from_elsewhere_is_refused(rater, study, headers, status):
    given = rater.answer(rater.begin(study.settings), INFER)
    refused(rater.ask("POST", "/answer", given, **headers), status)
    assert study.judgements() == []


def test_a_cookie_that_was_not_given_out_is_none(rater, study):
    given = rater.answer(rater.begin(study.settings), INFER)
    name, _, value = rater.cookie.partition("=")
    token, _, mac = value.partition(".")
    other = Rater(rater.port)
    other.open()
    for forged in (token, f"{token}.{'0' * 64}", f"{token[:-1]}.{mac}", f"{'A' * 43}.{mac}", "'"):
        refused(rater.ask("POST", "/answer", given, Cookie=f"{name}={forged}"), 403)
    # Nor does the token of one session serve another.
    refused(rater.ask("POST", "/answer", given, Cookie=other.cookie), 403)
    other.close()
    assert study.judgements() == []


def test_a_body_has_a_limit_whether_it_tells_its_size_or_not(rater, study):
    rater.begin(study.settings)
    huge = b'{"uuid": "' + b"x" * (8 << 20) + b'"}'
    status = 0
    try:
        status = rater.ask("POST", "/answer", huge)[0]
    except (BrokenPipeError, ConnectionResetError):
        status = 413  # the server has not waited for the rest
    assert status == 413
    head = (
        f"POST /answer HTTP/1.1\r\nHost: 127.0.0.1:{rater.port}\r\nCookie: {rater.cookie}\r\n"
        f"Origin: http://127.0.0.1:{rater.port}\r\nContent-Type: application/json\r\n"
        f"X-CSRF-Token: {rater.csrf}\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", rater.port), timeout=20) as wire:
        wire.sendall(head.encode())
        chunk = b"1000\r\n" + b"x" * 0x1000 + b"\r\n"
        for _ in range(MOST_BYTES // 0x1000 + 1):
            wire.sendall(chunk)
        assert wire.recv(100).startswith(b"HTTP/1.1 413")
    # And the page is still there.
    fresh = Rater(rater.port)
    assert fresh.open() == {"stage": "consent"}
    fresh.close()


def test_a_body_that_never_ends_is_not_waited_for(rater, study, monkeypatch):
    monkeypatch.setattr(guard, "BODY_S", 0.2)
    rater.begin(study.settings)
    refused(rater.ask("POST", "/answer", b"{", Content_Length="100"), 408)
    assert study.judgements() == []


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"7", b"{", b"\xff\xfe", b"[" * 9000, b'{"a": NaN}', b"null", b'{"uuid": {}}'],
)
def test_a_body_that_is_no_answer_is_refused(rater, study, content):
    rater.begin(study.settings)
    refused(rater.ask("POST", "/answer", content), 400)
    assert study.judgements() == []


@pytest.mark.parametrize(
    "path",
    [
        "/picture/0" + "0" * 31,
        "/picture/..%2f..%2fetc%2fpasswd",
        "/picture/../study.db",
        "/picture/",
        "/study.db",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/static/page.js",
    ],
)
def test_no_path_leads_to_a_file(rater, study, path):
    rater.begin(study.settings)
    status, headers, body = rater.ask("GET", path)
    refused((status, headers, body), 404)
    assert b"SQLite" not in body


def test_a_picture_of_another_person_is_not_shown(rater, study):
    state = rater.begin(study.settings)
    other = Rater(rater.port)
    other.begin(study.settings)
    name = state["trial"]["pictures"][0]
    assert rater.ask("GET", f"/picture/{name}")[0] == 200
    refused(other.ask("GET", f"/picture/{name}"), 404)
    other.close()


def test_methods_that_nobody_needs_are_refused(rater, study):
    rater.begin(study.settings)
    for method, path in (("PUT", "/answer"), ("GET", "/answer"), ("POST", "/"), ("DELETE", "/")):
        assert rater.ask(method, path, {})[0] in (404, 405)


def test_every_answer_bears_the_policy_and_keeps_nothing_but_pictures(rater, study):
    state = rater.begin(study.settings)
    found = [rater.ask("GET", path) for path in ("/", "/state", "/nowhere", "/favicon.ico")]
    found.append(rater.ask("POST", "/answer", {}))
    for _, headers, _ in found:
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["server"] is None
    _, headers, _ = rater.ask("GET", f"/picture/{state['trial']['pictures'][0]}")
    assert "private" in headers["cache-control"]
    cookie = found[0][1]["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie


def test_names_of_classes_cannot_become_part_of_the_page(tmp_path):
    study = make_study(tmp_path / "s.db", [HOSTILE, *NAMES[1:]], task="categorical")
    with served(study) as port:
        rater = Rater(port)
        _, _, content = rater.ask("GET", "/")
        rater.close()
    assert b"<img" not in content
    assert content.count(b"</script>") == 2
    facts = content.split(b'id="facts">')[1].split(b"</script>")[0]
    assert json.loads(facts)["classes"][0] == HOSTILE
    study.close()


def test_whoever_asks_without_end_has_to_wait_and_others_do_not(study, monkeypatch):
    monkeypatch.setattr(guard, "SESSION_RATE", (20.0, 0.001))
    monkeypatch.setattr(guard, "NEW_RATE", (2.0, 0.001))
    with served(study) as port:
        rater, other, third = Rater(port), Rater(port), Rater(port)
        rater.begin(study.settings)
        codes = [rater.ask("GET", "/state")[0] for _ in range(40)]
        assert codes == [200] * 17 + [429] * 23
        assert rater.ask("GET", "/state")[1]["retry-after"] == "1"
        assert other.begin(study.settings)["stage"] == "trial"
        refused(third.ask("GET", "/"), 429)  # so many sessions do not begin at once
        refused(other.ask("POST", "/leave", {}), 429)
        for each in (rater, other, third):
            each.close()


def test_pictures_have_a_limit_of_their_own(study, monkeypatch):
    monkeypatch.setattr(guard, "PICTURE_RATE", (3.0, 0.001))
    with served(study) as port:
        rater = Rater(port)
        name = rater.begin(study.settings)["trial"]["pictures"][0]
        codes = [rater.ask("GET", f"/picture/{name}")[0] for _ in range(5)]
        assert codes == [200] * 3 + [429] * 2
        assert rater.state()["stage"] == "trial"
        rater.close()


def test_a_bucket_fills_again_and_forgets_who_has_not_asked_for_long():
    now = [0.0]
    limit = RateLimit(burst=3, per_s=2, clock=lambda: now[0])
    assert [limit.take("a") for _ in range(5)] == [True, True, True, False, False]
    assert limit.take("b")
    now[0] = 0.5
    assert [limit.take("a") for _ in range(2)] == [True, False]
    for number in range(20_000):
        limit.take(str(number))
    assert len(limit._buckets) == 10_000


def test_two_people_at_once_share_the_work_and_lose_nothing(study, port):
    raters = [Rater(port) for _ in range(4)]

    def person(rater):
        state = rater.begin(study.settings)
        rater.finish(state, lambda trial: INFER)

    threads = [threading.Thread(target=person, args=(rater,)) for rater in raters]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    rows = study.judgements()
    assert len(rows) == 4 * 23
    assert len({(r["rater_id"], r["stimulus_id"], r["repeat_index"]) for r in rows}) == 4 * 23
    assert len({row["session_id"] for row in rows}) == 4
    for rater in raters:
        rater.close()


def test_another_person_can_begin_on_the_same_device(rater, study):
    state = rater.begin(study.settings)
    assert rater.json("POST", "/leave", {}) == {"reload": True}
    assert rater.open() == {"stage": "consent"}
    other = rater.begin(study.settings)
    assert other["trial"]["id"] != state["trial"]["id"]
    assert len({session["rater_id"] for session in study.sessions()}) == 2


def test_a_server_that_is_started_again_knows_its_sessions(tmp_path):
    study = make_study(tmp_path / "s.db")
    with served(study) as port:
        rater = Rater(port)
        state = rater.begin(study.settings)
        state = rater.json("POST", "/answer", rater.answer(state, INFER))
        rater.close()
    study.close()
    study = Study(tmp_path / "s.db")
    with served(study) as port:
        again = Rater(port)
        again.cookie, again.csrf = rater.cookie, rater.csrf
        assert again.state() == state
        assert again.finish(state, lambda trial: INFER)["stage"] == "thanks"
        again.close()
    assert len(study.judgements()) == 23
    study.close()


def test_a_server_that_is_killed_has_kept_every_answer_that_it_confirmed(tmp_path):
    make_study(tmp_path / "s.db").close()
    confirmed, rater = [], None
    for _ in range(2):
        command = [sys.executable, "-m", "mixbench", "elicit", "--out", str(tmp_path / "s.db")]
        process = subprocess.Popen(
            [*command, "--port", "0"], stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("continued")
            port = int(process.stdout.readline().split("127.0.0.1:")[1].split("/")[0])
            before, rater = rater, Rater(port)
            if before is None:
                state = rater.begin(Study(tmp_path / "s.db").settings)
            else:
                rater.cookie, rater.csrf = before.cookie, before.csrf
                state = rater.state()
            assert state["done"] == len(confirmed)
            for _ in range(5):
                given = rater.answer(state, INFER)
                state = rater.json("POST", "/answer", given)
                confirmed.append(given["uuid"])
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            process.stdout.close()
            if rater is not None:
                rater.close()
    study = Study(tmp_path / "s.db")
    assert [row["id"] for row in study.judgements()] == confirmed
    study.close()


def test_a_port_that_is_taken_is_a_message():
    with listen(0, public=False) as taken:
        taken.listen()
        with pytest.raises(UserError, match="port cannot be used"):
            listen(taken.getsockname()[1], public=False)
    with pytest.raises(UserError, match="--port 70000"):
        listen(70_000, public=False)


def test_only_this_machine_reaches_the_page_unless_it_is_public():
    with listen(0, public=False) as own, listen(0, public=True) as open_to_all:
        assert own.getsockname()[0] == "127.0.0.1"
        assert open_to_all.getsockname()[0] == "0.0.0.0"


def test_a_public_page_is_served_under_its_name(tmp_path):
    study = make_study(tmp_path / "s.db")
    with served(study, hosts=("study.example",)) as port:
        rater = Rater(port)
        assert rater.ask("GET", "/", Host="study.example")[0] == 200
        assert rater.ask("GET", "/", Host="other.example")[0] == 421
        rater.close()
    study.close()
