import csv
import io
import itertools
import json
import math
import os
import re
import shutil
from pathlib import Path

import pytest
from scipy.stats import nct

from mixbench.errors import UserError
from mixbench.leaderboard.columns import NONE
from mixbench.leaderboard.compare import compare
from mixbench.leaderboard.epochs import curves_text
from mixbench.leaderboard.render import comparison_text, render
from mixbench.leaderboard.rows import build_leaderboard, find_runs
from mixbench.leaderboard.text import FORMATS, escaped, safe_cell
from mixbench.leaderboard.wandb_table import table_rows
from mixbench.records.curves import read_cells, read_curves, write_curves
from mixbench.records.record import RECORD, read_record


def board(tmp_path):
    return build_leaderboard(find_runs([tmp_path]))


def whole(tmp_path, style="table"):
    """Tables with all columns."""
    return render(board(tmp_path), style, columns=["all"])


def test_rows_are_ranked_by_their_mean_over_seeds(add, tmp_path):
    for seed, (first, second) in enumerate([(90.0, 93.0), (90.2, 93.3), (90.4, 93.1)]):
        add("erm", seed, first)
        add("mixup", seed, second)
    (group,) = board(tmp_path).groups
    assert [row.label for row in group.rows] == ["mixup", "erm"]
    assert group.rows[1].summaries["top1"].mean == pytest.approx(90.2)
    assert [row.marked for row in group.rows] == [True, False]
    text = render(board(tmp_path), "table")
    assert "mixup *" in text
    assert "90.20" in text


# FAULTS row 55.
def test_different_protocols_are_never_averaged_or_ranked_together(add, tmp_path):
    add("mixup", 0)
    add("mixup", 1, epochs=200, recipe_hash="long", config_hash="mixup200")
    add("mixup", 2, select="val", config_hash="mixupval")
    add("mixup", 3, net="other", config_hash="mixupother")
    assert len(board(tmp_path).groups) == 4
    assert all(len(row.seeds) == 1 for group in board(tmp_path).groups for row in group.rows)


def test_settings_make_rows_of_their_own(add, tmp_path):
    add("mixup", 0, 90, settings={"alpha": 0.2})
    add("mixup", 0, 91)
    (group,) = board(tmp_path).groups
    assert [row.label for row in group.rows] == ["mixup", "mixup alpha=0.2"]


def inputs(seed):
    name = f"erm-cifar-net-12345678-s{seed}/last.ckpt"
    return {"net.weights": {"name": name, "content": f"c{seed}", "pooled": "erm"}}


def test_runs_that_start_each_from_the_checkpoint_of_its_own_seed_make_one_row(add, tmp_path):
    for seed in (0, 1):
        add("erm", seed, 80.0 + seed, config_hash=f"{seed}" * 16, row_hash="r", inputs=inputs(seed))
    (row,) = board(tmp_path).groups[0].rows
    assert (row.label, row.seeds) == ("erm", [0, 1])
    assert row.summaries["top1"].mean == 80.5


def test_runs_of_one_seed_from_several_checkpoints_are_never_averaged(add, tmp_path):
    for teacher in (0, 1):
        for seed in (0, 1):
            hashes = {"config_hash": f"{teacher}" * 16, "row_hash": "r"}
            add("erm", seed, 80.0 + 10 * teacher + seed, **hashes, inputs=inputs(teacher))
    rows = {row.label: row for row in board(tmp_path).groups[0].rows}
    assert {label: row.summaries["top1"].mean for label, row in rows.items()} == {
        "erm from erm-cifar-net-12345678-s0/last.ckpt": 80.5,
        "erm from erm-cifar-net-12345678-s1/last.ckpt": 90.5,
    }
    assert board(tmp_path).others == []


def test_an_unfinished_run_of_a_seed_leaves_the_row_of_finished_ones_whole(add, tmp_path):
    for seed in (0, 1):
        hashes = {"config_hash": f"{seed}" * 16, "row_hash": "r"}
        add("erm", seed, 80.0 + seed, **hashes, inputs=inputs(seed))
    left = {"config_hash": "2" * 16, "row_hash": "r"}
    add("erm", 0, 10.0, **left, inputs=inputs(2), status="interrupted")
    (row,) = board(tmp_path).groups[0].rows
    assert (row.seeds, row.summaries["top1"].mean, row.failed) == ([0, 1], 80.5, 1)


@pytest.mark.parametrize("value", ["boom", {"net.weights": "boom"}, {"net.weights": {"name": 3}}])
def test_inputs_of_another_form_make_a_record_unreadable(add, tmp_path, value):
    add("erm", 0, 80.0)
    place = add("mixup", 0, 81.0)
    content = json.loads((place / RECORD).read_text())
    (place / RECORD).write_text(json.dumps(content | {"inputs": value}))
    found = board(tmp_path)
    assert [row.label for row in found.groups[0].rows] == ["erm"]
    assert "inputs" in found.others[0]


