"""Folders of images: what is used, what is counted, and what they are known by."""

import os
import shutil
import zipfile

import numpy as np
import pytest
import torch
from making import encoded, photograph, source, write_folder

from mixbench.data.checks import check_data_set
from mixbench.data.files import hashes
from mixbench.data.files.cache import prepare, read_prepared
from mixbench.data.images import ResidentImages
from mixbench.errors import UserError


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("MIXBENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(hashes, "SETTLED_NS", -(10**10))  # files of a test are younger


@pytest.fixture
def zoo(tmp_path):
    return write_folder(tmp_path / "zoo")


def words(zoo, *more):
    return ("data=folder", f"data.root={zoo}", "data.size=8", *more)


def known_by(zoo):
    return source(*words(zoo)).fingerprint()


def test_val_may_lack_a_class_where_training_tells_the_classes(tmp_path):
    zoo = write_folder(tmp_path / "zoo", classes=("ant", "bee", "cat"))
    shutil.rmtree(zoo / "val/bee")
    with pytest.raises(UserError, match=r"bee only in training(.|\n)*data\.classes=train"):
        source(*words(zoo)).load()
    for _ in range(2):
        splits = source(*words(zoo, "data.classes=train")).load()
        assert splits.info.class_names == ["ant", "bee", "cat"]
        assert splits.test.labels.tolist() == [0, 0, 2, 2]
        assert "no test image of 1 of 3 classes: bee" in splits.info.notices
        (zoo / "val/bee").mkdir(exist_ok=True)  # an empty folder is no other class
    (zoo / "val/dog").mkdir()
    shutil.copy(zoo / "val/ant/0.png", zoo / "val/dog/0.png")
    with pytest.raises(UserError, match="1 classes that training lacks: dog"):
        source(*words(zoo, "data.classes=train")).load()


def test_equal_files_are_counted_also_where_files_stay_files(zoo):
    shutil.copy(zoo / "train/ant/0.png", zoo / "val/bee/0.png")
    for more in ((), ("data.crop_area=0.5",)):
        info = source(*words(zoo, *more)).load().info
        assert info.shared_images == 1
        assert "1 of 4 test images are also training images" in info.notices


# Identity.


def test_pixels_that_change_in_place_change_the_identity(tmp_path):
    zoo = write_folder(tmp_path / "zoo")
    path = zoo / "train/ant/0.bmp"
    pixels = np.zeros((8, 8, 3), np.uint8)
    path.write_bytes(encoded(pixels, "BMP"))
    before, size = known_by(zoo), path.stat().st_size
    assert known_by(zoo) == before
    prepare(source(*words(zoo)))
    facts = path.stat()
    path.write_bytes(encoded(pixels + 200, "BMP"))
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert path.stat().st_size == size
    assert known_by(zoo) != before
    assert read_prepared(source(*words(zoo))) is None
    assert source(*words(zoo)).load().train.images[0].min() == 200
    path.write_bytes(encoded(pixels, "BMP"))
    assert known_by(zoo) == before


def test_the_identity_is_that_of_a_copy_elsewhere(zoo, tmp_path):
    copy = shutil.copytree(zoo, tmp_path / "elsewhere" / "zoo")
    (copy / "train/ant/.DS_Store").write_bytes(b"x")
    (copy / "train/ant/notes.txt").write_bytes(b"x")
    assert known_by(copy) == known_by(zoo)


@pytest.mark.parametrize("change", ["name", "class", "part", "more", "less", "order"])
def test_names_classes_and_parts_belong_to_the_identity(zoo, change):
    before = known_by(zoo)
    path = zoo / "train/ant/5.png"
    if change == "name":
        path.rename(path.with_name("50.png"))
    elif change == "class":
        path.rename(zoo / "train/bee/6.png")
    elif change == "part":
        path.rename(zoo / "val/ant/5.png")
    elif change == "more":
        shutil.copy(path, path.with_name("6.png"))
    elif change == "less":
        path.unlink()
    else:
        path.rename(path.with_name("x"))
        path.with_name("0.png").rename(path)
        path.with_name("x").rename(path.with_name("0.png"))
    assert known_by(zoo) != before


@pytest.mark.parametrize("kind", ["imagenet", "tinyimagenet"])
def test_other_folders_are_known_by_their_content_too(tmp_path, kind):
    root = tmp_path / "set"
    boxes = "".join(f"n1_{k}.JPEG\t0\t0\t1\t1\n" for k in range(2))
    files = {"wnids.txt": "n1\n", "train/n1/n1_boxes.txt": boxes,
             "val/val_annotations.txt": "v.JPEG\tn1\t0\t0\t1\t1\n"}  # fmt: skip
    inside = "images/" if kind == "tinyimagenet" else ""
    names = [f"train/n1/{inside}n1_0.JPEG", f"train/n1/{inside}n1_1.JPEG"]
    names.append("val/images/v.JPEG" if kind == "tinyimagenet" else "val/v.JPEG")
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encoded(np.full((64, 64, 3), 7, np.uint8), "BMP"))
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    given = [f"data={kind}", f"data.root={root}", "data.size=8", "data.workers=0"]
    given.append("data.limit=1")
    before = source(*given).fingerprint()
    for name in names:
        (root / name).write_bytes(encoded(np.full((64, 64, 3), 8, np.uint8), "BMP"))
        after = source(*given).fingerprint()
        assert after != before
        before = after


