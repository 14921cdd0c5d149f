"""``data describe``: what it says of a set, and its picture."""

import io
import shutil

import numpy as np
import pytest
from making import encoded, photograph, source, write_flat, write_folder
from PIL import Image

from mixbench.cli import main
from mixbench.data.describe import describe_data_set
from mixbench.training.preview import EACH_CLASS, SHOWN_CLASSES, contact_sheet


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    monkeypatch.setenv("MIXBENCH_DATA", str(tmp_path / "data"))
    return write_flat(tmp_path / "zoo", {"ant": 20, "bee": 5})


def told(root, *more):
    return describe_data_set(source("data=folder", f"data.root={root}", *more))


def test_counts_of_each_class_in_both_parts(zoo):
    found = told(zoo)
    assert found.problems == []
    rows = [line.split() for line in found.facts]
    assert ["ant", "16", "4", "#" * 30] in rows
    assert ["bee", "4", "1", "#" * 8] in rows
    assert any("the largest has 4.0 times the training images" in line for line in found.facts)
    assert any(line.startswith("the data have no test images") for line in found.facts)


def test_kinds_of_files_are_counted(zoo):
    grey = np.arange(144, dtype=np.uint8).reshape(12, 12)
    frames = io.BytesIO()
    first = Image.fromarray(grey)
    first.save(frames, "GIF", save_all=True, append_images=[Image.fromarray(grey[::-1])])
    exif = Image.Exif()
    exif[0x0112] = 3
    turned = io.BytesIO()
    Image.fromarray(np.zeros((12, 12, 3), np.uint8)).save(turned, "JPEG", exif=exif)
    deep = io.BytesIO()
    Image.fromarray(grey.astype(np.uint16) * 257).save(deep, "PNG")
    files = {
        "a.png": encoded(grey), "b.png": encoded(np.zeros((12, 12, 4), np.uint8)),
        "c.gif": frames.getvalue(), "d.jpg": turned.getvalue(), "e.png": deep.getvalue(),
        "f.jpg": encoded(np.zeros((12, 12, 3), np.uint8), "JPEG", "CMYK"),
    }  # fmt: skip
    for name, raw in files.items():
        (zoo / "ant" / name).write_bytes(raw)
    facts = told(zoo, "data.size=8").facts
    for line in (
        "28 x PNG file", "2 x JPEG file", "1 x GIF file",
        "1 x image with transparency, which is dropped",
        "1 x file of several frames, of which the first counts",
        "1 x image that is turned as its EXIF says",
        "1 x image of more than 8 bits a value, which is brought to 8",
        "1 x CMYK image, which is brought to RGB",
        "2 x grey image, whose value serves for all three colours",
    ):  # fmt: skip
        assert line in facts, line


def test_equal_images_and_two_classes_of_one(tmp_path, zoo):
    divided = write_folder(tmp_path / "divided")
    shutil.copy(divided / "train/ant/0.png", divided / "train/ant/copy.png")
    shutil.copy(divided / "train/ant/0.png", divided / "train/bee/copy.png")
    facts = told(divided, "data.size=32").facts
    assert "train: 2 images equal another one of this part" in facts
    assert "1 image stand under two classes or more" not in facts
    assert "1 image stands under two classes or more" in facts
    assert "no image stands twice in one part" in told(zoo).facts


def test_a_size_is_advised_where_images_have_several(tmp_path, zoo):
    divided = write_folder(tmp_path / "divided")  # of 31 to 45 pixels
    found = told(divided)
    assert any("data.size=32" in line for line in found.facts)
    assert any("sizes" in problem for problem in found.problems)
    assert not any("would suit them" in line for line in told(divided, "data.size=32").facts)


def test_a_path_is_enough_and_a_picture_is_written(zoo, tmp_path, capsys):
    for name in ("sheet.png", "sheet.svg"):
        assert main(["data", "describe", str(zoo), "-o", str(tmp_path / name)]) == 0
        assert (tmp_path / name).stat().st_size > 1000
    out = capsys.readouterr().out
    assert "zoo: hash" in out
    assert f"written: {tmp_path / 'sheet.png'}" in out
    assert main(["data", "describe", str(zoo), "data.folds=5"]) == 0
    assert "shown is fold 0" in capsys.readouterr().out
    pack = tmp_path / "pack.npz"
    images, labels = np.zeros((6, 8, 8), np.uint8), np.arange(6) % 2
    images[np.arange(6), 0, 0] = np.arange(6)
    train = {"train_images": images[:4], "train_labels": labels[:4]}
    np.savez(pack, **train, test_images=images[4:], test_labels=labels[4:])
    assert main(["data", "describe", str(pack)]) == 0
    assert "train: 4 images, 8x8 pixels" in capsys.readouterr().out
    assert main(["data", "describe", "data=folder", f"data.root={zoo}"]) == 0
    assert main(["data", "check", str(zoo), "-o", "x.png"]) == 2
    assert main(["data", "describe", str(zoo), "-o", "x.txt"]) == 2


@pytest.mark.parametrize(
    ("name", "hint"),
    [("nofolder", ""), ("no/such/folder", ""), ("digitz", "did you mean 'digits'?")],
)
def test_a_name_of_nothing_is_told_what_can_be_given(name, hint, capsys):
    assert main(["data", "describe", name]) == 2
    error = capsys.readouterr().err
    assert f"{name!r} is neither a data set nor a file or folder that exists" in error
    assert hint in error
    assert "cifar10" in error
    assert "folder of images" in error
    assert "did you mean 'folder'" not in error


def test_the_sheet_has_a_row_of_training_images_for_each_class(tmp_path, zoo):
    sheet = contact_sheet(source("data=folder", f"data.root={zoo}"))
    rows = sheet.drawn()
    assert len(rows) == 2
    assert all(len(row) == EACH_CLASS for row in rows)
    assert rows[0][0].lines == ["ant", "16 images"]
    assert rows[1][0].lines == ["bee", "4 images"]
    blank = [np.asarray(panel.image).std() == 0 for panel in rows[1]]
    assert blank == [False] * 4 + [True] * 4
    many = write_flat(tmp_path / "many", {f"c{k:02}": 2 for k in range(SHOWN_CLASSES + 3)})
    sheet = contact_sheet(source("data=folder", f"data.root={many}"))
    assert len(sheet.drawn()) == SHOWN_CLASSES
    assert sheet.notes == [f"Shown are {SHOWN_CLASSES} of {SHOWN_CLASSES + 3} classes."]
    (zoo / "ant/0.png").write_bytes(b"torn")
    (zoo / "ant/extra.png").write_bytes(photograph(5))
    assert len(contact_sheet(source("data=folder", f"data.root={zoo}")).drawn()) == 2
