import pytest

from mixbench import cli
from mixbench.records.record import Record, read_record, write_record


@pytest.fixture
def folder(tmp_path):
    for method, scores in (("erm", (90.0, 90.2)), ("mixup", (91.0, 91.2)), ("bc", (89.0, 89.1))):
        for seed, top1 in enumerate(scores):
            record = Record(
                id=f"{method}-s{seed}",
                method=method,
                data="cifar10",
                net="net",
                recipe="quick",
                seed=seed,
                epochs=2,
                select="last",
                config_hash=method,
                recipe_hash="r",
                status="done",
                metrics={"top1": top1, "nll": 0.5},
            )
            place = tmp_path / "runs" / record.id
            place.mkdir(parents=True)
            write_record(place, record)
    return tmp_path / "runs"


def test_plot_writes_the_file_and_names_it(folder, tmp_path, capsys):
    path = tmp_path / "forest.svg"
    assert cli.main(["plot", "forest", str(folder), "-o", str(path)]) == 0
    assert capsys.readouterr().out == f"written: {path}\n"
    assert ">mixup</text>" in path.read_text()


def test_options_reach_the_plot(folder, tmp_path, capsys):
    path = tmp_path / "scores.svg"
    words = ["leaderboard", str(folder), "-o", str(path), "--score", "nll", "--row", "mixup"]
    assert cli.main(["plot", *words, "--width", "page", "--no-title"]) == 0
    text = path.read_text()
    assert "negative log-likelihood" in text
    assert ">bc</text>" not in text
    assert "cifar10" not in text
    assert 'width="496.8pt"' in text


def test_an_option_that_the_kind_does_not_take_is_refused(folder, tmp_path, capsys):
    words = ["plot", "forest", str(folder), "-o", str(tmp_path / "a.svg"), "--score", "nll"]
    assert cli.main(words) == 2
    assert "--score has no effect" in capsys.readouterr().err
    assert not (tmp_path / "a.svg").exists()


def test_a_run_that_is_not_in_the_picture_is_said(folder, tmp_path, capsys):
    lost = read_record(folder / "bc-s1")
    lost.status = "diverged"
    write_record(folder / "bc-s1", lost)
    assert cli.main(["plot", "leaderboard", str(folder), "-o", str(tmp_path / "a.svg")]) == 0
    assert "not in the picture: bc-s1 has the status diverged" in capsys.readouterr().err
