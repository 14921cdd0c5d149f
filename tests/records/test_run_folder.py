"""A run writes into its own folder and nowhere else."""

import os
import stat

import pytest
import yaml

from mixbench import cli, compose, run
from mixbench.config.compose import to_plain
from mixbench.errors import UserError
from mixbench.files import check_run_folder, open_log, write_text
from mixbench.launch.local import _run_child
from mixbench.launch.sweep import read_sweep
from mixbench.records.record import runs_folder
from mixbench.tracking.run import open_view

WORDS = "method=erm data=digits data.limit=64 net.width=4 epochs=1 batch_size=16 eval.suites=[]"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


@pytest.mark.parametrize("name", ["log.txt", "wandb", "record.json", "last.ckpt", "anything"])
def test_no_link_in_the_folder_of_a_run_is_written_through(folder, name):
    check_run_folder(folder)
    (folder / name).symlink_to(folder.parent / "target")  # leads nowhere yet
    with pytest.raises(UserError, match=name):
        check_run_folder(folder)
    with pytest.raises(UserError, match=name):
        open_log(folder / "log.txt")
    assert not (folder.parent / "target").exists()


def test_neither_a_link_for_a_folder_nor_a_pipe_is_written_to(folder):
    link = folder.parent / "link"
    link.symlink_to(folder)
    with pytest.raises(UserError, match=str(folder)):
        check_run_folder(link)
    os.mkfifo(folder / "log.txt")
    with pytest.raises(UserError, match="neither file nor folder"):
        open_log(folder / "log.txt")
    check_run_folder(folder.parent / "new")


def test_a_log_is_appended_to(folder):
    for word in ("one\n", "tw\N{LATIN SMALL LETTER O WITH DIAERESIS}\n"):
        with open_log(folder / "log.txt") as file:
            file.write(word)
    assert (folder / "log.txt").read_text(encoding="utf-8") == "one\ntw\u00f6\n"
    assert not (folder / "log.txt").stat().st_mode & stat.S_IXUSR


def test_a_link_with_the_name_of_a_temporary_file_is_not_written_through(folder):
    target = folder.parent / "target"
    target.write_text("kept")
    (folder / f".record.json.{os.getpid()}.tmp").symlink_to(target)
    write_text(folder / "record.json", "new")
    assert target.read_text() == "kept"
    assert (folder / "record.json").read_text() == "new"
    assert not (folder / "record.json").is_symlink()


def test_a_run_refuses_a_folder_with_links(tmp_path, monkeypatch):
    target = tmp_path / "target"
    target.write_text("kept")
    folder = tmp_path / "planted"
    folder.mkdir()
    (folder / "samples.png").symlink_to(target)
    monkeypatch.setattr(
        "mixbench.training.attempt.locked", None
    )  # nothing is written, not even a lock
    with pytest.raises(UserError, match=r"samples\.png"):
        run(compose(f"{WORDS} wandb.mode=disabled"), folder=folder)
    answers = []
    said = {"send": lambda self, found: answers.append(found), "fileno": lambda self: 1}
    answer = type("Answer", (), said)()
    monkeypatch.setattr("mixbench.launch.local.stop_when_orphaned", lambda orphaned: None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # put back afterwards
    surroundings = dict(os.environ), str(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("signal.signal", lambda *given: None)
    _run_child(surroundings, [], folder / "log.txt", False, [], answer)
    assert answers[0][0] == 2
    assert "samples.png" in answers[0][1]
    assert target.read_text() == "kept"
    assert sorted(path.name for path in folder.iterdir()) == ["samples.png"]


@pytest.mark.parametrize("command", ["eval", "verify", "resume"])
def test_commands_refuse_a_linked_folder(finished, command, capsys, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(finished)
    before = (finished / "record.json").read_bytes()
    words = ["--suite", "calibration"] if command == "eval" else []
    code = cli.main([command, str(link), *words, *(["lr=0.01"] if command == "resume" else [])])
    assert (finished / "record.json").read_bytes() == before
    if command != "resume":  # a finished run is only told to be finished
        assert code == 2
        assert str(finished) in capsys.readouterr().err


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    record = run(compose([*WORDS.split(), "wandb.mode=disabled", f"run.dir={runs}"]))
    return runs / record.id


def test_no_view_is_written_through_a_link(folder, caplog):
    (folder / "wandb").symlink_to(folder.parent)
    assert open_view(folder, run_id="a", name="a", project="p", mode="offline") is None
    assert "is a link" in caplog.text


# FAULTS row 68.
def test_a_relative_place_of_runs_stays_below_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here" / "link").symlink_to(tmp_path)
    for given in ("..", "../runs", "a/../../runs", "link", "link/runs"):
        with pytest.raises(UserError, match=f"run.dir={tmp_path}"):
            runs_folder(given)
    assert runs_folder("a/../b").resolve() == tmp_path / "here" / "b"
    assert runs_folder(str(tmp_path)) == tmp_path


def test_a_file_cannot_send_runs_to_an_absolute_path(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    plan = tmp_path / "plan.yaml"
    plan.write_text(f"base: {{data: digits, run.dir: {tmp_path}/other}}\n")
    with pytest.raises(UserError, match=f"run.dir={tmp_path}/other"):
        read_sweep(str(plan))
    (planned,) = read_sweep(str(plan), ["run.dir=/own"]).runs
    assert "run.dir=/own" in planned.words
    recipe = tmp_path / "experiments" / "recipe" / "mine.yaml"
    recipe.parent.mkdir(parents=True)
    recipe.write_text("run: {dir: /else/where}\n")
    with pytest.raises(UserError, match="dir=/else"):
        compose("recipe=mine")
    saved = tmp_path / "config.yaml"
    saved.write_text(yaml.safe_dump(to_plain(compose(f"data=digits run.dir={tmp_path}/own"))))
    assert compose("", base=saved).run.dir == f"{tmp_path}/own"  # for what already lies there
    capsys.readouterr()
    assert cli.main(["run", "--config", str(saved), "--show"]) == 2
    assert f"run.dir={tmp_path}/own" in capsys.readouterr().err
    assert cli.main(["run", "--config", str(saved), "--show", f"run.dir={tmp_path}/own"]) == 0
