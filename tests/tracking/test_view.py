import http.server
import json
import logging
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from PIL import Image
from wandb_file import history, opened, stored, summary

from mixbench import cli, compose, run
from mixbench.distributed.process_group import ProcessGroup
from mixbench.errors import RunFailedError, UserError
from mixbench.evaluation import patches
from mixbench.tracking import run as wandb_run
from mixbench.tracking.view import wandb_logger
from mixbench.training.job import resolve
from mixbench.training.reevaluate import evaluate_run
from mixbench.training.run import _prepare

KEY = "0123456789abcdef" * 2 + "planted8"  # 40 characters, as W&B asks for

pytestmark = pytest.mark.usefixtures("plain_wandb")


class Server(http.server.ThreadingHTTPServer):
    """As much of W&B as a run needs: it starts, and its values arrive."""

    daemon_threads = True

    def __init__(self, status: int = 200) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.status = status
        self.received = ""
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def stop(self) -> None:
        self.shutdown()
        self.server_close()


class Answers(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
        self.server.received += body
        answer = {}
        if self.path == "/graphql":
            asked = json.loads(body)
            given = asked["variables"]
            project = {"name": given.get("project"), "entity": {"name": "someone"}}
            bucket = {"id": "i", "name": given.get("name"), "project": project, "config": "{}"}
            bucket |= {"displayName": given.get("displayName"), "historyLineCount": 0}
            files = {"runID": "i", "uploadHeaders": [], "files": []}
            answers = {
                "UpsertBucket": {"upsertBucket": {"bucket": bucket, "inserted": True}},
                "CreateRunFiles": {"createRunFiles": files},
            }
            answer = {"data": answers.get(asked.get("operationName"), {})}
        content = json.dumps(answer).encode()
        self.send_response(self.server.status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_) -> None:
        return


@pytest.fixture
def server(monkeypatch):
    found = Server()
    monkeypatch.setenv("WANDB_BASE_URL", found.address)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    yield found
    found.stop()


@pytest.fixture
def lines(caplog):
    """What the log says, and nothing else below a warning."""
    caplog.set_level(logging.INFO, logger="mixbench")
    return lambda: [r.getMessage() for r in caplog.records if r.name == "mixbench"]


def open_logger(folder, mode=None, run_id="mixup-digits-s0", attempt=1, **changes):
    values = {"project": "mixbench", "config": {"lr": 0.1}, "tags": [], "notes": ""}
    values |= {"group": "mixup-digits"} | changes
    return wandb_logger(folder, run_id=run_id, attempt=attempt, mode=mode, **values)


def test_an_offline_run_holds_curves_by_step_and_epoch_and_the_configuration(tmp_path, lines):
    logger = open_logger(
        tmp_path, "offline", config={"optim": {"lr": 0.1}}, tags=["a", "", "a"], notes="why"
    )
    logger.log_metrics({"train/loss": 2.0, "epoch": 0}, step=4)
    logger.log_metrics({"test/top1": 91.5}, step=9)
    logger.close()
    records = stored(tmp_path)
    run = opened(records)
    assert (run.run_id, run.run_group) == ("mixup-digits-s0-a1", "mixup-digits")
    assert (run.display_name, run.project, run.notes) == ("mixup-digits-s0", "mixbench", "why")
    assert list(run.tags) == ["a"]
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert config["optim"] == {"lr": 0.1}
    assert config["run_id"] == "mixup-digits-s0"
    first, second = history(records)
    assert (first["train/loss"], first["trainer/global_step"], first["epoch"]) == (2.0, 4, 0)
    assert (second["test/top1"], second["trainer/global_step"], second["epoch"]) == (91.5, 9, 0)
    axes = {r.metric.glob_name: r.metric.step_metric for r in records if r.HasField("metric")}
    assert axes["*"] == "trainer/global_step"
    assert lines() == []


class Plain(BoringModel):
    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)["loss"]
        self.log("train/loss", loss)
        return loss


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_a_training_of_lightning_and_its_picture_arrive(tmp_path):
    logger = open_logger(tmp_path, "offline")
    trainer = Trainer(
        max_epochs=2,
        limit_train_batches=2,
        limit_val_batches=0,
        log_every_n_steps=1,
        accelerator="cpu",
        logger=logger,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(Plain())
    Image.new("RGB", (8, 8)).save(tmp_path / "samples.png")
    logger.log_image("samples", [str(tmp_path / "samples.png")])
    logger.close()
    rows = history(stored(tmp_path))
    assert [row["epoch"] for row in rows if "train/loss" in row] == [0, 0, 1, 1]
    assert rows[-1]["samples._type"] == "images/separated"
    assert list((tmp_path / "wandb").glob("offline-run-*/files/media/images/*.png"))


def test_attempts_are_runs_of_their_own_in_one_process(tmp_path):
    for attempt in (1, 2):
        logger = open_logger(tmp_path, "offline", attempt=attempt)
        logger.log_metrics({"a": attempt}, step=0)
        logger.close()
    for attempt in (1, 2):
        records = stored(tmp_path, f"offline-run-*-a{attempt}")
        assert opened(records).run_group == "mixup-digits"
        assert [row["a"] for row in history(records)] == [attempt]


def test_an_open_run_of_the_same_process_is_left_alone(tmp_path):
    import wandb

    own = wandb.init(mode="offline", dir=tmp_path / "..", settings={"console": "off"})
    logger = open_logger(tmp_path, "offline")
    logger.log_metrics({"a": 1.0}, step=0)
    logger.close()
    assert wandb.run is own
    own.finish()
    assert [row["a"] for row in history(stored(tmp_path))] == [1.0]


# FAULTS row 50.
def test_without_a_key_a_run_is_offline_and_says_nothing(tmp_path, lines):
    started = time.monotonic()
    open_logger(tmp_path).close()
    assert time.monotonic() - started < 5
    assert stored(tmp_path)
    assert lines() == []


def fallen_back(line: str, folder: Path) -> str:
    """Why a run is offline, after a check of the command that uploads it."""
    why, command = re.fullmatch("W&B is offline: (.*); upload later with: (.*)", line).groups()
    program, word, place = shlex.split(command)
    assert (program, word) == ("wandb", "sync")
    (here,) = (folder / "wandb").glob("offline-run-*")
    assert place == str(here)
    return why


def test_asked_to_be_online_without_a_key_it_says_what_is_missing(tmp_path, lines):
    started = time.monotonic()
    open_logger(tmp_path / "a folder", "online").close()
    assert time.monotonic() - started < 5
    (line,) = lines()
    assert "no API key" in fallen_back(line, tmp_path / "a folder")


@pytest.mark.parametrize(
    ("machine", "expected"),
    [("127.0.0.1:9", "online"), ("api.wandb.ai", "offline"), ("default", "offline")],
)
def test_a_key_in_netrc_counts_for_its_server_only(tmp_path, lines, machine, expected):
    entry = "default" if machine == "default" else f"machine {machine}"
    (tmp_path / "netrc").write_text(f"{entry} login user password {KEY}\n")
    open_logger(tmp_path).close()
    assert bool(lines()) == (expected == "online")  # online, it says that nothing answers
    (tmp_path / "netrc").write_bytes(b"machine \xff")
    assert wandb_run.api_key() == ""


# FAULTS row 50.
@pytest.mark.parametrize("kind", ["refused", "silent"])
def test_a_server_that_does_not_answer_leads_offline_in_time(tmp_path, lines, monkeypatch, kind):
    with socket.create_server(("127.0.0.1", 0)) as listening:  # accepts, and that is all
        port = listening.getsockname()[1]
        if kind == "refused":
            listening.close()
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        started = time.monotonic()
        logger = open_logger(tmp_path)
        assert time.monotonic() - started < 10
        logger.log_metrics({"a": 1.0}, step=0)
        logger.close()
    (line,) = lines()
    why = fallen_back(line, tmp_path)
    assert f"127.0.0.1:{port}" in why
    assert {"refused": "connection refused", "silent": "Timed out"}[kind] in why
    assert [row["a"] for row in history(stored(tmp_path))] == [1.0]


def test_a_server_that_fails_leads_offline_in_time_and_leaves_no_half_run(tmp_path, lines, server):
    server.status = 500
    started = time.monotonic()
    open_logger(tmp_path).close()
    assert time.monotonic() - started < 10
    (line,) = lines()
    assert "HTTP 500" in fallen_back(line, tmp_path)
    assert list((tmp_path / "wandb").glob("run-*")) == []
    assert opened(stored(tmp_path)).run_id == "mixup-digits-s0-a1"
    assert files_with(KEY, tmp_path) == []


def test_a_key_that_is_none_leads_offline_without_being_shown(tmp_path, lines, server, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "short-secret")
    open_logger(tmp_path).close()
    (line,) = lines()
    assert "invalid" in fallen_back(line, tmp_path)
    assert "short-secret" not in line


@pytest.mark.parametrize(
    ("given", "environment", "expected"),
    [
        (None, "offline", True),
        (None, "dryrun", True),
        (None, "disabled", False),
        ("offline", "disabled", True),
        ("disabled", "offline", False),
    ],
)
def test_wandb_mode_is_followed_and_the_configuration_wins(
    tmp_path, monkeypatch, given, environment, expected
):
    monkeypatch.setenv("WANDB_MODE", environment)
    logger = open_logger(tmp_path, given)
    assert (logger is not None) is expected
    assert (tmp_path / "wandb").exists() is expected
    if logger is not None:
        logger.close()


def test_a_mode_that_is_none_costs_the_view_and_nothing_else(tmp_path, monkeypatch, lines):
    monkeypatch.setenv("WANDB_MODE", "onlien")
    assert open_logger(tmp_path) is None
    (line,) = lines()
    assert line.startswith("no W&B view: WANDB_MODE=onlien is none of online,")


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("ahead", [False, True])
def test_a_view_that_cannot_be_opened_costs_one_line(tmp_path, monkeypatch, lines, ahead):
    monkeypatch.setenv("WANDB_BASE_URL", "no address")
    if ahead:
        with wandb_run.service_ahead(True) as thread:
            thread.join()
        assert lines() == []
    assert open_logger(tmp_path, "offline") is None
    (line,) = lines()
    assert line.startswith("no W&B view: ")


@pytest.fixture
def patient(monkeypatch):
    """A busy machine may take long to start a process."""
    monkeypatch.setattr(wandb_run, "END", 60.0)


@pytest.mark.usefixtures("patient")
def test_a_view_uses_the_process_that_was_started_ahead(tmp_path, lines):
    with wandb_run.service_ahead(True) as thread:
        thread.join()
    ahead = os.environ["WANDB_SERVICE"]
    open_logger(tmp_path, "offline").close()
    assert os.environ["WANDB_SERVICE"] == ahead
    assert stored(tmp_path)
    assert lines() == []


@pytest.mark.usefixtures("patient")
def test_a_run_that_fails_before_its_view_leaves_no_process_but_one_that_was_there():
    def fail():
        with wandb_run.service_ahead(True):
            raise UserError("planted")

    with pytest.raises(UserError):
        fail()
    assert "WANDB_SERVICE" not in os.environ
    with wandb_run.service_ahead(True) as thread:
        thread.join()
    there = os.environ["WANDB_SERVICE"]
    with pytest.raises(UserError):
        fail()
    assert os.environ["WANDB_SERVICE"] == there


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(
    ("rank", "word", "expected"),
    [
        (0, "wandb.mode=offline", True),
        (1, "wandb.mode=offline", False),
        (0, "wandb.mode=disabled", False),
        (0, "logger=none", False),
    ],
)
def test_only_the_leading_process_of_a_run_with_a_view_starts_that_of_wandb(
    tmp_path, caplog, rank, word, expected
):
    caplog.set_level(logging.INFO, logger="mixbench")  # and what another rank makes of it is undone
    job = resolve(compose(["data=digits", "data.limit=64", "net.width=4", word]))
    _prepare(job, ProcessGroup(rank), tmp_path)
    for thread in threading.enumerate():
        if thread.name == "wandb-service":
            thread.join()
    assert ("WANDB_SERVICE" in os.environ) is expected


def test_wandb_is_imported_whole_and_connects_to_nothing_before_a_view_is_opened(tmp_path):
    program = """
        import os, sys, threading
        from pathlib import Path
        from mixbench.tracking.run import import_wandb, open_view

        import_wandb()
        assert "torch" not in sys.modules
        assert threading.active_count() == 1  # runs of a bench are forked from here
        assert "WANDB_SERVICE" not in os.environ
        before = set(sys.modules)
        view = open_view(Path(sys.argv[1]), run_id="r", name="r", project="p", mode="offline")
        assert view.close()
        late = set(sys.modules) - before
        print(*[name for name in late if name.startswith("wandb.apis")])
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("wandb.mode=offline", True),
        ("wandb.mode=disabled", False),
        ("logger=tensorboard", False),
        ("devices=2", False),  # each of the processes that it starts will see to itself
        ("--show", False),
    ],
)
def test_the_command_imports_wandb_before_the_method_and_only_for_a_view(
    tmp_path, monkeypatch, word, expected
):
    (tmp_path / "of_wandb.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(wandb_run, "MODULES", ("of_wandb",))
    assert cli.main(["run", "method=erm", "data=digits", "method.nothing=1", word]) == 2
    assert (sys.modules.pop("of_wandb", None) is not None) is expected


# FAULTS row 52.
def test_hostile_names_open_a_run_and_stay_in_the_configuration(tmp_path, lines):
    nasty = "a/b\\c:d;e,f#g?h'i%j \N{PARTY POPPER}<script>\udcff\n" + "x" * 500
    config = {"run": {"tags": [nasty], "notes": nasty}, "wandb": {"project": nasty}}
    logger = open_logger(
        tmp_path, "offline", nasty, project=nasty, tags=[nasty, nasty], notes=nasty, config=config
    )
    logger.log_metrics({nasty.replace("\udcff", ""): 1.0}, step=0)
    logger.close()
    assert lines() == []
    records = stored(tmp_path)
    run = opened(records)
    assert re.fullmatch(r"[A-Za-z0-9_.-]{1,128}", run.run_id)
    assert not set("/\\#?%:") & set(run.project)
    assert len(run.project) <= 128
    (tag,) = run.tags
    assert len(tag) == 64
    found = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert found["run"] == config["run"]
    assert found["wandb"] == config["wandb"]
    assert found["run_id"] == nasty


def test_a_reason_is_one_line_without_the_key(tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text(f"machine 127.0.0.1:9 login user password {KEY}\n")
    assert wandb_run._brief(RuntimeError(f"bad key {KEY}.\nmore")) == "bad key ***"
    monkeypatch.setenv("WANDB_API_KEY", "short")
    assert wandb_run._brief(SystemExit("short")) == "***"
    assert wandb_run._brief(TimeoutError()) == "TimeoutError"


def test_different_names_never_become_one_id():
    names = ["a/b", "a:b", "a_b", "x" * 200 + "-a1", "x" * 200 + "-a2", ""]
    assert len({wandb_run._safe_id(name) for name in names}) == len(names)
    assert wandb_run._safe_id("bc-digits-net-0123abcd-s0-a1") == "bc-digits-net-0123abcd-s0-a1"


def script(folder: Path, body: str, **environment: str) -> SimpleNamespace:
    """Run a process that opens a view at ``folder`` and does ``body`` with it.

    Its output goes to files, as the end of a pipe is seen only once W&B's process is gone too.
    """
    head = f"""
        import logging, os, signal, sys, time
        from pathlib import Path
        from mixbench.tracking.run import open_view

        logging.basicConfig(format="LINE %(message)s", stream=sys.stdout)
        mode, folder = os.environ.get("ASKED"), Path({str(folder)!r})
        view = open_view(folder, run_id="r-a1", name="r", project="p", mode=mode)
        log = lambda: view.send(lambda: view.run.log({{"a": 1.0}}))

        def core():
            stat = lambda pid: Path(f"/proc/{{pid}}/stat").read_text().rsplit(")", 1)
            for pid in filter(str.isdigit, os.listdir("/proc")):
                name, rest = stat(pid)
                if name.endswith("(wandb-core") and int(rest.split()[1]) == os.getpid():
                    return int(pid)
    """
    out, err = folder.parent / "out.txt", folder.parent / "err.txt"
    with out.open("w") as stdout, err.open("w") as stderr:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(head) + textwrap.dedent(body)],
            env=os.environ | environment,
            stdout=stdout,
            stderr=stderr,
            timeout=60,
            check=False,
        )
    return SimpleNamespace(code=done.returncode, lines=out.read_text().splitlines(), err=err)


def files_with(text: str, folder: Path) -> list[Path]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if text.encode() in path.read_bytes()]


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")


# FAULTS row 51.
@needs_proc
def test_a_killed_service_ends_the_view_with_one_line_and_not_the_process(tmp_path):
    done = script(
        tmp_path / "run",
        """
        log()
        os.kill(core(), signal.SIGKILL)
        time.sleep(0.3)
        for _ in range(1000):
            log()
        started = time.monotonic()
        assert view.close() is False
        assert time.monotonic() - started < 5
        again = open_view(folder / "again", run_id="r-a1", name="r", project="p", mode=mode)
        assert again.close() is True
        print("END")
        """,
        ASKED="offline",
    )
    assert (done.code, done.err.read_text()) == (0, "")
    line, end = done.lines
    assert re.fullmatch("LINE W&B view stopped: .+; the local results are complete", line)
    assert end == "END"


# FAULTS row 51.
@needs_proc
def test_a_service_that_hangs_delays_neither_values_nor_the_exit(tmp_path):
    started = time.monotonic()
    try:
        done = script(
            tmp_path / "run",
            """
            print(core(), flush=True)
            os.kill(core(), signal.SIGSTOP)
            started = time.monotonic()
            for _ in range(8000):  # more than its socket takes
                log()
            assert time.monotonic() - started < 1
            assert view.close(timeout=1.0) is False
            assert time.monotonic() - started < 5
            print("END")
            """,
            ASKED="offline",
        )
        took = time.monotonic() - started
    finally:
        os.kill(int((tmp_path / "out.txt").read_text().split()[0]), signal.SIGKILL)
    assert (done.code, done.err.read_text()) == (0, "")
    assert done.lines[1:] == [
        "LINE W&B view stopped: no answer within 1 s; the local results are complete",
        "END",
    ]
    assert took < 10


def test_more_values_than_can_wait_end_the_view(tmp_path, lines, monkeypatch):
    monkeypatch.setattr(wandb_run, "WAITING", 3)
    logger = open_logger(tmp_path, "offline")
    busy = threading.Event()
    logger.view.send(busy.wait)
    for step in range(9):
        logger.log_metrics({"a": 1.0}, step=step)
    busy.set()
    logger.close()
    assert lines() == [
        "W&B view stopped: 3 values are waiting for it; the local results are complete"
    ]


def test_the_first_failure_is_told_and_no_call_follows(tmp_path, lines):
    logger = open_logger(tmp_path, "offline")
    logger.log_metrics({"a": 1.0}, step=0)
    logger.log_image("samples", [str(tmp_path / "missing.png")])
    logger.log_image("samples", "no list")
    logger.log_metrics({"a": 2.0}, step=1)
    logger.finalize("failed")
    logger.close()
    logger.close()
    logger.log_metrics({"a": 3.0}, step=2)
    (line,) = lines()
    assert line.startswith("W&B view stopped: ")
    assert "missing.png" in line
    assert [row["a"] for row in history(stored(tmp_path))] == [1.0]


def test_an_online_run_reaches_the_server_without_its_secrets(tmp_path, server, lines):
    logger = open_logger(tmp_path, config={"data": {"api_key": KEY, "token_weight": 0.5}})
    logger.log_metrics({"train/loss": 2.25}, step=1)
    logger.close()
    assert lines() == []
    assert '\\"train/loss\\":2.25' in server.received
    assert "token_weight" in server.received
    assert KEY not in server.received  # it travels in a header only
    assert stored(tmp_path, "run-*")


# FAULTS row 51.
def test_a_network_lost_in_mid_run_neither_raises_nor_blocks(tmp_path, server, lines, monkeypatch):
    monkeypatch.setattr(wandb_run, "UPLOAD", 2.0)
    logger = open_logger(tmp_path)
    logger.log_metrics({"a": 0.0}, step=0)
    server.stop()
    for step in range(1, 200):
        logger.log_metrics({"a": float(step)}, step=step)
    started = time.monotonic()
    logger.close(timeout=10.0)
    assert time.monotonic() - started < 5
    (line,) = lines()
    (here,) = (tmp_path / "wandb").glob("run-*")
    assert line == (
        f"W&B view stopped: the upload took over 2 s, the rest with: wandb sync {here}; "
        "the local results are complete"
    )
    assert len(history(stored(tmp_path, "run-*"))) == 200  # nothing is lost for the upload
    open_logger(tmp_path / "next", "offline").close()  # and the next run is not affected
    assert stored(tmp_path / "next")


# FAULTS row 53.
def test_the_key_is_in_no_file_and_no_output(tmp_path, server):
    done = script(tmp_path / "run", "log(); view.close()")
    assert done.code == 0
    assert list(tmp_path.glob("run/wandb/run-*/*.wandb"))
    assert files_with(KEY, tmp_path) == []  # what it printed is among them, and so is its HOME


SHORT = ["data=digits", "data.limit=64", "data.size=16", "net.width=4", "batch_size=32"]


@pytest.fixture
def judged(tmp_path):
    """A run with a view in W&B, judged by nothing yet."""
    words = [
        *SHORT,
        "epochs=1",
        "eval.suites=[]",
        "wandb.mode=offline",
        f"run.dir={tmp_path}",
        "wandb.project=p",
    ]
    return tmp_path / run(compose(words)).id


def test_seeds_make_a_group_that_other_configurations_are_not_in(tmp_path):
    words = [
        *SHORT,
        "epochs=1",
        "eval.suites=[]",
        "wandb.mode=offline",
        f"run.dir={tmp_path}",
        "method=mixup",
    ]
    words += ["run.tags=[mine,mixup]"]
    groups = []
    for more in ("seed=0", "seed=1", "method.alpha=0.3", "recipe=quick"):
        record = run(compose([*words, more]))
        shown = opened(stored(tmp_path / record.id))
        groups.append(shown.run_group)
        told = ["mixup", "digits", "preactresnet18", record.recipe, "mine"]
        assert list(shown.tags) == list(dict.fromkeys(told))
    assert groups[0] == groups[1]
    assert len(set(groups)) == 3
    assert groups[3].startswith("mixup-quick-")


def test_a_run_shows_its_rate_its_score_by_epoch_and_how_it_ended(tmp_path):
    words = [
        *SHORT,
        "epochs=2",
        "lr=0.04",
        "eval.suites=[]",
        "wandb.mode=offline",
        f"run.dir={tmp_path}",
        "select=val",
    ]
    words += ["optim.schedule=step", "trainer.log_every=1", "data.val_fraction=0.5"]
    record = run(compose(words))
    records = stored(tmp_path / record.id)
    rows = history(records)
    rates = [row["train/lr"] for row in rows if "train/lr" in row]
    assert rates == pytest.approx([0.04, 0.004])
    assert [row["epoch"] for row in rows if "val/top1" in row] == [0, 1]
    axes = {r.metric.glob_name: r.metric.step_metric for r in records if r.HasField("metric")}
    assert axes["val/*"] == "epoch"
    found = summary(records)
    assert found["status"] == "done"
    assert "few steps" in found["health"]
    assert found.items() >= record.metrics.items()


def test_a_run_that_failed_says_so_in_its_summary(tmp_path):
    words = [
        *SHORT,
        "epochs=2",
        "lr=1e30",
        "eval.suites=[]",
        "wandb.mode=offline",
        f"run.dir={tmp_path}",
        "trainer.log_every=1",
    ]
    with pytest.raises(RunFailedError):
        run(compose(words))
    (folder,) = tmp_path.glob("erm-*")
    found = summary(stored(folder))
    assert found["status"] == "diverged"
    assert "few steps" in found["health"]
    assert "not finite" in found["health"]


def test_a_later_evaluation_arrives_in_the_group_of_the_run(judged, lines):
    record = evaluate_run(judged, ["eval.attacks=[fgsm_4]", "eval.adv_n=10"], ["adversarial"])
    first, second = sorted(
        (judged / "wandb").glob("offline-run-*"), key=lambda p: p.name[-3:] != "-a1"
    )
    assert first.name.endswith(f"{judged.name}-a1")
    assert len(list(first.glob("files/media/images/samples*.png"))) == 1  # the run's own picture
    records = stored(judged, second.name)
    shown = opened(records)
    own = opened(stored(judged, first.name))
    assert (shown.run_group, shown.display_name) == (own.run_group, judged.name)
    assert (shown.job_type, shown.project) == ("eval", "p")
    assert shown.run_id.startswith(f"{judged.name}-e")
    config = {item.key: json.loads(item.value_json) for item in shown.config.update}
    assert config["run_id"] == judged.name
    assert config["evaluations"]["adversarial"]["attacks"] == ["fgsm_4"]
    (row,) = history(records)
    names = {name.removeprefix("test/") for name in row if name.startswith("test/")}
    assert names == {"fgsm_4", "fgsm_4_acc", "sat_pct", "adv_n"}
    assert all(row[f"test/{name}"] == record.metrics[name] for name in names)
    tested = [r for r in history(stored(judged, first.name)) if "test/top1" in r][-1]
    for axis in ("trainer/global_step", "epoch"):  # beside the test of the run itself
        assert row[axis] == tested[axis]
    assert lines()[-1].startswith("W&B: offline, upload with: wandb sync ")
    record = evaluate_run(judged, ["eval.adv_n=8"], ["calibration", "linearity"])
    views = [path.name for path in (judged / "wandb").glob("offline-run-*-s0-e*")]
    assert len(views) == 2
    (other,) = set(views) - {second.name}
    (row,) = history(stored(judged, other))
    for name in ("ece_cf", "lin_gap"):
        assert row[f"test/{name}"] == pytest.approx(record.metrics[name])


@pytest.mark.parametrize("how", ["key", "environment"])
def test_where_wandb_is_off_an_evaluation_says_so_and_ends(judged, lines, monkeypatch, how):
    if how == "environment":
        text = (judged / "config.yaml").read_text().replace("mode: offline", "mode: null")
        (judged / "config.yaml").write_text(text)
        monkeypatch.setenv("WANDB_MODE", "disabled")
    words = ["wandb.mode=disabled"] if how == "key" else []
    evaluate_run(judged, words, ["calibration"])
    assert lines()[-1:] == ["W&B is disabled: the scores are in the record only"]
    assert len(list((judged / "wandb").glob("offline-run-*"))) == 1


def test_where_the_view_is_gone_an_evaluation_says_so_and_ends(judged, lines):
    shutil.rmtree(judged / "wandb")
    evaluate_run(judged, [], ["calibration"])
    assert lines()[-1] == f"{judged.name} has no view in W&B: the scores are in the record only"
    assert not (judged / "wandb").exists()
    said = len(lines())
    evaluate_run(judged, ["wandb.mode=disabled"], ["calibration"])  # never asked for
    assert len(lines()) == said


def test_a_view_that_fails_costs_an_evaluation_one_line(judged, lines, monkeypatch):
    import wandb

    wandb.teardown()  # the process of the run's own view
    monkeypatch.setenv("WANDB_BASE_URL", "no address")
    record = evaluate_run(judged, [], ["calibration"])
    (line,) = [line for line in lines() if "W&B" in line]
    assert line.startswith("no W&B view: ")
    assert "ece_cf" in record.metrics


def test_what_was_found_before_a_suite_failed_arrives(judged, monkeypatch):
    monkeypatch.setattr(patches, "patch_grid", lambda side: 5)  # does not divide it
    with pytest.raises(UserError, match="leave occlusion out"):
        evaluate_run(judged, ["eval.attacks=[fgsm_4]"], ["adversarial", "occlusion"])
    (row,) = history(stored(judged, "offline-run-*-s0-e*"))
    assert "test/fgsm_4" in row
