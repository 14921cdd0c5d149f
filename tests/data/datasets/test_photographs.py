import io
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from making import photograph, source
from paths import SHARED

from mixbench.config.compose import compose
from mixbench.data.datasets.voc import VOC_CLASSES
from mixbench.data.files.encoded import FileImages
from mixbench.data.sampling import BatchIndex
from mixbench.errors import UserError
from mixbench.training.job import resolve
from mixbench.training.run import run

IMAGES = SHARED / "data"

shared = pytest.mark.skipif(
    not IMAGES.is_dir(), reason="the real image data is not beside the checkout"
)
SMALL = ("data.size=8", "data.resize=10", "data.workers=0")


@pytest.fixture(autouse=True)
def data_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MIXBENCH_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def write(root, files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


# ImageNet.


def imagenet(val):
    files = {
        f"train/{wnid}/{wnid}_{k}.JPEG": photograph(k) for wnid in ("n2", "n1") for k in (1, 2)
    }
    return files | val


FLAT = {f"val/ILSVRC2012_val_0000000{k}.JPEG": photograph(10 + k) for k in (1, 2, 3)}
SORTED = {
    f"val/{wnid}/ILSVRC2012_val_0000000{k}.JPEG": photograph(10 + k)
    for k, wnid in ((1, "n2"), (2, "n1"), (3, "n2"))
}
CLASS_LISTS = {
    "val/val_annotations.txt": "".join(
        f"ILSVRC2012_val_0000000{k}.JPEG\t{wnid}\t0\t0\t9\t9\n"
        for k, wnid in ((1, "n2"), (2, "n1"), (3, "n2"))
    ),
    "LOC_val_solution.csv": "ImageId,PredictionString\n"
    + "".join(
        f"ILSVRC2012_val_0000000{k},{wnid} 1 2 3 4 \n"
        for k, wnid in ((3, "n2"), (1, "n2"), (2, "n1"))
    ),
}
TRUTH = {
    "devkit/data/ILSVRC2012_validation_ground_truth.txt": "1\n2\n1\n",
    "devkit/data/synsets.txt": "n2\nn1\n",
}


@pytest.mark.parametrize(
    "val",
    [SORTED, *({**FLAT, name: text} for name, text in CLASS_LISTS.items()), {**FLAT, **TRUTH}],
)
def test_imagenet_is_read_sorted_or_flat_with_any_list(tmp_path, val):
    root = write(tmp_path / "imagenet", imagenet(val))
    splits = source("data=imagenet", f"data.root={root}", *SMALL).load()
    assert isinstance(splits.train, FileImages)
    assert splits.info.class_names == ["n1", "n2"]
    assert splits.train.labels.tolist() == [0, 0, 1, 1]
    rows = {Path(splits.test.part.names[row]).stem[-1]: row for row in range(3)}
    labels = {image: int(splits.test.labels[row]) for image, row in rows.items()}
    assert labels == {"1": 1, "2": 0, "3": 1}
    assert splits.info.mean == [0.485, 0.456, 0.406]
    assert splits.train[BatchIndex(torch.arange(4), 0, 1)].images.shape == (4, 3, 8, 8)


@pytest.mark.parametrize(
    ("val", "match"),
    [
        (FLAT, "one flat folder"),
        ({**FLAT, "val/val.txt": "ILSVRC2012_val_00000001.JPEG n1"}, "no class is given for .*02"),
        ({**FLAT, "val.txt": "".join(f"ILSVRC2012_val_0000000{k} n7\n" for k in (1, 2, 3))}, "n7"),
        ({**FLAT, **TRUTH, "devkit/data/ILSVRC2012_validation_ground_truth.txt": "1\n"}, "1 lines"),
        (
            {**FLAT, **TRUTH, "devkit/data/ILSVRC2012_validation_ground_truth.txt": "1\n2\n0\n"},
            "no class has the number 0",
        ),
        ({"val/n1/a.JPEG": photograph(1)}, "different classes: n2"),
    ],
)
def test_an_imagenet_whose_val_is_not_understood_is_refused(tmp_path, val, match):
    root = write(tmp_path / "imagenet", imagenet(val))
    with pytest.raises(UserError, match=match):
        source("data=imagenet", f"data.root={root}", *SMALL).load()


def test_imagenet_is_looked_for_and_refused_with_its_layout(data_folder):
    with pytest.raises(UserError, match="without an account") as error:
        source("data=imagenet").fingerprint()
    assert str(data_folder / "imagenet") in str(error.value)
    assert "train/<wnid>" in str(error.value)
    write(data_folder / "imagenet", imagenet(SORTED))
    assert source("data=imagenet").fingerprint()


# CUB-200-2011.


def cub(**changes):
    files = {
        "images.txt": "1 001.Black_Ant/a.jpg\n2 001.Black_Ant/b.jpg\n"
        "3 002.Bee/c.jpg\n4 002.Bee/d.jpg",
        "image_class_labels.txt": "1 1\n2 1\n3 2\n4 2\n",
        "train_test_split.txt": "1 0\n2 1\n3 1\n4 0\n",
        "bounding_boxes.txt": "1 5.0 6.0 10.0 20.0\n2 1 2 3 4\n3 0 0 30 40\n4 2 3 4 5\n",
        "classes.txt": "1 001.Black_Ant\n2 002.Bee\n",
    } | {name.replace("__", "."): text for name, text in changes.items()}
    photos = {"001.Black_Ant/a": 1, "001.Black_Ant/b": 2, "002.Bee/c": 3, "002.Bee/d": 4}
    files |= {f"images/{name}.jpg": photograph(seed) for name, seed in photos.items()}
    return {f"CUB_200_2011/{name}": content for name, content in files.items()}


@pytest.mark.parametrize("packed", [False, True])
def test_cub_is_divided_and_boxed_by_its_lists(tmp_path, packed):
    root = write(tmp_path / "birds", cub())
    if packed:
        with tarfile.open(tmp_path / "CUB_200_2011.tgz", "w:gz") as archive:
            archive.add(root / "CUB_200_2011", "CUB_200_2011")
        root = tmp_path / "CUB_200_2011.tgz"
    splits = source("data=cub200", f"data.root={root}", *SMALL).load()
    assert splits.info.class_names == ["Black Ant", "Bee"]
    assert splits.train.labels.tolist() == splits.test.labels.tolist() == [0, 1]
    assert [name[-5:] for name in splits.train.part.names] == ["b.jpg", "c.jpg"]
    assert splits.test.boxes[0].tolist() == [[0, 6, 5, 26, 15]]
    assert splits.train.boxes[1].tolist() == [[1, 0, 0, 40, 30]]
    assert splits.test[BatchIndex(torch.arange(2), 0)].images.shape == (2, 3, 8, 8)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"train_test_split__txt": "1 0\n2 1\n3 1\n"}, "differ in the images 4"),
        ({"image_class_labels__txt": "1 1\n2 1\n3 2\n4 9\n"}, "not understood: '9'"),
        ({"bounding_boxes__txt": "1 5 6\n"}, "2 words behind the number, expected 4"),
        (
            {"train_test_split__txt": "1 1\n2 1\n3 1\n4 1\n"},
            "leaves the training or the test images empty",
        ),
    ],
)
def test_cub_lists_that_do_not_fit_together_are_refused(tmp_path, changes, match):
    root = write(tmp_path / "birds", cub(**changes))
    with pytest.raises(UserError, match=match):
        source("data=cub200", f"data.root={root}", *SMALL).load()


