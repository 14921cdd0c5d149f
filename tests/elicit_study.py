"""A small study without data, its server in a thread, and people who answer over HTTP."""

import contextlib
import http.client
import io
import json
import re
import threading
import uuid

import numpy as np
from PIL import Image

from mixbench.elicit.consent import usual_consent
from mixbench.elicit.instructions import instructions_of
from mixbench.elicit.server import listen, server_of
from mixbench.elicit.settings import MIDPOINT_TASKS, WEIGHT_STEPS, WEIGHTS, StudySettings
from mixbench.elicit.stimuli import Stimulus
from mixbench.elicit.study import Study

NAMES = ["cat", "dog", "ship"]
HOSTILE = "</script><img src=x onerror=alert(1)>\u202e=1+1"


def png(value, size=8):
    file = io.BytesIO()
    Image.fromarray(np.full((size, size), value, np.uint8)).save(file, "png")
    return file.getvalue()


def stimulus(number, settings, check=None):
    """A stimulus whose pictures are grey as the weight of the first image."""
    midpoints = settings.task in MIDPOINT_TASKS
    lam = 0.5 if midpoints else WEIGHTS[number % len(WEIGHTS)]
    lam = lam if check is None else float(check)
    shown = np.linspace(0, 1, WEIGHT_STEPS) if midpoints else [lam]
    return Stimulus(
        stimulus_id=f"{number:032x}",
        dataset="greys",
        split=settings.split,
        id1=2 * number,
        id2=2 * number + 1,
        y1=number % 3,
        y2=(number + 1 + number // 3 % 2) % 3,
        method="mixup",
        lam=lam,
        bin=lam,
        mask_rle="",
        seed=number,
        png_sha1=f"{number:040x}",
        is_check=check is not None,
        pictures=tuple(png(round(255 * each)) for each in shown),
    )


def make_study(path, names=NAMES, clock=None, **fields):
    """A study of grey images; ``clock`` as for :class:`Study`."""
    fields = {"images": 20, "trials": 20, "consent": usual_consent()} | fields
    settings = StudySettings(**fields)
    stimuli = [stimulus(number, settings) for number in range(settings.images)]
    stimuli += [stimulus(settings.images + c, settings, check=c) for c in (0, 1)]
    options = {} if clock is None else {"clock": clock}
    return Study.create(path, settings, names, stimuli, **options)


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self):
        self.now = 1_700_000_000.0

    def __call__(self):
        return self.now


@contextlib.contextmanager
def served(study, hosts=(), port=0):
    """The port of a server of the study, which runs in a thread of its own."""
    listener = listen(port, public=False)
    server = server_of(study, hosts)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()
        assert not thread.is_alive()


class Rater:
    """A browser of one person, as far as the server can tell."""

    def __init__(self, port):
        self.port = port
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        self.cookie = self.csrf = ""

    def ask(self, method, path, body=None, **headers):
        """Status, headers and content of an answer."""
        names = {"Host": f"127.0.0.1:{self.port}"}
        if self.cookie:
            names["Cookie"] = self.cookie
        if body is not None:
            names |= {
                "Origin": f"http://127.0.0.1:{self.port}",
                "Content-Type": "application/json",
                "X-CSRF-Token": self.csrf,
            }
            body = body if isinstance(body, bytes) else json.dumps(body).encode()
        names |= {key.replace("_", "-"): value for key, value in headers.items()}
        names = {key: value for key, value in names.items() if value is not None}
        self.connection.request(method, path, body, names)
        answer = self.connection.getresponse()
        content = answer.read()
        if cookie := answer.headers["set-cookie"]:
            self.cookie = cookie.partition(";")[0]
        return answer.status, answer.headers, content

    def open(self):
        """Load the page, and what the person sees on it."""
        status, _, content = self.ask("GET", "/")
        assert status == 200, content
        found = re.search(rb'name="csrf" content="([0-9a-f]+)"', content)
        self.csrf = found[1].decode()
        return self.state()

    def state(self):
        return self.json("GET", "/state")

    def json(self, method, path, body=None):
        status, _, content = self.ask(method, path, body)
        assert status == 200, (status, content)
        return json.loads(content)

    def begin(self, settings):
        """Go as far as the first trial."""
        self.open()
        self.json("POST", "/consent", {"boxes": [True] * 3})
        right = [question.right for question in instructions_of(settings).questions]
        return self.json("POST", "/understood", {"answers": right})

    def answer(self, state, answer, ms=5000, **fields):
        """The body of an answer to the trial that is open."""
        return {
            "uuid": str(uuid.uuid4()),
            "trial": state["trial"]["id"],
            "ms": ms,
            "answer": answer,
        } | fields

    def finish(self, state, judge, clock=None):
        """Judge all trials and say nothing at the end."""
        while state["stage"] == "trial":
            if clock is not None:
                clock.now += 5
            state = self.json("POST", "/answer", self.answer(state, judge(state["trial"])))
        return self.json("POST", "/comments", {"text": ""})

    def close(self):
        self.connection.close()


def plain_answer(settings, trial):
    """Some answer that the task allows."""
    if settings.task == "infer":
        return {"slider": 30, "confidence": 80}
    if settings.task == "construct":
        step = trial["start"] + (1 if trial["start"] == 1 else -1)
        return {"step": step, "moves": 1}
    if settings.task == "select":
        return {"tile": 3}
    return {
        "first": 0, "first_share": 60, "second": 1, "second_share": 20, "impossible": [2]
    }  # fmt: skip


def knowing(study, see=lambda lam, person: lam, sure=75):
    """Answers of people who see a weight ``lam`` as ``see(lam, person)``, for any task.

    Their midpoint is where they see a half.
    """
    facts = study.stimuli()
    places = {
        row["picture_id"]: (facts[row["stimulus_id"]], row["step"])
        for row in study._all("SELECT picture_id, stimulus_id, step FROM pictures")
    }

    def judge(settings, trial, person=0):
        known, _ = places[trial["pictures"][0]]
        lam = min(1.0, max(0.0, see(known["lam"], person)))
        if settings.task == "infer":
            return {"slider": round(100 * (1 - lam), 3), "confidence": sure}
        if settings.task == "categorical":
            first, second = (known["y1"], known["y2"]) if lam >= 0.5 else (known["y2"], known["y1"])
            share = round(100 * max(lam, 1 - lam))
            label = {"first": first, "first_share": share, "impossible": []}
            return label | {"second": second, "second_share": 100 - share}
        steps = [places[name][1] for name in trial["pictures"]]
        goal = trial["goal"] if trial["goal"] is not None else 0.5
        wanted = min(steps, key=lambda step: abs(see(step / 10, person) - goal))
        if trial["goal"] is not None:
            wanted = 10 * trial["goal"]
        if settings.task == "select":
            return {"tile": steps.index(wanted)}
        way = abs(wanted - trial["start"])
        return {"step": wanted, "moves": way if way else 2}

    return judge
