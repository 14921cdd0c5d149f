import json
import logging
import math
import shlex
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mixbench.leaderboard.rows import Leaderboard, build_leaderboard, find_runs
from mixbench.leaderboard.wandb_table import log_table, pictures, table_rows
from mixbench.pictures.reliability import MARGIN, SIDE
from mixbench.records.record import Record, write_record

pytestmark = pytest.mark.usefixtures("plain_wandb")


@pytest.fixture
def board(tmp_path):
    """Two groups: a method over three seeds of which one failed, and one of another recipe."""

    def add(method, seed, top1, status="done", **changes):
        values = {
            "data": "cifar",
            "net": "net",
            "recipe": "quick",
            "recipe_hash": "r" * 16,
            "config_hash": method,
            "epochs": 16,
            "select": "last",
            "metrics": {"top1": top1, "nll": math.nan},
        } | changes
        name = f"{method}-s{seed}"
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        write_record(folder, Record(id=name, method=method, seed=seed, status=status, **values))

    add("mixup", 0, 90.0)
    add("mixup", 1, 92.0, marks=["few steps"])
    add("mixup", 2, 0.0, status="diverged")
    add("<script>", 0, 50.0, recipe_hash="s" * 16, metrics={"top1": 50.0, "ece_cf": 0.5})
    return build_leaderboard(find_runs([tmp_path / "runs"]))


def shown(board):
    columns, rows = table_rows(board)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def tables(folder: Path, pattern: str = "offline-run-*"):
    deadline = time.monotonic() + 2
    while not (found := list((folder / "wandb").glob(f"{pattern}/files/media/table/*.json"))):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return [json.loads(path.read_text()) for path in found]


def test_a_row_per_method_carries_what_it_is_and_its_summaries(board):
    mixup, other = shown(board)
    assert mixup["method"] == "mixup"
    assert [mixup[key] for key in ("data", "net", "recipe")] == ["cifar", "net", "quick"]
    assert mixup["n"] == 2
    assert (mixup["marks"], other["marks"]) == ("few steps (1 of 2)", None)
    assert (mixup["top1"], mixup["sd"]) == (91.0, pytest.approx(2**0.5))
    assert (other["top1"], other["sd"]) == (50.0, None)
    assert other["ece_cf"] == 0.5
    assert mixup["ece_cf"] is None  # not measured


def test_a_table_is_as_narrow_as_that_of_a_terminal(board):
    columns, _ = table_rows(board)
    told = ["data", "net", "recipe", "method", "n", "top1", "sd", "nll", "ece_cf", "marks"]
    assert columns == told  # no row has another one to be tested with


def test_a_row_that_was_tested_shows_its_difference_from_the_reference(tmp_path):
    for method, scores in {"erm": (90.0, 90.2), "mixup": (91.0, 91.2)}.items():
        for seed, top1 in enumerate(scores):
            folder = tmp_path / f"{method}-s{seed}"
            folder.mkdir()
            values = {"data": "cifar", "net": "net", "recipe": "quick", "epochs": 16}
            values |= {"recipe_hash": "r" * 16, "config_hash": method, "select": "last"}
            values |= {"status": "done", "metrics": {"top1": top1}}
            write_record(folder, Record(id=folder.name, method=method, seed=seed, **values))
    mixup, erm = shown(build_leaderboard(find_runs([tmp_path])))
    assert (mixup["method"], mixup["difference"]) == ("mixup", pytest.approx(1.0))
    assert 0 < mixup["p"] < 0.05
    assert (erm["difference"], erm["p"]) == (None, None)


def test_an_offline_table_is_on_disk_and_the_line_says_where(board, tmp_path):
    line = log_table(board, project="a/b", folder=tmp_path / "runs", mode="offline")
    (content,) = tables(tmp_path / "runs")
    columns, rows = table_rows(board)
    assert (content["columns"], content["data"]) == (columns, rows)
    words, command = line.split(": ", 2)[1:]
    assert words == "offline, upload with"
    *program, place = shlex.split(command)
    assert program == ["wandb", "sync"]
    assert list(Path(place).glob("*.wandb"))


