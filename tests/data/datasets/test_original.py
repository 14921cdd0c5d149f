import gzip
import hashlib
import io
import os
import pickle
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from making import twin
from paths import SHARED
from PIL import Image

from mixbench.config.compose import compose
from mixbench.data import DATA
from mixbench.data.datasets.original import OfficialFile
from mixbench.data.files import download
from mixbench.errors import UserError

IMAGES = SHARED / "data"

shared = pytest.mark.skipif(
    not IMAGES.is_dir(), reason="the real image data is not beside the checkout"
)


def source(*words):
    config = compose(list(words)).data
    return DATA.get(config.kind)(config)


@pytest.fixture(autouse=True)
def data_folder(tmp_path, monkeypatch):
    """An empty folder of data sets, and no network."""
    monkeypatch.setenv("MIXBENCH_DATA", str(tmp_path / "data"))

    def refuse(*args, **kwargs):
        raise download.urllib.error.URLError(download.socket.gaierror(-2, "no network"))

    monkeypatch.setattr(download.urllib.request, "urlopen", refuse)
    return tmp_path / "data"


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (12, 3, 32, 32), dtype=np.uint8)


def write_cifar10(path, pixels, labels, **changes):
    """Five batches of two images and a test batch of two."""
    batches = {f"data_batch_{n + 1}": slice(2 * n, 2 * n + 2) for n in range(5)}
    batches["test_batch"] = slice(10, 12)
    content = {
        name: {"data": pixels[rows].reshape(2, -1), "labels": labels[rows]}
        for name, rows in batches.items()
    }
    content["batches.meta"] = {"label_names": ["ant", "bee", "cat"]}
    content |= changes
    with tarfile.open(path, "w:gz") as archive:
        for name, value in content.items():
            raw = pickle.dumps(value, 2)
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(raw)
            archive.addfile(info, io.BytesIO(raw))
    return path


def write_tiny(path, val=(("val_0.JPEG", "n2"), ("val_1.JPEG", "n1"), ("val_2.JPEG", "n2"))):
    """Classes n2 and n1, in the order of wnids.txt, with two training images each."""
    names = {}
    for label, wnid in enumerate(("n2", "n1")):
        for k in range(2):
            names[f"train/{wnid}/images/{wnid}_{k}.JPEG"] = _png(40 * label + 20 * k)
        boxes = f"{wnid}_0.JPEG\t1\t2\t30\t40\n{wnid}_1.JPEG\t0\t0\t63\t63\n"
        names[f"train/{wnid}/{wnid}_boxes.txt"] = boxes.encode()
    for k in range(3):
        names[f"val/images/val_{k}.JPEG"] = _png(150 + k)
    lines = [f"{file}\t{wnid}\t{k}\t1\t10\t11" for k, (file, wnid) in enumerate(val)]
    names["val/val_annotations.txt"] = "\n".join(lines).encode()
    names["wnids.txt"], names["words.txt"] = b"n2\nn1\n", b"n1\tone, uno\nn2\ttwo, dos\nn9\tx"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in names.items():
            archive.writestr(f"tiny-imagenet-200/{name}", content)
    return path


def _png(level):
    file = io.BytesIO()
    Image.fromarray(np.full((64, 64, 3), level, np.uint8)).save(file, "PNG")
    return file.getvalue()


def test_cifar_batches_are_joined_in_order(tmp_path, pixels):
    labels = [n % 3 for n in range(12)]
    path = write_cifar10(tmp_path / "mine.tar.gz", pixels, labels)
    splits = source("data=cifar10", f"data.root={path}").load()
    assert np.array_equal(splits.train.images.numpy(), pixels[:10])
    assert np.array_equal(splits.test.images.numpy(), pixels[10:])
    assert splits.train.labels.tolist() == labels[:10]
    assert splits.info.class_names == ["ant", "bee", "cat"]
    assert splits.info.name == "cifar10"
    assert splits.info.mean == [0.4914, 0.4822, 0.4465]  # published, not those of these images


def test_a_cifar_archive_that_would_run_something_is_refused_and_runs_nothing(tmp_path, pixels):
    class Hostile:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/hacked",)

    path = write_cifar10(tmp_path / "x.tar.gz", pixels, [0] * 12, test_batch=Hostile())
    with pytest.raises(UserError, match=r"test_batch is not what.*posix.system") as error:
        source("data=cifar10", f"data.root={path}").load()
    assert str(path) in str(error.value)
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"test_batch": {"labels": [1, 2]}}, "do not hold images and labels"),
        ({"test_batch": {"data": np.zeros((2, 99), np.uint8), "labels": [1, 2]}}, "do not hold"),
        (
            {"test_batch": {"data": np.zeros((2, 3072), np.uint8), "labels": [1]}},
            "2 images but 1 labels",
        ),
        (
            {"test_batch": {"data": np.zeros((2, 3072), np.uint8), "labels": [1, 3]}},
            "labels run from 1 to 3 but there are 3 class names",
        ),
    ],
)
def test_cifar_batches_that_do_not_fit_together_are_refused(tmp_path, pixels, changes, match):
    path = write_cifar10(tmp_path / "x.tar.gz", pixels, [0] * 12, **changes)
    with pytest.raises(UserError, match=match):
        source("data=cifar10", f"data.root={path}").load()


