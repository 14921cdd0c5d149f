"""MS-COCO as its annotation files tell it, on folders of a few drawn images."""

import json
import zipfile

import pytest
import torch
from making import photograph, source

from mixbench import compose, run
from mixbench.data.sampling import BatchIndex
from mixbench.errors import UserError

SMALL = ("data.size=8", "data.resize=10", "data.workers=0")
CATEGORIES = [
    {"id": 90, "name": "tooth brush"},
    {"id": 1, "name": "person"},
    {"id": 7, "name": "train"},
]
TRAIN = {
    "images": [{"id": 30 + k, "file_name": f"COCO_train2014_{k}.png"} for k in range(4)],
    "categories": CATEGORIES,
    "annotations": [
        {"image_id": 30, "category_id": 7},
        {"image_id": 30, "category_id": 90, "iscrowd": 1},
        {"image_id": 30, "category_id": 7},
        {"image_id": 32, "category_id": 1},
        {"image_id": 33, "category_id": 1},
    ],
}
VAL = {
    "images": [
        {"id": 5, "file_name": "COCO_val2014_9.png"},
        {"id": 4, "file_name": "COCO_val2014_8.png"},
    ],
    "categories": CATEGORIES[::-1],
    "annotations": [{"image_id": 4, "category_id": 1}, {"image_id": 5, "category_id": 7}],
}


@pytest.fixture(autouse=True)
def data_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MIXBENCH_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def write(root, train=TRAIN, val=VAL, pictures=True):
    for split, content in (("train2014", train), ("val2014", val)):
        path = root / "annotations" / f"instances_{split}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        path.write_bytes(raw)
        (root / split).mkdir(exist_ok=True)
    if pictures:
        for content, split in ((TRAIN, "train2014"), (VAL, "val2014")):
            for number, image in enumerate(content["images"]):
                seed = number + 100 * (split == "val2014")
                (root / split / image["file_name"]).write_bytes(photograph(seed))
    return root


def test_labels_are_multi_hot_in_the_order_of_category_ids_and_empty_images_stay(tmp_path):
    root = write(tmp_path / "coco")
    (root / "train2014" / "more.png").write_bytes(photograph(9))
    splits = source("data=coco", f"data.root={root}", *SMALL).load()
    assert splits.info.task == "multilabel"
    assert splits.info.class_names == ["person", "train", "tooth brush"]
    assert splits.train.labels.tolist() == [[0, 1, 1], [0, 0, 0], [1, 0, 0], [1, 0, 0]]
    assert splits.test.labels.tolist() == [[0, 1, 0], [1, 0, 0]]  # in the order of the list
    assert [name[-5:] for name in splits.test.part.names] == ["9.png", "8.png"]
    assert splits.train[BatchIndex(torch.arange(4), 0, 1)].images.shape == (4, 3, 8, 8)
    assert any("1 image of train2014 shows no object" in text for text in splits.info.notices)
    assert splits.info.unused == {"file of train2014 without an entry": 1}
    assert splits.info.mean == [0.485, 0.456, 0.406]


def test_the_three_archives_are_read_together(tmp_path, data_folder):
    root = write(tmp_path / "coco")
    data_folder.mkdir()
    for archive, folder in (
        ("train2014", "train2014"),
        ("val2014", "val2014"),
        ("annotations_trainval2014", "annotations"),
    ):
        with zipfile.ZipFile(data_folder / f"{archive}.zip", "w") as packed:
            for path in (root / folder).iterdir():
                packed.write(path, f"{folder}/{path.name}")
    splits = source("data=coco", *SMALL).load()
    assert (len(splits.train), len(splits.test)) == (4, 2)
    assert splits.info.official is False
    assert splits.test[BatchIndex(torch.arange(2), 0)].images.shape == (2, 3, 8, 8)


def test_a_coco_that_is_not_there_is_asked_for_by_its_layout(tmp_path):
    with pytest.raises(UserError, match="coco is not there") as error:
        source("data=coco", f"data.root={tmp_path}").load()
    assert "instances_{train2014, val2014}.json" in str(error.value)


def changed(key, value, content=TRAIN):
    return {**content, key: value}