@pytest.mark.parametrize("style", FORMATS)
def test_marks_are_shown_and_explained_in_every_format(add, tmp_path, style):
    for seed in (0, 1):
        add("erm", seed, 10.0 + seed, marks=["chance"] if seed else [])
        add("mixup", seed, 20.0 + seed, marks=["few steps"])
        add("cutmix", seed, 20.0 + seed)
    text = render(board(tmp_path), style)
    for word in ("chance (1 of 2)", "few steps") if style != "json" else ('"chance": 1',):
        assert word in text
    if style in ("table", "markdown", "latex"):
        assert '"chance" means that the score is not above chance' in text
        assert '"few steps" means that training took fewer than 100' in text
        assert "large batch" not in text
        line = next(line for line in text.splitlines() if "cutmix" in line and "20.5" in line)
        assert "chance" not in line
        assert "steps" not in line


# FAULTS row 35: a changed configuration is seen wherever the run is shown.
@pytest.mark.parametrize("style", FORMATS)
def test_a_run_whose_configuration_was_changed_on_the_way_is_marked(add, tmp_path, style):
    add("erm", 0)
    assert "changed" not in render(board(tmp_path), style)
    add("mixup", 0, config_changes={"lr": [0.1, 0.2]})
    text = render(board(tmp_path), style)
    assert "changed" in text
    if style in ("table", "markdown", "latex"):
        assert "--allow-config-change" in text


@pytest.mark.parametrize(
    ("verified", "mark"),
    [(True, {}), (None, {}), (False, {"not true": 1}), ("partly", {"partly verified": 1})],
)
def test_what_verify_found_is_marked(add, tmp_path, verified, mark):
    add("erm", 0, verified=verified)
    assert board(tmp_path).groups[0].rows[0].marks == mark


@pytest.mark.parametrize(
    ("found", "shown"),
    [
        ([True, True], "yes"),
        ([True, "partly"], "partly"),
        ([True, None], ""),
        (["partly", False], "no"),
        ([None, None], ""),
    ],
)
def test_programs_read_the_worst_of_what_verify_found(add, tmp_path, found, shown):
    for seed, verified in enumerate(found):
        add("erm", seed, verified=verified)
    (row,) = json.loads(render(board(tmp_path), "json"))["groups"][0]["rows"]
    assert row["verified"] == shown
    assert next(csv.DictReader(io.StringIO(render(board(tmp_path), "csv"))))["verified"] == shown


def test_a_mark_of_a_newer_version_is_shown_as_it_is(add, tmp_path):
    add("erm", 0, marks=["novel", "novel"])
    assert "novel" in render(board(tmp_path), "table")
    assert board(tmp_path).groups[0].rows[0].marks == {"novel": 1}


def test_an_error_of_calibration_that_chance_explains_in_every_seed_is_marked(add, tmp_path):
    for seed, (ours, theirs) in enumerate([(0.010, 0.030), (0.012, 0.011), (0.011, 0.012)]):
        for method, ece in (("erm", theirs), ("mixup", ours)):
            metrics = {"top1": 90.0 + seed, "ece": ece, "ece_floor_95": 0.012}
            add(method, seed, metrics=metrics)
    add("cutmix", metrics={"top1": 90.0, "ece": 0.001})  # no floor is known
    found = board(tmp_path)
    marked = {row.label: row.calibrated for row in found.groups[0].rows}
    assert marked == {"mixup": True, "erm": False, "cutmix": False}
    for style, mark in (("table", "\N{DAGGER}"), ("markdown", "\N{DAGGER}"), ("latex", r"\dag{}")):
        text = render(found, style, columns=["all"])
        assert f"0.0110{mark}" in text
        assert f"0.0177{mark}" not in text
        assert f"{mark} marks an ece no larger than a perfectly calibrated network" in text
    rows = json.loads(render(found, "json"))["groups"][0]["rows"]
    assert {row["method"]: row["calibrated"] for row in rows} == marked


def test_columns_keep_their_order_and_costs_stand_where_they_are_known(add, tmp_path):
    add("erm", 0, 95.0, img_per_s=1000.0, peak_mem_gb=1.234, gpu_hours=0.5, wall_s=60.0)
    add("mixup", 0, 90.0, metrics={"top1": 90.0, "occ_auc": 50.0, "fgsm_8": 80.0})
    head = re.sub("[^a-z_0-9 ]", "", whole(tmp_path).splitlines()[1]).split("interval")[1].split()
    assert head[:3] == ["nll", "ece", "fgsm_8"]
    assert head[3:8] == ["occ_auc", "img_per_s", "peak_mem_gb", "gpu_hours", "wall_s"]
    line = next(line for line in whole(tmp_path).splitlines() if line.startswith("erm"))
    assert line.split("1.00  ")[0].split()[-4:] == ["1000", "1.23", "0.500", "60"]
    for path in tmp_path.glob("erm*/record.json"):
        path.write_text(path.read_text().replace('"gpu_hours": 0.5', '"gpu_hours": null'))
    assert "gpu_hours" not in whole(tmp_path)


