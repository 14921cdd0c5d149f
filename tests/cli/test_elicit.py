import signal
import subprocess
import sys
import time

import pytest
from elicit_study import NAMES, Rater, knowing, make_study

from mixbench.cli import main
from mixbench.config.compose import compose
from mixbench.elicit.begin import kept_config
from mixbench.elicit.study import Study

WORDS = ["data=digits", "--images", "10"]


@pytest.fixture
def served(monkeypatch):
    """Studies that the command would have served, and under which names."""
    found = []
    monkeypatch.setattr(
        "mixbench.elicit.server.serve",
        lambda study, listener, hosts=(): found.append((study.settings, study.class_names, hosts)),
    )
    return found


def elicit(*words, folder):
    return main(["elicit", *words, "--port", "0", "--out", str(folder / "s.db")])


def test_a_study_begins_and_goes_on_with_the_same_command_or_with_less(
    tmp_path, served, capsys, digits_once
):
    assert elicit(*WORDS, "--task", "infer", folder=tmp_path) == 0
    told = capsys.readouterr().out
    assert told.startswith(f"begun: {tmp_path}/s.db, 10 stimuli\npage: http://127.0.0.1:")
    assert "0 answers of 0 sessions" in told
    for words in (WORDS, [], ["--images", "10"], ["data=digits", "method=mixup"]):
        assert elicit(*words, folder=tmp_path) == 0, capsys.readouterr().err
        assert capsys.readouterr().out.startswith("continued")
    assert len({settings.to_json() for settings, *_ in served}) == 1
    settings, names, hosts = served[0]
    assert (settings.task, settings.images, settings.trials) == ("infer", 10, 10)
    assert settings.config["method"]["name"] == "mixup"
    assert names == [str(digit) for digit in range(10)]
    assert hosts == ()


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--task", "select"], "task is infer, not select"),
        (["--images", "11"], "images is 20, not 11"),
        (["--perspective", "you"], "perspective is others, not you"),
        (["--interval"], "interval is false, not true"),
        (["data=digits", "method=cutmix"], "method.name is mixup, not cutmix"),
        (["data=digits", "data.limit=100"], "data.limit is null, not 100"),
        (["data=digits", "seed=1"], "seed is 0, not 1"),
    ],
)
def test_other_settings_on_the_same_file_are_refused(tmp_path, served, capsys, words, what):
    kept = kept_config(compose("data=digits method=mixup"))
    make_study(tmp_path / "s.db", config=kept).close()
    assert elicit(*words, folder=tmp_path) == 2
    told = capsys.readouterr().err
    assert "the study in this file has other settings" in told
    assert what in told
    assert served == []


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ([], "no data are named"),
        (["data=digits", "--task", "infr"], "did you mean 'infer'"),
        (["data=digits", "--trials", "61"], "one person cannot judge 61"),
        (["data=digits", "--consent", "nowhere.txt"], "nowhere.txt"),
        (["data=digits", "method=erm"], "does not mix pixels"),
        (["data=nothing"], "nothing"),
        (["data=digits", "epochs=3"], "epochs has no effect"),
        (["data=digits", "--nothing"], "--nothing"),
    ],
)
def test_a_study_that_cannot_be_is_refused_and_leaves_no_file(
    tmp_path, served, capsys, words, what, digits_once
):
    assert elicit(*words, folder=tmp_path) == 2
    assert what in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_only_a_consent_text_of_its_own_makes_a_study_public(tmp_path, served, capsys, digits_once):
    text = tmp_path / "consent.txt"
    assert main(["elicit", "consent", "-o", str(text)]) == 0
    assert main(["elicit", "consent", "-o", str(text)]) == 2  # nobody's edited text is lost
    public = [*WORDS, "--public", "study.example"]
    (tmp_path / "a").mkdir()
    assert elicit(*public, folder=tmp_path / "a") == 2
    assert "consent text of its own" in capsys.readouterr().err
    text.write_text(text.read_text().replace("[NUMBER]", "10"))
    (tmp_path / "b").mkdir()
    assert elicit(*public, "--consent", str(text), folder=tmp_path / "b") == 2
    assert "still has the gap [NAME AND INSTITUTION" in capsys.readouterr().err
    text.write_text("We study images.\n\n[ ] One.\n[ ] Two.\n[ ] Three.\n")
    (tmp_path / "c").mkdir()
    assert elicit(*public, "--consent", str(text), folder=tmp_path / "c") == 0
    assert served[0][2] == ("study.example",)
    assert len(served) == 1
    text.write_text("No boxes.")
    (tmp_path / "d").mkdir()
    assert elicit(*WORDS, "--consent", str(text), folder=tmp_path / "d") == 2
    assert "three lines" in capsys.readouterr().err.replace("3 lines", "three lines")


def test_a_refused_study_that_would_be_public_is_not_begun(tmp_path, served, digits_once):
    assert elicit(*WORDS, "--public", "study.example", folder=tmp_path) == 2
    assert list(tmp_path.iterdir()) == []


def test_exports_and_reports_are_commands_of_their_own(tmp_path, capsys):
    make_study(tmp_path / "s.db", NAMES).close()
    for words in (["export", "s.db", "-o", "out"], ["report", "s.db", "-o", "r.html"]):
        given = [str(tmp_path / w) if "." in w or w == "out" else w for w in words]
        assert main(["elicit", *given]) == 2
        assert "has no judgements" in capsys.readouterr().err
    assert main(["elicit", "export", str(tmp_path / "s.db"), "-o", "x", "--format", "xls"]) == 2
    assert "choose hmix, csv, parquet" in capsys.readouterr().err
    assert main(["elicit", "report", str(tmp_path / "s.db"), "-o", "r.pdf"]) == 2
    assert main(["elicit", "export", "--task", "infer"]) == 2


def test_a_page_that_is_stopped_ends_with_a_count_and_leaves_one_file(tmp_path):
    study = make_study(tmp_path / "s.db", images=3, trials=3)
    settings, judge = study.settings, knowing(study)
    study.close()
    command = [sys.executable, "-m", "mixbench", "elicit", "--port", "0", "--out"]
    for number, sign in enumerate((signal.SIGINT, signal.SIGTERM)):
        process = subprocess.Popen(
            [*command, str(tmp_path / "s.db")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline().startswith("continued")
        port = int(process.stdout.readline().split("127.0.0.1:")[1].split("/")[0])
        rater = Rater(port)
        state = rater.begin(settings)
        rater.finish(state, lambda trial: judge(settings, trial))
        rater.close()
        time.sleep(0.1)
        process.send_signal(sign)
        out, err = process.communicate(timeout=30)
        assert process.returncode == 0
        count = number + 1
        assert f"{5 * count} answers of {count} session" in out
        assert err == ""
        assert [path.name for path in tmp_path.iterdir()] == ["s.db"]  # its log is part of it
    study = Study(tmp_path / "s.db")
    assert len(study.judgements()) == 10
    study.close()


def test_the_page_is_begun_without_torch(tmp_path):
    make_study(tmp_path / "s.db").close()
    script = (
        "import sys, mixbench.elicit.server as s\n"
        "from mixbench.cli import main\n"
        "s.serve = lambda *_: None\n"
        f"assert main(['elicit', '--port', '0', '--out', {str(tmp_path / 's.db')!r}]) == 0\n"
        "assert not {'torch', 'lightning'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, timeout=60, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
