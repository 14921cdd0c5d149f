"""Data that a race treats in its own way: small, uneven, without test images, of several labels."""

import numpy as np
import pytest
from PIL import Image

from mixbench.errors import UserError
from mixbench.race.facts import race_facts

WORDS = ["method=erm", "net.width=4", "epochs=1", "eval.suites=[]", "logger=none"]


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
