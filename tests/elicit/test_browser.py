"""The page in a browser, by keyboard alone."""

import base64
import itertools
import os
import time
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser
from elicit_study import HOSTILE, NAMES, make_study, served

from mixbench.elicit.instructions import instructions_of
from mixbench.elicit.limits import RateLimit
from mixbench.elicit.settings import JUDGING_TASKS
from mixbench.elicit.study import Study

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is on this machine"),
    pytest.mark.slow,
]

TITLE = "document.querySelector('h1')?.textContent"
STATUS = "document.getElementById('status').textContent"
PLACE = "document.getElementById('place').textContent"
KEYS = {"Tab": 9, "Enter": 13, " ": 32, "ArrowLeft": 37, "ArrowRight": 39, "ArrowDown": 40}
KEYS |= {"g": 71, "h": 72, "Home": 36, "End": 35, "PageUp": 33}
TEXTS = {"Enter": "\r", " ": " ", "g": "g", "h": "h"}
SHOTS = os.environ.get("MIXBENCH_SHOTS")  # a folder for pictures to look at


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    found = Browser(tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


def wait(browser, script, limit_s=20.0):
    """Wait until an expression is true."""
    end = time.monotonic() + limit_s
    while not browser.evaluate(script):
        assert time.monotonic() < end, (script, browser.evaluate("document.body.innerText"))
        time.sleep(0.01)


def visit(browser, port):
    browser.events.clear()
    browser.call("Page.navigate", url=f"http://127.0.0.1:{port}/")
    wait(browser, f"document.readyState === 'complete' && !!{TITLE}")


def reload(browser):
    browser.evaluate("window.old = true")
    browser.call("Page.reload")
    wait(browser, f"!window.old && document.readyState === 'complete' && !!{TITLE}")


def press(browser, *keys):
    for key in keys:
        browser.press(key, KEYS[key], TEXTS.get(key, ""))


def tab_to(browser, script):
    """Move the focus forward until it is on an element that fits."""
    for _ in range(80):
        press(browser, "Tab")
        if browser.evaluate(f"(e => {script})(document.activeElement)"):
            return
    raise AssertionError(f"no Tab leads to {script}")


def shot(browser, name):
    if SHOTS:
        data = browser.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        Path(SHOTS, f"{name}.png").write_bytes(base64.b64decode(data["data"]))


def submit(browser):
    tab_to(browser, "e.type === 'submit'")
    press(browser, "Enter")


def agree(browser, settings, task):
    """From consent to the first trial."""
    assert browser.evaluate(TITLE) == "Consent"
    press(browser, "Tab", "Tab")  # past the button of the theme, which stands in front
    browser.evaluate("document.querySelector('h1').focus()")
    submit(browser)
    assert "three boxes" in browser.evaluate(STATUS)
    shot(browser, f"{task}-consent")
    for number in range(3):
        browser.evaluate(f"document.getElementById('box-{number}').focus()")
        press(browser, " ")
    submit(browser)
    wait(browser, f"{TITLE} === 'What you do'")
    right = [question.right for question in instructions_of(settings).questions]
    for wrong in (True, False):
        for number, place in enumerate(right):
            chosen = (place + 1) % 3 if wrong and number == 0 else place
            browser.evaluate(f"document.getElementById('q-{number}-{chosen}').focus()")
            press(browser, " ")
        submit(browser)
        if wrong:
            wait(browser, f"{STATUS} !== ''")
            assert "One answer is not right" in browser.evaluate(STATUS)
            shot(browser, f"{task}-instructions")
    wait(browser, f"{PLACE} !== ''")


def infer(browser):
    tab_to(browser, "e.type === 'range'")
    press(browser, "ArrowRight", "PageUp")
    tab_to(browser, "e.type === 'range'")
    press(browser, "Home", "ArrowRight")
    submit(browser)


def construct(browser):
    start = browser.evaluate(
        "[...document.querySelectorAll('.steps img')].findIndex(i => i.classList.contains('now'))"
    )
    for key in "gggg" if start == 9 else "hhhh":
        press(browser, key)
    press(browser, "Enter")


def select(browser):
    tab_to(browser, "e.type === 'radio'")
    press(browser, " ", "ArrowRight", "ArrowDown")
    press(browser, "Enter")


def categorical(browser):
    tab_to(browser, "e.tagName === 'SELECT'")
    press(browser, "ArrowDown", "ArrowDown")
    tab_to(browser, "e.type === 'range'")
    press(browser, "ArrowRight")
    tab_to(browser, "e.type === 'checkbox'")
    press(browser, " ")
    submit(browser)


WAYS = {"infer": infer, "construct": construct, "select": select, "categorical": categorical}


def incomplete(browser, task):
    """A trial without an answer cannot be sent."""
    if task == "construct":
        press(browser, "Enter")
    else:
        submit(browser)
    wait(browser, f"{STATUS} !== ''")
    assert browser.evaluate(STATUS).startswith("Please ")
    browser.evaluate("document.querySelector('h1').focus()")


# The longer one is as long as the authors' own: 60 images and 2 repeats.
@pytest.mark.parametrize("images", [6, pytest.param(60, marks=pytest.mark.slow)])
@pytest.mark.parametrize("task", JUDGING_TASKS)
def test_a_person_with_a_keyboard_goes_through_a_study_and_loads_it_again(
    tmp_path, browser, task, images
):
    fields = {"task": task, "images": images, "trials": images}
    study = make_study(tmp_path / "s.db", [HOSTILE[:40], *NAMES[1:]], **fields)
    total = images + study.settings.repeats + 2
    with served(study) as port:
        visit(browser, port)
        agree(browser, study.settings, task)
        for number in range(total):
            wait(browser, f"{PLACE} === '{number + 1} of {total}'")
            assert len(study.judgements()) == number
            if number == 0:
                incomplete(browser, task)
                wait(browser, "[...document.querySelectorAll('main img')].every(i => i.complete)")
                shot(browser, f"{task}-trial")
            if number == 2:
                before = browser.evaluate("document.querySelector('main img').src")
                reload(browser)
                wait(browser, f"{PLACE} === '{number + 1} of {total}'")
                assert browser.evaluate("document.querySelector('main img').src") == before
            wait(browser, "[...document.querySelectorAll('main img')].every(i => i.naturalWidth)")
            WAYS[task](browser)
        wait(browser, f"{TITLE} === 'Nearly done'")
        browser.evaluate("document.getElementById('comment').focus()")
        browser.call("Input.insertText", text="<b>fine</b>")
        shot(browser, f"{task}-comments")
        submit(browser)
        wait(browser, f"{TITLE} === 'Thank you'")
        assert browser.evaluate("document.querySelectorAll('[onerror]').length") == 0
        assert browser.complaints() == []
        asked = browser.requests()
        assert asked
        others = [url for url in asked if not url.startswith("http://127.0.0.1:")]
        assert others == []
        submit(browser)
        wait(browser, f"{TITLE} === 'Consent'")
    rows = study.judgements()
    assert len(rows) == total
    assert len({(row["stimulus_id"], row["repeat_index"]) for row in rows}) == total
    if task == "infer":
        assert {row["confidence"] for row in rows} == {0.01}
        assert len({row["lam_human"] for row in rows}) == 1
        assert rows[0]["lam_human"] < 0.5  # to the right is the second class
    if task == "construct":
        moved = {(row["start_value"], row["lam_human"]) for row in rows}
        assert moved <= {(0.1, 0.5), (0.9, 0.5)}
        assert {row["n_moves"] for row in rows} == {4}
    assert [session["comment"] for session in study.sessions()] == ["<b>fine</b>"]
    study.close()


def test_an_answer_waits_for_a_server_that_is_away(tmp_path, browser):
    study = make_study(tmp_path / "s.db", images=3, trials=3)
    with served(study) as port:
        visit(browser, port)
        agree(browser, study.settings, "away")
    infer(browser)
    wait(browser, f"{STATUS}.includes('does not answer')")
    assert study.judgements() == []
    study.close()
    study = Study(tmp_path / "s.db")
    with served(study, port=port):
        wait(browser, f"{PLACE} === '2 of 5'", 30)
    assert len(study.judgements()) == 1
    study.close()


def test_what_the_server_was_too_busy_for_comes_later(tmp_path, browser, monkeypatch):
    study = make_study(tmp_path / "s.db", task="select", images=3, trials=3)
    calls = itertools.count()
    with served(study) as port:
        visit(browser, port)
        agree(browser, study.settings, "busy")
        # However fast the machine, every second request from here on comes too early.
        monkeypatch.setattr(RateLimit, "take", lambda self, key: next(calls) % 2 == 1)
        images = "[...document.querySelectorAll('main img')]"
        for number in range(5):
            wait(browser, f"{PLACE} === '{number + 1} of 5'", 30)
            wait(browser, f"{images}.length === 11 && {images}.every(i => i.naturalWidth)", 30)
            select(browser)
        wait(browser, f"{TITLE} === 'Nearly done'", 30)
        responses = [
            event["params"]["response"]
            for event in browser.events
            if event.get("method") == "Network.responseReceived"
        ]
        refused = {each["url"].split("/")[3] for each in responses if each["status"] == 429}
        assert {"picture", "answer"} <= refused
    assert len(study.judgements()) == 5
    study.close()


def test_sliders_have_no_thumb_before_they_are_touched_and_dark_is_dark(tmp_path, browser):
    study = make_study(tmp_path / "s.db", interval=True)
    with served(study) as port:
        visit(browser, port)
        agree(browser, study.settings, "interval")
        ranges = "[...document.querySelectorAll('input[type=range]')]"
        assert browser.evaluate(f"{ranges}.length") == 4
        assert browser.evaluate(f"{ranges}.every(r => r.classList.contains('untouched'))")
        assert browser.evaluate(f"{ranges}.every(r => r.labels.length === 1)")
        assert browser.evaluate(f"{ranges}[0].getAttribute('aria-valuetext')") == "not set yet"
        middle = "(b => [b.left + b.width / 2, b.top + b.height / 2])"
        wait(browser, "document.querySelector('main img').complete")
        browser.evaluate(f"{ranges}[0].scrollIntoView({{block: 'center', behavior: 'instant'}})")
        box = browser.evaluate(f"{middle}({ranges}[0].getBoundingClientRect())")
        shot(browser, "interval-untouched")
        # A touch in the very middle is an answer, too.
        for kind in ("mousePressed", "mouseReleased"):
            browser.call(
                "Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left",
                clickCount=1,
            )  # fmt: skip
        assert browser.evaluate(f"{ranges}.map(r => r.classList.contains('untouched'))") == [
            False, True, True, True
        ]  # fmt: skip
        colour = "getComputedStyle(document.body).backgroundColor"
        before = browser.evaluate(colour)
        browser.evaluate("document.getElementById('theme').click()")
        assert browser.evaluate(colour) != before
        shot(browser, "interval-dark")
        size = {"height": 800, "deviceScaleFactor": 1, "mobile": True}
        browser.call("Emulation.setDeviceMetricsOverride", width=360, **size)
        try:
            assert browser.evaluate("document.documentElement.scrollWidth") <= 360
            shot(browser, "interval-narrow")
        finally:
            browser.call("Emulation.clearDeviceMetricsOverride")
    study.close()
