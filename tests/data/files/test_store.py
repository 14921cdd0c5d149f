import pickle
import shutil

import numpy as np
import pytest
import torch
from making import encoded, source, write_folder

from mixbench.cli import main
from mixbench.config.compose import compose
from mixbench.data.files.cache import pixel_paths, prepare
from mixbench.data.files.decode import decode_crop, decode_resized
from mixbench.data.files.store import PixelStore
from mixbench.data.sampling import BatchIndex
from mixbench.errors import UserError

WORDS = ("data=folder", "data.size=16", "data.resize=20", "data.crop_area=0.2")
STORE = "data.store=20"


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    monkeypatch.setenv("MIXBENCH_DATA", str(tmp_path / "data"))
    return write_folder(tmp_path / "zoo")


@pytest.fixture
def words(zoo):
    return (*WORDS, f"data.root={zoo}")


def fail(row):
    raise AssertionError("a file was read")


def test_kept_pixels_serve_in_place_of_the_files(words):
    plain = source(*words).load()
    prepare(source(*words, STORE))
    kept = source(*words, STORE).load()
    load = plain.train.part.load
    kept.train.part.load = kept.test.part.load = fail
    for name in ("train", "test"):  # evaluation brings files to the side that is kept
        ours, theirs = (getattr(splits, name) for splits in (kept, plain))
        rows = BatchIndex(torch.arange(len(theirs)), 0)
        assert torch.equal(ours[rows].images, theirs[rows].images)
        assert torch.equal(ours.labels, theirs.labels)
    draw = BatchIndex(torch.tensor([7, 0, 11]), 3, crop_seed=5)
    found = kept.train.subset(torch.arange(12))[draw]
    for place, (row, seed) in enumerate(zip([7, 0, 11], draw.image_seeds([7, 0, 11]), strict=True)):
        file = encoded(decode_resized(load(row), 20))
        pixels, crop = decode_crop(file, 16, 0.2, seed)
        assert np.array_equal(found.images[place].permute(1, 2, 0).numpy(), pixels)
        assert found.crops[place].tolist() == pytest.approx(crop)


def test_crops_of_another_area_share_the_pixels(words):
    def kept(*more):
        data = source(*words, STORE, *more)
        prepare(data)
        return {path: path.stat().st_ino for path in pixel_paths(data).values()}

    assert kept() == kept("data.crop_area=0.5")


def test_pixels_that_are_not_kept_or_damaged_are_refused_and_made_by_prepare(words, zoo, capsys):
    with pytest.raises(UserError, match=r"not kept yet.*\n.*\n.*mixbench data prepare folder"):
        source(*words, STORE).load()
    command = ["data", "prepare", "folder", *words[1:], STORE]
    assert main(command) == 0
    path = pixel_paths(source(*words, STORE))["train"]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="not kept yet"):
        source(*words, STORE).load()
    assert main(command) == 0
    assert len(source(*words, STORE).load().train) == 12


def test_an_image_that_cannot_be_read_is_refused_or_left_out(words, zoo):
    (zoo / "train" / "ant" / "3.png").write_bytes(b"torn")
    with pytest.raises(UserError, match=r"1 of 12 images cannot be read: .*ant/3\.png"):
        prepare(source(*words, STORE))
    data = source(*words, STORE, "data.on_corrupt=skip")
    prepare(data)
    train = source(*words, STORE, "data.on_corrupt=skip").load().train
    assert len(train[BatchIndex(torch.arange(11), 0)].images) == 11
    # What was left out is missed where images that cannot be read are errors.
    with pytest.raises(UserError, match="1 of 12 images cannot be read"):
        prepare(source(*words, STORE))


def test_a_worker_that_is_spawned_maps_the_pixels_and_is_sent_none(words):
    prepare(source(*words, STORE))
    store = PixelStore(pixel_paths(source(*words, STORE))["train"])
    sent = pickle.dumps(store)
    assert len(sent) < 1000 < store.pixels.size
    assert np.array_equal(pickle.loads(sent)[11], store[11])


def test_a_disk_without_room_is_told_before_anything_is_written(words, monkeypatch, tmp_path):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage)
    with pytest.raises(UserError, match=r"the pixels of 12 images take about .* GB"):
        prepare(source(*words, STORE))
    assert not [path for path in (tmp_path / "data/prepared").iterdir() if path.stat().st_size]


def test_pixels_are_kept_for_random_crops_only():
    with pytest.raises(UserError, match=r"data\.store needs data\.crop_area"):
        compose("data=folder data.root=. data.size=16 data.store=20")


@pytest.mark.parametrize(("more", "side"), [("", 16), (" data.resize=20", 20)])
def test_pixels_that_evaluation_would_enlarge_are_refused(more, side):
    words = f"data=folder data.root=. data.size=16 data.crop_area=0.2{more}"
    with pytest.raises(UserError, match=rf"data\.store must be >= {side}, got {side - 1}"):
        compose(f"{words} data.store={side - 1}")
    assert compose(f"{words} data.store={side}").data.store == side