# FAULTS row 55: what rows have in common is shown.
@pytest.mark.parametrize("style", FORMATS)
def test_the_protocol_stands_above_its_rows(add, tmp_path, style):
    add("mixup", 0, 90.0, train_size=50_000, test_size=10_000)
    text = render(board(tmp_path), style)
    for word in ("cifar", "net", "quick", "rrrrrrrr", "last"):
        assert word in text, word
    if style in ("table", "markdown"):
        assert "16 epochs" in text
        assert "50,000 training and 10,000 test images" in text
    elif style == "csv":
        assert "16" in next(csv.DictReader(io.StringIO(text)))["epochs"]


def test_notes_name_the_hardware_and_machines_that_were_shared(add, tmp_path):
    add("mixup", 0, device="some CPU")
    add("mixup", 1, device="a GPU")
    text = render(board(tmp_path), "table")
    assert "hardware: a GPU, some CPU" in text
    assert "shared the machine" not in text
    add("cutmix", 0, device="a GPU", shared_cores=True, img_per_s=9.0, train_size=9)
    assert "cost was measured while other runs shared the machine" in render(
        board(tmp_path), "table"
    )
    add("erm", 0, data="other", device="")
    assert render(board(tmp_path), "table").count("hardware:") == 1


# FAULTS row 55: a seed counts once, whatever its folder and its id are called.
def test_a_seed_that_is_there_twice_counts_once_and_is_listed(add, tmp_path):
    add("mixup", 0, 80.0, folder="first", attempts=[{"number": 1}])
    folder = add("mixup", 0, 95.0, folder="second", attempts=[{"number": 1}, {"number": 2}])
    content = json.loads((folder / RECORD).read_text())
    (folder / RECORD).write_text(json.dumps(content | {"id": "renamed"}))
    add("mixup", 1, 97.0)
    found = board(tmp_path)
    (row,) = found.groups[0].rows
    assert row.seeds == [0, 1]
    assert row.summaries["top1"].mean == 96.0
    (line,) = [line for line in found.others if "seed 0" in line]
    assert "first is another run of mixup with seed 0, of which the later attempt counts" in line
    assert line in render(found)


# FAULTS row 55.
def test_one_seed_shows_no_deviation_and_no_mark(add, tmp_path):
    add("mixup", 0, 93.0)
    text = render(board(tmp_path), "markdown")
    assert "one seed, which supports no interval and no claim" in text
    assert "**" not in text
    assert "| mixup | 1 | 93.00 |" in text
    assert "No verdict" in text


# FAULTS row 55.
def test_ties_within_the_interval_are_marked_as_ties_and_nothing_where_all_are(add, tmp_path):
    for seed in range(3):
        add("erm", seed, 90.0 + seed)
        add("mixup", seed, 90.1 + seed)
    (group,) = board(tmp_path).groups
    assert [row.marked for row in group.rows] == [False, False]
    for seed in range(3):
        add("cutmix", seed, 50.0 + seed)
    (group,) = board(tmp_path).groups
    assert [row.marked for row in group.rows] == [True, True, False]


# FAULTS row 55.
def test_failed_seeds_are_counted_and_listed(add, tmp_path):
    add("mixup", 0)
    add("mixup", 1)
    add("mixup", 2, status="diverged", message="weights are not finite")
    found = board(tmp_path)
    assert found.groups[0].rows[0].failed == 1
    text = render(found)
    assert "2 of 3" in text
    assert "-s2 has the status diverged (weights are not finite)" in text


def test_a_group_without_finished_runs_is_listed_only(add, tmp_path):
    add("mixup", 0, status="failed")
    assert board(tmp_path).groups == []
    assert "No finished runs." in render(board(tmp_path))


# FAULTS row 54.
def test_an_unreadable_record_is_listed_and_the_rest_shown(add, tmp_path):
    add("mixup", 0)
    (add("mixup", 1) / RECORD).write_text('{"id": "mix')
    found = board(tmp_path)
    assert found.groups[0].rows[0].seeds == [0]
    assert any("cannot be read" in line for line in found.others)


# FAULTS row 54.
def test_duplicate_ids_are_resolved_by_their_attempt(add, tmp_path):
    add("mixup", 0, 80.0, folder="old", attempts=[{"number": 1}])
    add("mixup", 0, 95.0, folder="new", attempts=[{"number": 1}, {"number": 2}])
    found = board(tmp_path)
    assert found.groups[0].rows[0].summaries["top1"].mean == 95.0
    assert found.groups[0].rows[0].seeds == [0]
    assert any("another record of mixup" in line for line in found.others)
    shutil.move(tmp_path / "old", tmp_path / "zzz")  # not a matter of order
    assert board(tmp_path).groups[0].rows[0].summaries["top1"].mean == 95.0


