"""Own images of every odd kind: each is used, refused, or counted."""

import io
import json
import shutil

import numpy as np
import pytest
import torch
from making import encoded, photograph, source, write_flat, write_folder
from PIL import Image

from mixbench import compose
from mixbench.data.files import hashes
from mixbench.data.files.cache import prepare, read_prepared
from mixbench.errors import UserError
from mixbench.records.record import Record, write_record
from mixbench.training.job import resolve


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("MIXBENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(hashes, "SETTLED_NS", -(10**10))


@pytest.fixture
def flat(tmp_path):
    return write_flat(tmp_path / "zoo", {"ant": 10, "bee": 10})


def words(root, *more):
    return ("data=folder", f"data.root={root}", "data.size=8", *more)


def load(root, *more):
    return source(*words(root, *more)).load()


# Division.


def test_a_part_of_each_class_is_set_aside_and_recorded(flat):
    splits = load(flat)
    assert splits.train.labels.bincount().tolist() == [8, 8]
    assert splits.test.labels.bincount().tolist() == [2, 2]
    assert splits.info.division.startswith("20 % of each class, seed 0, sha256:")
    assert any(splits.info.division.split(", ")[-1] in note for note in splits.info.notices)
    assert any(
        "with data.folds=5, mixbench bench tests each of the 20 once" in note
        for note in splits.info.notices
    )
    assert splits.info.shared_images == 0
    again = load(flat)
    assert torch.equal(again.test.images, splits.test.images)


def test_the_share_and_what_grows_make_another_identity(flat):
    known = {source(*words(flat)).fingerprint()}
    known.add(source(*words(flat, "data.test_fraction=0.3")).fingerprint())
    known.add(source(*words(flat, "data.folds=2", "data.fold=0")).fingerprint())
    known.add(source(*words(flat, "data.folds=3", "data.fold=0")).fingerprint())
    (flat / "ant/new.png").write_bytes(photograph(999))
    known.add(source(*words(flat)).fingerprint())
    assert len(known) == 5
    assert load(flat, "data.test_fraction=0.5").test.labels.bincount().tolist() == [6, 5]


def test_folds_test_each_image_once_and_are_one_set(flat):
    tested, prints = [], set()
    for fold in range(3):
        given = ("data.folds=3", f"data.fold={fold}")
        prepare(source(*words(flat, *given)))  # which must not serve the other folds
        splits = load(flat, *given)
        assert len(splits.train) + len(splits.test) == 20
        assert splits.info.division.startswith(f"fold {fold} of 3, seed 0, sha256:")
        tested += [image.numpy().tobytes() for image in splits.test.images]
        prints.add(source(*words(flat, *given)).fingerprint())
    assert len(tested) == len(set(tested)) == 20
    assert len(prints) == 1
    assert read_prepared(source(*words(flat, "data.folds=3", "data.fold=1"))) is not None


@pytest.mark.parametrize(
    ("more", "what"),
    [
        (("data.folds=3",), "does not say which fold is tested"),
        (("data.folds=3", "data.fold=0", "data.test_fraction=0.2"), "has no effect beside"),
        (("data.folds=11", "data.fold=0"), "11 folds of 20 images are too small"),
    ],
)
def test_folds_that_make_no_sense_are_refused(flat, more, what):
    with pytest.raises(UserError, match=what):
        load(flat, *more)


@pytest.mark.parametrize(
    "more", ["data.fold=3 data.folds=3", "data.fold=0", "data.test_fraction=1"]
)
def test_values_out_of_range_are_refused_before_any_data(more):
    with pytest.raises(UserError, match=r"data\.(fold|test_fraction) (needs|must)"):
        source("data=folder", *more.split())


@pytest.mark.parametrize("more", [("data.test_fraction=0.3",), ("data.folds=2", "data.fold=0")])
def test_nothing_is_set_aside_of_a_set_with_test_images(tmp_path, more):
    zoo = write_folder(tmp_path / "divided")
    with pytest.raises(UserError, match="test images of its own, and none are set aside"):
        load(zoo, *more)
    with pytest.raises(UserError, match="test images of its own"):
        source("data=digits", *more).load()


def test_classes_with_few_images_are_told(tmp_path):
    zoo = write_flat(tmp_path / "zoo", {"ant": 8, "bee": 2, "cat": 1})
    splits = load(zoo)
    assert splits.test.labels.bincount(minlength=3).tolist() == [2, 1, 0]
    told = " ".join(splits.info.notices)
    assert "1 class with a single image, which stays in training: cat" in told
    with pytest.raises(UserError, match="single image cannot be in two folds: cat"):
        load(zoo, "data.folds=2", "data.fold=0")


def test_equal_files_never_stand_on_both_sides(tmp_path):
    zoo = write_flat(tmp_path / "zoo", {"ant": 10, "bee": 10})
    for index in range(10):
        shutil.copy(zoo / f"ant/{index}.png", zoo / f"ant/copy{index}.png")
        shutil.copy(zoo / f"ant/{index}.png", zoo / f"bee/ant{index}.png")
    for more in ((), ("data.folds=3", "data.fold=1")):
        splits = load(zoo, *more)
        assert splits.info.shared_images == 0
        assert len(splits.test) > 2


# Layouts.


def test_one_class_one_folder_and_no_folder_are_refused_with_the_way_out(tmp_path):
    only = write_flat(tmp_path / "only", {"ant": 4})
    with pytest.raises(UserError, match="all 4 images are of one class, ant"):
        load(only)
    wrapped = write_flat(tmp_path / "outer/zoo", {"ant": 4, "bee": 4}).parent
    with pytest.raises(UserError, match="only folder here is zoo") as caught:
        load(wrapped)
    assert f"data.root={wrapped / 'zoo'}" in caught.value.todo
    loose = tmp_path / "loose"
    loose.mkdir()
    with pytest.raises(UserError, match="the folder is empty"):
        load(loose)
    (loose / "a.png").write_bytes(photograph(0))
    with pytest.raises(UserError, match="no folder of a class, but 1 file"):
        load(loose)
    (loose / "labels.csv").write_text("path,label\na.png,ant\n")
    with pytest.raises(UserError) as caught:
        load(loose)
    assert f"data.root={loose / 'labels.csv'}" in caught.value.todo


def test_a_split_alone_is_refused_with_the_way_to_divide_it(tmp_path):
    zoo = write_folder(tmp_path / "zoo")
    shutil.rmtree(zoo / "val")
    with pytest.raises(UserError, match="no folder of test images beside train") as caught:
        load(zoo)
    assert f"data.root={zoo / 'train'}" in caught.value.todo
    assert len(load(zoo / "train").test) == 2
    (zoo / "test").mkdir()
    (zoo / "test/1.png").write_bytes(photograph(0))
    with pytest.raises(UserError, match="test holds no folders of classes, and train does"):
        load(zoo)


def test_a_folder_beside_the_splits_is_said_not_to_be_used(tmp_path):
    zoo = write_folder(tmp_path / "zoo")
    (zoo / "unlabelled").mkdir()
    assert "folders of neither split, which are not used: unlabelled" in load(zoo).info.notices


def test_classes_may_be_called_like_splits(tmp_path):
    zoo = write_flat(tmp_path / "zoo", {"test": 5, "train": 5, "plane": 5})
    assert load(zoo).info.class_names == ["plane", "test", "train"]


def test_an_empty_class_is_refused(flat):
    (flat / "cow").mkdir()
    with pytest.raises(UserError, match="no image in cow"):
        load(flat)


def test_odd_names_endings_and_places(flat):
    (flat / "Käfer 漢字 'x'").mkdir()
    odd = flat / "Käfer 漢字 'x'"
    for index, suffix in enumerate((".JPG", ".Png", ".jpeg", ".BMP", ".gif", ".webp")):
        kind = {".JPG": "JPEG", ".jpeg": "JPEG", ".BMP": "BMP", ".gif": "GIF", ".webp": "WEBP"}
        pixels = np.full((9, 9, 3), 20 * index, np.uint8)
        raw = encoded(pixels, kind.get(suffix, "PNG"))
        (odd / f"a b {index}{suffix}").write_bytes(raw)
    (odd / "deep/er").mkdir(parents=True)
    (odd / "deep/er/c.png").write_bytes(photograph(7))
    (odd / "link.png").symlink_to(flat / "ant/0.png")
    (flat / "linked").symlink_to(odd)
    (odd / ".hidden.png").write_bytes(b"x")
    (odd / "notes.docx").write_bytes(b"x")
    info = load(flat).info
    assert info.class_names == ["Käfer 漢字 'x'", "ant", "bee", "linked"]
    assert info.train_size + info.test_size == 20 + 2 * 8
    assert info.unused == {"hidden file": 2, "unusual suffix .docx": 2}
    assert info.shared_images == 0  # the links are the same files


def test_images_of_every_kind_are_used_as_rgb(flat):
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (12, 12), dtype=np.uint8)
    frames = [Image.fromarray(np.full((12, 12), v, np.uint8)) for v in (10, 200)]
    animated = io.BytesIO()
    frames[0].save(animated, "GIF", save_all=True, append_images=frames[1:])
    turned = Image.fromarray(rng.integers(0, 256, (6, 12, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    rotated = io.BytesIO()
    turned.save(rotated, "JPEG", exif=exif)
    deep = io.BytesIO()
    Image.fromarray(grey.astype(np.uint16) * 257).save(deep, "PNG")
    rgba = encoded(rng.integers(0, 256, (12, 12, 4), dtype=np.uint8), "PNG")
    files = {
        "grey.png": encoded(grey),
        "bit.png": encoded(grey, "PNG", "1"),
        "palette.png": encoded(grey, "PNG", "P"),
        "rgba.png": rgba,
        "cmyk.jpg": encoded(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8), "JPEG", "CMYK"),
        "deep.png": deep.getvalue(),
        "animated.gif": animated.getvalue(),
        "turned.jpg": rotated.getvalue(),
    }
    before = load(flat).info
    for name, raw in files.items():
        (flat / "ant" / name).write_bytes(raw)
    after = load(flat).info
    assert after.train_size + after.test_size == before.train_size + before.test_size + len(files)
    assert (after.channels, after.skipped) == (3, 0)


def test_files_that_cannot_be_read_are_refused_or_counted(flat):
    (flat / "ant/empty.png").write_bytes(b"")
    (flat / "ant/page.jpg").write_bytes(b"<html>")
    (flat / "bee/gone.png").symlink_to("nowhere.png")
    with pytest.raises(UserError, match=r"[123] of \d+ images cannot be read") as caught:
        load(flat)
    assert "data.on_corrupt=skip" in caught.value.todo
    info = load(flat, "data.on_corrupt=skip").info
    assert info.skipped == 3
    assert info.train_size + info.test_size == 20


# Lists.


def listed(flat, text, name="list.csv"):
    (flat / name).write_text(text, encoding="utf-8")
    return flat / name


def lines_of(flat, split=None):
    rows = [f"{kind}/{index}.png,{kind}" for kind in ("ant", "bee") for index in range(10)]
    if split:
        rows = [f"{row},{split[index % len(split)]}" for index, row in enumerate(rows)]
    return "\n".join(rows) + "\n"


def test_a_list_without_splits_is_divided_as_its_folder_would_be(flat):
    path = listed(flat, "path,label\n" + lines_of(flat))
    splits, whole = load(path), load(flat)
    assert torch.equal(splits.test.images, whole.test.images)
    assert source(*words(path)).name == "list"
    assert splits.info.class_names == ["ant", "bee"]


def test_a_list_with_splits_says_what_is_tested_and_what_is_left(flat):
    split = ["train", "train", "train", "val", "test"]
    path = listed(flat, "path,label,split\n" + lines_of(flat, split))
    splits = load(path)
    assert (len(splits.train), len(splits.test)) == (12, 4)
    assert splits.info.unused == {"image of the split validation": 4}
    assert splits.info.division == ""
    first = source(*words(path)).fingerprint()
    other = listed(
        flat, "path,label,split\n" + lines_of(flat, [*split[:3], "test", "test"]), "b.csv"
    )
    assert len(load(other).test) == 8
    assert source(*words(other)).fingerprint() != first
    only = listed(flat, "path,label,split\n" + lines_of(flat, ["train", "dev"]), "c.csv")
    assert any("split validation" in note for note in load(only).info.notices)
    none = listed(flat, "path,label,split\n" + lines_of(flat, ["train"]), "d.csv")
    with pytest.raises(UserError, match="the list has no image of the split test"):
        load(none)


def test_the_place_where_a_list_divides_its_images_belongs_to_the_identity(flat):
    known = set()
    for count in (12, 14):
        rows = lines_of(flat).splitlines()
        parts = [f"{row},{'train' if k < count else 'test'}" for k, row in enumerate(rows)]
        path = listed(flat, "path,label,split\n" + "\n".join(parts), "c.csv")
        known.add(source(*words(path)).fingerprint())
    assert len(known) == 2


def test_files_of_a_list_that_are_not_there(flat):
    text = "path,label\n" + lines_of(flat) + "ant/11.png,ant\nC:\\x\\y.png,bee\n"
    path = listed(flat, text)
    with pytest.raises(UserError, match=r"2 of 22 files of the list are not there: ant/11\.png"):
        load(path)
    info = load(path, "data.on_corrupt=skip").info
    assert info.unused == {"file of the list that is not there": 2}
    assert info.train_size + info.test_size == 20


def test_paths_of_a_list_may_be_absolute_or_of_windows(flat, tmp_path):
    rows = [f"{flat}/ant/{k}.png,0" for k in range(10)] + [f"bee\\{k}.png,1" for k in range(10)]
    path = listed(flat, "path,label\n" + "\n".join(rows))
    assert load(path).info.class_names == ["0", "1"]


def test_an_image_folder_of_hugging_face(flat):
    rows = [
        {"file_name": f"{kind}/{index}.png", "label": label}
        for label, kind in enumerate(("ant", "bee"))
        for index in range(9)
    ]
    listed(flat, "\n".join(map(json.dumps, rows)), "metadata.jsonl")
    info = load(flat).info
    assert info.train_size + info.test_size == 18
    assert info.class_names == ["0", "1"]
    assert info.unused == {"image that the list does not name": 2}


def test_an_image_folder_with_a_list_in_each_split(tmp_path):
    for part, count in (("train", 6), ("test", 2)):
        (tmp_path / "zoo" / part).mkdir(parents=True)
        rows = ["file_name,label"]
        for index in range(count):
            (tmp_path / f"zoo/{part}/{index}.png").write_bytes(photograph(10 * count + index))
            rows.append(f"{index}.png,{'ab'[index % 2]}")
        (tmp_path / f"zoo/{part}/metadata.csv").write_text("\n".join(rows))
    splits = load(tmp_path / "zoo")
    assert (len(splits.train), len(splits.test)) == (6, 2)
    assert "the test images are those of the folder test" in splits.info.notices
    (tmp_path / "zoo/test/metadata.csv").unlink()
    with pytest.raises(UserError, match="train has a list of its images, and test has none"):
        load(tmp_path / "zoo")


def test_a_list_of_captions_leaves_folders_to_tell_the_class(flat):
    listed(flat, "file_name,text\nant/0.png,an ant\n", "metadata.csv")
    assert load(flat).info.class_names == ["ant", "bee"]


def test_a_file_of_arrays_is_said_to_be_a_pack(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"")
    with pytest.raises(UserError) as caught:
        load(tmp_path / "a.npz")
    assert f"data=pack data.train={tmp_path / 'a.npz'}" in caught.value.todo


def test_folders_of_splits_without_classes_are_no_classes(tmp_path):
    zoo = write_flat(tmp_path / "zoo", {"test": 5, "train": 5})
    with pytest.raises(UserError, match="no image is found"):
        load(zoo)


# Checkpoints of other divisions.


def test_a_checkpoint_trained_on_test_images_is_refused(flat, tmp_path):
    folds = f"data=folder data.root={flat} data.size=8 data.folds=3"
    first, same, other = (resolve(compose(f"{folds} data.fold={fold}")) for fold in (0, 0, 1))
    folder = tmp_path / "runs" / first.identity.id
    folder.mkdir(parents=True)
    values = {"recipe": "auto", "seed": 0, "epochs": 1, "select": "last", "status": "done"}
    record = Record(first.identity.id, "erm", "zoo", "preactresnet18", config_hash="c",
                    recipe_hash="r", division=first.source.division, **values)  # fmt: skip
    write_record(folder, record)
    for key in ("net.weights", "distill"):
        assert resolve(compose(f"{folds} data.fold=0 {key}={folder}")).source.config.fold == 0
        for words in (f"{folds} data.fold=1", f"data=folder data.root={flat} data.size=8"):
            with pytest.raises(UserError, match="trained on images that this run is tested on"):
                resolve(compose(f"{words} {key}={folder}"))
        assert resolve(compose(f"data=digits {key}={folder}"))  # of other images
    assert same.identity == first.identity != other.identity
