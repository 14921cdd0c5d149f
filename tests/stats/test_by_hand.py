"""Every column and every row that a table shows, against numbers that were worked out on paper."""

import csv
import io
import json
import math
import re

import pytest
from scipy import stats

from mixbench.leaderboard import compare as comparing
from mixbench.leaderboard.columns import column_names as columns
from mixbench.leaderboard.compare import compare
from mixbench.leaderboard.costs import equal_cost
from mixbench.leaderboard.render import comparison_text, render
from mixbench.leaderboard.rows import Leaderboard, build_leaderboard, find_runs
from mixbench.records.record import Record, write_record
from mixbench.stats.class_changes import class_changes

# The mean of three seeds in each column, as it is to be shown. Seeds are the mean less a tenth of
# it, the mean, and a tenth more: the deviation is a tenth.
SHOWN = {
    "top1": "80.00",
    "top5": "90.00",
    "map": "61.00",
    "psnr": "21.00",
    "psnr_gain": "4.00",
    "psnr_second": "22.00",
    "ssim": "0.7700",
    "top1_fixed": "72.00",
    "top1_observed": "51.00",
    "cf1": "62.00",
    "of1": "63.00",
    "nll": "0.7000",
    "nll_cf": "0.6500",
    "ece": "0.0400",
    "ece_cf": "0.0300",
    "ece_ts": "0.0200",
    "aece": "0.0500",
    "brier": "0.3100",
    "bias": "0.0600",
    "top1_knn": "71.00",
    "fgsm_8": "40.00",
    "fgsm_4": "30.00",
    "pgd10_4": "41.00",
    "pgd10_8": "42.00",
    "pgd20_1": "43.00",
    "pgd20_2": "44.00",
    "pgd20_4_puzzlemix": "45.00",
    "apgd_ce_4": "46.00",
    "apgd_ce_8": "47.00",
    "autoattack_1": "48.00",
    "autoattack_2": "49.00",
    "autoattack_4": "50.00",
    "autoattack_8": "51.00",
    "square_4": "52.00",
    "square_8": "53.00",
    "occ_auc": "54.00",
    "occ_salient_auc": "55.00",
    "occ_nonsalient_auc": "56.00",
    "shuffle_2": "57.00",
    "shuffle_4": "58.00",
    "shuffle_8": "59.00",
    "lin_gap": "12.00",
    "gaze_inconsistency": "13.00",
    "two_class_hit": "9.50",
    "ce_human": "0.9000",
    "entropy_human": "0.2000",
    "l1_human": "0.3300",
    "w1_human": "0.0340",
    "entropy_corr": "0.3500",
    "worst_class": "36.00",
    "rmsce_100": "0.0370",
    "fgsm_loss_human": "3.8000",
    "fgsm_err_human": "39.00",
    "pgd_loss_human": "4.1000",
    "gaze_centre": "14.00",
    "separable_mse": "0.0800",
    "separable_top1": "9.60",
    "sep_psnr": "18.00",
    "sep_gain": "3.20",
    "sep_ssim": "0.7200",
    "sep_psnr_second": "17.00",
    "sep_top1": "9.70",
    "sep_top1_observed": "9.80",
    "mean_ce": "15.00",
    "mce": "16.00",
    "rel_mce": "17.00",
    "mean_ce_c_gen": "18.00",
    "noise_c": "19.00",
    "blur_c": "20.00",
    "weather_c": "21.00",
    "digital_c": "22.00",
    "ece_c": "0.2300",
    "noise_c_gen": "24.00",
    "blur_c_gen": "25.00",
    "weather_c_gen": "26.00",
    "digital_c_gen": "27.00",
    "ece_c_gen": "0.2800",
    "auroc": "29.00",
    "fpr95": "30.00",
    "max_box_acc_v2": "31.00",
    "box_acc_val": "32.00",
    "top1_loc": "33.00",
    "top1_median10": "81.00",
    "top1_best_test": "82.00",
    "map_median10": "64.00",
    "map_best_test": "65.00",
    "img_per_s": "1200",
    "peak_mem_gb": "3.40",
    "gpu_hours": "0.250",
    "wall_s": "900",
}
COSTS = ("img_per_s", "peak_mem_gb", "gpu_hours", "wall_s")
PROTOCOL = {
    "data": "cifar",
    "net": "net",
    "recipe": "quick",
    "epochs": 10,
    "select": "last",
    "recipe_hash": "r" * 16,
    "family_hash": "f",
    "train_size": 36_000,
    "test_size": 100,
    "device": "GPU",
    "status": "done",
}