def test_a_data_set_is_looked_for_in_root_then_in_the_data_folder(tmp_path, pixels, data_folder):
    data_folder.mkdir()
    labels = [n % 3 for n in range(12)]
    official = write_cifar10(data_folder / "cifar-10-python.tar.gz", pixels, labels)
    other = write_cifar10(tmp_path / "other.tar.gz", pixels[::-1].copy(), labels)
    by_name, given = source("data=cifar10"), source("data=cifar10", f"data.root={other}")
    assert np.array_equal(by_name.load().train.images.numpy(), pixels[:10])
    assert np.array_equal(given.load().train.images.numpy(), pixels[::-1][:10])
    assert by_name.fingerprint() != given.fingerprint()
    folder = source("data=cifar10", f"data.root={data_folder}")
    assert folder.fingerprint() == by_name.fingerprint()
    with tarfile.open(official) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    for place in ("unpacked", "unpacked/cifar-10-batches-py"):
        unpacked = source("data=cifar10", f"data.root={tmp_path / place}")
        assert np.array_equal(unpacked.load().train.images.numpy(), pixels[:10])
    official.unlink()
    (tmp_path / "unpacked" / "cifar-10-batches-py").rename(data_folder / "cifar-10-batches-py")
    assert len(source("data=cifar10").load().train) == 10


def test_a_file_of_another_hash_is_not_official_and_its_own_hash_is_kept(tmp_path, pixels):
    path = write_cifar10(tmp_path / "x.tar.gz", pixels, [n % 3 for n in range(12)])
    data = source("data=cifar10", f"data.root={path}")
    assert data.fingerprint() == hashlib.sha256(path.read_bytes()).hexdigest()
    assert data.load().info.official is False
    md5 = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    twin = source("data=cifar10", f"data.root={path}")
    twin.official_files = (OfficialFile("cifar-10-python.tar.gz", None, md5),)
    assert twin.load().info.official is True


@pytest.mark.parametrize("name", ["cifar10", "fashionmnist", "tinyimagenet", "voc2007"])
def test_a_pipe_in_place_of_an_archive_is_refused_at_once(name, data_folder):
    data_folder.mkdir()
    for original in DATA.get(name).official_files:
        os.mkfifo(data_folder / original.file)
    for use in (source(f"data={name}").fingerprint, source(f"data={name}").load):
        with pytest.raises(UserError, match="a pipe stands in place of a file"):
            use()


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "fashionmnist", "tinyimagenet"])
def test_without_data_and_network_one_message_says_what_to_put_where(name, data_folder):
    with pytest.raises(UserError, match=f"{name} is not there") as error:
        source(f"data={name}").fingerprint()
    text = str(error.value)
    lines = text.splitlines()
    assert len(lines) == 3
    assert "no network" in lines[0]
    assert str(data_folder) in lines[1]
    for original in DATA.get(name).official_files:
        assert f"curl -fL -C - -o {data_folder / original.file} {original.url}" in lines[2]
    assert DATA.get(name).layout in lines[2]


def test_a_root_that_holds_something_else_is_refused_with_the_layout(tmp_path):
    for root in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UserError, match="tinyimagenet is not there") as error:
            source("data=tinyimagenet", f"data.root={root}").load()
        assert str(root) in str(error.value)
        assert "train/<wnid>/images" in str(error.value)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("readme", "")
    with pytest.raises(UserError, match=r"no wnids.txt for tinyimagenet") as error:
        source("data=tinyimagenet", f"data.root={tmp_path / 'x.zip'}").load()
    assert "x.zip" in str(error.value)


def test_the_flat_validation_folder_is_sorted_by_its_annotations(tmp_path):
    path = write_tiny(tmp_path / "tiny.zip")
    splits = source("data=tinyimagenet", f"data.root={path}").load()
    assert splits.info.class_names == ["one", "two"]  # sorted ids, not the order of wnids.txt
    assert splits.train.labels.tolist() == [0, 0, 1, 1]
    assert splits.train.images[:, 0, 0, 0].tolist() == [40, 60, 0, 20]
    assert splits.test.labels.tolist() == [1, 0, 1]
    assert splits.test.images[:, 0, 0, 0].tolist() == [150, 151, 152]
    assert splits.train.boxes.tolist()[:2] == [[[0, 2, 1, 41, 31]], [[0, 0, 0, 64, 64]]]
    assert splits.test.boxes[1].tolist() == [[0, 1, 1, 12, 11]]


