import shutil

import numpy as np
import pytest
from making import encoded, source, write_folder

from mixbench.cli import main
from mixbench.data.checks import check_data_set
from mixbench.errors import UserError


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    monkeypatch.setenv("MIXBENCH_DATA", str(tmp_path / "data"))
    return write_folder(tmp_path / "zoo")


def test_a_sound_folder_has_facts_and_no_problem(zoo, capsys):
    assert main(["data", "check", "folder", f"data.root={zoo}", "data.size=32"]) == 0
    out, err = capsys.readouterr()
    assert not err
    assert "train: 12 images, 6 sizes with sides of 31 to 45 pixels" in out
    assert out.startswith("zoo: hash ")
    assert "train: 2 classes with 6 images each" in out
    assert "test: 4 images" in out
    assert "0 of 4 test images are also training images" in out
    assert out.endswith("no problem\n")


# FAULTS rows 14 and 19.
def test_all_corrupt_files_and_leaks_are_listed_at_once(zoo, capsys):
    broken = {"ant/0.png": b"", "ant/1.png": b"<html>", "bee/5.png": None}
    for name, content in broken.items():
        path = zoo / "train" / name
        path.write_bytes(path.read_bytes()[:200] if content is None else content)
    shutil.copy(zoo / "train/ant/4.png", zoo / "val/bee/7.png")
    assert main(["data", "check", "folder", f"data.root={zoo}", "data.size=32"]) == 3
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert len(lines) == 4
    for name in broken:
        assert sum(f"train/{name}" in line for line in lines[:3]) == 1
    assert "val/bee/7.png is also the training image" in lines[3]
    assert "train/ant/4.png" in lines[3]
    assert out.endswith("4 problems\n")
    (zoo / "val/bee/7.png").unlink()
    for name in ("ant/0.png", "ant/1.png"):
        (zoo / "train" / name).unlink()
    assert main(["data", "check", "folder", f"data.root={zoo}", "data.size=32"]) == 3
    assert capsys.readouterr().out.endswith("\n1 problem\n")


def test_two_empty_files_are_no_leak(zoo):
    for name in ("train/ant/0.png", "val/ant/0.png"):
        (zoo / name).write_bytes(b"")
    problems = check_data_set(source("data=folder", f"data.root={zoo}", "data.size=32")).problems
    assert len(problems) == 2
    assert not any("also the training image" in problem for problem in problems)