# FAULTS row 56.
def test_values_that_are_not_finite_are_shown_as_missing_last_and_never_best(add, tmp_path):
    for seed in range(2):
        add("erm", seed, math.nan)
        add("mixup", seed, 50.0 + seed)
    (group,) = board(tmp_path).groups
    assert [row.label for row in group.rows] == ["mixup", "erm"]
    assert group.rows[1].marked is False
    assert "NaN" not in render(board(tmp_path), "json")
    assert "nan" not in render(board(tmp_path), "table")


# FAULTS row 56.
def test_nothing_is_best_where_nothing_is_finite(add, tmp_path):
    for seed in range(2):
        add("erm", seed, math.nan)
        add("mixup", seed, math.inf if seed else -math.inf)
    found = board(tmp_path)
    assert not any(row.marked for row in found.groups[0].rows)
    assert sum("no finite top1" in line for line in found.others) == 4
    for style in FORMATS:
        text = render(found, style).lower().replace("not finite", "")
        assert "nan" not in text
        assert "inf" not in text


# FAULTS row 56: in columns that rank nothing, too.
@pytest.mark.parametrize("name", ["nll", "fgsm_8", "lin_gap", "top1_best_test", "occ_auc"])
def test_every_column_says_why_it_has_no_value(add, tmp_path, name):
    for seed in range(2):
        add("mixup", seed, metrics={"top1": 90.0, name: math.nan if seed else 1.0})
    found = board(tmp_path)
    assert any(f"-s1 has no finite {name}" in line for line in found.others)
    assert math.isnan(found.groups[0].rows[0].summaries[name].mean)
    line = next(line for line in whole(tmp_path, "markdown").splitlines() if "mixup" in line)
    assert f" {NONE} |" in line


# FAULTS row 56.
def test_the_reason_for_a_missing_mean_is_given(add, tmp_path):
    add("erm", 0, 90.0)
    add("erm", 1, math.nan)
    found = board(tmp_path)
    assert any("-s1 has no finite top1, so that its row has no mean" in o for o in found.others)
    text = render(found)
    assert re.search(rf"^erm +2 +{NONE} ", text, re.MULTILINE)
    assert "no finite top1" in text


def test_what_the_seeds_cannot_tell_apart_is_said_in_words(add, tmp_path):
    for seed, noise in enumerate([0.0, 0.2, 0.4]):
        add("erm", seed, 90.0 + noise)
        add("mixup", seed, 90.1 + noise)
        add("cutmix", seed, 95.0 + noise)
    (group,) = board(tmp_path).groups
    # Standard error sqrt(2 / 3) * 0.2, Dunnett's 5 % for 2 comparisons and 6 df: 2.86 (table).
    assert group.evidence.contrasts["mixup"].high == pytest.approx(0.1 + 2.86 * 0.1633, abs=2e-3)
    assert group.evidence.df == 6
    shift = group.evidence.mdd / 0.1633
    assert nct.sf(2.86, 6, shift) + nct.cdf(-2.86, 6, shift) == pytest.approx(0.8, abs=2e-3)
    text = render(board(tmp_path))
    lines = {line.split()[0]: line for line in text.splitlines()[3:6]}
    assert "+0.10 [-0.37, +0.57]" in lines["mixup"]
    assert "+5.00 [+4.53, +5.47]  <0.001" in lines["cutmix"]
    assert "cutmix is best: +5.00 points over plain training" in text
    assert "reference" in lines["erm"]
    assert "detectable difference of top1 from erm is 0.62 (80 % power)" in text
    assert "not distinguishable need not be equal" in text
    assert "(6 degrees of freedom). Levene's test of equal variances gives p = 1.00." in text
    assert [row.marked for row in group.rows] == [True, False, False]
    assert "doubtful" not in text


def test_unequal_variances_are_said(add, tmp_path):
    for seed, noise in enumerate([-2.0, 0.0, 2.0, 1.0, -1.0]):
        add("erm", seed, 90.0 + noise / 100)
        add("mixup", seed, 90.0 + noise)
    assert "doubtful" in render(board(tmp_path))


def test_diverged_runs_are_counted_apart_from_other_failures(add, tmp_path):
    for seed in range(2):
        add("erm", seed, 90.0 + seed)
        add("mixup", seed, 91.0 + seed)
    add("mixup", 2, status="diverged")
    add("mixup", 3, status="failed")
    text = render(board(tmp_path))
    assert "2 of 4" in text
    assert "diverged are left out of all means and tests: 1 of mixup" in text
    assert json.loads(render(board(tmp_path), "json"))["groups"][0]["rows"][0]["diverged"] == 1


def test_without_plain_training_the_best_is_the_reference(add, tmp_path):
    for seed in range(2):
        add("mixup", seed, 90.0 + seed / 10)
        add("cutmix", seed, 95.0 + seed / 10)
    (group,) = board(tmp_path).groups
    assert group.evidence.reference == "cutmix"
    assert "vs cutmix" in render(board(tmp_path))


