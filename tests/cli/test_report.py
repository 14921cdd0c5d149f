import os
import subprocess
import sys

import pytest
from report_runs import Runs

from mixbench import cli
from mixbench.leaderboard.report import page
from mixbench.leaderboard.rows import build_leaderboard, find_runs


@pytest.fixture
def finished(tmp_path, monkeypatch):
    runs = Runs(tmp_path / "runs")
    runs.seeds("erm", 90.0, 91.0)
    runs.seeds("mixup", 92.0, 93.0)
    monkeypatch.setenv("MIXBENCH_RUNS", str(runs.folder))
    return runs


def test_a_report_is_written_beside_the_runs_and_its_place_is_printed(finished, capsys):
    assert cli.main(["report"]) == 0
    output = finished.folder / "report.html"
    assert capsys.readouterr().out == f"report: {output}\n"
    assert "mixup is ahead" in output.read_text()


def test_a_folder_that_is_named_alone_gets_its_page_and_a_run_does_not(
    finished, tmp_path, monkeypatch, capsys
):
    run = next(path for path in sorted(finished.folder.iterdir()) if path.is_dir())
    assert cli.main(["report", str(run)]) == 0
    assert not (run / "report.html").exists()
    assert (finished.folder / "report.html").exists()
    (finished.folder / "report.html").unlink()
    monkeypatch.setenv("MIXBENCH_RUNS", str(tmp_path / "elsewhere"))
    assert cli.main(["report", str(finished.folder)]) == 0
    assert (finished.folder / "report.html").exists()


def test_a_named_file_is_replaced_as_a_whole(finished, tmp_path, monkeypatch):
    output = tmp_path / "page.html"
    output.write_text("old")
    with monkeypatch.context() as broken:
        broken.setattr(page, "page", lambda *_: 1 / 0)
        assert cli.main(["report", "-o", str(output)]) == 3
    assert output.read_text() == "old"
    assert cli.main(["report", str(finished.folder), "-o", str(output)]) == 0
    assert output.read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["-o", "missing/page.html"], "the folder for the report does not exist"),
        (["-o", "page.pdf"], "end its name in .html"),
        (["-o", "folder.html"], "name another file"),
        (["empty"], "there are no runs to report"),
        (["missing"], "no such folder"),
    ],
    ids=str,
)
def test_what_cannot_be_written_or_read_is_refused_in_a_few_lines(
    finished, words, text, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "empty").mkdir()
    assert cli.main(["report", *words]) == 2
    shown = capsys.readouterr().err
    assert text in shown
    assert len(shown.splitlines()) <= 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "folder.html", "runs"]


def test_a_report_needs_neither_torch_nor_lightning(finished, tmp_path):
    program = (
        "import sys; from mixbench.cli import main; code = main(sys.argv[1:]);"
        "print(sorted({'torch', 'lightning', 'wandb'} & set(sys.modules))); sys.exit(code)"
    )
    words = [sys.executable, "-c", program, "report", "-o", str(tmp_path / "page.html")]
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.fixture
def one_done(runs, tiny, capsys):
    """Words of a grid of one run that is finished."""
    words = ["method=erm", *tiny]
    assert cli.main(["run", *words]) == 0
    capsys.readouterr()
    return words


def test_a_grid_ends_with_its_report_and_its_verdict(one_done, runs, capsys):
    assert cli.main(["bench", *one_done, "--report"]) == 0
    *_, place, _, verdict = capsys.readouterr().out.splitlines()
    assert place == f"report: {runs / 'report.html'}"
    assert verdict == build_leaderboard(find_runs([runs])).groups[0].verdict.text
    assert (runs / "report.html").stat().st_size > 10_000


def test_a_grid_whose_report_fails_is_done_all_the_same(one_done, runs, monkeypatch, capsys):
    def fail(*_):
        raise OSError(28, "No space left on device", "page.html")

    monkeypatch.setattr(page, "write_text", fail)
    assert cli.main(["bench", *one_done, "--report"]) == 0
    assert "no report is written: No space left on device" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--report", "method=erm"], "write overrides in front of --report"),
        (["--report", "missing/page.html"], "the folder for the report does not exist"),
    ],
)
def test_a_report_that_cannot_be_written_is_refused_before_the_first_run(runs, words, text, capsys):
    assert cli.main(["bench", *words]) == 2
    assert text in capsys.readouterr().err
    assert not runs.exists()


def test_a_grid_that_does_not_wait_says_that_it_writes_no_report(runs, tmp_path, capsys):
    sweep = tmp_path / "sweep.yaml"
    assert cli.main(["bench", "method=erm", "--report", "--to-wandb", str(sweep)]) == 0
    assert "no report is written" in capsys.readouterr().err
    assert sweep.exists()
    assert not runs.exists()