def test_empty_classes_and_leaks_of_stored_pixels_are_found(tmp_path, monkeypatch):
    monkeypatch.setenv("MIXBENCH_DATA", str(tmp_path))
    images = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)
    names = np.array(["ant", "bee", "cat"])
    np.savez(tmp_path / "a.npz", images=images, label=[0, 1, 0, 1, 0, 0], class_names=names)
    np.savez(tmp_path / "b.npz", images=images[4:] // 2, label=[0, 2], class_names=names)
    words = ("data=pack", f"data.train={tmp_path / 'a.npz'}", f"data.test={tmp_path / 'b.npz'}")
    found = check_data_set(source(*words))
    assert {
        "train: 3 classes with 0 (cat) to 4 (ant) images",
        "no training image of 1 of 3 classes: cat",
        "no test image of 1 of 3 classes: bee",
    } <= {*found.facts}
    assert found.problems == []
    np.savez(tmp_path / "b.npz", images=images[4:], label=[0, 2], class_names=names)
    leaks = check_data_set(source(*words)).problems
    assert leaks == [f"the test image image {n} is also the training image image {n + 4}"
                     for n in range(2)]  # fmt: skip


def packs(place, train, test=None, *words, size=5, **more):
    """Two packs with other images, and labels as given."""
    rng = np.random.default_rng(0)
    files = []
    for name, labels, side in (("a", train, 5), ("b", train if test is None else test, size)):
        images = rng.integers(0, 256, (len(labels), side, side, 3), dtype=np.uint8)
        np.savez(place / f"{name}.npz", images=images, label=np.asarray(labels), **more)
        files.append(str(place / f"{name}.npz"))
    return source("data=pack", f"data.train={files[0]}", f"data.test={files[1]}", *words)


@pytest.mark.parametrize(
    ("train", "test", "words"),
    [
        ([0, 0.7], None, []),
        ([0, 1, 2], [0, 1], []),
        ([0, 1], [0, 2], ["data.classes=train"]),
        (["ant", ""], None, []),
        ([0, 1], None, ["data.labels=people.npz"]),
    ],
)
def test_what_a_run_refuses_the_check_refuses_with_the_same_words(
    tmp_path, monkeypatch, train, test, words
):
    monkeypatch.setenv("MIXBENCH_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    np.savez("people.npz", people=np.array([0, 5]))
    data = packs(tmp_path, train, test, *words)
    said = []
    for judge in (data.load, lambda: check_data_set(data)):
        with pytest.raises(UserError) as caught:
            judge()
        said.append(str(caught.value))
    assert said[0] == said[1]


@pytest.mark.parametrize(
    ("train", "test", "words", "count"),
    [
        ([1, 3, 1], [3, 1], [], 3),
        ([0, 1, 2], [0, 1], ["data.classes=train"], 1),
        ([0, 0, 0, 1, 1, 1], [0, 1], ["data.limit=1"], 2),
    ],
)
def test_what_a_run_says_the_check_says_without_a_problem(
    tmp_path, monkeypatch, train, test, words, count
):
    monkeypatch.setenv("MIXBENCH_DATA", str(tmp_path))
    data = packs(tmp_path, train, test, *words)
    notices, found = data.load().info.notices, check_data_set(data)
    assert len(notices) == count
    assert [fact for fact in found.facts if fact in notices] == notices
    assert found.problems == []
    took = "a run takes 1 training and 1 test images of these"
    assert (took in found.facts) == (words == ["data.limit=1"])


@pytest.mark.parametrize("more", [[], ["data.crop_area=0.5"]])
def test_dim_and_unreadable_images_are_said_by_the_check_as_by_a_run(zoo, capsys, more):
    for path in zoo.glob("*/*/*.png"):
        path.write_bytes(encoded(np.full((9, 9), 500, np.uint16)))
    for name in ("val/ant/0.png", "val/bee/0.png", "train/bee/3.png"):
        (zoo / name).write_bytes(b"<html>")
    words = [f"data.root={zoo}", "data.size=8", *more]
    assert main(["data", "check", "folder", *words]) == 3
    capsys.readouterr()
    data = source("data=folder", *words, "data.on_corrupt=skip")
    notices = [n for n in data.load().info.notices if "not compared" not in n]
    found = check_data_set(data)
    assert any("almost black" in notice for notice in notices)
    assert any("1 for training and 2 for the test" in notice for notice in notices)
    assert {*notices} <= {*found.facts}
    assert not any("not compared" in fact for fact in found.facts)
    for name in ("val/ant/0.png", "val/bee/0.png", "train/bee/3.png"):
        assert sum(name in fact for fact in found.facts) == 2  # in the notice and by itself
    assert "train: 11 images, 9x9 pixels" in found.facts
    assert "test: 2 classes with 1 image each" in found.facts
    assert all("is also the training image" in problem for problem in found.problems)


def test_what_cannot_be_trained_on_is_a_problem(tmp_path, monkeypatch):
    monkeypatch.setenv("MIXBENCH_DATA", str(tmp_path))
    found = check_data_set(packs(tmp_path, [0, 0], class_names=np.array(["ant"]))).problems
    assert found == ["1 class with training images; training needs at least two"]
    two_sizes = packs(tmp_path, [0, 1], size=6)
    problems = check_data_set(two_sizes).problems
    assert len(problems) == 1
    assert "2 sizes" in problems[0]
    assert "data.size" in problems[0]
    assert check_data_set(packs(tmp_path, [0, 1], None, "data.size=4", size=6)).problems == []


def test_a_missing_data_set_is_a_user_error(zoo, capsys):
    assert main(["data", "check", "imagenet"]) == 2
    assert "imagenet is not there" in capsys.readouterr().err
    assert main(["data", "check", "imagnet"]) == 2
    assert "did you mean 'imagenet'" in capsys.readouterr().err


@pytest.mark.parametrize("more", [[], ["data.crop_area=0.2", "data.size=16"]])
def test_stored_pixels_and_encoded_images_may_stand_side_by_side(tmp_path, more):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=pixels[:4], label=[0, 1, 0, 1])
    blobs = [encoded(image) for image in pixels[4:]]
    offsets = np.cumsum([0, *map(len, blobs)])
    jpeg = np.frombuffer(b"".join(blobs), np.uint8)
    np.savez(tmp_path / "b.npz", jpeg=jpeg, offsets=offsets, label=[0, 1])
    files = [tmp_path / "a.npz", tmp_path / "b.npz"]
    for train, test in (files, files[::-1]):
        words = ["data=pack", f"data.train={train}", f"data.test={test}", *more]
        found = check_data_set(source(*words))
        assert found.problems == []
        counts = (4, 2) if train == files[0] else (2, 4)
        for split, count in zip(("train", "test"), counts, strict=True):
            assert f"{split}: {count} images, 16x16 pixels" in found.facts