@pytest.mark.parametrize(
    ("train", "match"),
    [
        (b"{", "not an annotation file of COCO"),
        (b"[" * 200_000, "nested too deeply"),
        (b"\xff\xfe\x00", "not an annotation file of COCO"),
        (b"[]", "holds no mapping"),
        (changed("images", 3), "images is not a list of mappings"),
        (changed("annotations", [1]), "annotations is not a list of mappings"),
        (changed("categories", []), "categories is empty"),
        (changed("categories", [{"id": "1", "name": "a"}]), "needs a whole number id and a name"),
        (changed("categories", [{"id": True, "name": "a"}]), "needs a whole number id"),
        (changed("categories", CATEGORIES * 2), "categories has the id 90 twice"),
        (changed("categories", [*CATEGORIES, {"id": 8, "name": "person"}]), "has a name twice"),
        (changed("images", [*TRAIN["images"], {"id": 3}]), "whole number id and a file_name"),
        (changed("images", TRAIN["images"] * 2), "images has the id 30 twice"),
        (
            changed("images", [{"id": k, "file_name": "a.png"} for k in (30, 32, 33)]),
            "file_name twice",
        ),
        (changed("images", [{"id": 30, "file_name": "../a.png"}]), "leads elsewhere"),
        (changed("images", [{"id": 30, "file_name": "a\\b.png"}]), "leads elsewhere"),
        (
            changed("annotations", [{"image_id": 2, "category_id": 1}]),
            "annotation 0 is of no image",
        ),
        (
            changed("annotations", [{"image_id": 30, "category_id": 2}]),
            "annotation 0 is of no category",
        ),
        (
            changed("annotations", [{"image_id": 30, "category_id": float("nan")}]),
            "annotation 0 is of no category",
        ),
        (changed("annotations", [{"image_id": [30], "category_id": 1}]), "of no image"),
        (changed("categories", [*CATEGORIES, {"id": 8, "name": "a"}]), "same categories"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_annotation_file_that_is_not_understood_is_refused_in_one_line(tmp_path, train, match):
    root = write(tmp_path / "coco", train)
    with pytest.raises(UserError, match=match) as error:
        source("data=coco", f"data.root={root}", *SMALL).load()
    assert "\n" not in error.value.what
    assert len(error.value.what) < 300


def test_images_that_are_nowhere_are_missed_by_name(tmp_path):
    root = write(tmp_path / "coco", pictures=False)
    with pytest.raises(UserError, match="no images of train2014, such as COCO_train2014_0"):
        source("data=coco", f"data.root={root}", *SMALL).load()


def test_a_single_missing_image_is_skipped_if_that_is_asked_for(tmp_path):
    root = write(tmp_path / "coco")
    (root / "train2014" / TRAIN["images"][2]["file_name"]).unlink()
    words = (
        "data=coco",
        f"data.root={root}",
        "data.size=8",
        "data.crop_area=null",
        "data.workers=0",
    )
    with pytest.raises(UserError, match="COCO_train2014_2"):
        source(*words).load()
    splits = source(*words, "data.on_corrupt=skip").load()
    assert splits.train.labels.tolist() == [[0, 1, 1], [0, 0, 0], [1, 0, 0]]


def test_the_authors_recipe_trains_on_a_small_coco_and_names_its_data(tmp_path, runs):
    images = [{"id": k, "file_name": f"{k}.png"} for k in range(12)]
    annotations = [{"image_id": k, "category_id": (1, 7, 90)[k % 3]} for k in range(11)]
    content = {"images": images, "categories": CATEGORIES, "annotations": annotations}
    root = write(tmp_path / "coco", content, content, pictures=False)
    for split, first in (("train2014", 0), ("val2014", 50)):
        for k in range(12):
            (root / split / f"{k}.png").write_bytes(photograph(first + k))
    words = f"method=splicemix_cl recipe=splicemix_coco data=coco data.root={root} data.workers=0 "
    words += "data.size=32 data.resize=40 net.width=4 epochs=1 batch_size=4 wandb.mode=disabled"
    record = run(compose(f"{words} optim.warmup_epochs=0.5 eval.suites=[calibration]"))
    assert record.status == "done"
    assert record.data == "coco"
    assert record.fidelity == "official-verified"
    assert 0 < record.metrics["map"] <= 100