def test_a_single_seed_is_in_no_test(add, tmp_path):
    for seed in range(3):
        add("erm", seed, 90.0 + seed / 10)
        add("mixup", seed, 91.0 + seed / 10)
    add("cutmix", 0, 99.0)
    (group,) = board(tmp_path).groups
    assert group.rows[0].label == "cutmix"
    assert [row.marked for row in group.rows] == [False, True, False]
    assert set(group.evidence.contrasts) == {"mixup"}


def test_data_of_several_labels_are_ranked_by_mean_average_precision(add, tmp_path):
    for seed in range(2):
        add("erm", seed, metrics={"map": 60.0 + seed, "cf1": 0.5})
        add("mixup", seed, metrics={"map": 70.0 + seed, "cf1": 0.4})
    (group,) = board(tmp_path).groups
    assert [row.label for row in group.rows] == ["mixup", "erm"]
    text = render(board(tmp_path))
    assert re.search(r"\b70\.50\b", text)
    assert "top1" not in text


def attacked(images, **rates):
    facts = {"adversarial": {"images": images, "attacks": list(rates)}}
    return {"evaluations": facts, "metrics": {"top1": 90.0, "adv_n": images, **rates}}


def test_attacks_say_on_how_many_images(add, tmp_path):
    for seed in range(2):
        add("erm", seed, **attacked(64, fgsm_8=80.0 + seed))
    text = render(board(tmp_path))
    assert "fgsm_8 (%, lower is better) is measured on 64 of the test images" in text
    assert "80.50" in text


def test_attacks_on_other_images_are_not_averaged(add, tmp_path):
    add("erm", 0, **attacked(64, fgsm_8=80.0))
    add("erm", 1, **attacked(128, fgsm_8=70.0))
    add("mixup", 0, **attacked(128, fgsm_8=60.0))
    text = render(board(tmp_path))
    assert "75.00" not in text
    assert "60.00" in text
    assert "on 64 or 128 of the test images. Scores on different numbers" in text
    assert re.search(r"no mean of fgsm_8.* for erm, .* numbers of images \(64, 128\)", text)


def test_a_score_that_only_some_runs_have_is_counted(add, tmp_path):
    add("erm", 0, metrics={"top1": 90.0, "occ_auc": 50.0, "lin_gap": 5.0})
    add("erm", 1, metrics={"top1": 90.0, "nll": 0.5})
    add("mixup", 0, metrics={"top1": 90.0, "occ_auc": 50.0})
    text = whole(tmp_path)
    assert "1 of 2 runs of erm has occ_auc, lin_gap" in text
    assert "runs of mixup" not in text


@pytest.mark.parametrize("metrics", [{}, {"nll": 0.5, "ece": 0.1}])
def test_a_finished_run_without_its_main_score_is_listed_and_the_others_are_averaged(
    add, tmp_path, metrics
):
    add("erm", 0, 90.0)
    add("erm", 1, 92.0)
    lacking = add("erm", 2, metrics=metrics)
    add("mixup", 0, metrics=metrics)  # a row of its own, of which nothing is left
    found = board(tmp_path)
    (row,) = found.groups[0].rows
    assert (row.seeds, row.failed, row.summaries["top1"].mean) == ([0, 1], 1, 91.0)
    line = next(line for line in found.others if line.startswith(lacking.name))
    assert "no top1" in line
    assert f"mixbench eval {lacking} --suite calibration" in line
    assert len(found.others) == 2
    content = json.loads((lacking / RECORD).read_text())
    del content["metrics"]
    (lacking / RECORD).write_text(json.dumps(content))
    assert board(tmp_path).groups[0].rows[0].seeds == [0, 1]


def test_without_its_main_score_a_run_of_several_labels_is_listed(add, tmp_path):
    add("erm", 0, metrics={"map": 50.0})
    add("erm", 1, metrics={"cf1": 50.0})
    found = board(tmp_path)
    assert found.groups[0].rows[0].seeds == [0]
    assert "has no map" in found.others[0]


def test_one_of_anything_is_in_the_singular(add, tmp_path):
    add("erm", 0, epochs=1, train_size=2, test_size=1)
    title = board(tmp_path).groups[0].title
    assert "1 epoch \N{MIDDLE DOT}" in title
    assert title.endswith("2 training and 1 test image")


def test_a_folder_that_is_named_twice_counts_once(add, tmp_path, monkeypatch):
    folder = add("erm", 0)
    monkeypatch.chdir(tmp_path)
    assert find_runs([tmp_path, Path(), Path(folder.name)]) == [folder]


def test_gaps_of_other_pairs_are_not_averaged(add, tmp_path):
    for seed, pairs in enumerate([64, 64, 128]):
        facts = {"evaluations": {"linearity": {"images": pairs}}}
        add("erm" if seed < 2 else "mixup", seed, metrics={"top1": 90.0, "lin_gap": 20.0}, **facts)
    assert "20.00" in whole(tmp_path)
    add("erm", 7, metrics={"top1": 90.0, "lin_gap": 31.0}, evaluations={"linearity": {"images": 9}})
    (group,) = board(tmp_path).groups
    means = {row.label: row.summaries["lin_gap"].mean for row in group.rows}
    assert math.isnan(means["erm"])
    assert means["mixup"] == 20.0
    assert re.search(r"no mean of lin_gap.* for erm, .*\(9, 64\)", whole(tmp_path))