def test_a_list_of_cub_cannot_name_a_file_outside(tmp_path):
    (tmp_path / "secret.jpg").write_bytes(photograph(1))
    lines = "1 ../../../secret.jpg\n2 001.Black_Ant/b.jpg\n3 002.Bee/c.jpg\n4 002.Bee/d.jpg"
    root = write(tmp_path / "birds", cub(images__txt=lines))
    splits = source("data=cub200", f"data.root={root}", *SMALL).load()
    with pytest.raises(UserError, match="leads out"):
        splits.test[BatchIndex(torch.arange(2), 0)]


# PASCAL VOC.


def voc(flags, objects=""):
    files = {}
    for split, images in flags.items():
        for number, name in enumerate(VOC_CLASSES):
            lines = [f"{image} {values.get(name, -1):2d}" for image, values in images.items()]
            files[f"ImageSets/Main/{name}_{split}.txt"] = "\n".join(lines) + "\n" * (number % 2)
        files[f"ImageSets/Main/{split}.txt"] = "\n".join(images)
        for image in images:
            files[f"JPEGImages/{image}.jpg"] = photograph(int(image))
            files[f"Annotations/{image}.xml"] = f"<annotation>{objects}</annotation>"
    return {f"VOCdevkit/VOC2007/{name}": content for name, content in files.items()}


TWO = {"trainval": {"001": {"dog": 1, "cat": 0}, "002": {"cow": 1}}, "test": {"003": {"dog": 1}}}
DOG = (
    "<object><name>dog</name><difficult>1</difficult><bndbox><xmin>1</xmin><ymin>2</ymin>"
    "<xmax>30</xmax><ymax>40</ymax></bndbox></object>"
)


def test_voc_labels_are_multi_hot_and_keep_what_is_unknown(tmp_path):
    root = write(tmp_path / "voc", voc(TWO, DOG))
    splits = source("data=voc2007", f"data.root={root}", *SMALL).load()
    assert splits.info.task == "multilabel"
    first = dict(zip(VOC_CLASSES, splits.train.labels[0].tolist(), strict=True))
    assert first.pop("dog") == 1
    assert first.pop("cat") != first.get("cat", 0)  # not a number
    assert set(first.values()) == {0}
    assert splits.test.boxes.tolist() == [[[VOC_CLASSES.index("dog"), 1, 0, 40, 30]]]
    assert torch.isnan(splits.train[BatchIndex(torch.arange(2), 0)].labels).sum() == 1