def record(method, seed, metrics, **changes):
    values = PROTOCOL | {"config_hash": method} | changes
    return Record(
        id=f"{method}{values['epochs']}-s{seed}",
        method=method,
        seed=seed,
        metrics=metrics,
        **values,
    )


def board(tmp_path, records):
    for each in records:
        (tmp_path / each.id).mkdir()
        write_record(tmp_path / each.id, each)
    return build_leaderboard(find_runs([tmp_path]))


def cells(text, first):
    """The row of a method in a text table, by the names of its columns; ``*`` marks the best."""
    lines = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]
    header = next(line for line in lines if line[0] == "method")
    row = next(line for line in lines if line[0] in (first, f"{first} *"))
    return dict(zip(header, row, strict=True))


def test_every_column_is_the_mean_of_its_seeds_with_its_interval(tmp_path):
    assert tuple(SHOWN) == columns()  # a new column needs a number of its own here
    seeds = []
    for seed, share in enumerate((0.9, 1.0, 1.1)):
        values = {name: share * float(cell) for name, cell in SHOWN.items()}
        costs = {name: values.pop(name) for name in COSTS}
        judged = {"adversarial": {"images": 100}, "linearity": {"images": 50}}
        judged["human_attacks"] = {"images": 64}
        seeds.append(record("erm", seed, values, evaluations=judged, **costs))
    found = board(tmp_path, seeds)
    shown = cells(render(found, columns=["method", "n", "sd", "interval", *columns()]), "erm")
    warned = {name for name in shown if "\N{WARNING SIGN}" in name}
    assert {name.split()[0] for name in warned} == set(columns("peek"))
    assert {
        name if name in ("n", "95 % interval") else name.split()[0]: cell
        for name, cell in shown.items()
    } == {
        **SHOWN,
        "top1": f"{SHOWN['top1']} \N{PLUS-MINUS SIGN} 8.00",
        "method": "erm",  # alone, and separated from nothing
        "n": "3",
        "sd": "8.00",
        # 8 / sqrt(3) times 4.302653, the quantile of two degrees of freedom: 19.87.
        "95 % interval": "60.13 to 99.87",
    }
    (line,) = csv.DictReader(io.StringIO(render(found, "csv")))
    (group,) = json.loads(render(found, "json"))["groups"]
    for name, cell in SHOWN.items():
        mean = float(cell)
        half = 4.302653 * 0.1 * mean / math.sqrt(3)
        expected = [mean, 0.1 * mean, mean - half, mean + half]
        parts = ("mean", "sd", "low", "high")
        assert [float(line[f"{name}_{part}"]) for part in parts] == pytest.approx(
            expected, rel=1e-5
        )
        numbers = group["rows"][0]["metrics"][name]
        assert [numbers[part] for part in parts] == pytest.approx(expected, rel=1e-5)
        assert numbers["n"] == 3


def test_a_table_of_several_labels_is_ranked_and_shown_by_map(tmp_path):
    scored = ({"map": value, "cf1": 50.0} for value in (60.0, 62.0))
    runs = [record("erm", seed, each, wall_s=60.0) for seed, each in enumerate(scored)]
    names = ["method", "n", "map", "interval", "cf1", "wall_s"]
    shown = cells(render(board(tmp_path, runs), columns=names), "erm")
    assert [name.split()[0] for name in shown] == ["method", "n", "map", "95", "cf1", "wall_s"]
    # 1.4142 / sqrt(2) times 12.7062, the quantile of one degree of freedom.
    score, interval = "61.00 \N{PLUS-MINUS SIGN} 1.41", "48.29 to 73.71"
    assert [*shown.values()] == ["erm", "2", score, interval, "50.00", "60"]


