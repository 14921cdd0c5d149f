"""Published sets of corrupted images in both layouts, as small sets made by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mixbench.config.schema import DataInfo
from mixbench.data.corrupted import open_corrupted
from mixbench.data.images import ResidentImages, Splits
from mixbench.data.sampling import BatchIndex
from mixbench.errors import UnreadableImageError, UserError

NAMES = ["cat", "dog", "emu"]
IDS = ["n01", "n02", "n03"]
LABELS = [0, 1, 2, 1, 0, 2, 2, 1]


def splits(rows=range(8), names=False, side=16) -> Splits:
    """Test images at some places of a set of eight."""
    rows = list(rows)
    labels = torch.tensor(LABELS)[rows]
    images = torch.zeros(len(rows), 3, side, side, dtype=torch.uint8)
    info = DataInfo(3, side, side, class_names=NAMES, class_ids=IDS, name="zoo")
    test = ResidentImages(images, labels)
    files = [f"val/val_{row}.JPEG" for row in rows] if names else None
    return Splits(test, test, info, test_rows=torch.tensor(rows), test_names=lambda: files)


def value(name: str, severity: int, row: int) -> int:
    return 10 * severity + 100 * (name == "fog") + row


@pytest.fixture
def arrays(tmp_path: Path) -> Path:
    """A folder as CIFAR-10-C, each image of one grey value that tells what it is."""
    for name in ("fog", "snow"):
        levels = [value(name, s, row) for s in range(1, 6) for row in range(8)]
        images = np.array(levels, np.uint8)[:, None, None, None].repeat(16, 1).repeat(16, 2)
        np.save(tmp_path / f"{name}.npy", images.repeat(3, 3))
    np.save(tmp_path / "labels.npy", np.array(LABELS * 5, np.uint8))
    return tmp_path


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """A folder as ImageNet-C."""
    for name in ("fog", "snow"):
        for severity in range(1, 6):
            for row, label in enumerate(LABELS):
                folder = tmp_path / name / str(severity) / IDS[label]
                folder.mkdir(parents=True, exist_ok=True)
                level = value(name, severity, row)
                Image.new("RGB", (16, 16), (level,) * 3).save(folder / f"val_{row}.JPEG")
    (tmp_path / "fog" / "1" / "n01" / "notes.txt").write_text("no image")
    return tmp_path


def shown(images) -> list[int]:
    batch = images[BatchIndex(torch.arange(len(images)), 0)]
    assert batch.images.shape[1:] == images.shape
    assert torch.equal(batch.labels, images.labels)
    return batch.images[:, 0, 8, 8].tolist()


def test_severities_are_blocks_of_rows(arrays):
    files = open_corrupted(str(arrays), splits())
    files.check(["fog", "snow"])
    for name in ("fog", "snow"):
        for severity in range(1, 6):
            expected = [value(name, severity, row) for row in range(8)]
            assert shown(files.images(name, severity)) == expected


def test_arrays_stay_on_disk(arrays):
    images = open_corrupted(str(arrays), splits()).images("fog", 2)
    assert isinstance(images.array, np.memmap)  # pyright: ignore[reportAttributeAccessIssue]


def test_a_limited_test_set_takes_its_own_rows(arrays):
    rows = [1, 4, 6]
    images = open_corrupted(str(arrays), splits(rows)).images("fog", 3)
    assert shown(images) == [value("fog", 3, row) for row in rows]
    assert shown(images.subset(torch.tensor([2, 0]))) == [136, 131]


def refused(folder: Path, *names: str, **given) -> str:
    with pytest.raises(UserError) as raised:
        open_corrupted(str(folder), splits(**given)).check(names)
    assert str(folder) in raised.value.where
    assert raised.value.todo
    assert "\n" not in raised.value.what
    return raised.value.what


def test_arrays_of_another_test_set_are_refused(arrays):
    labels = np.array(LABELS * 5, np.uint8)
    labels[8 + 3] = 2  # one label of severity 2
    np.save(arrays / "labels.npy", labels)
    text = refused(arrays, "fog")
    assert "says 2 (emu) of test image 3 at severity 2, which is 1 (dog)" in text
    np.save(arrays / "labels.npy", np.array(LABELS * 5, np.uint8)[::-1])
    assert "labels differ" in refused(arrays, "fog")
    np.save(arrays / "labels.npy", np.array(LABELS[:6] * 5, np.uint8))
    assert "6 labels for each severity" in refused(arrays, "fog")
    np.save(arrays / "labels.npy", np.zeros(39, np.uint8))
    assert "no list of 5 x N labels" in refused(arrays, "fog")
    (arrays / "labels.npy").unlink()
    assert "there is no labels.npy" in refused(arrays, "fog")


def test_arrays_of_another_shape_or_name_are_refused(arrays):
    assert "no frost.npy; found fog, snow" in refused(arrays, "fog", "frost")
    np.save(arrays / "fog.npy", np.zeros((40, 16, 15, 3), np.uint8))
    assert "fog.npy is uint8 (40, 16, 15, 3)" in refused(arrays, "fog")
    np.save(arrays / "fog.npy", np.zeros((32, 16, 16, 3), np.uint8))
    assert "(32, 16, 16, 3)" in refused(arrays, "fog")
    np.save(arrays / "fog.npy", np.zeros((40, 16, 16, 3), np.float32))
    assert "float32" in refused(arrays, "fog")
    content = (arrays / "snow.npy").read_bytes()
    (arrays / "snow.npy").write_bytes(content[:-100])
    assert "snow.npy cannot be read" in refused(arrays, "snow")
    np.save(arrays / "snow.npy", np.array([print]), allow_pickle=True)
    assert "Python objects" in refused(arrays, "snow")


@pytest.mark.parametrize("names", [True, False])
def test_files_lie_by_corruption_severity_and_class(folders, names):
    files = open_corrupted(str(folders), splits(names=names))
    files.check(["fog", "snow"])
    found = shown(files.images("snow", 4))
    order = range(8) if names else [0, 4, 1, 3, 7, 2, 5, 6]
    assert found == [value("snow", 4, row) for row in order]


def test_files_of_a_limited_test_set_are_found_by_their_names(folders):
    rows = [6, 3, 0]
    files = open_corrupted(str(folders), splits(rows, names=True))
    assert shown(files.images("fog", 2)) == [value("fog", 2, row) for row in rows]
    with pytest.raises(UserError, match="has 2 images of class n01, and the test set 1"):
        open_corrupted(str(folders), splits(rows)).images("fog", 2)


def test_folders_of_other_classes_are_refused(folders):
    assert "there is no folder frost/1; found fog, snow" in refused(folders, "frost")
    (folders / "fog" / "3" / "n02").rename(folders / "fog" / "3" / "n09")
    text = refused(folders, "fog")
    assert "classes of fog/3 are not those of zoo: 1 are missing, such as n02" in text
    assert "1 are unknown, such as n09" in text


def test_a_file_in_another_class_is_refused(folders):
    place = folders / "fog" / "1"
    (place / "n01" / "val_0.JPEG").rename(place / "n02" / "val_0.JPEG")
    with pytest.raises(UserError, match="lies in another class"):
        open_corrupted(str(folders), splits(names=True)).images("fog", 1)
    with pytest.raises(UserError, match="has 1 images of class n01, and the test set 2"):
        open_corrupted(str(folders), splits()).images("fog", 1)


def test_folders_may_bear_the_names_of_the_classes(folders):
    for name in ("fog", "snow"):
        for severity in range(1, 6):
            for old, new in zip(IDS, NAMES, strict=True):
                place = folders / name / str(severity)
                (place / old).rename(place / new)
    open_corrupted(str(folders), splits()).check(["fog", "snow"])


def test_images_of_another_size_and_torn_ones_are_refused(folders):
    with pytest.raises(UnreadableImageError, match="has 16x16 pixels, and the network sees 20x20"):
        shown(open_corrupted(str(folders), splits(side=20)).images("fog", 1))
    (folders / "fog" / "1" / "n01" / "val_0.JPEG").write_bytes(b"torn")
    with pytest.raises(UnreadableImageError, match=r"val_0\.JPEG"):
        shown(open_corrupted(str(folders), splits()).images("fog", 1))


def test_what_is_no_folder_of_images_is_refused(tmp_path):
    archive = tmp_path / "CIFAR-10-C.tar"
    archive.write_bytes(b"")
    assert "this is a file" in refused(archive)
    assert "no such folder" in refused(tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    assert "found none" in refused(tmp_path / "empty", "fog")
