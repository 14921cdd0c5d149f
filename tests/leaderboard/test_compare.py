import json
import math
import os
import time

import numpy as np
import pytest
from scipy import stats

from mixbench import cli
from mixbench.errors import UserError
from mixbench.leaderboard.compare import PREDICTIONS, compare
from mixbench.leaderboard.render import comparison_text
from mixbench.leaderboard.rows import build_leaderboard, find_runs
from mixbench.records.predictions import read_predictions
from mixbench.records.record import Record, write_record
from mixbench.stats.class_changes import class_changes


def predictions(folder, hits, labels=None, ids=None):
    """Logits of 3 classes that are right where ``hits`` says so."""
    labels = np.arange(len(hits)) % 3 if labels is None else labels
    guess = np.where(hits, labels, (labels + 1) % 3)
    logits = np.eye(3, dtype=np.float32)[guess]
    ids = np.arange(len(hits)) if ids is None else ids
    np.savez(folder / PREDICTIONS, logits=logits, labels=labels, ids=ids)


@pytest.fixture
def add(tmp_path):
    """Writes a run; its predictions are right on the first images, shifted by the seed."""

    def write(method, seed, top1, *, images=200, store=True, labels=None, ids=None, **changes):
        values = {
            "data": "cifar",
            "net": "net",
            "recipe": "quick",
            "epochs": 16,
            "select": "last",
            "status": "done",
            "config_hash": f"{method}{changes.get('settings', '')}",
            "recipe_hash": "r" * 16,
            "device": "CPU",
            "img_per_s": 1000.0,
            "macs": 5_000_000,
            "metrics": {"top1": top1, "nll": 1 - top1 / 200, "ece": 0.04},
        } | changes
        variant = str(len(changes["settings"])) if "settings" in changes else ""
        folder = tmp_path / f"{method}{variant}s{seed}"
        folder.mkdir()
        write_record(folder, Record(id=folder.name, method=method, seed=seed, **values))
        if store:
            hits = np.roll(np.arange(images) < top1 / 100 * images, 7 * seed)
            predictions(folder, hits, labels, ids)
        return folder

    return write


def compared(tmp_path, mine="mixup", other="erm", **kwargs):
    (found,) = compare(build_leaderboard(find_runs([tmp_path])), mine, other, **kwargs)
    return found


def fill(add, **changes):
    for seed, noise in enumerate([0.0, 1.0, -1.0]):
        add("erm", seed, 80.0 + noise, **changes)
        add("mixup", seed, 85.0 - noise, **changes)
        add("cutmix", seed, 70.0 + 2 * noise, **changes)


def test_marks_of_either_method_are_said(add, tmp_path):
    fill(add)
    add("erm", 3, 80.0, config_changes={"lr": [0.1, 0.2]})
    notes = compared(tmp_path).notes
    assert any("erm" in note and "changed (1 of 4)" in note for note in notes)
    assert any("--allow-config-change" in note for note in notes)
    assert not any("cutmix" in note for note in compared(tmp_path, "mixup", "erm").notes)


def test_the_score_is_tested_with_the_variance_of_the_whole_table(add, tmp_path):
    fill(add)
    found = compared(tmp_path)
    # Variances 1, 1 and 4 with 2 degrees of freedom each.
    error = math.sqrt(2.0 * (2 / 3))
    critical = stats.t.ppf(0.975, 6)
    assert found.numbers["difference"] == pytest.approx(5.0)
    assert found.numbers["df"] == 6
    assert found.numbers["low"] == pytest.approx(5 - critical * error)
    assert found.numbers["p"] == pytest.approx(2 * stats.t.sf(5 / error, 6))
    shift = found.numbers["detectable_difference"] / error
    power = stats.nct.sf(critical, 6, shift) + stats.nct.cdf(-critical, 6, shift)
    assert power == pytest.approx(0.8, abs=1e-6)
    assert found.numbers["separated"]
    assert any("mixup is better than erm: +5.00" in note for note in found.notes)
    assert any("detectable difference" in note for note in found.notes)