def test_classes_of_a_list_belong_to_the_identity(tmp_path):
    for name in ("train/n1/a.JPEG", "train/n2/b.JPEG", "val/c.JPEG", "val/d.JPEG"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(photograph(0))
    found = []
    for classes in (("n1", "n2"), ("n2", "n1")):
        lines = [f"{name}.JPEG {wnid}" for name, wnid in zip("cd", classes, strict=True)]
        (tmp_path / "val.txt").write_text("\n".join(lines))
        found.append(source("data=imagenet", f"data.root={tmp_path}").fingerprint())
    assert found[0] != found[1]


# What is used.


def test_images_at_any_depth_and_of_any_ending_are_used(zoo):
    (zoo / "train/ant/day1/x").mkdir(parents=True)
    for name in ("day1/a.jfif", "day1/x/b.PNG", "c.TIFF", "d.jpe"):
        pixels = np.full((8, 8, 3), 99, np.uint8)
        kind = "TIFF" if name.endswith("TIFF") else "PNG"
        (zoo / "train/ant" / name).write_bytes(encoded(pixels, kind))
    splits = source(*words(zoo)).load()
    assert splits.train.labels.tolist() == [0] * 10 + [1] * 6
    assert splits.train.images[6:10].unique().tolist() == [99]
    assert splits.info.unused == {}


def test_what_is_not_used_is_counted_by_reason_in_info_and_check(zoo):
    (zoo / "train/.ipynb_checkpoints").mkdir()
    (zoo / "__MACOSX/train").mkdir(parents=True)
    (zoo / "val/@eaDir/x").mkdir(parents=True)
    (zoo / "train/ant/.ipynb_checkpoints").mkdir()
    for name in ("train/.ipynb_checkpoints/0.png", "train/ant/.ipynb_checkpoints/0.png",
                 "train/ant/._0.png", "val/bee/Thumbs.db", "val/@eaDir/x/0.png",
                 "train/.DS_Store", "train/ant/a.heic2", "train/ant/b.HEIC2", "train/ant/notes.txt",
                 "train/ant/README", "train/0.png", "val/list.csv"):  # fmt: skip
        (zoo / name).write_bytes(photograph(0))
    (zoo / "train/bee/up").symlink_to(zoo / "train")
    splits = source(*words(zoo)).load()
    assert splits.info.class_names == ["ant", "bee"]
    assert (len(splits.train), len(splits.test)) == (12, 4)
    assert splits.info.unused == {
        "hidden file": 6,
        "unusual suffix .heic2": 2,
        "unusual suffix .txt": 1,
        "file without a suffix": 1,
        "file outside of the folders of classes": 2,
        "link to a folder around it": 1,
    }
    assert any(
        "2 x unusual suffix .heic2" in fact for fact in check_data_set(source(*words(zoo))).facts
    )


def test_a_folder_of_test_images_beside_val_is_said_not_to_be_used(zoo):
    assert source(*words(zoo)).load().info.notices == []
    (zoo / "test").mkdir()
    assert any(str(zoo / "test") in notice for notice in source(*words(zoo)).load().info.notices)


def test_a_folder_of_parquet_files_is_said_to_be_a_pack(tmp_path):
    (tmp_path / "train-0.parquet").touch()
    with pytest.raises(UserError) as caught:
        source(*words(tmp_path)).load()
    assert f"data=pack data.train={tmp_path}" in caught.value.todo


@pytest.mark.parametrize("name", ["test", "valid", "Validation", "dev", "TEST"])
def test_other_words_for_val_are_taken_and_said(zoo, name):
    (zoo / "val").rename(zoo / name)
    (zoo / "train").rename(zoo / "Train")
    splits = source(*words(zoo)).load()
    assert (len(splits.train), len(splits.test)) == (12, 4)
    assert f"the test images are those of the folder {name}" in splits.info.notices
    assert splits.info.division == ""


def test_of_several_folders_of_test_images_one_can_be_named(zoo):
    shutil.copytree(zoo / "val", zoo / "test")
    (zoo / "test/ant/0.png").unlink()
    assert len(source(*words(zoo)).load().test) == 4
    splits = source(*words(zoo, "data.test=test")).load()
    assert len(splits.test) == 3
    assert any(f"{zoo / 'val'} is not used" in notice for notice in splits.info.notices)
    assert known_by(zoo) != source(*words(zoo, "data.test=test")).fingerprint()
    with pytest.raises(UserError, match=r"no folder tst; found test, train, val"):
        source(*words(zoo, "data.test=tst")).load()
    (zoo / "test").rename(zoo / "valid")
    with pytest.raises(UserError, match="val and valid could each be"):
        source(*words(zoo)).load()


def test_a_class_with_hidden_files_alone_has_no_image(zoo):
    (zoo / "train/cow").mkdir()
    (zoo / "train/cow/._0.png").write_bytes(photograph(0))
    with pytest.raises(UserError, match="no image in cow"):
        source(*words(zoo)).load()


def test_hidden_files_of_an_archive_are_no_images(tmp_path):
    path = tmp_path / "tiny-imagenet-200.zip"
    names = [f"train/n1/images/n1_{k}.JPEG" for k in range(2)] + ["val/images/v.JPEG"]
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(f"tiny-imagenet-200/{name}", photograph(1, 64, 64))
            head, _, tail = name.rpartition("/")
            archive.writestr(f"__MACOSX/tiny-imagenet-200/{head}/._{tail}", b"x")
            archive.writestr(f"tiny-imagenet-200/{head}/._{tail}", b"x")
        archive.writestr("tiny-imagenet-200/wnids.txt", "n1\n")
        archive.writestr("tiny-imagenet-200/val/val_annotations.txt", "v.JPEG\tn1\t0\t0\t1\t1\n")
    splits = source("data=tinyimagenet", f"data.root={path}").load()
    assert (len(splits.train), len(splits.test)) == (2, 1)
    assert splits.info.unused == {"hidden file": 6}


# What cannot be read.


@pytest.fixture
def broken(zoo):
    """Files of which each is unreadable for a reason of its own."""
    os.mkfifo(zoo / "train/ant/pipe.png")
    (zoo / "train/ant/gone.png").symlink_to(zoo / "nowhere.png")
    (zoo / "train/ant/loop.png").symlink_to(zoo / "train/ant/loop.png")
    (zoo / "train/bee/device.png").symlink_to("/dev/zero")
    (zoo / "train/bee/empty.png").write_bytes(b"")
    return ["pipe.png", "gone.png", "loop.png", "device.png", "empty.png"]


@pytest.mark.parametrize("more", [(), ("data.crop_area=0.5",)])
def test_what_is_no_readable_file_is_named_or_skipped_and_counted(zoo, broken, more):
    info = source(*words(zoo, "data.on_corrupt=skip", *more)).load().info
    assert (info.train_size, info.skipped) == (12, 5)
    problems = check_data_set(source(*words(zoo))).problems
    for name in broken:
        assert sum(name in problem for problem in problems) == 1
    with pytest.raises(UserError) as error:
        source(*words(zoo, *more)).load()
    assert any(name in str(error.value) for name in broken)


def test_a_link_that_is_mended_changes_the_identity(zoo, broken):
    before = known_by(zoo)
    assert known_by(zoo) == before
    (zoo / "nowhere.png").write_bytes(photograph(3))
    assert known_by(zoo) != before


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_damaged_image_of_an_archive_is_skipped_and_counted(tmp_path, kind):
    root = tmp_path / "CUB_200_2011"
    lists = {
        "images.txt": "1 1.Ant/a.jpg\n2 1.Ant/b.jpg\n3 1.Ant/c.jpg\n",
        "image_class_labels.txt": "1 1\n2 1\n3 1\n",
        "train_test_split.txt": "1 1\n2 1\n3 0\n",
        "bounding_boxes.txt": "1 0 0 5 5\n2 0 0 5 5\n3 0 0 5 5\n",
        "classes.txt": "1 1.Ant\n",
    }
    (root / "images/1.Ant").mkdir(parents=True)
    for name, text in lists.items():
        (root / name).write_text(text)
    for name in "abc":
        (root / f"images/1.Ant/{name}.jpg").write_bytes(photograph(ord(name)))
    if kind == "folder":
        given = root
        (root / "images/1.Ant/a.jpg").unlink()
        os.mkfifo(root / "images/1.Ant/a.jpg")
    else:
        given = tmp_path / "cub.zip"
        with zipfile.ZipFile(given, "w") as archive:
            for path in sorted(root.rglob("*.*")):
                if path.is_file():
                    archive.write(path, path.relative_to(tmp_path))
            place = archive.getinfo("CUB_200_2011/images/1.Ant/a.jpg").header_offset
        raw = bytearray(given.read_bytes())
        raw[place + 200] ^= 1
        given.write_bytes(raw)
    asked = ("data=cub200", f"data.root={given}", "data.size=8", "data.crop_area=null")
    info = source(*asked, "data.on_corrupt=skip").load().info
    assert (info.train_size, info.test_size, info.skipped) == (1, 1, 1)
    with pytest.raises(UserError, match=r"1\.Ant/a\.jpg"):
        source(*asked).load()


def test_a_root_whose_name_is_too_long_is_refused_by_its_key():
    with pytest.raises(UserError, match="cannot be looked at") as error:
        source("data=folder", f"data.root={'x' * 5000}").load()
    assert error.value.where == "data.root"


def test_a_folder_is_not_needed_to_be_utf8(zoo):
    name = os.fsdecode(b"caf\xe9.png")
    (zoo / "train/ant" / name).write_bytes(photograph(3))
    splits = source(*words(zoo)).load()
    assert isinstance(splits.train, ResidentImages)
    assert torch.bincount(splits.train.labels).tolist() == [7, 6]