def test_latex_is_escaped_and_bold(add, tmp_path):
    for seed in range(2):
        add("erm", seed, 90.0 + seed / 10)
        add("my_mix & co 50%", seed, 95.0 + seed / 10, settings={"a": "{x}\\^~<$#|"})
        add("my_mix & co 50%", seed, 50.0 + seed / 10, settings={"a": 1}, config_hash="other")
    text = render(board(tmp_path), "latex")
    assert r"\textbf{my\_mix \& co 50\%} & \{x\}\textbackslash{}" in text
    assert r"\textasciicircum{}\textasciitilde{}\textless{}\$\#\textbar{} &" in text
    assert r"95 \% interval" in text
    assert r"Top-1 (\%) $\pm$ sd $\uparrow$" in text
    assert text.count(r"\begin{tabular}{lrrr") == 1
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 4
    assert len({line.replace(r"\&", "").count("&") for line in rows}) == 1
    assert text.isascii()


def test_latex_shows_missing_values_and_keeps_lists_as_comments(add, tmp_path):
    add("erm", 0, 90.0)
    add("cutmix", 0, metrics={"top1": 90.0})
    add("mixup", 0, status="failed", message="no\nway")
    text = render(board(tmp_path), "latex")
    assert NONE not in text
    assert "& --" in text
    for line in text.splitlines():
        assert "mixup" not in line or line.startswith("%")


def test_digits_are_listed_alphabetically_without_marks(add, tmp_path):
    for seed in range(2):
        add("mixup", seed, 99.0 + seed / 10, data="digits")
        add("erm", seed, 90.0 + seed / 10, data="digits")
    (group,) = board(tmp_path).groups
    assert [row.label for row in group.rows] == ["erm", "mixup"]
    assert not any(row.marked for row in group.rows)
    assert "rows are in alphabetical order, not ranked" in render(board(tmp_path))


@pytest.mark.parametrize("style", FORMATS)
def test_every_format_carries_mean_deviation_count_and_interval(add, tmp_path, style):
    for seed, top1 in enumerate([90.0, 91.0, 92.0]):
        add("mixup", seed, top1)
    chosen = None if style in ("json", "csv") else ["all"]
    text = render(board(tmp_path), style, columns=chosen)
    if style == "json":
        found = json.loads(text)["groups"][0]["rows"][0]["metrics"]["top1"]
    elif style == "csv":
        (line,) = csv.DictReader(io.StringIO(text))
        found = {key: float(line[f"top1_{key}"]) for key in ("mean", "sd", "low", "high")}
        found["n"] = int(line["n"])
    else:
        for expected in ("91.00", "1.00", "88.52", "93.48", "3"):
            assert expected in text
        return
    assert found["mean"] == 91.0
    assert found["sd"] == 1.0
    assert found["n"] == 3
    assert (found["low"], found["high"]) == pytest.approx((88.5159, 93.4841), abs=1e-3)


# FAULTS row 66: in every cell of text, and for every sign that begins a formula.
@pytest.mark.parametrize("sign", ["=", "+", "-", "@", "\t", "\r"])
def test_no_cell_of_text_begins_a_formula(add, tmp_path, sign):
    evil = f"{sign}cmd()|x"
    words = dict.fromkeys(["data", "net", "recipe", "recipe_hash", "select", "fidelity"], evil)
    for seed in range(2):
        add(evil, seed, 90.0 + seed, folder=f"a{seed}", **words)
        add("other", seed, 1.0, folder=f"b{seed}", **words)
    text = render(board(tmp_path), "csv")
    lines = list(csv.DictReader(io.StringIO(text, newline="")))
    assert lines
    for name, cell in ((name, cell) for line in lines for name, cell in line.items()):
        assert not name.startswith(tuple("=+-@\t\r"))
        if cell[:1] in tuple("=+-@\t\r"):
            assert cell[0] == "-"
            float(cell)  # a number
    safe = "cmd()|x" if sign.isspace() else f"'{evil}"
    assert {line["net"] for line in lines} == {safe}
    assert {line["method"] for line in lines} == {safe, "other"}


# FAULTS rows 65 and 66.
def test_hostile_text_stays_text(add, tmp_path):
    add("=cmd()|x<script>", 0, settings={"a": "*"})
    add("erm", 0, net="<img src=x onerror=alert(1)>![a](http://b)")
    assert "'=cmd()" in render(board(tmp_path), "csv")
    text = render(board(tmp_path), "markdown")
    assert "<script>" not in text
    assert "<img" not in text
    assert "![a](" not in text
    assert "\\|" in text


