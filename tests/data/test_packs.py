from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from making import encoded, source

from mixbench.data import parquet
from mixbench.data.images import channel_stats
from mixbench.errors import UserError
from mixbench.nn.imagenet import WNIDS

SHARED = Path(__file__).parents[3] / "shared" / "data"
shared = pytest.mark.skipif(
    not SHARED.is_dir(), reason="the real image data is not beside the checkout"
)


@pytest.fixture(autouse=True)
def data_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MIXBENCH_DATA", str(tmp_path / "data"))


def pack(train, test=None):
    return source("data=pack", f"data.train={train}", f"data.test={test or train}")


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
    splits = pack(SHARED / file).load()
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
    splits = pack(SHARED / "imagenet_sample64_224.npz").load()
    assert (len(splits.test), splits.info.num_classes) == (64, 1000)
    assert splits.test.shape == (3, 224, 224)
    assert splits.test.labels.unique().numel() == 64
    assert splits.info.class_names[0] == "tench"
    assert splits.info.class_ids == []  # not of classes without an image
    with np.load(SHARED / "imagenet_sample64_224.npz") as archive:
        assert [WNIDS[row] for row in archive["label"]] == archive["wnid"].tolist()


@shared
def test_the_boxes_of_a_pack_are_those_of_its_annotations():
    path = SHARED / "tinyimagenet_val2k.npz"
    boxes = pack(path).read().test.boxes[:, 0]
    with np.load(path) as archive:
        xmin, ymin, xmax, ymax = archive["bbox"].T
        expected = np.stack([archive["label"], ymin, xmin, ymax + 1, xmax + 1], axis=1)
    assert np.array_equal(boxes.numpy(), expected)


@shared
def test_the_parquet_sample_holds_the_images_of_the_pack():
    sample = pack(SHARED / "cifar10_hf_sample120.parquet").load()
    whole = pack(SHARED / "cifar10_test10k.npz").load()
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
    monkeypatch.setattr(parquet, "ROWS", 3)
    monkeypatch.setattr(pq, "read_table", None)
    splits = pack(tmp_path / "x.parquet").load()
    assert splits.train.images[:, 0, 0, 0].tolist() == [9 * n for n in range(7)]
    assert splits.train.labels.tolist() == [0, 1, 0, 1, 0, 1, 1]


def test_a_folder_of_parquet_files_is_one_set(tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (6, 5, 5, 3), dtype=np.uint8)
    (tmp_path / "set").mkdir()
    for part in range(2):
        rows = range(3 * part, 3 * part + 3)
        images = [{"bytes": encoded(pixels[row]), "path": None} for row in rows]
        table = pa.table({"img": images, "fine_label": list(rows)})
        pq.write_table(table, tmp_path / "set" / f"train-{part}.parquet")
    splits = pack(tmp_path / "set").load()
    assert np.array_equal(splits.train.images.permute(0, 2, 3, 1).numpy(), pixels)
    assert splits.train.labels.tolist() == list(range(6))
    assert splits.info.class_names == [str(k) for k in range(6)]
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "x.parquet")
    with pytest.raises(UserError, match=r"no column image or img; found text"):
        pack(tmp_path / "x.parquet").load()
    (tmp_path / "y.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(UserError, match="not readable as Parquet"):
        pack(tmp_path / "y.parquet").load()


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"needs pyarrow.*\n.*\n.*mixbench\[parquet\]"):
        parquet.read_parquet(tmp_path / "x.parquet")


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
    root = SHARED / "fashion_mnist_7k2k.npz.xz"
    splits = source("data=fashionmnist", f"data.root={root}").load()
    assert nearest_neighbour_accuracy(splits.train, splits.test) == pytest.approx(79.1, abs=0.06)


@shared
@pytest.mark.slow
def test_the_neighbours_of_cifar100_agree_as_often_as_they_should():
    splits = pack(SHARED / "cifar100_train10k.npz", SHARED / "cifar100_test2k.npz").load()
    assert nearest_neighbour_accuracy(splits.train, splits.test) == pytest.approx(11.1, abs=0.06)


def test_the_constants_of_bc_plus_are_those_of_the_training_images(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 200, (9, 6, 6, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=pixels, label=np.arange(9) % 2)
    info = pack(tmp_path / "a.npz").load().info
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    expected = channel_stats(images, subtract_image_mean=True)
    assert (info.residual_mean, info.residual_std) == expected
    assert info.mean != info.residual_mean