@pytest.mark.parametrize(
    ("val", "match"),
    [
        ([("val_0.JPEG", "n7")], "classes that train/ lacks: n7"),
        ([("val_9.JPEG", "n1")], r"val_9.JPEG and 0 more are missing"),
        ([("../../secret.JPEG", "n1")], "secret.JPEG and 0 more are missing"),
        ([], "val/ is empty"),
    ],
)
def test_validation_annotations_that_do_not_fit_are_refused(tmp_path, val, match):
    path = write_tiny(tmp_path / "tiny.zip", val)
    with pytest.raises(UserError, match=match):
        source("data=tinyimagenet", f"data.root={path}").load()


def test_fashion_mnist_is_read_from_idx_files_and_npz_alike(tmp_path):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (8, 28, 28), dtype=np.uint8), np.arange(8, dtype=np.uint8)
    for part in ("train", "t10k"):
        head = {3: (8, 28, 28), 1: (8,)}
        for kind, rank, value in (("images", 3, images), ("labels", 1, labels)):
            numbers = np.array(head[rank], ">u4").tobytes()
            raw = bytes((0, 0, 8, rank)) + numbers + value.tobytes()
            path = tmp_path / f"{part}-{kind}-idx{rank}-ubyte.gz"
            path.write_bytes(gzip.compress(raw))
    arrays = {f"{part}_images": images for part in ("train", "test")}
    arrays |= {f"{part}_labels": labels for part in ("train", "test")}
    np.savez(tmp_path / "x.npz", **arrays)
    for root in (tmp_path, tmp_path / "x.npz", tmp_path / "t10k-images-idx3-ubyte.gz"):
        splits = source("data=fashionmnist", f"data.root={root}").load()
        assert np.array_equal(splits.train.images.numpy(), np.stack([images] * 3, 1))
        assert splits.test.labels.tolist() == list(range(8))
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(raw))
    with pytest.raises(UserError, match="not an idx file of bytes"):
        source("data=fashionmnist", f"data.root={tmp_path}").load()
    bomb = gzip.compress(b"\0" * 1_000_000)
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(bomb)
    with pytest.raises(UserError, match="more than 200 times"):
        source("data=fashionmnist", f"data.root={tmp_path}").load()


@shared
@pytest.mark.parametrize(
    ("name", "file", "sizes", "side", "classes", "first"),
    [
        ("cifar10", "cifar-10-python_mini.tar.gz", (100, 40), 32, 10, "airplane"),
        ("cifar100", "cifar-100-python_mini.tar.gz", (100, 50), 32, 100, "apple"),
        ("tinyimagenet", "tiny-imagenet-200_mini.zip", (60, 50), 64, 10, "dugong"),
        ("fashionmnist", "fashion_mnist_7k2k.npz.xz", (7000, 2000), 28, 10, "T-shirt/top"),
    ],
)
def test_each_miniature_loads_under_its_own_name(name, file, sizes, side, classes, first):
    splits = source(f"data={name}", f"data.root={IMAGES / file}").load()
    assert (len(splits.train), len(splits.test)) == sizes
    assert splits.train.shape == (3, side, side)
    assert splits.info.num_classes == len(splits.info.class_names) == classes
    assert splits.info.class_names[0] == first
    assert splits.info.official is False
    if name in ("cifar100", "fashionmnist"):
        per_class = sizes[0] // classes
        assert splits.train.labels.bincount().tolist() == [per_class] * classes
    if name == "tinyimagenet":
        assert splits.test.labels.bincount().tolist() == [5] * 10
        assert len(set(splits.info.class_ids)) == 10
        assert splits.info.class_ids == sorted(splits.info.class_ids)
        assert splits.info.class_ids[0] == "n02074367"  # the dugong
    else:
        assert splits.info.class_ids == []


@pytest.mark.slow
@shared
def test_the_cifar_miniature_holds_the_pixels_of_the_pack(tmp_path):
    mini = source("data=cifar10", f"data.root={IMAGES / 'cifar-10-python_mini.tar.gz'}").load()
    pack = IMAGES / "cifar10_test10k.npz"
    whole = source("data=pack", f"data.train={pack}", f"data.test={twin(pack, tmp_path)}").load()
    assert torch.equal(mini.test.labels, whole.test.labels[:40])  # both in the original order
    error = (mini.test.images.float() - whole.test.images[:40].float()).square().mean()
    assert 10 * torch.log10(255**2 / error) > 27  # dB; the pack is JPEG of quality 80


@shared
def test_the_boxes_of_the_tiny_imagenet_miniature_lie_inside_their_images():
    splits = source(
        "data=tinyimagenet", f"data.root={IMAGES / 'tiny-imagenet-200_mini.zip'}"
    ).load()
    for part in (splits.train, splits.test):
        label, top, left, bottom, right = part.boxes[:, 0].unbind(1)
        assert torch.equal(label.long(), part.labels)
        assert (top >= 0).all()
        assert (top < bottom).all()
        assert (left >= 0).all()
        assert (left < right).all()
        assert max(bottom.max(), right.max()) <= 64