def test_a_pair_that_the_table_holds_for_level_is_no_claim(add, tmp_path):
    near = {"cutmix": [92.0, 92.2, 92.1], "mixup": [91.8, 91.9, 92.0]}
    others = {f"m{number}": [85.0, 85.2, 85.1] for number in range(9)}
    for method, scores in ({"erm": [90.0, 90.2, 90.1]} | near | others).items():
        for seed, top1 in enumerate(scores):
            add(method, seed, top1)
    board = build_leaderboard(find_runs([tmp_path]))
    assert {"cutmix", "mixup"} == board.groups[0].evidence.best
    (found,) = compare(board, "cutmix", "mixup", resamples=10)
    assert found.numbers["separated"]
    assert any("Among all rows of the table the two are not separated" in n for n in found.notes)


def test_no_method_wins_on_a_smoke_test(add, tmp_path):
    for seed in range(3):
        add("erm", seed, 90.0 + seed / 10, data="digits")
        add("mixup", seed, 95.0 + seed / 10, data="digits")
    (found,) = compare(build_leaderboard(find_runs([tmp_path])), "mixup", "erm", resamples=10)
    assert any("smoke test" in note for note in found.notes)


def test_every_score_has_its_difference_and_interval(add, tmp_path):
    fill(add)
    lines = {line.name: line for line in compared(tmp_path).lines}
    assert lines["nll"].difference == pytest.approx(-0.025)
    assert lines["nll"].low < -0.025 < lines["nll"].high
    assert lines["ece"].difference == 0
    assert "brier" not in lines


def test_what_is_not_found_is_not_called_equal(add, tmp_path):
    for seed, noise in enumerate([0.0, 2.0, -2.0]):
        add("erm", seed, 80.0 + noise)
        add("mixup", seed, 80.5 - noise)
    found = compared(tmp_path)
    assert not found.numbers["separated"]
    assert any("not distinguishable" in note for note in found.notes)
    loose, tight = compared(tmp_path, margin=20.0), compared(tmp_path, margin=0.6)
    assert loose.numbers["equivalent"]
    assert "equivalent within 20" in "".join(loose.notes)
    assert not tight.numbers["equivalent"]
    assert any("not shown to be equivalent" in note for note in tight.notes)


def test_seeds_are_paired_only_where_they_correlate(add, tmp_path):
    for seed, noise in enumerate([0.0, 1.0, -1.5, 0.7]):
        add("erm", seed, 80.0 + noise)
        add("mixup", seed, 85.0 + noise + seed / 100)
        add("cutmix", seed, 85.0 - noise)
    found = compared(tmp_path)
    assert found.numbers["seed_correlation"] > 0.99
    assert found.numbers["paired_p"] == pytest.approx(
        stats.ttest_rel([85.0, 86.01, 83.52, 85.73], [80.0, 81.0, 78.5, 80.7]).pvalue, rel=1e-6
    )
    assert any("[+4.99, +5.04] with p = " in note for note in found.notes)
    apart = compared(tmp_path, "cutmix")
    assert "paired_p" not in apart.numbers
    assert any("-1.00, so that there is no paired test" in note for note in apart.notes)


def test_pairs_that_differ_by_one_amount_are_no_evidence_beyond_measure(add, tmp_path):
    for seed in range(4):
        add("erm", seed, 90.0 + seed / 10)
        add("mixup", seed, 95.0 + seed / 10)
    (found,) = compare(build_leaderboard(find_runs([tmp_path])), "mixup", "erm", resamples=10)
    assert "paired_p" not in found.numbers
    assert any("no spread for a paired test" in note for note in found.notes)


def test_images_and_seeds_are_resampled_together(add, tmp_path):
    fill(add)
    found = compared(tmp_path, resamples=2000).numbers["images_and_seeds"]
    assert found["difference"] == pytest.approx(5.0)
    assert found["low"] < 5 < found["high"]
    narrow = compared(tmp_path).numbers
    assert found["high"] - found["low"] > 2  # images add to the noise of seeds
    assert "mcnemar_p" not in narrow


