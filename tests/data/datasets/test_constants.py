"""Constants that were typed from a source, against the images, other libraries, or the source."""

import inspect
import io
import lzma
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from making import source
from paths import SHARED
from PIL import Image
from sklearn.datasets import load_digits
from timm.data import ImageNetInfo
from torchvision.datasets import voc
from torchvision.transforms import RandomResizedCrop

from mixbench.data import DATA
from mixbench.data.augment import images as augment
from mixbench.data.augment import views
from mixbench.data.datasets.voc import VOC_CLASSES
from mixbench.nn.imagenet import WNIDS

IMAGES = SHARED / "data"

shared = pytest.mark.skipif(
    not IMAGES.is_dir(), reason="the real image data is not beside the checkout"
)
IMAGENET = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.transforms()
PUBLISHED = {"cifar10", "cifar100", "fashionmnist", "tinyimagenet", "imagenet", "cub200", "voc2007"}
PUBLISHED |= {"coco"}


def photographs(name, count=2000):
    """Evenly spaced images of a pack of JPEG files, (N, H * W, 3) in [0, 1]."""
    with np.load(IMAGES / name) as pack:
        raw, offsets = pack["jpeg"], pack["offsets"]
    rows = np.linspace(0, len(offsets) - 2, min(count, len(offsets) - 1)).astype(int)
    files = (raw[offsets[row] : offsets[row + 1]].tobytes() for row in rows)
    images = [np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files]
    return np.stack(images).reshape(len(images), -1, 3) / 255


def clothes():
    with np.load(io.BytesIO(lzma.open(IMAGES / "fashion_mnist_7k2k.npz.xz").read())) as pack:
        return pack["train_images"].reshape(7000, -1, 1) / 255, pack["class_names"].tolist()


def assert_statistics(images, constants):
    """Mean and deviation of images agree with constants, up to four errors of the sample."""
    published = (np.unique(values) if images.shape[2] == 1 else values for values in constants[:2])
    means, squares = images.mean(axis=1), (images**2).mean(axis=1)
    mean = means.mean(axis=0)
    deviation = np.sqrt(squares.mean(axis=0) - mean**2)
    noise = means.std(axis=0) / len(images) ** 0.5
    spread = (squares - 2 * mean * means).std(axis=0) / len(images) ** 0.5 / (2 * deviation)
    for found, value, error in zip((mean, deviation), published, (noise, spread), strict=True):
        assert (error < 0.004).all()
        assert (np.abs(found - value) < 4 * error + 5e-4).all(), (found, value, error)


def test_every_data_set_with_constants_is_held_against_something():
    given = {name for name in DATA.names() if DATA.get(name).constants is not None}
    assert given == PUBLISHED


@shared
@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("cifar10", "cifar10_train30k.npz"),
        ("cifar100", "cifar100_train10k.npz"),
        ("tinyimagenet", "tinyimagenet_train6k.npz"),
    ],
)
def test_mean_and_deviation_are_those_of_the_images(name, pack):
    assert_statistics(photographs(pack), DATA.get(name).constants)


@shared
def test_fashion_mnist_has_the_statistics_and_names_of_its_images():
    images, names = clothes()
    assert_statistics(images, DATA.get("fashionmnist").constants)
    assert list(DATA.get("fashionmnist").names) == names


def test_fashion_mnist_has_the_names_of_torchvision():
    assert list(DATA.get("fashionmnist").names) == torchvision.datasets.FashionMNIST.classes


def test_the_classes_of_voc_are_the_twenty_of_its_paper_in_alphabetical_order():
    assert list(VOC_CLASSES) == sorted(VOC_CLASSES)  # Everingham et al., IJCV 2010, table 1
    assert len(set(VOC_CLASSES)) == 20


@pytest.mark.parametrize("name", ["imagenet", "cub200", "voc2007", "coco"])
def test_photographs_are_normalised_as_torchvision_normalises_imagenet(name):
    mean, std, *_ = DATA.get(name).constants
    assert (mean, std) == (IMAGENET.mean, IMAGENET.std)