def test_an_unknown_format_or_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="unknown format 'xml'"):
        render(build_leaderboard([]), "xml")
    with pytest.raises(UserError, match="no such folder"):
        find_runs([tmp_path / "missing"])


HOSTILE = [None, True, -1, 0, 2**63, 10**400, 1e308, -1e308, 5e-324, float("nan"), float("inf")]
HOSTILE += ["", "text", "\n", [], [1], [{}], {}, {"a": 1}, {"a": {"b": [2]}}, {"top1": 1e300}]
HOSTILE += [{"adversarial": {"images": "3"}}, [{"started": []}]]


EACH_TYPE = [None, float("nan"), "text", {"a": 1}]


# FAULTS row 54: whatever one field of one record holds, every table of the others is shown.
@pytest.mark.parametrize("values", [EACH_TYPE, pytest.param(HOSTILE, marks=pytest.mark.slow)])
def test_no_value_of_any_field_takes_the_other_runs_away(add, tmp_path, values):
    for seed in (0, 1):
        add("erm", seed, 90.0 + seed, img_per_s=2000.0)
        add("mixup", seed, 91.0 + seed, img_per_s=900.0)
    place = add("mixup", 2, 90.0, img_per_s=900.0)
    good = json.loads((place / RECORD).read_text())
    for index, name in enumerate(good):
        refusals = 0
        for value in [*values, HOSTILE[index % len(HOSTILE)]]:  # each of them at least once
            (place / RECORD).write_text(json.dumps(good | {name: value}))
            try:
                read_record(place)
            except UserError:
                refusals += 1
                if refusals > 1:
                    continue  # tables see of an unreadable record no more than that it is one
            shown = board(tmp_path)
            assert "erm" in render(shown, "table")
            for style in FORMATS:
                render(shown, style)
            table_rows(shown)
            curves_text(shown, "table")
            comparison, *_ = compare(shown, "erm", "mixup", resamples=10)
            comparison_text(comparison, "table")
            seeds = {seed for group in shown.groups for row in group.rows for seed in row.seeds}
            assert seeds >= {0, 1}
            if len(seeds) == 2 and not any(row.failed for g in shown.groups for row in g.rows):
                assert shown.others, (name, value)


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "link", "denied", "large"])
def test_what_stands_in_place_of_a_record_is_listed(add, tmp_path, kind):
    add("erm", 0)
    place = tmp_path / "strange"
    place.mkdir()
    path = place / RECORD
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "large":
        with path.open("wb") as file:
            file.truncate(1 << 31)
    else:
        path.symlink_to({"device": "/dev/zero", "link": "nowhere", "denied": RECORD}[kind])
    shown = board(tmp_path)
    assert [row.label for group in shown.groups for row in group.rows] == ["erm"]
    (line,) = shown.others
    assert line.startswith("strange cannot be read: ")


# FAULTS row 54.
@pytest.mark.parametrize(
    "row", ["-1,2,1.0", "0.5,2,1.0", "nan,2,1.0", "1,inf,1.0", "1,2,1e300", "1,2,x", "1,2,3,4"]
)
def test_a_row_of_curves_that_no_run_can_have_logged_is_left_out(tmp_path, row):
    path = tmp_path / "metrics.csv"
    path.write_text(f"epoch,step,val/top1\n0,1,50\n{row}\n1,9,nan\n")
    found, (warning,) = read_curves(path)
    assert [line["step"] for line in found] == [1, 9]
    assert f"{path}:3" in warning


@pytest.mark.parametrize("content", [b"\xff\xfe", b"step\n" + b"1" * 140_000 + b"\n", None])
def test_curves_that_cannot_be_read_are_named(tmp_path, content):
    path = tmp_path / "metrics.csv"
    if content is None:
        os.mkfifo(path)
    else:
        path.write_bytes(content)
    for read in (read_curves, read_cells):
        with pytest.raises(UserError, match="the curves cannot be read") as error:
            read(path)
        assert error.value.where == str(path)


# FAULTS row 54.
def test_curves_come_back_and_half_a_line_is_left_out(tmp_path):
    path = tmp_path / "metrics.csv"
    rows = [{"epoch": 0, "step": 1, "train/loss": 2.5}, {"epoch": 1, "step": 9, "test/top1": 50}]
    write_curves(path, rows)
    assert read_curves(path) == (rows, [])
    path.write_text(path.read_text() + "2,17,0.")
    found, warnings = read_curves(path)
    assert found == rows
    assert "incomplete" in warnings[0]


HOSTILE = "[x](javascript:a) ![p](http://evil.test/p.png) <img src=x> a|b `c` *d* \x1b[2J\u202e\n|e"


