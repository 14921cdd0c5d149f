import errno
import multiprocessing
import os

import numpy as np
import pytest
import torch
from making import photograph, source, write_folder

from mixbench.cli import main
from mixbench.data.files import cache as module
from mixbench.data.files.cache import prepare, prepared_path, read_prepared
from mixbench.data.images import Stats

WORDS = ("data=folder", "data.size=16")


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("MIXBENCH_DATA", str(tmp_path / "data"))
    return tmp_path / "data" / "prepared"


@pytest.fixture
def zoo(tmp_path):
    return write_folder(tmp_path / "zoo")


def test_a_prepared_set_is_used_in_place_of_the_files(zoo, monkeypatch):
    words = (*WORDS, f"data.root={zoo}")
    plain, few = (source(*words, *more).load() for more in ((), ("data.limit=4",)))
    path, _ = prepare(source(*words))
    assert path is not None

    def fail(*args):
        raise AssertionError("a file was decoded")

    monkeypatch.setattr("mixbench.data.files.encoded.decode_all", fail)
    cached = source(*words).load()
    assert cached.info == plain.info
    for part in ("train", "test"):
        assert torch.equal(getattr(cached, part).images, getattr(plain, part).images)
        assert torch.equal(getattr(cached, part).labels, getattr(plain, part).labels)
    assert few.info.mean != plain.info.mean
    assert source(*words, "data.limit=4").load().info == few.info


@pytest.mark.parametrize("change", ["data.size=20", "data.on_corrupt=skip", "content"])
def test_another_content_or_size_is_not_served_by_it(zoo, change):
    words = [*WORDS, f"data.root={zoo}"]
    prepare(source(*words))
    if change == "content":
        (zoo / "train/ant/9.png").write_bytes(photograph(9))
    else:
        words.append(change)
    assert read_prepared(source(*words)) is None


def test_boxes_labels_and_names_come_back(tmp_path):
    images = np.zeros((3, 8, 8, 3), np.uint8)
    boxes = np.array([[0, 1, 2, 3]] * 3, np.int16)
    names = np.array(["a", "b"])
    for name in ("train", "test"):
        np.savez(tmp_path / f"{name}.npz", part=name, images=images, label=[0, 1, 1], bbox=boxes,
                 class_names=names)  # fmt: skip
    words = ("data=pack", f"data.train={tmp_path}/train.npz", f"data.test={tmp_path}/test.npz")
    prepare(source(*words))
    content = read_prepared(source(*words))
    assert content is not None
    assert content.class_names == ["a", "b"]
    assert content.train.boxes.tolist()[1] == [[1, 1, 0, 4, 3]]
    assert content.test.labels.tolist() == [0, 1, 1]


def test_a_damaged_prepared_set_is_left_aside_and_made_again(zoo, caplog):
    words = (*WORDS, f"data.root={zoo}")
    path, _ = prepare(source(*words))
    whole = path.read_bytes()
    path.write_bytes(whole[:-200])
    with caplog.at_level("WARNING", "mixbench"):
        splits = source(*words).load()
    assert len(splits.train) == 12
    assert "left aside" in caplog.text
    prepare(source(*words))
    assert read_prepared(source(*words)) is not None


def test_a_folder_that_cannot_be_written_is_done_without(zoo, place, caplog):
    place.parent.mkdir()
    place.write_text("a file is in the way")
    with caplog.at_level("WARNING", "mixbench"):
        path, content = prepare(source(*WORDS, f"data.root={zoo}"))
    assert path is None
    assert len(content.train) == 12
    assert "cannot be written" in caplog.text


def test_a_full_disk_leaves_nothing_behind(zoo, place, monkeypatch, caplog):
    def full(file, **arrays):
        file.write(b"some")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module.np, "savez", full)
    with caplog.at_level("WARNING", "mixbench"):
        path, content = prepare(source(*WORDS, f"data.root={zoo}"))
    assert path is None
    assert len(content.test) == 4
    assert "No space left" in caplog.text
    assert list(place.iterdir()) == []


def _prepare_slowly(words, barrier, results):
    torch.set_num_threads(1)
    read = module.write_bytes

    def counted(*args):
        results.put("written")
        read(*args)

    module.write_bytes = counted
    barrier.wait()
    path, content = prepare(source(*words))
    results.put((str(path), int(content.train.images.sum())))


def test_of_two_processes_one_writes_and_the_other_reads(zoo):
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(2), context.Queue()
    words = (*WORDS, f"data.root={zoo}")
    processes = [
        context.Process(target=_prepare_slowly, args=(words, barrier, results)) for _ in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    found = [results.get(timeout=5) for _ in range(3)]
    assert found.count("written") == 1
    answers = [each for each in found if each != "written"]
    assert answers[0] == answers[1] == (str(prepared_path(source(*words))), answers[0][1])


def test_of_files_that_stay_files_the_statistics_are_kept(zoo, monkeypatch):
    words = (*WORDS, f"data.root={zoo}", "data.crop_area=0.5")
    monkeypatch.setattr(
        "mixbench.data.datasets.folder.Folder.constants", Stats([0.4] * 3, [0.2] * 3), raising=False
    )
    assert source(*words).load().info.residual_mean is None  # reading files takes its time
    prepare(source(*words))
    info = source(*words).load().info
    assert info.residual_mean is not None
    assert info.mean == [0.4] * 3


def test_the_command_prepares_and_says_where(zoo, place, capsys):
    assert main(["data", "prepare", "folder", f"data.root={zoo}", "data.size=16"]) == 0
    out = capsys.readouterr().out
    assert "12 training and 4 test images are ready" in out
    assert str(next(place.glob("*.npz"))) in out
    assert main(["data", "prepare", "folder", "data.root=missing"]) == 2
    assert "no such file or folder" in capsys.readouterr().err