def test_the_two_archives_of_voc_are_read_together(tmp_path, data_folder):
    data_folder.mkdir()
    for split, file in (("trainval", "VOCtrainval_06-Nov-2007"), ("test", "VOCtest_06-Nov-2007")):
        root = write(tmp_path / split, voc({split: TWO[split]}))
        with tarfile.open(data_folder / f"{file}.tar", "w") as archive:
            archive.add(root / "VOCdevkit", "VOCdevkit")
    splits = source("data=voc2007", *SMALL).load()
    assert (len(splits.train), len(splits.test)) == (2, 1)
    assert splits.test[BatchIndex(torch.arange(1), 0)].images.shape == (1, 3, 8, 8)


@pytest.mark.parametrize(
    ("flags", "objects", "match"),
    [
        ({"trainval": TWO["trainval"]}, "", "no labels of trainval and test"),
        ({**TWO, "test": {"003": {"dog": 7}}}, "", "not an image and 1, 0 or -1"),
        (TWO, "<object><name>unicorn</name></object>", "not an annotation of VOC"),
        (TWO, "<!DOCTYPE x [<!ENTITY a 'b'>]>", "declares entities"),
        (TWO, "<object>", "not an annotation of VOC"),
    ],
)
def test_a_voc_that_is_not_understood_is_refused(tmp_path, flags, objects, match):
    root = write(tmp_path / "voc", voc(flags, objects))
    with pytest.raises(UserError, match=match):
        source("data=voc2007", f"data.root={root}", *SMALL).load()


@shared
def test_the_voc_sample_loads_with_its_flags_and_boxes():
    archive = IMAGES / "voc2012_sample.zip"
    splits = source("data=voc2007", f"data.root={archive}", *SMALL).load()
    assert (len(splits.train), len(splits.test)) == (220, 100)
    objects = sum(int((part.boxes[:, :, 0] >= 0).sum()) for part in (splits.train, splits.test))
    assert objects == 1012
    labels = torch.cat([splits.train.labels, splits.test.labels])
    assert int(((labels == 1).sum(dim=1) >= 2).sum()) == 225
    with zipfile.ZipFile(archive) as content:
        names = [line for line in content.namelist() if "/Annotations/" in line]
        assert len(names) == 320
        lines = content.read("VOCdevkit/VOC2012/ImageSets/Main/dog_train.txt").decode().split()
    expected = [{"1": 1.0, "-1": 0.0}.get(flag) for flag in lines[1::2]]
    column = splits.train.labels[:, VOC_CLASSES.index("dog")].tolist()
    assert [None if value != value else value for value in column] == expected
    covered = splits.train.boxes[0][splits.train.boxes[0][:, 0] >= 0]
    assert all(splits.train.labels[0, int(label)] == 1 for label in covered[:, 0])


def test_a_method_for_single_labels_is_refused_before_data_is_looked_for():
    with pytest.raises(UserError, match="bc needs multiclass data") as error:
        assert resolve(compose("method=bc data=voc2007 data.root=missing")).identity
    able = str(error.value).partition("methods that can: ")[2].split(", ")
    assert {"alignmix", "choice", "cutmix", "erm", "splicemix"} <= set(able)
    assert not {"bc", "transmix"} & set(able)
    with pytest.raises(UserError, match="voc2007 is not there"):
        assert resolve(compose("method=erm data=voc2007 data.root=missing")).identity


def test_a_multi_label_set_is_trained_on_and_scored_by_map(tmp_path):
    flags = {
        split: {f"{n}{k:02d}": {VOC_CLASSES[k % 3]: 1, VOC_CLASSES[3]: (-1, 1)[k % 2], "cow": 0}
                for k in range(8)}
        for n, split in ((1, "trainval"), (2, "test"))
    }  # fmt: skip
    root = write(tmp_path / "voc", voc(flags))
    words = ["data=voc2007", f"data.root={root}", "data.size=16", "data.resize=16", "net.width=4",
             "data.workers=0", "epochs=2", "batch_size=4", f"run.dir={tmp_path / 'runs'}",
             "wandb.mode=disabled", "select=val", "data.val_fraction=0.5"]  # fmt: skip
    record = run(compose(words))
    assert record.status == "done"
    assert 0 < record.metrics["map"] <= 100
    assert 0 < record.metrics["val_map"] <= 100
    assert "top1" not in record.metrics
    assert record.official is None or record.official is False


def test_a_tar_with_files_is_read_without_unpacking(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name, content in voc(TWO).items():
            raw = content if isinstance(content, bytes) else content.encode()
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(raw)
            archive.addfile(info, io.BytesIO(raw))
    splits = source("data=voc2007", f"data.root={tmp_path / 'x.tar'}", *SMALL).load()
    assert len(splits.train) == 2