def test_two_tables_are_two_runs(board, tmp_path):
    for _ in range(2):
        log_table(board, project="p", folder=tmp_path, mode="offline")
    assert len(tables(tmp_path)) == 2
    assert len({path.name for path in tmp_path.glob("wandb/offline-run-*/*.wandb")}) == 2


def test_a_board_without_rows_is_logged_as_one(tmp_path):
    line = log_table(Leaderboard([]), project="p", folder=tmp_path, mode="offline")
    assert "wandb sync" in line
    (content,) = tables(tmp_path)
    assert content["data"] == []
    assert "method" in content["columns"]


def test_without_a_key_or_a_server_it_is_offline_with_one_line(
    board, tmp_path, caplog, monkeypatch
):
    caplog.set_level(logging.INFO, logger="mixbench")
    assert "offline" in log_table(board, project="p", folder=tmp_path / "a", mode="online")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert "offline" in log_table(board, project="p", folder=tmp_path / "b", mode=None)
    told = [r.getMessage() for r in caplog.records if r.name == "mixbench"]
    assert ["no API key" in line for line in told] == [True, False]
    assert "127.0.0.1:9" in told[1]


def test_disabled_it_says_so_and_leaves_nothing(board, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    line = log_table(board, project="p", folder=tmp_path, mode=None)
    assert line == "W&B: no leaderboard was logged"
    assert not (tmp_path / "wandb").exists()


def with_pictures(tmp_path, board):
    row = board.groups[0].rows[0]
    for number, folder in enumerate(row.folders):
        logits = np.array([[4.0, 0.0], [0.0, 4.0], [0.0, 0.1], [3.0, 0.0]], dtype=np.float32)
        arrays = {"logits": logits, "labels": np.array([0, 1, 0, number]), "ids": np.arange(4)}
        np.savez(folder / "predictions.npz", **arrays)
        Image.new("RGB", (8, 8), "red").save(folder / "samples.png")
    return row


def test_rows_show_their_reliability_and_samples(board, tmp_path):
    with_pictures(tmp_path, board)
    log_table(board, project="p", folder=tmp_path / "runs", mode="offline")
    (content,) = tables(tmp_path / "runs")
    columns, _ = table_rows(board)
    assert content["columns"] == [*columns, "reliability", "samples"]
    first, second = (dict(zip(content["columns"], row, strict=True)) for row in content["data"])
    assert first["reliability"] == first["samples"] == "Image"  # W&B's word for it in this file
    assert second["reliability"] is second["samples"] is None


def test_a_diagram_counts_all_seeds_and_says_nothing_of_damaged_files(board, tmp_path, caplog):
    row = with_pictures(tmp_path, board)
    picture, samples = pictures(row)
    # Confidence .982 in the last bin: 5 of 6 right over both seeds; .525: 0 of 2; .953: half.
    pixels = np.asarray(picture)
    assert samples == row.folders[0] / "samples.png"
    last_bar, empty = MARGIN + SIDE - 7, MARGIN + 7
    height = sum(tuple(pixel) == (0x4C, 0x78, 0xA8) for pixel in pixels[:, last_bar])
    assert height / SIDE == pytest.approx(7 / 8, abs=0.08)
    assert not any(tuple(pixel) == (0x4C, 0x78, 0xA8) for pixel in pixels[:, empty])
    (row.folders[0] / "predictions.npz").write_bytes(b"broken")
    assert pictures(row)[0] is None
    assert "no reliability diagram of mixup" in caplog.text


def test_no_picture_that_a_link_leads_to_is_sent_away(board, tmp_path):
    row = with_pictures(tmp_path, board)
    (row.folders[0] / "samples.png").rename(tmp_path / "private.png")
    (row.folders[0] / "samples.png").symlink_to(tmp_path / "private.png")
    assert pictures(row)[1] == row.folders[1] / "samples.png"