def test_two_single_runs_get_mcnemar_and_no_claim_about_methods(add, tmp_path):
    add("erm", 0, 80.0)
    add("mixup", 0, 90.0)
    found = compared(tmp_path)
    assert "p" not in found.numbers
    # 20 images that only mixup gets right, none that only erm does.
    assert found.numbers["mcnemar_p"] == pytest.approx(2 * 0.5**20)
    assert found.numbers["images"]["difference"] == pytest.approx(10.0)
    assert any("One seed of each supports no claim" in note for note in found.notes)
    assert any("nothing of other seeds" in note for note in found.notes)


@pytest.fixture
def pair(add, tmp_path):
    """Two single runs of 300 images of 3 classes, of which the second loses most of one."""
    hits = np.ones(300, dtype=bool)
    predictions(add("erm", 0, 100.0, images=300), hits)
    hits[1::3][:40] = False  # of class 1
    hits[0::3][:1] = False
    folder = add("mixup", 0, 86.3, images=300)
    predictions(folder, hits)
    return folder


def named(folder, names):
    with np.load(folder / PREDICTIONS) as stored:
        arrays = dict(stored)
    np.savez(folder / PREDICTIONS, **arrays, class_names=np.array(names))


def test_the_classes_that_lose_are_counted_and_the_worst_is_named(pair, tmp_path):
    named(pair, ["cat", "ship & sail", "frog"])
    found = compared(tmp_path)
    classes = found.numbers["classes"]
    assert (classes["n"], classes["lose"], classes["lose_beyond_chance"]) == (3, 2, 1)
    worst = classes["worst"]
    assert (worst["name"], worst["label"], worst["images"]) == ("ship & sail", 1, 100)
    assert worst["change"] == pytest.approx(-40)
    assert worst["low"] < -40 < worst["high"] < -20
    assert [item["name"] for item in classes["changes"]] == ["cat", "ship & sail", "frog"]
    assert [item["change"] for item in classes["changes"]] == pytest.approx([-1, -40, 0])
    (note,) = [note for note in found.notes if "beyond chance" in note]
    assert note.startswith("Of 3 classes, 2 lose accuracy, 1 beyond chance")
    assert "ship & sail loses the most, -40.00 [-" in note
    assert "on 100 images" in note
    assert "nothing of other seeds" in note
    turned = compared(tmp_path, "erm", "mixup")
    (note,) = [note for note in turned.notes if "beyond chance" in note]
    assert note.startswith("Of 3 classes, 0 lose accuracy, 0 beyond chance")
    assert "frog gains the least, +0.00" in note


@pytest.mark.parametrize("style", ["table", "markdown", "latex", "json"])
def test_harm_is_told_in_every_format(pair, tmp_path, capsys, style):
    named(pair, ["cat", "<b>*ship*</b> & co", "frog"])
    words = ["compare", str(tmp_path), "--mine", "mixup", "--with", "erm", "--format", style]
    assert cli.main(words) == 0
    text = capsys.readouterr().out
    shown = {
        "table": "<b>*ship*</b> & co loses the most, -40.00",
        "markdown": r"&lt;b>\*ship\*&lt;/b> & co loses the most, -40.00",
        "latex": r"*ship*\textless{}/b\textgreater{} \& co loses the most, $-$40.00",
        "json": '"name": "<b>*ship*</b> & co"',
    }
    assert shown[style] in text
    if style == "json":
        assert json.loads(text)[0]["test"]["classes"]["worst"]["label"] == 1


def test_a_name_of_several_lines_stays_on_one(pair, tmp_path):
    named(pair, ["a", "b\nc", "d"])
    assert any("b c loses the most, -40.00" in note for note in compared(tmp_path).notes)


def test_classes_without_names_have_numbers(pair, tmp_path):
    found = compared(tmp_path)
    assert found.numbers["classes"]["worst"]["name"] == "class 1"
    assert any("class 1 loses the most, -40.00" in note for note in found.notes)
    named(pair, ["0", "1", "2"])
    assert any("class 1 loses the most, -40.00" in note for note in compared(tmp_path).notes)
    turned = compared(tmp_path, "erm", "mixup")
    assert any("class 2 gains the least" in note for note in turned.notes)


