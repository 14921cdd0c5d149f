import builtins
import sys
import types

import pytest

import mixbench
from mixbench.leaderboard.rows import build_leaderboard, find_runs


@pytest.fixture
def runs(add, tmp_path):
    for seed in range(3):
        add("erm", seed, 90.0 + seed / 10, img_per_s=100.0, train_size=100)
        add("mixup", seed, 92.0 + seed / 10, settings={"alpha": 0.2})
    return tmp_path


def no_pandas(monkeypatch):
    find = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == "pandas":
            raise ImportError(name)
        return find(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)


def test_the_package_is_called_for_its_rows(runs, monkeypatch):
    no_pandas(monkeypatch)
    first, second = mixbench.leaderboard(runs)
    assert (first["method"], first["n"], first["seeds"]) == ("mixup", 3, [0, 1, 2])
    assert first["top1"] == pytest.approx(92.1)
    assert first["top1_sd"] == pytest.approx(0.1)
    assert first["method.alpha"] == 0.2
    contrast = build_leaderboard(find_runs([runs])).groups[0].evidence.contrasts["mixup"]
    assert (first["difference"], first["p"]) == (contrast.difference, contrast.p)
    assert (second["reference"], second["difference"], second["cost"]) == ("erm", None, 1.0)
    assert [row["method"] for row in mixbench.leaderboard([str(runs)], sort="method")] == [
        *("erm", "mixup")
    ]


def test_a_frame_is_made_where_pandas_is_installed(runs, monkeypatch):
    module = types.ModuleType("pandas")
    module.DataFrame = lambda rows: ("frame", len(rows))
    monkeypatch.setitem(sys.modules, "pandas", module)
    assert mixbench.leaderboard(runs) == ("frame", 2)


def test_the_default_is_the_folder_of_runs(runs, monkeypatch):
    no_pandas(monkeypatch)
    monkeypatch.setenv("MIXBENCH_RUNS", str(runs))
    assert len(mixbench.leaderboard()) == 2


def test_a_run_that_is_in_no_row_is_said(runs, add, monkeypatch):
    no_pandas(monkeypatch)
    add("cutmix", 0, status="diverged")
    with pytest.warns(UserWarning, match=r"cutmix.*diverged"):
        assert len(mixbench.leaderboard(runs)) == 2
