import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from making import encoded, source, twin
from paths import SHARED

from mixbench.data.files import arrays, parquet
from mixbench.data.files.cache import prepare, read_prepared
from mixbench.data.images import channel_stats
from mixbench.errors import UserError
from mixbench.nn.imagenet import WNIDS

IMAGES = SHARED / "data"

shared = pytest.mark.skipif(
    not IMAGES.is_dir(), reason="the real image data is not beside the checkout"
)


@pytest.fixture(autouse=True)
def data_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MIXBENCH_DATA", str(tmp_path / "data"))


def pack(train, test=None, *words):
    test = test or twin(train, Path(os.environ["MIXBENCH_DATA"]))
    return source("data=pack", f"data.train={train}", f"data.test={test}", *words)


@shared
@pytest.mark.parametrize(
    ("file", "count", "per_class", "classes", "side", "name"),
    [
        ("cifar100_test2k.npz", 2000, 20, 100, 32, "apple"),
        ("tinyimagenet_val2k.npz", 2000, 10, 200, 64, "n01443537"),
        ("ood_mnist500.npz", 500, 50, 10, 28, "0"),
        ("ood_textures500.npz", 500, 50, 10, 64, "banded"),
        ("cifar10_hf_sample120.parquet", 120, 12, 10, 32, "airplane"),
    ],
)
def test_each_pack_loads_with_its_counts_and_classes(file, count, per_class, classes, side, name):
    splits = pack(IMAGES / file).load()
    assert len(splits.test) == count
    assert splits.test.shape == (3, side, side)
    assert splits.test.labels.bincount().tolist() == [per_class] * classes
    assert splits.info.class_names[0] == name
    assert splits.info.name == file.split(".")[0]
    if name == "n01443537":
        assert splits.info.class_ids == splits.info.class_names
        assert set(splits.info.class_ids) <= set(WNIDS)


@shared
def test_the_photographs_of_imagenet_keep_the_numbers_of_their_classes():
    splits = pack(IMAGES / "imagenet_sample64_224.npz").load()
    assert (len(splits.test), splits.info.num_classes) == (64, 1000)
    assert splits.test.shape == (3, 224, 224)
    assert splits.test.labels.unique().numel() == 64
    assert splits.info.class_names[0] == "tench"
    assert splits.info.class_ids == []  # not of classes without an image
    with np.load(IMAGES / "imagenet_sample64_224.npz") as archive:
        assert [WNIDS[row] for row in archive["label"]] == archive["wnid"].tolist()


@shared
def test_the_boxes_of_a_pack_are_those_of_its_annotations():
    path = IMAGES / "tinyimagenet_val2k.npz"
    boxes = pack(path).read().test.boxes[:, 0]
    with np.load(path) as archive:
        xmin, ymin, xmax, ymax = archive["bbox"].T
        expected = np.stack([archive["label"], ymin, xmin, ymax + 1, xmax + 1], axis=1)
    assert np.array_equal(boxes.numpy(), expected)


@pytest.mark.slow
@shared
def test_the_parquet_sample_holds_the_images_of_the_pack():
    sample = pack(IMAGES / "cifar10_hf_sample120.parquet").load()
    whole = pack(IMAGES / "cifar10_test10k.npz").load()
    for label in range(10):
        own = sample.test.images[sample.test.labels == label]
        first = whole.test.images[whole.test.labels == label][:12]
        assert torch.equal(own, first)


def test_a_row_group_is_read_in_pieces(tmp_path, monkeypatch):
    """A piece of Arrow holds 2 GiB at most, and pyarrow's read_table makes one of a row group."""
    files = [encoded(np.full((8, 8, 3), 9 * n, np.uint8)) for n in range(7)]
    image = pa.array([{"bytes": raw, "path": "x"} for raw in files])
    pq.write_table(
        pa.table({"image": image, "label": [0, 1, 0, 1, 0, 1, 1]}), tmp_path / "x.parquet"
    )
    data = pack(tmp_path / "x.parquet")
    monkeypatch.setattr(parquet, "BATCH_ROWS", 3)
    monkeypatch.setattr(pq, "read_table", None)
    splits = data.load()
    assert splits.train.images[:, 0, 0, 0].tolist() == [9 * n for n in range(7)]
    assert splits.train.labels.tolist() == [0, 1, 0, 1, 0, 1, 1]


def random_pixels(count, side=5):
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def shown(images):
    """Pixels (N, H, W, C) of a set."""
    return images.images.permute(0, 2, 3, 1).numpy()


