"""Data that a race treats in its own way: small, uneven, without test images, of several labels."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from paths import SHARED
from PIL import Image

from mixbench.errors import UserError
from mixbench.race.facts import race_facts
from mixbench.race.state import RACE
from mixbench.records.record import read_record

VOC = SHARED / "data" / "voc2012_sample.zip"
WORDS = ["method=erm", "data.size=16", "net.width=4", "epochs=1", "eval.suites=[]", "logger=none"]


def write_images(root, counts, size=16):
    """A folder of images of a colour and a pattern for each class."""
    rng = np.random.default_rng(0)
    for number, count in enumerate(counts):
        folder = root / f"class{number}"
        folder.mkdir(parents=True)
        for place in range(count):
            pixels = rng.integers(0, 120, (size, size, 3))
            pixels[..., number % 3] += 100
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{place}.png")


def facts_of(root, *words):
    return race_facts([*WORDS, "data=folder", f"data.root={root}", *words], {}, set(), False)


@pytest.mark.parametrize(
    ("counts", "trained", "tested"),
    [
        ([150, 150], 100, 200),  # 200 test images, and two folds of 50 are left
        ([400, 500, 300], 900, 300),  # a quarter
        ([120, 120], 180, 60),  # too few for both: a quarter, and no gain is claimed
    ],
)
def test_images_are_set_aside_where_there_is_no_test_part(tmp_path, counts, trained, tested):
    write_images(tmp_path, counts, 4)
    found = facts_of(tmp_path)
    assert (found.train_images, found.test_images) == (trained, tested)
    assert found.set_aside == [f"data.test_fraction={tested / sum(counts):.2g}"]
    assert "seed 0" in found.division
    assert found.folds == (2 if trained == 100 else 3 if trained == 180 else 5)


def test_who_says_how_many_are_set_aside_is_obeyed(tmp_path):
    write_images(tmp_path, [150, 150], 4)
    found = facts_of(tmp_path, "data.test_fraction=0.5")
    assert (found.test_images, found.set_aside) == (150, [])
    assert found.division


def test_a_test_part_of_its_own_is_left_as_it_is(tmp_path):
    write_images(tmp_path / "train", [100, 100], 4)
    write_images(tmp_path / "val", [20, 20], 4)
    found = facts_of(tmp_path)
    assert (found.train_images, found.test_images) == (200, 40)
    assert (found.set_aside, found.division) == ([], "")


def test_uneven_classes_are_scored_by_balanced_accuracy(tmp_path):
    write_images(tmp_path, [400, 120, 90], 4)
    found = facts_of(tmp_path)
    assert found.score == "balanced"
    assert 20 <= found.rarest_tested <= 30


def test_a_set_that_cannot_be_raced_is_refused_with_its_counts(tmp_path):
    write_images(tmp_path, [40, 40], 4)
    with pytest.raises(UserError, match="60 training images are too few for a race"):
        facts_of(tmp_path)


# The command, with given times in place of measured ones, which would decide how long a test takes.
DRIVER = """
import sys
import mixbench.race.start as start
from mixbench.cli.parser import main
start.LocalLauncher.measure = lambda *_: []
start._seconds = lambda arms, *_: dict.fromkeys(arms, 40.0)
if __name__ == "__main__":
    sys.exit(main(["race", *sys.argv[1:]]))
"""
OWN = """
from mixbench.methods.erm import ERM


class Diverging(ERM):
    \"\"\"Plain training whose loss is not finite.\"\"\"

    def loss(self, *given, **named):
        return super().loss(*given, **named) * float("nan")
"""


@pytest.fixture
def race(tmp_path):
    """Carries out a race and returns what it has told and what it has decided."""
    (tmp_path / "driver.py").write_text(DRIVER)
    (tmp_path / "own.py").write_text(OWN)
    root = Path(__file__).resolve().parents[2]

    def start(*words):
        runs = tmp_path / "runs"
        short = ["net.width=4", "epochs=1", "batch_size=32", "jobs=1"]
        done = subprocess.run(
            [sys.executable, str(tmp_path / "driver.py"), *short, *words],
            env=os.environ | {"MIXBENCH_RUNS": str(runs), "PYTHONPATH": f"{root}:{tmp_path}"},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=1800,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        (path,) = runs.glob(f"race-*/{RACE}")
        return done.stdout, json.loads(path.read_text()), runs

    return start


@pytest.mark.slow
def test_three_hundred_images_without_a_test_part_end_in_a_verdict(tmp_path, race):
    write_images(tmp_path / "images", [150, 150])
    words = ["data=folder", f"data.root={tmp_path / 'images'}", "method=mixup,cutmix"]
    text, state, _ = race(*words, "lr=0.1", "epochs=4", "budget=20min")
    assert f"{state['test_images']} of 300 images are set aside to confirm" in text
    assert (state["test_images"], state["folds"]) == (200, 2)
    (look,) = state["looks"]
    assert look["outcome"] in ("better", "worse", "open")
    gain = look["result"]["gain"]
    told = "points over plain" if look["outcome"] == "better" else "points ("
    assert told in text or "Nothing can be told" in text
    assert f"{gain:+.1f} points" in text or abs(gain) < 0.05


@pytest.mark.slow
def test_uneven_classes_are_confirmed_by_balanced_accuracy(tmp_path, race):
    write_images(tmp_path / "images" / "train", [200, 60, 50])
    write_images(tmp_path / "images" / "val", [120, 60, 40])
    words = ["data=folder", f"data.root={tmp_path / 'images'}", "method=mixup,cutmix"]
    text, state, runs = race(*words, "budget=11min")
    assert "the score is balanced accuracy" in text
    assert "40 test images" in text
    (look,) = state["looks"]
    means = {}
    for name, own in look["runs"].items():
        each = []
        for run in own:
            stored = np.load(runs / run / "predictions.npz")
            right = stored["logits"].argmax(1) == stored["labels"]
            each.append(100 * np.mean([right[stored["labels"] == k].mean() for k in range(3)]))
        means[name] = np.mean(each)
    gain = means[look["winner"]] - means["erm"]
    assert look["result"]["gain"] == pytest.approx(gain, abs=1e-6)


@pytest.mark.slow
def test_several_labels_are_raced_by_mean_average_precision(race):
    if not VOC.exists():
        pytest.skip(f"{VOC.name} is not here")
    words = ["data=voc2007", f"data.root={VOC}", "data.size=32", "method=mixup,splicemix"]
    text, state, _ = race(*words, "budget=5min")
    assert state["score"] == "map"
    assert state["looks"] == []
    assert "There are 100 test images, and under 200 no gain is claimed" in text
    assert "leads on the hold-outs" in text
    assert "no gain is claimed" in text.splitlines()[-1]


@pytest.mark.slow
def test_a_method_that_diverges_leaves_the_race_and_the_others_end_it(race):
    words = ["data=digits", "data.limit=260", "method=mixup,cutmix,own:Diverging"]
    text, state, runs = race(*words, "budget=12min")
    assert "diverged in 1 of 1 runs and leaves the race" in text
    (look,) = state["looks"]
    assert look["winner"] in ("mixup", "cutmix")
    assert text.rstrip().splitlines()[-1].endswith("left the race: it diverged in 1 of 1 runs.")
    runs_of_look = [run for own in look["runs"].values() for run in own]
    assert {read_record(runs / run).status for run in runs_of_look} == {"done"}