@pytest.mark.parametrize("style", ["table", "markdown", "csv", "latex"])
@pytest.mark.parametrize(
    "key", ["method", "data", "net", "recipe", "settings", "device", "message"]
)
def test_names_of_strangers_stand_in_a_table_as_text(add, tmp_path, style, key):
    own = {"settings": {"alpha": HOSTILE}, "message": ""}.get(key, HOSTILE)
    for seed, method in itertools.product((0, 1), ("erm", "mixup")):
        words = {"seed": seed, "method": method, "folder": f"{method}{seed}"} | {key: own}
        add(**words)
    if key == "message":
        add(seed=2, status="failed", folder="failed", message=HOSTILE)
    text = render(board(tmp_path), style)
    assert style == "csv" or key == "device" or "javascript" in text
    lines = text.splitlines()
    assert not any(sign in text for sign in "\x1b\u202e\r")
    assert not any(line.lstrip().startswith("|e") for line in lines)
    if style == "markdown":
        assert "](" not in text.replace("\\](", "")
        assert "<img" not in text
        assert "http://" not in text
        assert "`" not in text.replace("\\`", "")
        widths = {line.replace("\\|", "").count("|") for line in lines if line.startswith("|")}
        assert len(widths) <= 1 or key == "method"


def test_markdown_of_plain_names_stays_plain():
    for name in ("cutmix (alpha=0.5)", "pgd20_1", "nll_cf", "timm:resnet18", "vs erm"):
        assert escaped(name, "markdown") == name
    assert escaped("_all_ __x__ a_b", "markdown") == r"\_all\_ \_\_x\_\_ a_b"
    assert escaped("www.a.test http://b", "markdown") == r"www\.a.test http\://b"


@pytest.mark.parametrize("sign", ["=", "+", "-", "@", "\t=", "\r@", "\uff1d", "\uff0d"])
def test_no_cell_of_csv_begins_as_a_formula(sign):
    assert safe_cell(f"{sign}cmd()").startswith("'")


def test_a_label_at_the_start_of_a_latex_row_is_no_argument():
    assert escaped("[3cm] x*", "latex") == "{}[3cm] x*"


@pytest.mark.parametrize("name", ["# a", "- a", "+ a", "> a", "1. a", "12) a", "---", "==="])
def test_a_name_begins_no_block_of_markdown(name):
    shown = escaped(name, "markdown")
    assert shown.replace("\\", "") == name
    assert "\\" in shown


@pytest.mark.parametrize("text", ["+1.43 [+0.80, +2.07]", "-0.98", "90.10", "mixup", "1.5"])
def test_numbers_in_markdown_stay_as_they_are(text):
    assert escaped(text, "markdown") == text


def outside(sets, **scores):
    facts = {"ood": {"images": 40, "sets": sets}}
    return {"evaluations": facts, "metrics": {"top1": 90.0, **scores}}


def test_means_over_sets_are_told_with_their_sets(add, tmp_path):
    for seed in range(2):
        add("erm", seed, **outside("isun, svhn", auroc=80.0 + seed))
    text = render(board(tmp_path), columns=["all"])
    assert "auroc is a mean over these sets of images: isun, svhn." in text
    assert "80.50" in text


def under(corruptions, images, value):
    """A run whose mean is over some corruptions."""
    facts = {"corruption": {"images": images, "sets": corruptions}}
    return {"evaluations": facts, "metrics": {"top1": 90.0, "mean_ce_c_gen": value}}


def test_means_over_other_corruptions_or_numbers_of_images_do_not_compare(add, tmp_path):
    add("erm", 0, **under("fog", 40, 50.0))
    add("mixup", 0, **under("snow", 40, 40.0))
    add("cutmix", 0, **under("fog", 20, 30.0))
    add("bc", 0, **under("fog", 40, 45.0))
    add("hmix", 0, **under("fog", 40, 46.0))
    add("hmix", 1, **under("snow", 40, 48.0))
    text = render(board(tmp_path), columns=["all"])
    assert "Means over different sets do not compare." in text
    assert "47.00" not in text
    for other in ("mixup", "cutmix"):
        (found,) = compare(board(tmp_path), "erm", other)
        assert "mean_ce_c_gen" not in [line.name for line in found.lines]
        assert any("left out: mean_ce_c_gen" in note for note in found.notes)
    (found,) = compare(board(tmp_path), "erm", "bc")
    assert "mean_ce_c_gen" in [line.name for line in found.lines]


def test_means_over_other_sets_are_neither_averaged_nor_compared(add, tmp_path):
    add("erm", 0, **outside("svhn", auroc=80.0))
    add("erm", 1, **outside("isun", auroc=70.0))
    add("mixup", 0, **outside("svhn", auroc=61.0))
    add("cutmix", 0, **outside("isun", auroc=62.0))
    text = render(board(tmp_path), columns=["all"])
    assert "75.00" not in text
    assert "61.00" in text
    assert "isun or svhn. Means over different sets do not compare." in text
    assert "There is no mean of auroc for erm" in text
    (found,) = compare(board(tmp_path), "mixup", "cutmix")
    assert "auroc" not in [line.name for line in found.lines]
    assert any("sets of images are left out: auroc" in note for note in found.notes)