def test_harm_over_seeds_counts_what_seeds_change(add, tmp_path):
    fill(add)
    found = compared(tmp_path)
    (note,) = [note for note in found.notes if "beyond chance" in note]
    assert "nothing of other seeds" not in note
    mine, other = [], []
    for method, hits in (("mixup", mine), ("erm", other)):
        for seed in range(3):
            with np.load(tmp_path / f"{method}s{seed}" / PREDICTIONS) as stored:
                labels = stored["labels"]
                hits.append(stored["logits"].argmax(1) == labels)
    expected = [vars(item) for item in class_changes(np.array(mine), np.array(other), labels)]
    plain = [
        {k: v for k, v in i.items() if k != "name"} for i in found.numbers["classes"]["changes"]
    ]
    assert plain == expected


def _as_text(arrays):
    return arrays | {"logits": arrays["logits"].astype(str)}


DAMAGES = {
    "half": lambda path, arrays: path.write_bytes(path.read_bytes()[:300]),
    "pipe": lambda path, arrays: (path.unlink(), os.mkfifo(path)),
    "folder": lambda path, arrays: (path.unlink(), path.mkdir()),
    "no zip": lambda path, arrays: path.write_bytes(b"\x93NUMPY\x01\x00"),
    "one array": lambda path, arrays: np.save(path.open("wb"), arrays["logits"]),
    "text": lambda path, arrays: np.savez(path, **_as_text(arrays)),
    "no labels": lambda path, arrays: np.savez(path, logits=arrays["logits"], ids=arrays["ids"]),
    "label": lambda path, arrays: np.savez(path, **arrays | {"labels": arrays["labels"] + 1}),
    "negative": lambda path, arrays: np.savez(path, **arrays | {"labels": arrays["labels"] - 1}),
    "parts": lambda path, arrays: np.savez(path, **arrays | {"labels": arrays["labels"] * 0.5}),
    "short": lambda path, arrays: np.savez(path, **arrays | {"ids": arrays["ids"][1:]}),
    "empty": lambda path, arrays: np.savez(path, **{k: v[:0] for k, v in arrays.items()}),
    "names": lambda path, arrays: np.savez(path, **arrays, class_names=np.array([{}])),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_predictions_take_only_what_is_computed_from_them(add, tmp_path, damage):
    folder, _ = add("erm", 0, 90.0), add("mixup", 0, 91.0)
    path = folder / PREDICTIONS
    DAMAGES[damage](path, dict(np.load(path)))
    found = compared(tmp_path)
    assert next(line for line in found.lines if line.name == "top1").difference == pytest.approx(1)
    (note,) = [note for note in found.notes if "no bootstrap" in note]
    assert str(path) in note
    if damage != "folder":  # as eval, verify and the table in W&B read them
        with pytest.raises(UserError, match="the predictions cannot be read"):
            read_predictions(path)


def test_arrays_that_would_unpack_beyond_measure_are_not_unpacked(add, tmp_path, monkeypatch):
    monkeypatch.setattr("mixbench.data.files.arrays.MAX_UNPACKED_BYTES", 1000)
    with pytest.raises(UserError, match="unpacks to"):
        read_predictions(add("erm", 0, 90.0) / PREDICTIONS)


def test_predictions_that_are_missing_or_of_other_images_are_said(add, tmp_path):
    add("erm", 0, 80.0, store=False)
    add("mixup", 0, 90.0)
    assert any("no stored predictions" in n for n in compared(tmp_path).notes)


@pytest.mark.parametrize("change", ["labels", "ids", "images"])
def test_other_test_images_are_never_paired(add, tmp_path, change):
    other = {"labels": np.zeros(200, int), "ids": np.arange(200) + 1, "images": 100}[change]
    add("erm", 0, 80.0)
    add("mixup", 0, 90.0, **{change: other})
    found = compared(tmp_path)
    assert "mcnemar_p" not in found.numbers
    assert any("not tested on the same images" in note for note in found.notes)


def test_seeds_of_one_method_on_other_images_are_found(add, tmp_path):
    add("erm", 0, 80.0)
    add("erm", 1, 81.0, ids=np.arange(200) + 1)
    add("mixup", 0, 90.0)
    assert any("runs of a row were not tested on the same" in n for n in compared(tmp_path).notes)


def test_a_logit_that_is_not_a_number_is_no_hit(add, tmp_path):
    folder = add("erm", 0, 100.0)
    add("mixup", 0, 100.0)
    with np.load(folder / PREDICTIONS) as stored:
        arrays = dict(stored)
    arrays["logits"][:50] = np.nan
    np.savez(folder / PREDICTIONS, **arrays)
    assert compared(tmp_path).numbers["images"]["difference"] == pytest.approx(25.0)


def test_costs_are_compared_on_one_machine_only(add, tmp_path):
    add("erm", 0, 80.0)
    add("mixup", 0, 90.0, img_per_s=500.0)
    lines = {line.name: line for line in compared(tmp_path).lines}
    assert lines["img_per_s"].ratio == pytest.approx(0.5)
    assert lines["macs"].cost
    add("cutmix", 0, 90.0, device="other")
    found = compared(tmp_path, "cutmix")
    assert not any(line.cost for line in found.lines)
    assert any("different machines" in note for note in found.notes)


def test_attacks_are_compared_on_the_same_images_only(add, tmp_path):
    def attacked(images):
        facts = {"adversarial": {"images": images}}
        return {"evaluations": facts, "metrics": {"top1": 80.0, "fgsm_8": 60.0}}

    add("erm", 0, 80.0, **attacked(48))
    add("mixup", 0, 80.0, **attacked(48))
    add("cutmix", 0, 80.0, **attacked(360))
    assert any(line.name == "fgsm_8" for line in compared(tmp_path).lines)
    found = compared(tmp_path, "cutmix")
    assert not any(line.name == "fgsm_8" for line in found.lines)
    assert any("left out" in note and "fgsm_8" in note for note in found.notes)


def test_gaps_are_compared_on_the_same_pairs_only_and_a_score_of_some_runs_is_counted(
    add, tmp_path
):
    def paired(images):
        facts = {"linearity": {"images": images}}
        return {"evaluations": facts, "metrics": {"top1": 80.0, "lin_gap": 6.0}}

    add("erm", 0, 80.0, **paired(48))
    add("mixup", 0, 80.0, **paired(48))
    assert any(line.name == "lin_gap" for line in compared(tmp_path).lines)
    add("cutmix", 0, 80.0, **paired(360))
    found = compared(tmp_path, "cutmix")
    assert not any(line.name == "lin_gap" for line in found.lines)
    assert any("left out" in note and "lin_gap" in note for note in found.notes)
    add("cutmix", 1, 80.0)
    assert any("1 of 2 runs of cutmix has lin_gap" in n for n in compared(tmp_path, "cutmix").notes)


def test_rows_are_found_by_method_label_or_run(add, tmp_path):
    add("erm", 0, 80.0)
    add("mixup", 0, 90.0)
    add("mixup", 0, 85.0, settings={"alpha": 0.2})
    assert compared(tmp_path, "mixup alpha=0.2").numbers["images"]["difference"] == 5
    assert compared(tmp_path, "mixups0").mine == "mixup"
    assert compared(tmp_path, "mixup").mine == "mixup"  # a label comes before a method
    add("cutmix", 0, 90.0, settings={"a": 1})
    add("cutmix", 0, 85.0, settings={"a": 2, "b": 2})
    assert compared(tmp_path, "cutmix a=2 b=2").mine == "cutmix a=2 b=2"
    with pytest.raises(UserError, match="cutmix has several rows: cutmix a=1; cutmix a=2 b=2"):
        compared(tmp_path, "cutmix")
    with pytest.raises(UserError, match="did you mean 'mixup'") as error:
        compared(tmp_path, "mixpu")
    assert error.value.todo
    assert "choose one of: " in error.value.todo
    with pytest.raises(UserError, match="one row: mixup") as error:
        compared(tmp_path, "mixup", "mixups0")
    assert "(cutmix a=1, cutmix a=2 b=2, mixup alpha=0.2, erm)" in error.value.todo
    with pytest.raises(UserError, match="margin must be > 0"):
        compared(tmp_path, margin=-1.0)


def test_protocols_are_never_mixed(add, tmp_path):
    add("erm", 0, 80.0)
    add("mixup", 0, 90.0, recipe_hash="other", epochs=20)
    with pytest.raises(UserError, match="no table holds both mixup and erm"):
        compared(tmp_path)


def test_diverged_runs_are_counted(add, tmp_path):
    fill(add)
    add("mixup", 3, 10.0, status="diverged")
    assert any("1 run of mixup is in no mean, 1 of them" in n for n in compared(tmp_path).notes)


def test_the_command_takes_folders_and_ids(add, tmp_path, capsys, monkeypatch):
    fill(add)
    monkeypatch.chdir(tmp_path.parent)
    monkeypatch.setenv("MIXBENCH_RUNS", str(tmp_path))

    def rows(mine, other, *runs):
        words = ["compare", *runs, "--mine", mine, "--with", other, "--format", "json"]
        assert cli.main(words) == 0
        (found,) = json.loads(capsys.readouterr().out)
        return found["mine"], found["with"], found["lines"]["top1"]["mine"]["n"]

    relative = f"{tmp_path.name}/mixups0"
    assert rows(relative, str(tmp_path / "erms1")) == ("mixup", "erm", 3)
    assert rows("mixups0", "erm") == ("mixup", "erm", 3)
    monkeypatch.setenv("MIXBENCH_RUNS", str(tmp_path / "none"))
    assert rows(relative, "erm") == ("mixup", "erm", 3)
    # Of runs that are named, with no folder of others, each is its row.
    assert rows(relative, str(tmp_path / "erms1"), relative) == ("mixup", "erm", 1)
    assert cli.main(["compare", "--mine", relative, "--with", str(tmp_path / "mixups1")]) == 2
    assert "one row: mixup" in capsys.readouterr().err


@pytest.mark.parametrize("style", ["table", "markdown", "latex", "json"])
def test_the_command_prints_every_format(add, tmp_path, capsys, style):
    fill(add)
    words = ["compare", str(tmp_path), "--mine", "mixup", "--with", "erm", "--format", style]
    assert cli.main(words) == 0
    text = capsys.readouterr().out
    if style == "json":
        (found,) = json.loads(text)
        assert found["lines"]["top1"]["difference"] == pytest.approx(5.0)
        assert found["test"]["separated"] is True
        return
    assert "85.00" in text
    assert "+5.00" in text
    assert "detectable difference" in text
    if style == "latex":
        assert text.isascii()
        assert r"85.00 $\pm$ 1.00 (3)" in text
        assert r"\begin{tabular}{lrrrr}" in text


def test_hostile_labels_stay_text(add, tmp_path):
    add("erm", 0, 80.0)
    add("a|b_{<", 0, 90.0)
    found = compared(tmp_path, "a|b_{<")
    assert r"a\|b\_{&lt;" in comparison_text(found, "markdown")
    assert r"a\textbar{}b\_\{\textless{}" in comparison_text(found, "latex")


def test_ten_runs_on_ten_thousand_images_take_seconds(add, tmp_path):
    for seed in range(5):
        add("erm", seed, 80.0 + seed / 10, images=10_000)
        add("mixup", seed, 81.0 + seed / 10, images=10_000)
    started = time.process_time()
    found = compared(tmp_path)
    assert time.process_time() - started < 30
    assert found.numbers["images_and_seeds"]["difference"] == pytest.approx(1.0, abs=0.01)


def test_a_smoke_test_has_no_winner_in_a_comparison(add, tmp_path):
    for seed in range(3):
        add("erm", seed, 80.0 + seed / 10, data="digits")
        add("mixup", seed, 90.0 + seed / 10, data="digits")
    found = compared(tmp_path)
    assert found.numbers["separated"] is False
    assert any("No verdict" in note for note in found.notes)
    assert not any("better" in note for note in found.notes)


def test_the_name_of_a_run_stands_for_its_row_and_that_is_said(add, tmp_path):
    fill(add)
    found = compared(tmp_path, "mixups0")
    assert found.mine == "mixup"
    assert "mixups0 is a run of the row mixup" in found.notes[0]