def shard(path, pixels, labels, column="label", **features):
    """A Parquet file as Hugging Face writes one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": encoded(image), "path": None} for image in pixels]
    table = pa.table({"img": images, column: labels})
    if features:
        facts = json.dumps({"info": {"features": {column: features}}})
        table = table.replace_schema_metadata({"huggingface": facts})
    pq.write_table(table, path)


SHARDS = {
    "named": ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"),
    "in folders": ("train/0000", "train/0001", "test/0000"),
    "deep": ("data/train-0", "data/train-1", "data/eval-0"),
}


@pytest.mark.parametrize("names", SHARDS.values(), ids=SHARDS)
def test_a_folder_of_parquet_files_gives_each_split_its_own(tmp_path, names):
    pixels = random_pixels(9)
    for number, name in enumerate(names):
        rows = slice(3 * number, 3 * number + 3)
        shard(tmp_path / "set" / f"{name}.parquet", pixels[rows], [0, 1, 2], "fine_label")
    alone = source("data=pack", f"data.train={tmp_path / 'set'}")
    for data in (alone, pack(tmp_path / "set", tmp_path / "set")):
        splits = data.load()
        assert np.array_equal(shown(splits.train), pixels[:6])
        assert np.array_equal(shown(splits.test), pixels[6:])
        assert splits.train.labels.tolist() == [0, 1, 2, 0, 1, 2]
        assert splits.info.class_names == ["0", "1", "2"]
        assert (splits.info.unused, splits.info.notices) == ({}, [])


def test_files_of_other_splits_are_counted_and_a_missing_split_is_named(tmp_path):
    pixels, place = random_pixels(10), tmp_path / "set"
    for number, name in enumerate(("train-0", "validation-0", "more/0000", ".cache/train-0")):
        shard(place / f"{name}.parquet", pixels[2 * number : 2 * number + 2], [0, 1])
    splits = source("data=pack", f"data.train={place}").load()
    assert len(splits.train) == 2
    assert np.array_equal(shown(splits.test), pixels[2:4])
    assert splits.info.unused == {"Parquet file of no split": 1, "hidden Parquet file": 1}
    assert len(splits.info.notices) == 1
    assert "validation" in splits.info.notices[0]
    shard(place / "test-0.parquet", pixels[8:], [0, 1])
    splits = source("data=pack", f"data.train={place}").load()
    assert np.array_equal(shown(splits.test), pixels[8:])
    assert splits.info.unused["Parquet file of the split validation"] == 1
    assert splits.info.notices == []
    shutil.rmtree(place)
    shard(place / "test-0.parquet", pixels[8:], [0, 1])
    with pytest.raises(UserError, match=r"split train; found test(.|\n)*data\.train="):
        source("data=pack", f"data.train={place}").load()


def shards(place, *names):
    """One Parquet file of two images for each name, no two alike."""
    pixels = random_pixels(2 * len(names))
    for number, name in enumerate(names):
        shard(place / f"{name}.parquet", pixels[2 * number :][:2], [0, 1])
    return source("data=pack", f"data.train={place}")


@pytest.mark.parametrize(
    ("names", "there", "missing"),
    [
        (["train-00000-of-00003", "test-0"], "1 of 3", ["train-00001-of-00003", "train-00002-of"]),
        (["train-0", "test-1-of-3", "test-2-of-3"], "2 of 3", ["test-0-of-3"]),
        (["train-0", "validation-1-of-2"], "1 of 2", ["validation-0-of-2"]),
        (["train/00001-of-00002", "test/0"], "1 of 2", ["00000-of-00002"]),
        (["train-7-of-9", "test-0"], "1 of 9", [f"train-{n}-of-9" for n in range(5)]),
    ],
)
def test_a_set_of_which_files_are_missing_is_refused_with_their_names(
    tmp_path, names, there, missing
):
    data = shards(tmp_path / "set", *names)
    for use in (data.fingerprint, data.load):
        with pytest.raises(UserError, match=f"{there} Parquet files are there") as caught:
            use()
        assert all(name in caught.value.what for name in missing)
        assert caught.value.what.count("-of-") == len(missing)
        assert "download" in caught.value.todo


@pytest.mark.parametrize(
    "names",
    [
        ["train-0-of-3", "train-1-of-5", "test-0"],
        ["train-0-of-2", "train-0-of-2-ab12", "train-1-of-2", "test-0"],
    ],
)
def test_files_of_several_sets_are_refused(tmp_path, names):
    with pytest.raises(UserError, match="several sets lie together: train-0-of"):
        shards(tmp_path / "set", *names).load()


@pytest.mark.parametrize(
    ("names", "folders"),
    [
        (["x/train-0-of-1", "y/train-0-of-1", "test-0"], ("train is in x, y", "data.train=")),
        (["train-0", "x/test-0-of-1", "y/test-0-of-1"], ("test is in x, y", "data.test=")),
        (["a/train/0", "b/train/0", "test/0"], ("train is in a/train, b/train", "data.train=")),
        (["train-0-of-1", "x/train-0-of-1", "test-0"], ("train is in ., x", "data.train=")),
    ],
)
def test_a_split_in_several_folders_is_refused_by_their_names(tmp_path, names, folders):
    with pytest.raises(UserError) as caught:
        shards(tmp_path / "set", *names).load()
    assert folders[0] in caught.value.what
    assert folders[1] in caught.value.todo


def test_a_split_of_one_folder_may_have_others_below_it(tmp_path):
    names = ["data/train/a/0", "data/train/b/0", "data/test/0"]
    assert len(shards(tmp_path / "set", *names).load().train) == 4


def test_a_set_is_whole_whatever_stands_around_its_numbers(tmp_path):
    names = [
        "train-0-of-2-ab12",
        "train-1-of-2-cd34",
        "test-0-of-1",
        "dev-0-of-9",
    ]
    assert len(shards(tmp_path / "set", *names).load().train) == 4
    names = ["train-1-of-2", "train-2-of-2", "test-0"]
    assert len(shards(tmp_path / "from one", *names).load().train) == 4


def test_one_file_of_a_set_is_read_where_it_is_named_and_said(tmp_path):
    shards(tmp_path, "train-0-of-3", "test-0-of-1")
    notices = pack(tmp_path / "train-0-of-3.parquet", tmp_path / "test-0-of-1.parquet").load()
    (notice,) = notices.info.notices
    assert "train-0-of-3.parquet is one of 3 files" in notice


def test_what_stands_in_place_of_a_parquet_file_is_refused_at_once(tmp_path):
    data = shards(tmp_path / "set", "train-0", "test-0")
    os.mkfifo(tmp_path / "set/train-1.parquet")
    with pytest.raises(UserError, match=r"train-1\.parquet cannot be read: a pipe"):
        data.fingerprint()
    with pytest.raises(UserError, match="a pipe stands in place of a file"):
        data.read()
    alone = pack(tmp_path / "set/train-1.parquet", tmp_path / "set/test-0.parquet")
    with pytest.raises(UserError, match=r"train-1\.parquet cannot be read: a pipe"):
        alone.fingerprint()
    os.unlink(tmp_path / "set/train-1.parquet")
    shard(tmp_path / "set/train-1.parquet/part-0.parquet", random_pixels(1), [0])
    with_folder = source("data=pack", f"data.train={tmp_path / 'set'}")
    assert len(with_folder.load().train) == 3  # Spark makes such folders


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"labels": ["ant", "bee"]}, "label is string and not int64, as in train-0"),
        ({"labels": [0, 1], "column": "labels"}, "label is missing and not int64"),
        ({"labels": [0, 1], "names": ["bee", "ant"]}, "class names are not those of train-0"),
    ],
)
def test_files_of_other_columns_or_classes_are_named_with_the_difference(tmp_path, other, message):
    pixels, labels = random_pixels(4), other.pop("labels")
    shard(tmp_path / "set/train-0.parquet", pixels[:2], [0, 1], names=["ant", "bee"])
    shard(tmp_path / "set/train-1.parquet", pixels[2:], labels, **other)
    shard(tmp_path / "set/test-0.parquet", random_pixels(5)[4:], [0], names=["ant", "bee"])
    with pytest.raises(UserError, match=message) as caught:
        source("data=pack", f"data.train={tmp_path / 'set'}").load()
    assert "train-1.parquet" in caught.value.where


def test_files_whose_names_tell_no_split_are_all_read(tmp_path):
    pixels = random_pixels(6)
    for number in range(3):
        shard(tmp_path / f"set{number % 2}/{number}.parquet", pixels[2 * number :][:2], [0, 1])
    splits = pack(tmp_path / "set0", tmp_path / "set1").load()
    assert np.array_equal(shown(splits.train), pixels[[0, 1, 4, 5]])
    assert np.array_equal(shown(splits.test), pixels[2:4])


def test_a_parquet_file_of_another_layout_is_refused(tmp_path):
    other = tmp_path / "other.parquet"
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "x.parquet")
    shard(other, random_pixels(1), [0])
    with pytest.raises(UserError, match=r"no column image or img; found text"):
        pack(tmp_path / "x.parquet", other).load()
    (tmp_path / "y.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        pack(tmp_path / "y.parquet", other).load()


def test_a_parquet_file_that_unpacks_beyond_the_limits_is_refused(tmp_path, monkeypatch):
    shard(tmp_path / "a.parquet", random_pixels(3), [0, 1, 0])
    shard(tmp_path / "b.parquet", random_pixels(2), [0, 1])
    monkeypatch.setattr(arrays, "MAX_UNPACKED_BYTES", 300)
    with pytest.raises(UserError, match="above 300 bytes"):
        pack(tmp_path / "a.parquet", tmp_path / "b.parquet").load()


@pytest.mark.parametrize(
    ("labels", "classes", "names", "indices"),
    [
        ([1.0, 0.0, 2.0], {}, ["0", "1", "2"], [1, 0, 2]),
        (["cat", "ant", "cat"], {}, ["ant", "cat"], [1, 0, 1]),
        (pa.array(["cat", "ant", "cat"]).dictionary_encode(), {}, ["ant", "cat"], [1, 0, 1]),
        ([b"cat", b"ant", b"cat"], {}, ["ant", "cat"], [1, 0, 1]),
        (["cat", "ant", "cat"], {"names": ["cat", "ant"]}, ["cat", "ant"], [0, 1, 0]),
        ([[0, 1], [1, 0], [0, 1]], {}, ["0", "1"], [1, 0, 1]),
        ([True, False, True], {}, ["0", "1"], [1, 0, 1]),
        ([0, 1, 0], {"names": ["b'cat'", "b'ant'"]}, ["cat", "ant"], [0, 1, 0]),
    ],
)
def test_labels_of_parquet_files_are_read_by_the_rule_of_all(
    tmp_path, labels, classes, names, indices
):
    for number, name in enumerate(("train", "test")):
        pixels = random_pixels(6)[3 * number :][:3]
        shard(tmp_path / f"{name}.parquet", pixels, labels, **classes)
    splits = pack(tmp_path / "train.parquet", tmp_path / "test.parquet").load()
    assert splits.train.labels.tolist() == splits.test.labels.tolist() == indices
    assert splits.info.class_names == names


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0.0, 0.7, 1.0], r"1 of 3 labels are not whole numbers \(the first: 0.7 of image 1\)"),
        ([0, None, None], "2 of 3 labels are missing"),
        (["ant", None, "ant"], "1 of 3 labels are missing"),
        ([0, -1, -1], r"2 of 3 labels are negative \(the first: -1 of image 1\)"),
        (
            [[0], [0, 1], []],
            r"unequal lengths(.|\n)*column label \(list<.*int64>(.|\n)*not supported",
        ),
    ],
)
def test_labels_of_parquet_files_that_are_none_are_refused(tmp_path, labels, message):
    shard(tmp_path / "a.parquet", random_pixels(3), labels)
    with pytest.raises(UserError, match=message):
        pack(tmp_path / "a.parquet").load()


def save(path, pixels, label, **more):
    np.savez(path, images=pixels, label=np.asarray(label), **more)
    return path


@pytest.mark.parametrize(
    "keys",
    [("{}_images", "{}_labels"), ("{}_images", "{}_label"), ("x_{}", "y_{}")],
)
def test_one_file_holds_the_images_of_all_splits(tmp_path, keys):
    pixels, parts = (
        random_pixels(9),
        {"train": slice(0, 4), "val": slice(4, 6), "test": slice(6, 9)},
    )
    labels = np.array([0, 1, 2, 0, 1, 1, 2, 1, 0])[:, None]  # as MedMNIST has them
    content = {}
    for split, rows in parts.items():
        image, label = (key.format(split) for key in keys)
        content |= {image: pixels[rows], label: labels[rows]}
    np.savez(tmp_path / "med.npz", **content)
    for data in (
        source("data=pack", f"data.train={tmp_path / 'med.npz'}"),
        pack(tmp_path / "med.npz", tmp_path / "med.npz"),
    ):
        splits = data.load()
        assert np.array_equal(shown(splits.train), pixels[:4])
        assert np.array_equal(shown(splits.test), pixels[6:])
        assert splits.train.labels.tolist() == [0, 1, 2, 0]
        assert splits.test.labels.tolist() == [2, 1, 0]
        assert splits.info.name == "med"
        assert splits.info.unused == {"image of the split val": 2}
    for name in ("test_images", "test_labels", "test_label", "x_test", "y_test"):
        content.pop(name, None)
    np.savez(tmp_path / "two.npz", **content)
    splits = source("data=pack", f"data.train={tmp_path / 'two.npz'}", "data.classes=train").load()
    assert np.array_equal(shown(splits.test), pixels[4:6])
    assert splits.info.unused == {}
    assert "split val" in splits.info.notices[0]


@shared
def test_the_npz_of_fashion_mnist_is_a_pack_too():
    path = IMAGES / "fashion_mnist_7k2k.npz.xz"
    splits = source("data=pack", f"data.train={path}").load()
    other = source("data=fashionmnist", f"data.root={path}").load()
    assert torch.equal(splits.train.images, other.train.images)
    assert torch.equal(splits.test.labels, other.test.labels)
    assert splits.info.class_names[9] == "Ankle boot"


def test_a_pack_whose_arrays_are_others_names_all_of_them(tmp_path):
    np.savez(tmp_path / "a.npz", pictures=random_pixels(2), kind=[0, 1])
    with pytest.raises(UserError, match=r"found pictures, kind(.|\n)*train_images"):
        pack(tmp_path / "a.npz").load()
    np.save(tmp_path / "b.npy", random_pixels(2))
    with pytest.raises(UserError, match=r"one array \(\.npy\)"):
        pack(tmp_path / "b.npy").load()


@pytest.mark.parametrize(
    ("label", "more", "message"),
    [
        ([0, 0.7, 1, 1], {}, "1 of 4 labels are not whole numbers"),
        ([0, 1, 0, 1], {"labels": np.array([0, 1, 1, 1])}, "label and labels(.|\n)*keep only"),
        ([0, 1, 0, 1], {"class_names": np.array(["cat", "cat"])}, "more than once: cat"),
        ([0, 1, 0, 1], {"bbox": np.zeros((3, 4))}, r"bbox must be \(4, 4\), got float64 \(3, 4\)"),
        ([0, 1, 0, 1], {"bbox": np.full((4, 4), np.nan)}, "bbox holds NaN"),
        ([0, 1, 0, 1], {"bbox": np.full((4, 4), "7")}, r"bbox must be \(4, 4\), got <U1"),
        ([0, 1, 0, 1], {"original_index": np.array([0, 1.5, 2, 3])}, "1 of 4 original_index"),
        (
            [0, 1, 0, 1],
            {"original_index": np.array([0, -1, 2, 3])},
            "negative(.|\n)*give the place",
        ),
        (np.eye(4)[[0, 1, 2, 3]] + np.eye(4)[0], {}, "not one-hot(.|\n)*one class per image"),
        ([[0, 0], [1, 1], [0, 0], [1, 0]], {}, "1 of 4 images have several(.|\n)*not supported"),
    ],
)
def test_a_pack_with_a_doubtful_array_is_refused(tmp_path, label, more, message):
    save(tmp_path / "a.npz", random_pixels(4), label, **more)
    save(tmp_path / "b.npz", random_pixels(5)[1:], [0, 1, 0, 1])
    with pytest.raises(UserError, match=message):
        pack(tmp_path / "a.npz", tmp_path / "b.npz").load()


def test_both_label_arrays_may_stand_there_if_they_agree(tmp_path):
    save(tmp_path / "a.npz", random_pixels(2), [1, 0], labels=np.array([1, 0]))
    assert pack(tmp_path / "a.npz").load().train.labels.tolist() == [1, 0]


@pytest.mark.parametrize("offsets", [[0, 9, 5], [0, 5, 10**6], [0, 1.5, 3], [-1, 2, 3]])
def test_offsets_that_are_no_bounds_of_files_are_refused(tmp_path, offsets):
    blob = np.frombuffer(encoded(random_pixels(1)[0]), np.uint8)
    np.savez(tmp_path / "a.npz", jpeg=blob, offsets=np.array(offsets), label=[0, 1])
    with pytest.raises(UserError, match="offsets") as caught:
        pack(tmp_path / "a.npz").load()
    assert "their bounds in order" in caught.value.todo


def test_class_names_of_bytes_are_text(tmp_path):
    for names in (np.array([b"cat", b"ant"]), np.array(["b'cat'", "b'ant'"])):
        save(tmp_path / "a.npz", random_pixels(2), [1, 0], class_names=names)
        assert pack(tmp_path / "a.npz").load().info.class_names == ["cat", "ant"]


def test_class_names_of_one_file_serve_both(tmp_path):
    names = np.array(["cat", "ant", "bee"])
    save(tmp_path / "a.npz", random_pixels(3), [1, 0, 2])
    save(tmp_path / "b.npz", random_pixels(6)[3:], [2, 0, 1], class_names=names)
    for train, test, labels in (("a", "b", [2, 0, 1]), ("b", "a", [1, 0, 2])):
        splits = pack(tmp_path / f"{train}.npz", tmp_path / f"{test}.npz").load()
        assert splits.info.class_names == ["cat", "ant", "bee"]
        assert splits.test.labels.tolist() == labels
    save(tmp_path / "c.npz", random_pixels(3), [1, 0, 3])
    with pytest.raises(UserError, match="training images have no class names"):
        pack(tmp_path / "c.npz", tmp_path / "b.npz").load()


def test_a_test_set_without_a_rare_class_is_usable_where_training_tells_the_classes(tmp_path):
    boxes = np.array([[0, 0, 1, 1]] * 3)
    save(tmp_path / "a.npz", random_pixels(3), ["ant", "bee", "cat"])
    save(tmp_path / "b.npz", random_pixels(6)[3:], ["cat", "ant", "cat"], bbox=boxes)
    with pytest.raises(UserError, match=r"bee only in training(.|\n)*data\.classes=train"):
        pack(tmp_path / "a.npz", tmp_path / "b.npz").load()
    splits = pack(tmp_path / "a.npz", tmp_path / "b.npz", "data.classes=train").load()
    assert splits.test.labels.tolist() == [2, 0, 2]
    assert splits.test.boxes[:, 0, 0].tolist() == [2, 0, 2]  # pyright: ignore
    assert splits.info.num_classes == 3
    assert splits.info.notices == ["no test image of 1 of 3 classes: bee"]
    prepare(pack(tmp_path / "a.npz", tmp_path / "b.npz", "data.classes=train"))
    with pytest.raises(UserError, match="bee only in training"):
        pack(tmp_path / "a.npz", tmp_path / "b.npz").load()
    with pytest.raises(UserError, match=r"data\.classes must be one of both, train"):
        pack(tmp_path / "a.npz", tmp_path / "b.npz", "data.classes=test")


def test_labels_with_gaps_are_said_and_keep_an_output_for_each_number(tmp_path):
    save(tmp_path / "a.npz", random_pixels(3), [0, 5, 10])
    info = pack(tmp_path / "a.npz").load().info
    assert info.num_classes == 11
    assert any("11 outputs for 3 classes" in notice for notice in info.notices)


def test_one_file_is_not_for_training_and_test(tmp_path):
    train = save(tmp_path / "a.npz", random_pixels(2), [0, 1])
    os.link(train, tmp_path / "linked.npz")
    shutil.copy(train, tmp_path / "copied.npz")
    shard(tmp_path / "a.parquet", random_pixels(2), [0, 1])
    for own, test in ((train, train), (train, "linked.npz"), (train, "copied.npz")):
        with pytest.raises(UserError, match=r"the same: .*a\.npz(.|\n)*data\.test"):
            pack(own, tmp_path / test).fingerprint()
    shutil.copytree(tmp_path, tmp_path / "set", ignore=lambda *_: ["set"])
    with pytest.raises(UserError, match=r"the same: .*a\.parquet"):
        pack(tmp_path / "a.parquet", tmp_path / "set").load()
    shutil.copy(tmp_path / "a.parquet", tmp_path / "set/train-0.parquet")
    (tmp_path / "set/a.parquet").rename(tmp_path / "set/test-0.parquet")
    with pytest.raises(UserError, match=r"the same: .*train-0\.parquet"):
        source("data=pack", f"data.train={tmp_path / 'set'}").load()


def test_images_in_both_parts_are_counted_in_every_run(tmp_path):
    pixels, other = random_pixels(8), random_pixels(8, 6)
    save(tmp_path / "a.npz", pixels[:5], [0, 1, 0, 1, 0])
    save(tmp_path / "b.npz", pixels[3:], [0, 1, 0, 1, 0])
    for words in ([], ["data.size=4"], ["data.limit=4"]):
        info = pack(tmp_path / "a.npz", tmp_path / "b.npz", *words).load().info
        assert info.shared_images == 2
        assert info.notices == ["2 of 5 test images are also training images"]
    save(tmp_path / "c.npz", pixels[5:], [0, 1, 0])
    info = pack(tmp_path / "a.npz", tmp_path / "c.npz").load().info
    assert (info.shared_images, info.notices) == (0, [])
    for name, rows in (("d", slice(0, 6)), ("e", slice(4, 8))):
        shard(tmp_path / f"{name}.parquet", other[rows], np.arange(8)[rows] % 2)
    data = pack(tmp_path / "d.parquet", tmp_path / "e.parquet")
    assert data.load().info.shared_images == 2
    prepare(data)
    assert read_prepared(data) is not None
    assert data.load().info.shared_images == 2
    kept = pack(tmp_path / "d.parquet", tmp_path / "e.parquet", "data.crop_area=0.5", "data.size=4")
    info = kept.load().info
    assert info.shared_images is None
    assert "data check" in info.notices[0]


def test_images_that_cannot_be_read_are_not_shared(tmp_path):
    for name, rows in (("train", slice(0, 3)), ("test", slice(2, 5))):
        blobs = [b"", b"<html>", *map(encoded, random_pixels(5)[rows])]
        offsets = np.cumsum([0, *map(len, blobs)])
        blob = np.frombuffer(b"".join(blobs), np.uint8)
        np.savez(tmp_path / f"{name}.npz", jpeg=blob, offsets=offsets, label=[0, 1, 0, 1, 0])
    data = pack(tmp_path / "train.npz", tmp_path / "test.npz", "data.on_corrupt=skip")
    assert data.load().info.shared_images == 1
    torn = encoded(random_pixels(9)[8])[:-30]  # its head is whole
    for name, row in (("a", 0), ("b", 1)):
        images = [{"bytes": raw} for raw in (torn, encoded(random_pixels(2)[row]))]
        pq.write_table(pa.table({"image": images, "label": [0, row]}), tmp_path / f"{name}.parquet")
    words = ("data.on_corrupt=skip", "data.classes=train")
    assert (
        pack(tmp_path / "b.parquet", tmp_path / "a.parquet", *words).load().info.shared_images == 0
    )


def test_training_and_test_images_of_two_sizes_need_one(tmp_path):
    save(tmp_path / "a.npz", random_pixels(2, 5), [0, 1])
    save(tmp_path / "b.npz", random_pixels(2, 6), [0, 1])
    with pytest.raises(UserError, match=r"5x5 pixels and test images 6x6(.|\n)*data\.size"):
        pack(tmp_path / "a.npz", tmp_path / "b.npz").load()
    splits = pack(tmp_path / "a.npz", tmp_path / "b.npz", "data.size=4").load()
    assert splits.train.shape == splits.test.shape == (3, 4, 4)


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"needs pyarrow.*\n.*\n.*mixbench\[parquet\]"):
        parquet.read_parquet(tmp_path, [tmp_path / "x.parquet"])


def nearest_neighbour_accuracy(train, test):
    """Top-1 in percent of the nearest training image, on pixels in [0, 1]."""
    x = train.images.flatten(1).float() / 255
    squares = x.square().sum(dim=1)
    right = 0
    for images, labels in zip(test.images.split(500), test.labels.split(500), strict=True):
        y = images.flatten(1).float() / 255
        nearest = (squares - 2 * y @ x.T).argmin(dim=1)
        right += int((train.labels[nearest] == labels).sum())
    return 100 * right / len(test)


@shared
def test_the_neighbours_of_fashion_mnist_agree_as_often_as_they_should():
    root = IMAGES / "fashion_mnist_7k2k.npz.xz"
    splits = source("data=fashionmnist", f"data.root={root}").load()
    assert nearest_neighbour_accuracy(splits.train, splits.test) == pytest.approx(79.1, abs=0.06)


@shared
@pytest.mark.slow
def test_the_neighbours_of_cifar100_agree_as_often_as_they_should():
    splits = pack(IMAGES / "cifar100_train10k.npz", IMAGES / "cifar100_test2k.npz").load()
    assert nearest_neighbour_accuracy(splits.train, splits.test) == pytest.approx(11.1, abs=0.06)


def test_the_constants_of_bc_plus_are_those_of_the_training_images(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 200, (9, 6, 6, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=pixels, label=np.arange(9) % 2)
    info = pack(tmp_path / "a.npz").load().info
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    expected = channel_stats(images, subtract_image_mean=True)
    assert (info.residual_mean, info.residual_std) == expected
    assert info.mean != info.residual_mean


@pytest.mark.parametrize("key", ["images", "label", "class_names", "bbox"])
def test_a_single_value_in_place_of_an_array_is_refused(tmp_path, key):
    good = {"images": random_pixels(2), "label": [0, 1], "class_names": ["a", "b"]}
    np.savez(tmp_path / "a.npz", **good)
    np.savez(tmp_path / "b.npz", **(good | {key: np.array(3)}))
    with pytest.raises(UserError, match=f"{key} is a single value"):
        pack(tmp_path / "a.npz", tmp_path / "b.npz").load()


def undivided(path, kind="images", repeated=False):
    """A pack of 20 images of two classes; the last two are equal where they are repeated."""
    pixels = random_pixels(20, 8)
    if repeated:
        pixels[-1] = pixels[-2]
    labels = np.array(["cat"] * 12 + ["dog"] * 8)
    if kind == "parquet":
        shard(path / "pets.parquet", pixels, labels)
        return path / "pets.parquet"
    arrays = {"images": pixels}
    if kind == "jpeg":
        files = [np.frombuffer(encoded(image), np.uint8) for image in pixels]
        ends = np.cumsum([0, *map(len, files)])
        arrays = {"jpeg": np.concatenate(files), "offsets": ends}
    boxes = np.tile([0, 0, 3, 4], (20, 1)) + np.arange(20)[:, None] % 4
    np.savez(
        path / "pets.npz", **arrays, label=labels, bbox=boxes, original_index=np.arange(20) + 50
    )
    return path / "pets.npz"


@pytest.mark.parametrize("kind", ["images", "jpeg", "parquet"])
def test_a_part_of_each_class_of_a_pack_is_set_aside_and_recorded(tmp_path, kind):
    data = source("data=pack", f"data.train={undivided(tmp_path, kind)}", "data.test_fraction=0.25")
    splits = data.load()
    assert splits.test.labels.bincount().tolist() == [3, 2]
    assert splits.train.labels.bincount().tolist() == [9, 6]
    assert splits.info.class_names == ["cat", "dog"]
    seen = np.concatenate([shown(splits.train), shown(splits.test)])
    assert len(np.unique(seen.reshape(20, -1), axis=0)) == 20
    labels = splits.train.labels.tolist() + splits.test.labels.tolist()
    truth = {image.tobytes(): int(row >= 12) for row, image in enumerate(random_pixels(20, 8))}
    assert [truth[image.tobytes()] for image in seen] == labels
    assert splits.info.division.startswith("25 % of each class, seed 0, sha256:")
    assert data.train_count() == 15
    assert any("5 of 20 images, are set aside" in note for note in splits.info.notices)
    if kind != "parquet":
        train, test = data.original_rows()
        assert sorted([*train.tolist(), *test.tolist()]) == list(range(50, 70))
        places = [
            next(r for r, i in enumerate(random_pixels(20, 8)) if (i == image).all())
            for image in seen
        ]
        assert [*train.tolist(), *test.tolist()] == [50 + place for place in places]
        boxes = torch.cat([splits.train.boxes, splits.test.boxes])[:, 0]
        assert boxes[:, 2].tolist() == [place % 4 for place in places]


@pytest.mark.parametrize("kind", ["images", "jpeg", "parquet"])
def test_folds_of_a_pack_test_each_image_once_and_are_one_set(tmp_path, kind):
    path, tested, known = undivided(tmp_path, kind), [], set()
    for fold in range(3):
        given = ("data=pack", f"data.train={path}", "data.folds=3", f"data.fold={fold}")
        prepare(source(*given))  # which must not serve the other folds
        data = source(*given)
        splits = data.load()
        tested += [image.tobytes() for image in shown(splits.test)]
        known.add(data.fingerprint())
        assert data.train_count() == 13
        assert splits.info.division.startswith(f"fold {fold} of 3, seed 0, sha256:")
    assert len(tested) == len(set(tested)) == 20
    assert len(known) == 1
    whole = source("data=pack", f"data.train={path}", "data.test_fraction=0.5")
    assert whole.fingerprint() not in known


def test_equal_images_of_a_pack_stand_on_one_side(tmp_path):
    path = undivided(tmp_path, repeated=True)
    for fraction in (0.1, 0.3, 0.5, 0.7):
        data = source("data=pack", f"data.train={path}", f"data.test_fraction={fraction}")
        sides = [{image.tobytes() for image in shown(part)} for part in data.read()[:2]]
        assert not sides[0] & sides[1]


def test_a_pack_without_test_images_is_told_how_to_get_some(tmp_path):
    path = undivided(tmp_path)
    with pytest.raises(UserError, match=r"data\.test is not given") as error:
        source("data=pack", f"data.train={path}").load()
    assert "data.test_fraction" in error.value.todo
    with pytest.raises(UserError, match="test images of its own"):
        pack(path, None, "data.test_fraction=0.2").load()