def test_a_difference_its_p_and_what_could_be_found_are_dunnetts(tmp_path):
    seeds = {"erm": [79, 80, 81], "mixup": [85, 86, 87], "cutmix": [78, 80, 82, 83]}
    runs = [record(m, s, {"top1": v}) for m, values in seeds.items() for s, v in enumerate(values)]
    found = board(tmp_path, runs)
    (group,) = found.groups
    theirs = stats.dunnett(seeds["mixup"], seeds["cutmix"], control=seeds["erm"], rng=0)
    low, high = theirs.confidence_interval(0.95)
    lines = {line["method"]: line for line in csv.DictReader(io.StringIO(render(found, "csv")))}
    assert {line["reference"] for line in lines.values()} == {"erm"}
    means = {"mixup": (6.0, "True", 3), "cutmix": (0.75, "False", 4)}
    for place, (method, (mean, separated, count)) in enumerate(means.items()):
        line, contrast = lines[method], group.evidence.contrasts[method]
        assert float(line["difference"]) == pytest.approx(mean)
        assert float(line["p"]) == pytest.approx(theirs.pvalue[place], abs=2e-3)
        assert line["separated"] == separated
        assert (contrast.low, contrast.high) == pytest.approx((low[place], high[place]), abs=0.03)
        # Sums of squares 2, 2 and 14.75 over 2 + 2 + 3 degrees of freedom.
        error = math.sqrt(18.75 / 7 * (1 / count + 1 / 3))
        critical, shift = (contrast.high - contrast.low) / 2 / error, contrast.mdd / error
        power = stats.nct.sf(critical, 7, shift) + stats.nct.cdf(-critical, 7, shift)
        assert power == pytest.approx(0.8, abs=1e-6)
        assert float(line["mdd"]) == pytest.approx(contrast.mdd, rel=1e-5)
    assert group.evidence.df == 7
    text = render(found)
    for method, (mean, *_) in means.items():
        difference, ends = cells(text, method)["vs erm"].split(" ", 1)
        contrast = group.evidence.contrasts[method]
        assert difference == f"{mean:+.2f}"
        assert [float(end) for end in ends.strip("[]").split(", ")] == pytest.approx(
            [contrast.low, contrast.high], abs=0.005
        )
        assert float(cells(text, method)["p"]) == pytest.approx(contrast.p, abs=0.005)
    assert cells(text, "erm")["vs erm"] == "reference"
    assert [cells(text, name)["n"] for name in ("mixup", "cutmix", "erm")] == ["3", "4", "3"]


def costly(method, epochs, speed, *top1):
    runs = [
        record(method, seed, {"top1": value}, epochs=epochs, img_per_s=speed)
        for seed, value in enumerate(top1)
    ]
    return method, "top1", runs


def test_the_base_of_a_step_s_cost_is_plain_training_of_the_same_length_or_the_longest():
    # Hours of ten epochs of 36,000 images at 1000 a second: 0.1, and of fifty at 800: 0.625.
    rows = [
        costly("erm", 10, 1000.0, 70.0, 72.0),
        costly("erm", 50, 800.0, 80.0, 82.0),
        costly("samix", 10, 400.0, 75.0, 77.0),  # 0.25 hours
        costly("samix", 7, 400.0, 74.0, 74.0),  # 0.175 hours
        costly("mixup", 9, 400.0, 71.0, 73.0),  # 0.225 hours, a tenth less than 0.25
    ]
    tables = equal_cost(rows)
    slow = {(r.label, r.epochs): r for t in tables for r in t.rows}
    assert slow["samix", 10].step == pytest.approx(2.5)  # 0.025 over 0.01 hours an epoch
    assert slow["samix", 7].step == pytest.approx(2.0)  # 0.025 over 0.0125
    assert slow["mixup", 9].step == pytest.approx(2.0)
    assert slow["samix", 10].hours == pytest.approx(0.25)
    notes = {t.title.split(": ")[1].split(" ")[0]: t.note for t in tables}
    assert notes == {
        "0.25": "No run of erm costs as much; train one with epochs=20.",  # 0.25 / 0.0125
        "0.175": "No run of erm costs as much; train one with epochs=14.",
        "0.225": "No run of erm costs as much; train one with epochs=18.",
    }