def test_checksums_of_archives_are_those_that_torchvision_checks():
    theirs = torchvision.datasets
    known = {
        "cifar10": [theirs.CIFAR10.tgz_md5],
        "cifar100": [theirs.CIFAR100.tgz_md5],
        "fashionmnist": [md5 for _, md5 in theirs.FashionMNIST.resources],
        "voc2007": [voc.DATASET_YEAR_DICT[key]["md5"] for key in ("2007", "2007-test")],
    }
    for name, md5s in known.items():
        assert [each.md5 for each in DATA.get(name).official_files] == md5s
    files = {
        "cifar10": [theirs.CIFAR10.filename],
        "cifar100": [theirs.CIFAR100.filename],
        "fashionmnist": [file for file, _ in theirs.FashionMNIST.resources],
        "voc2007": [voc.DATASET_YEAR_DICT[key]["filename"] for key in ("2007", "2007-test")],
    }
    for name, names in files.items():
        assert [each.file for each in DATA.get(name).official_files] == names
        assert all(each.url.endswith(each.file) for each in DATA.get(name).official_files)
    every = [each.md5 for n in PUBLISHED for each in getattr(DATA.get(n), "official_files", ())]
    assert all(re.fullmatch("[0-9a-f]{32}", md5) for md5 in every)
    assert len(set(every)) == len(every)


@shared
def test_the_classes_of_voc_are_those_of_its_lists():
    with zipfile.ZipFile(IMAGES / "voc2012_sample.zip") as archive:
        lists = [Path(name).stem for name in archive.namelist() if "/Main/" in name]
    names = {name.rpartition("_")[0] for name in lists if "_" in name}
    assert set(VOC_CLASSES) == names


def test_the_ids_of_imagenet_are_timm_s_in_its_order():
    assert list(WNIDS) == ImageNetInfo("imagenet-1k").label_names()
    assert list(WNIDS) == sorted(set(WNIDS))


@shared
def test_the_ids_of_imagenet_are_those_of_labelled_photographs():
    with np.load(IMAGES / "imagenet_sample64_224.npz") as pack:
        assert [WNIDS[label] for label in pack["label"]] == pack["wnid"].tolist()


def test_the_principal_colours_are_those_of_alexnet():
    # fb.resnet.torch, datasets/imagenet.lua; MXNet gives the deviations in pixels of [0, 255].
    assert (
        pytest.approx([55.46 / 255, 4.794 / 255, 1.148 / 255], abs=5e-5) == augment.COLOR_DEVIATIONS
    )
    directions = np.array(augment.COLOR_DIRECTIONS)
    assert directions.T @ directions == pytest.approx(np.eye(3), abs=5e-4)
    assert tuple(round(255 * value) for value in IMAGENET.mean) == augment.FILL


@shared
def test_the_principal_colours_are_those_of_photographs():
    images = photographs("imagenet_sample64_224.npz")[:, ::16].reshape(-1, 3)
    values, vectors = np.linalg.eigh(np.cov(images.T))
    assert list(values) == sorted(values)
    along = np.abs((vectors[:, ::-1] * np.array(augment.COLOR_DIRECTIONS)).sum(axis=0))
    # Cosines of brightness, blue against red, green against both; 64 images settle the first.
    assert (along > [0.999, 0.85, 0.85]).all()


def test_views_are_drawn_with_the_numbers_of_moco_and_torchvision():
    assert inspect.signature(RandomResizedCrop).parameters["ratio"].default == views.RATIO
    # MoCo v2, main_moco.py: ColorJitter(0.4, 0.4, 0.4, 0.1), blur of [0.1, 2.0] pixels.
    assert views.STRENGTH == (0.4, 0.4, 0.4, 0.1)
    assert views.SIGMA == (0.1, 2.0)
    colours = torch.eye(3)[:, :, None, None]
    grey = torchvision.transforms.functional.rgb_to_grayscale(colours).flatten()
    assert torch.allclose(grey, torch.tensor(views._GREY))


def test_digits_are_scikit_learns_enlarged_and_divided_by_class():
    splits = source("data=digits").load()
    assert (len(splits.train), len(splits.test)) == (1437, 360)
    own, stored = load_digits(), torch.cat([splits.train.images, splits.test.images])  # pyright: ignore
    small = stored[:, :, ::4, ::4]
    assert torch.equal(small.repeat_interleave(4, 2).repeat_interleave(4, 3), stored)
    assert torch.equal(small, small[:, :1].expand(-1, 3, -1, -1))
    expected = (own.images * 255 / 16).round().astype(np.uint8)  # of 16 levels

    def known(images, labels):
        return sorted((image.tobytes(), int(y)) for image, y in zip(images, labels, strict=True))

    labels = torch.cat([splits.train.labels, splits.test.labels])
    assert known(small[:, 0].numpy(), labels) == known(expected, own.target)
    shares = splits.test.labels.bincount() / torch.from_numpy(own.target).bincount()
    assert (shares - 360 / 1797).abs().max() < 0.01
    pixels = splits.train.images.double() / 255  # pyright: ignore
    assert splits.info.mean == pytest.approx(pixels.mean(dim=(0, 2, 3)).tolist())
    assert splits.info.std == pytest.approx(pixels.std(dim=(0, 2, 3), correction=0).tolist())