def test_a_table_of_equal_cost_shows_hours_and_steps():
    rows = [
        costly("erm", 10, 1000.0, 70.0, 72.0),
        costly("erm", 25, 1000.0, 80.0, 82.0),
        costly("samix", 10, 400.0, 75.0, 77.0),
    ]
    text = render(Leaderboard([], [], equal_cost(rows)))
    assert "at the cost of samix: 0.25 CPU hours, within 15 %" in text
    same = {"n": "2", "sd": "1.41", "CPU hours": "0.25"}
    # 1.4142 / sqrt(2) times 12.7062 on both sides
    plain = {"method": "erm *", "epochs": "25", "top1": "81.00", "step cost": "1.00"}
    assert cells(text, "erm") == same | plain | {"95 % interval": "68.29 to 93.71"}
    slow = {"method": "samix *", "epochs": "10", "top1": "76.00", "step cost": "2.50"}
    assert cells(text, "samix") == same | slow | {"95 % interval": "63.29 to 88.71"}


def test_every_line_of_a_comparison_is_worked_out_by_hand(tmp_path):
    names = comparing.SCORES
    costs = {name: 3.0 + index for index, name in enumerate(comparing.COSTS)}
    runs = []
    for method, shift, factor in (("erm", 0.0, 1), ("mixup", 3.0, 2)):
        for seed, noise in enumerate((-1.0, 0.0, 1.0)):
            values = {n: 10.0 + index / 2 + shift + noise for index, n in enumerate(names)}
            spent = {
                n: int(factor * v) if "param" in n or n == "macs" else factor * v
                for n, v in costs.items()
            }
            judged = {"adversarial": {"images": 100}, "linearity": {"images": 50}}
            runs.append(record(method, seed, values, evaluations=judged, **spent))
    (found,) = compare(board(tmp_path, runs), "mixup", "erm", resamples=10)
    lines = {line.name: line for line in found.lines}
    assert set(lines) == {*names, *comparing.COSTS}
    # Both deviations are 1: 2.776445, the quantile of four degrees of freedom, times sqrt(2 / 3).
    half = 2.776445 * 0.8164966
    for index, name in enumerate(names):
        line = lines[name]
        assert line.mine is not None
        assert line.other is not None
        assert (line.other.mean, line.mine.mean) == pytest.approx((10 + index / 2, 13 + index / 2))
        assert line.difference == pytest.approx(3.0)
        assert (line.low, line.high) == pytest.approx((3 - half, 3 + half))
    for name, value in costs.items():
        line = lines[name]
        assert line.mine is not None
        assert (line.mine.mean, line.ratio) == pytest.approx((2 * value, 2.0))
    shown = {
        row[0]: row[1:]
        for line in comparison_text(found, "table").splitlines()
        if len(row := re.split(r"\s{2,}", line.strip())) > 3
    }
    assert shown["top1"] == [
        "13.00 \N{PLUS-MINUS SIGN} 1.00 (3)",
        "10.00 \N{PLUS-MINUS SIGN} 1.00 (3)",
        "+3.00",
        "+0.73 to +5.27",
    ]
    assert shown["img_per_s"] == ["6", "3", "\N{MULTIPLICATION SIGN} 2.00"]


def test_the_change_of_each_class_and_its_interval_are_worked_out_by_hand():
    # Ten images of each of two classes. Of the first the one method has 9 and the other 6 right,
    # three of them alone; of the second both have all right.
    mine = [True] * 9 + [False] + [True] * 10
    other = [True] * 4 + [False] * 3 + [True] * 2 + [False] + [True] * 10
    labels = [0] * 10 + [1] * 10
    first, second = class_changes([mine], [other], labels)
    assert (first.label, first.images, first.change) == (0, 10, pytest.approx(30.0))
    assert (second.label, second.images, second.change) == (1, 10, 0.0)
    # Bonett and Price: one image more that each alone has right; 1 - 0.05 / 2 has z = 2.241403.
    half = 2.241403 * math.sqrt(((3 + 2) / 12 - (3 / 12) ** 2) / 12)
    assert (first.low, first.high) == pytest.approx((25 - 100 * half, 25 + 100 * half), abs=1e-3)
    half = 2.241403 * math.sqrt(2 / 12 / 12)
    assert (second.low, second.high) == pytest.approx((-100 * half, 100 * half), abs=1e-3)
